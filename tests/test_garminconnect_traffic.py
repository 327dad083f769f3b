"""Whatever the garminconnect library asks Garmin for is under the rules of our own requests."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import quote, unquote

import curl_cffi
import garminconnect
import pytest
import requests

from integrations import http, services
from integrations.exceptions import ProviderError
from integrations.garminconnect import watch
from integrations.sandbox.garmin import ALICE, MFA, hook

from .conftest import row_of
from .test_fault_matrix import ENDLESS, bit_by_bit
from .test_garminconnect_dance import CODE_WAYS, WAYS, asked, code_endpoint, lead, told
from .test_garminconnect_login import answer, connect
from .test_garminconnect_session import lapsing, link

__all__ = ["asked", "lapsing"]


@pytest.fixture
def journeys(alice, alice_client, garmin, asked):
    """What leads to a request of each kind; each takes the fault to meet there."""

    def sign_in(way, endpoint, email=ALICE):
        def go(fault, seconds=None):
            lead(garmin, way)
            garmin.fail(endpoint, fault, seconds=seconds)
            connect(alice_client, email)

        return go

    def code(way):
        def go(fault, seconds=None):
            asked(way)
            garmin.fail(code_endpoint(way), fault, seconds=seconds)
            answer(alice_client)

        return go

    def use(endpoint, expires_in, ask):
        def go(fault, seconds=None):
            before = link(garmin, alice, expires_in=expires_in).garminconnect_oauth2
            garmin.fail(endpoint, fault, seconds=seconds)
            with pytest.raises(ProviderError):
                ask(alice.pk)
            assert row_of(alice).garminconnect_oauth2 == before
            assert row_of(alice).garminconnect_lease is None

        return go

    found = {f"the page by {way}": sign_in(way, "mobile_page") for way in WAYS if way != "widget"}
    found |= {f"a password by {way}": sign_in(way, "mobile_login") for way in WAYS}
    found |= {f"a code by {way}": code(way) for way in CODE_WAYS}
    found |= {
        "the page by widget": sign_in("widget", "widget_page"),
        "a password by widget": sign_in("widget", "widget_login"),
        "a code to be sent": sign_in("widget", "widget_mfa_request", MFA),
        "a ticket": sign_in("mobile", "token"),
        "a refresh": use("token", 300, services.get_garminconnect_client),
        "the API": use("gear_list", 86400, services.sync_garminconnect_gear),
    }
    return found


KINDS = [
    *(f"the page by {way}" for way in WAYS),
    *(f"a password by {way}" for way in WAYS),
    *(f"a code by {way}" for way in CODE_WAYS),
    "a code to be sent", "a ticket", "a refresh", "the API",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_redirect_is_followed(kind, journeys, garmin):
    journeys[kind]("redirect")

    assert "redirect" in {call["fault"] for call in garmin.requests}
    assert garmin.calls["elsewhere"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_is_not_read(kind, journeys, garmin):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    journeys[kind]("flood")

    assert "flood" in {call["fault"] for call in garmin.requests}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kilobytes


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("integrations.http.READ_TIMEOUT", 0.5)
    monkeypatch.setattr("integrations.http.CONNECT_TIMEOUT", 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_drip_and_silence_have_one_deadline(kind, journeys, garmin, impatient):
    """Each request has it anew, and the library makes up to seven."""
    started = time.monotonic()
    journeys[kind]("drip", seconds=0.3)
    asked = sum(garmin.calls.values())

    assert time.monotonic() - started < 2 + asked


@pytest.mark.parametrize("shape", ENDLESS)
def test_an_answer_that_never_ends_holds_nobody(shape, alice, lapsing, impatient):
    """The sandbox lets bodies drip; this is all else that may."""
    with bit_by_bit(*ENDLESS[shape]) as address:
        hook.point_library_at(address, pauses=False)
        started = time.monotonic()
        with pytest.raises(ProviderError):
            services.get_garminconnect_client(alice.pk)
        took = time.monotonic() - started

    assert took < 3  # it is 5 seconds long
    assert row_of(alice).garminconnect_oauth2 == lapsing.garminconnect_oauth2
    assert row_of(alice).garminconnect_lease is None


def test_a_sign_in_asks_for_nothing_more_after_a_minute(alice_client, garmin, monkeypatch):
    monkeypatch.setattr(http, "watchdog", http._Watchdog())
    ask = curl_cffi.requests.Session.request

    def slow(self, *arguments, **options):
        answer = ask(self, *arguments, **options)
        http.watchdog.now += 30
        return answer

    monkeypatch.setattr(curl_cffi.requests.Session, "request", slow)
    garmin.fail("*", "403")
    connect(alice_client)

    assert told(alice_client) == "rate_limited"
    assert garmin.calls.total() == 3  # of five at least


# --- Redirects to a page ------------------------------------------------------------------------


@pytest.fixture
def redirecting():
    """A site that redirects a form; gives its address and what came, as method, path and body."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, _, query = self.path.partition("?")
            came.append((self.command, path, body))
            status, _, where = unquote(query).partition(" ")
            self.send_response(int(status or 200))
            if where:
                self.send_header("Location", where)
            self.end_headers()
            self.wfile.write(b"" if status else b"<title>Success</title>")

        def log_message(self, *arguments):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield SimpleNamespace(port=server.server_port, came=came)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("redirect", "leads"),
    [
        ("302 /page", [("GET", "/page", b"")]),
        ("303 http://127.0.0.1:PORT/page", [("GET", "/page", b"")]),
        ("307 /page", []),
        ("308 /page", []),
        ("302 http://localhost:PORT/page", []),
        ("302 //localhost:PORT/page", []),
        ("302 http://127.0.0.1:PORT@localhost:PORT/page", []),
        ("302", []),
    ],
)
def test_a_form_leads_to_a_page_of_the_same_site_at_most(redirect, leads, redirecting, garmin):
    """Signing in by the widget may end there; what was typed goes nowhere else."""
    seen = watch.Watch(garminconnect, garminconnect.Garmin().client)
    session = seen._watched(curl_cffi.requests.Session(impersonate="chrome"))
    where = quote(redirect.replace("PORT", str(redirecting.port)))

    with contextlib.suppress(garminconnect.GarminConnectAuthenticationError):
        session.post(f"http://127.0.0.1:{redirecting.port}/form?{where}", data={"password": "x"})

    assert redirecting.came == [("POST", "/form", b"password=x"), *leads]
    assert seen._accepted == bool(leads)


def test_a_loop_of_pages_ends(redirecting, garmin):
    seen = watch.Watch(garminconnect, garminconnect.Garmin().client)
    session = seen._watched(curl_cffi.requests.Session(impersonate="chrome"))

    with pytest.raises(requests.TooManyRedirects):
        session.get(f"http://127.0.0.1:{redirecting.port}/page?" + quote("302 ?302%20?"))
