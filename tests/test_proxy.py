"""The site behind proxies of every kind: schemes, chunks, hosts, sub-paths, a public address."""

from __future__ import annotations

from contextlib import closing
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.urls import get_script_prefix, set_script_prefix

from integrations import conf

from .test_project import messages_of
from .test_strava_webhook import URL, event

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
    assert messages_of(settings, INTEGRATIONS_BASE_URL=base) == ids
