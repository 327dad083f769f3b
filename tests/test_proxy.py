"""The site behind proxies of every kind: schemes, chunks, hosts, sub-paths, a public address."""

from __future__ import annotations

import http.client
import re
import socket
from contextlib import closing
from io import BytesIO
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.template.loader import render_to_string
from django.test import Client
from django.urls import get_script_prefix, set_script_prefix

from integrations import conf
from integrations.strava.webhook import MAX_EVENT
from project import proxy

from .processes import Site
from .test_project import messages_of
from .test_strava_webhook import TOKEN, URL, chunked, event


def passed_on(**environ):
    """The environ that Django would get, or the status that it was not asked for."""
    found = {}

    def django(given, start_response):
        found.update(given)
        return []

    list(proxy.mended(django)(environ, lambda status, headers: found.update(status=status)))
    return found


def scheme(peer="127.0.0.1", **headers):
    return passed_on(**{"wsgi.url_scheme": "http", "REMOTE_ADDR": peer, **headers})[
        "wsgi.url_scheme"
    ]


# --- The scheme ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("https,https", "https"),
        (" Https , https,", "https"),
        ("http", "http"),
        ("http,http", "http"),
        ("https,http", "http"),
        ("http, https", "http"),
        ("", "http"),
        (",", "http"),
        ("httpsx", "http"),
        ("ftp", "http"),
    ],
)
def test_https_may_be_said_more_than_once_and_in_capitals(said, meant):
    assert scheme(HTTP_X_FORWARDED_PROTO=said) == meant


@pytest.mark.parametrize(
    ("headers", "meant"),
    [
        ({"SSL": "on"}, "https"),
        ({"PROTOCOL": "ssl"}, "https"),
        ({"PROTO": "https,https", "SSL": "On"}, "https"),
        ({"PROTO": "https", "SSL": "off"}, "http"),
        ({"PROTO": "http", "SSL": "on"}, "http"),
    ],
)
def test_what_proxies_say_has_to_agree(headers, meant):
    assert scheme(**{f"HTTP_X_FORWARDED_{name}": said for name, said in headers.items()}) == meant


def test_a_proxy_can_say_that_it_was_plain():
    found = passed_on(
        **{"wsgi.url_scheme": "https", "REMOTE_ADDR": "::1", "HTTP_X_FORWARDED_PROTO": "http"}
    )
    assert found["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize(
    ("proxies", "peer", "trusted"),
    [
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "::ffff:127.0.0.1", True),
        (["127.0.0.1"], "", True),  # a socket in the file system
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["*"], "203.0.113.9", True),
        (["127.0.0.1"], "203.0.113.9", False),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/8"], "::1", False),
        ([], "127.0.0.1", False),
        (["127.0.0.1"], "nonsense", False),
    ],
)
def test_a_stranger_s_word_changes_nothing(settings, proxies, peer, trusted):
    settings.TRUSTED_PROXIES = proxies
    for name in ("PROTO", "PROTOCOL", "SSL"):
        said = {"PROTO": "https", "PROTOCOL": "ssl", "SSL": "on"}[name]
        found = scheme(peer, **{f"HTTP_X_FORWARDED_{name}": said})
        assert found == ("https" if trusted else "http")


# --- Bodies in chunks ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 10_000, 65_536])
def test_a_body_in_chunks_gets_its_length(size):
    found = passed_on(**chunked(b"x" * size))
    assert found["CONTENT_LENGTH"] == str(size)
    assert found["wsgi.input"].read() == b"x" * size
    assert "status" not in found


def test_a_body_in_chunks_is_bounded(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert passed_on(**chunked(b"x" * 1000))["CONTENT_LENGTH"] == "1000"
    stream = BytesIO(b"x" * 5000)
    assert passed_on(**chunked(b"", **{"wsgi.input": stream})) == {
        "status": "413 Content Too Large"
    }
    assert stream.tell() == 1001


@pytest.mark.parametrize(
    "more",
    [
        {"CONTENT_LENGTH": "3"},
        {"wsgi.input_terminated": False},
        {"HTTP_TRANSFER_ENCODING": "identity"},
    ],
)
def test_a_body_whose_end_is_not_known_is_left_alone(more):
    stream = BytesIO(b"hello")
    found = passed_on(**chunked(b"", **{"wsgi.input": stream}, **more))
    assert stream.tell() == 0
    assert found.get("CONTENT_LENGTH") == more.get("CONTENT_LENGTH")


# --- Probes -------------------------------------------------------------------------------------

CSS = "/static/integrations/integrations.css"
ADDRESSES = ["10.0.0.5", "10.0.0.5:8000", "localhost", "LOCALHOST:80", "[::1]", "[fd00::5]:8000"]
NAMES = ["other.example", "localhost.example", "10.0.0.5.example", "x.localhost", "[::1", "1e1", ""]


@pytest.fixture
def allowed(settings):
    settings.ALLOWED_HOSTS = ["site.example"]
    settings.PROMETHEUS = True


@pytest.mark.parametrize("host", ADDRESSES)
def test_probes_may_ask_by_address(db, client, allowed, host):
    for path in ("/healthz/", "/metrics"):
        assert client.get(path, headers={"host": host}).status_code == 200
        assert client.head(path, headers={"host": host}).status_code == 200
    for path in ("/", "/accounts/login/", "/healthz", "/healthz/x", "/metrics/", CSS):
        assert client.get(path, headers={"host": host}).status_code == 400
    assert client.post(URL, event(), headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", NAMES)
def test_a_name_that_is_not_allowed_stays_refused(db, client, allowed, host):
    for path in ("/healthz/", "/metrics", "/accounts/login/", CSS):
        assert client.get(path, headers={"host": host}).status_code == 400
        with closing(client.get(path, headers={"host": "site.example"})) as response:
            assert response.status_code == 200


# --- A sub-path ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "asked", "found"),
    [
        (None, "/sub/healthz/", "/sub/healthz/"),
        ("/sub", "/sub/healthz/", "/healthz/"),
        ("/sub", "/healthz/", "/healthz/"),
        ("/sub", "/sub", "/"),
        ("/sub", "/sub/", "/"),
        ("/sub", "/subway/", "/subway/"),
        ("/sub", "/sub/nothing", "/nothing"),
        ("/sub", "/sub/static/x.css", "/static/x.css"),
        ("/a/b", "/a/b/metrics", "/metrics"),
        ("/a/b", "/a/metrics", "/a/metrics"),
        # as a proxy takes it off, and as one leaves it
        ("/integrations", "/integrations/status/", "/integrations/status/"),
        ("/integrations", "/integrations/integrations/status/", "/integrations/status/"),
        ("/integrations", "/integrations/settings/integrations/", "/settings/integrations/"),
        ("/integrations", "/integrations/static/x.css", "/static/x.css"),
        ("/settings", "/settings/integrations/", "/settings/integrations/"),
    ],
)
def test_a_proxy_may_take_the_sub_path_off_or_leave_it(settings, prefix, asked, found):
    settings.FORCE_SCRIPT_NAME = prefix
    assert passed_on(PATH_INFO=asked)["PATH_INFO"] == found


def test_a_server_that_has_taken_it_off_is_believed(settings):
    settings.FORCE_SCRIPT_NAME = "/sub"
    environ = {"PATH_INFO": "/sub/healthz/", "SCRIPT_NAME": "/sub"}
    assert passed_on(**environ)["PATH_INFO"] == "/sub/healthz/"


@pytest.fixture
def below_sub():
    before = get_script_prefix()
    set_script_prefix("/sub")
    yield
    set_script_prefix(before)


def test_static_files_are_below_what_the_server_says_with_each_request(db, client, below_sub):
    page = client.get("/accounts/login/", SCRIPT_NAME="/sub").content.decode()
    assert 'href="/sub/static/integrations/integrations.css"' in page
    assert '="/static/' not in page
    set_script_prefix("/")
    assert 'href="/static/integrations' in client.get("/accounts/login/").content.decode()


def test_the_last_error_page_is_below_it_too(below_sub):
    page = render_to_string("500.html")
    assert set(re.findall(r'href="([^"]+)"', page)) == {
        "/sub/static/integrations/integrations.css",
        "/sub/settings/integrations/",
    }


# --- The public address -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "prefix", "public"),
    [
        ("", "/", "http://testserver/x/"),
        ("", "/sub", "http://testserver/sub/x/"),
        ("https://a.example", "/", "https://a.example/x/"),
        ("https://a.example/", "/", "https://a.example/x/"),
        ("https://a.example", "/sub", "https://a.example/sub/x/"),
        ("https://a.example/sub", "/sub", "https://a.example/sub/x/"),
        ("https://a.example/sub/", "/", "https://a.example/sub/x/"),
        ("https://a.example:8443/sub", "/sub", "https://a.example:8443/sub/x/"),
    ],
)
def test_the_public_address_is_the_base_and_the_path(rf, settings, base, prefix, public):
    settings.INTEGRATIONS_BASE_URL = base
    before = get_script_prefix()
    set_script_prefix(prefix)
    try:
        path = f"{get_script_prefix()}x/"
        assert conf.public_url(path, rf.get("/")) == public
        assert conf.public_url(path) == (public if base else path)
    finally:
        set_script_prefix(before)


def test_strava_sends_athletes_back_to_the_public_address(alice_client, strava, settings):
    settings.INTEGRATIONS_BASE_URL = "https://a.example:8443/sub"
    response = alice_client.post("/integrations/strava/connect/")
    query = parse_qs(urlsplit(response["Location"]).query)
    assert query["redirect_uri"] == ["https://a.example:8443/sub/integrations/strava/callback/"]
    page = alice_client.get("/settings/integrations/")
    assert page.context["strava"]["callback_domain"] == "a.example"


def test_a_proxy_that_changes_the_host_does_not_break_forms(alice, settings):
    settings.CSRF_TRUSTED_ORIGINS = ["https://a.example"]
    client = Client(enforce_csrf_checks=True, headers={"host": "testserver"})
    token = client.get("/accounts/login/").context["csrf_token"]
    form = {"username": "alice", "password": "alice-demo", "csrfmiddlewaretoken": token}
    refused = client.post("/accounts/login/", form, headers={"origin": "https://b.example"})
    assert refused.status_code == 403
    accepted = client.post("/accounts/login/", form, headers={"origin": "https://a.example"})
    assert accepted.status_code == 302


@pytest.mark.parametrize(
    ("base", "ids"),
    [
        ("", []),
        ("https://a.example", []),
        ("http://10.0.0.5:8000/sub/", []),
        ("a.example", ["integrations.E008"]),
        ("https://", ["integrations.E008"]),
        ("https://a.example:port", ["integrations.E008"]),
        ("https://me@a.example", ["integrations.E008"]),
        ("https://a.example/?x", ["integrations.E008"]),
        ("ftp://a.example", ["integrations.E008"]),
        ("http://[", ["integrations.E008"]),
    ],
)
def test_a_public_address_that_is_none_is_told(db, settings, base, ids):
    told = messages_of(settings, INTEGRATIONS_BASE_URL=base)
    assert [each for each in told if each != "integrations.W002"] == ids  # of the tests' own tasks


# --- Over the wire, at gunicorn -----------------------------------------------------------------


class Browser:
    """What a proxy sends on for somebody with a browser: cookies kept, nothing else added."""

    def __init__(self, site, host, **headers):
        self.address, self.cookies = urlsplit(site.url).netloc, {}
        self.headers = {"Host": host, **headers}

    def ask(self, method, path, body=None, in_chunks=False, **headers):
        connection = http.client.HTTPConnection(self.address, timeout=30)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(
            method,
            path,
            body=iter([body[:7], body[7:]]) if in_chunks else body,
            headers={**self.headers, "Cookie": cookies, **headers},
            encode_chunked=in_chunks,
        )
        response = connection.getresponse()
        response.text = response.read().decode()
        for cookie in response.headers.get_all("Set-Cookie") or ():
            name, value = cookie.split(";")[0].split("=", 1)
            self.cookies[name] = value
        connection.close()
        return response

    def log_in(self, path, **headers):
        page = self.ask("GET", path)
        assert page.status == 200, page.text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
        form = {"username": "carol", "password": "carol-demo", "csrfmiddlewaretoken": token}
        headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        return page, self.ask("POST", path, urlencode(form).encode(), in_chunks=True, **headers)


@pytest.fixture
def carol(transactional_db):
    user = get_user_model()(username="carol")
    # The site's own first hasher, unlike the tests'.
    user.password = PBKDF2PasswordHasher().encode("carol-demo", "salt", iterations=1)
    user.save()
    return user


def running(**env):
    site = Site(DEBUG="off", STRAVA_WEBHOOK_VERIFY_TOKEN=TOKEN, **env)
    site.web(workers=1)
    return site


@pytest.fixture(scope="module")
def below(django_db_setup, tmp_path_factory):
    """Below /sub of a public address, behind a proxy that changes the Host."""
    secret = tmp_path_factory.mktemp("secrets") / "proxies"
    secret.write_text("127.0.0.1\n")
    site = running(
        ALLOWED_HOSTS=" backend ",
        INTEGRATIONS_BASE_URL="https://a.example/sub",
        SCRIPT_NAME="/sub/",
        FORWARDED_ALLOW_IPS="",
        FORWARDED_ALLOW_IPS_FILE=str(secret),
    )
    yield site
    site.stop()


@pytest.fixture(scope="module")
def plain(django_db_setup):
    """At home, without TLS, and without a proxy that it trusts."""
    site = running(
        ALLOWED_HOSTS="site.home,192.168.1.5", INSECURE_HTTP="on", FORWARDED_ALLOW_IPS="192.168.1.1"
    )
    yield site
    site.stop()


@pytest.mark.parametrize(("taken_off", "said"), [(False, "https,https"), (True, "HTTPS")])
def test_a_site_below_a_path_works_through_its_proxy(carol, below, taken_off, said):
    def sent(path):
        return path.removeprefix("/sub") if taken_off else path

    browser = Browser(below, "backend", **{"X-Forwarded-Proto": said, "X-Forwarded-Ssl": "on"})
    home = browser.ask("GET", sent("/sub/"))
    assert (home.status, home.headers["Location"]) == (302, "/sub/settings/integrations/")

    page, logged_in = browser.log_in(sent("/sub/accounts/login/"), Origin="https://a.example")
    assert (logged_in.status, logged_in.headers["Location"]) == (302, "/sub/settings/integrations/")
    for cookie in page.headers.get_all("Set-Cookie") + logged_in.headers.get_all("Set-Cookie"):
        assert "Path=/sub;" in f"{cookie};"
        assert "Secure" in cookie
    page = browser.ask("GET", sent("/sub/settings/integrations/"))
    assert page.status == 200
    assert "a.example" in page.text  # for Strava's Authorization Callback Domain
    links = set(re.findall(r'(?:href|src|action|data-poll)="(/[^"]*)"', page.text))
    assert len(links) > 5
    assert all(link.startswith("/sub/") for link in links)
    for link in links:
        if "/static/" in link:
            found = browser.ask("GET", sent(link))
            assert found.status == 200, link
            for icon in re.findall(r'url\("(icons/[^"]+)"\)', found.text):
                assert browser.ask("GET", sent(f"/sub/static/integrations/{icon}")).status == 200
    admin = browser.ask("GET", sent("/sub/admin/login/"))
    assert 'href="/sub/static/admin/css/base.css"' in admin.text
    assert browser.ask("GET", sent("/sub/static/admin/css/base.css")).status == 200


def test_a_site_below_a_path_is_probed_and_called(transactional_db, below):
    probe = Browser(below, "10.0.0.5:8000")
    assert [probe.ask("GET", path).status for path in ("/healthz/", "/sub/healthz/")] == [200] * 2
    assert probe.ask("GET", "/sub/accounts/login/").status == 400
    stranger = Browser(below, "backend")
    answer = stranger.ask("GET", "/sub/accounts/login/?next=/x")
    assert answer.status == 301
    assert answer.headers["Location"] == "https://a.example/sub/accounts/login/?next=/x"
    conflict = {"X-Forwarded-Proto": "https,http"}
    assert stranger.ask("GET", "/accounts/login/", **conflict).status == 301


def test_a_home_without_tls_can_log_in_from_another_address(carol, plain):
    browser = Browser(plain, "192.168.1.5:8000")
    # From a stranger it changes nothing: believed, the Origin would be wrong.
    spoof = {"X-Forwarded-Proto": "https"}
    page, logged_in = browser.log_in("/accounts/login/", Origin="http://192.168.1.5:8000", **spoof)
    assert (logged_in.status, logged_in.headers["Location"]) == (302, "/settings/integrations/")
    assert "Strict-Transport-Security" not in page.headers
    cookies = page.headers.get_all("Set-Cookie") + logged_in.headers.get_all("Set-Cookie")
    assert len(cookies) >= 2
    assert not any("secure" in cookie.lower() for cookie in cookies)
    assert browser.ask("GET", "/settings/integrations/").status == 200
    _page, refused = Browser(plain, "site.home").log_in(
        "/accounts/login/", Origin="http://other.home"
    )
    assert refused.status == 403
    assert Browser(plain, "other.home").ask("GET", "/accounts/login/").status == 400


def test_a_tunnel_s_chunks_reach_the_webhook(transactional_db, plain):
    strava = Browser(plain, "site.home", **{"Content-Type": "application/json"})
    whole = b'{"object_type": "activity", "owner_id": 1}'
    for path in (URL, URL.rstrip("/")):
        assert strava.ask("POST", path, whole, in_chunks=True).status == 200
        assert strava.ask("POST", path, whole[:-1], in_chunks=True).status == 400
        assert strava.ask("POST", path, whole).status == 200
        assert strava.ask("POST", path, b" " * (MAX_EVENT + 1), in_chunks=True).status == 413
    assert strava.ask("POST", path, b" " * 2_700_000, in_chunks=True).status == 413


def raw(site, *parts):
    """What is answered to these bytes, to the end of the connection."""
    host, port = urlsplit(site.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"".join(parts))
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


HEAD = f"POST {URL} HTTP/1.1\r\nHost: site.home\r\nTransfer-Encoding: chunked\r\n".encode()
NEXT = b"GET /healthz/ HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_what_could_smuggle_a_request_is_refused(transactional_db, plain):
    for rest, statuses in {
        b"\r\n2\r\n{}\r\n0\r\n\r\n": ["200", "200"],
        b"Content-Length: 4\r\n\r\n2\r\n{}\r\n0\r\n\r\n": ["400"],
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n": ["400"],
        b"\r\nzz\r\n{}\r\n0\r\n\r\n": ["400"],
        b"\r\n2\r\n{}XX0\r\n\r\n": ["400"],
    }.items():
        assert re.findall(r"^HTTP/1\.1 (\d+)", raw(plain, HEAD, rest, NEXT), re.M) == statuses, rest
