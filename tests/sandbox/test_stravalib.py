"""A library that was written against the real Strava gets along with the sandbox.

stravalib is unmodified. It insists on https://www.strava.com, so a transport
adapter takes what goes there to the sandbox instead.
"""

from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

from integrations.sandbox.strava import (
    ALICE,
    CHIDI,
    CLIENT_ID,
    CLIENT_SECRET,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
)

stravalib = pytest.importorskip("stravalib")
STRAVA = "https://www.strava.com"
CALLBACK = "http://localhost:8000/integrations/strava/callback/"


class DetourAdapter(HTTPAdapter):
    """Carries requests for Strava to the sandbox, and refuses all others."""

    def __init__(self, sandbox_url):
        super().__init__()
        self.sandbox_url = sandbox_url

    def send(self, request, *args, **kwargs):
        assert request.url.startswith(f"{STRAVA}/"), "no test reaches the network"
        request.url = request.url.replace(STRAVA, self.sandbox_url, 1)
        return super().send(request, *args, **kwargs)


@pytest.fixture
def session(sandbox):
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", DetourAdapter(sandbox.url))
    session.mount("http://", DetourAdapter(sandbox.url))
    return session


@pytest.fixture
def client(session, monkeypatch):
    monkeypatch.delenv("STRAVA_CLIENT_ID", raising=False)
    monkeypatch.delenv("STRAVA_CLIENT_SECRET", raising=False)
    monkeypatch.setenv("SILENCE_TOKEN_WARNINGS", "true")
    return stravalib.Client(requests_session=session)


def allow(session, authorization_url, athlete_id):
    """Press Authorize on the consent page; return what the callback would be given."""
    response = session.post(
        authorization_url,
        data={
            "athlete_id": athlete_id,
            "scope": ["profile:read_all"],
            "decision": "authorize",
        },
        allow_redirects=False,
    )
    assert response.status_code == 302
    assert response.headers["Location"].startswith(CALLBACK)
    return {
        name: values[0]
        for name, values in parse_qs(urlsplit(response.headers["Location"]).query).items()
    }


def test_stravalib_gets_through_the_whole_dance(client, session, strava):
    url = client.authorization_url(
        client_id=int(CLIENT_ID),
        redirect_uri=CALLBACK,
        scope=["read", "profile:read_all"],
        state="s-1",
    )
    assert session.get(url).status_code == 200

    answer = allow(session, url, ALICE)
    assert answer["state"] == "s-1"
    assert answer["scope"] == "read,profile:read_all"

    tokens, summary = client.exchange_code_for_token(
        client_id=int(CLIENT_ID),
        client_secret=CLIENT_SECRET,
        code=answer["code"],
        return_athlete=True,
    )
    assert summary.id == ALICE
    assert strava.is_alive(tokens["access_token"])

    athlete = client.get_athlete()
    assert athlete.id == ALICE
    assert [bike.id for bike in athlete.bikes] == ["b1001", "b1002"]
    assert athlete.shoes[1].name == ""

    gear = client.get_gear("b1001")
    assert gear.brand_name == "Canyonesque"
    assert gear.frame_type == 3

    strava.expire(ALICE)
    fresh = client.refresh_access_token(
        client_id=int(CLIENT_ID),
        client_secret=CLIENT_SECRET,
        refresh_token=tokens["refresh_token"],
    )
    assert fresh["refresh_token"] != tokens["refresh_token"]
    assert not strava.is_alive(tokens["refresh_token"])
    assert client.get_athlete().id == ALICE

    assert strava.violations == []


def test_every_demo_athlete_and_gear_fits_the_models_of_stravalib(client, strava):
    for athlete_id in strava.athletes:
        client.access_token = strava.issue_tokens(athlete_id)["access_token"]
        athlete = client.get_athlete()
        assert athlete.id == athlete_id
        for gear in [*athlete.bikes, *athlete.shoes]:
            assert client.get_gear(gear.id).id == gear.id


def test_stravalib_deauthorizes(client, strava):
    tokens = strava.issue_tokens(CHIDI)
    client.access_token = tokens["access_token"]

    client.deauthorize()

    assert not strava.is_alive(tokens["refresh_token"])


def test_stravalib_knows_the_errors_for_what_they_are(client, strava):
    client.access_token = "0" * 40
    with pytest.raises(stravalib.exc.AccessUnauthorized):
        client.get_athlete()

    client.access_token = strava.issue_tokens(ALICE)["access_token"]
    with pytest.raises(stravalib.exc.ObjectNotFound):
        client.get_gear("b9999")

    strava.deactivate()
    with pytest.raises(stravalib.exc.ApplicationInactive):
        client.get_athlete()


def test_stravalib_lists_subscriptions_with_credentials_in_the_query(client, strava):
    subscriptions = client.list_subscriptions(int(OTHER_CLIENT_ID), OTHER_CLIENT_SECRET)

    assert list(subscriptions) == []
    assert strava.violations == []
