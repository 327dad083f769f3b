"""The sandbox subscribes a callback as Strava does, and sends it events."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import pytest

from integrations.sandbox.strava import (
    ALICE,
    CLIENT_ID,
    CLIENT_SECRET,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
)

CREDENTIALS = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


@pytest.fixture
def site():
    """A little site with a webhook. `site.statuses` are answered to events, then 200."""
    site = SimpleNamespace(queries=[], events=[], statuses=[], handshake=200, challenge=None)

    class Webhook(BaseHTTPRequestHandler):
        def do_GET(self):
            query = dict(parse_qsl(urlsplit(self.path).query))
            site.queries.append(query)
            challenge = site.challenge or query.get("hub.challenge")
            self.reply(site.handshake, json.dumps({"hub.challenge": challenge}).encode())

        def do_POST(self):
            site.events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(site.statuses.pop(0) if site.statuses else 200, b"")

        def reply(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/webhook/"
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def subscriptions(sandbox):
    return f"{sandbox.url}/api/v3/push_subscriptions"


@pytest.fixture
def subscribe(http, subscriptions, site):
    def subscribe(**changes):
        fields = CREDENTIALS | {"callback_url": site.url, "verify_token": "v-1"} | changes
        return http.post(subscriptions, data=fields)

    return subscribe


def error_of(response):
    assert response.status_code == 400
    return response.json()["errors"][0]


def test_a_callback_that_echoes_the_challenge_is_subscribed(http, subscribe, subscriptions, site):
    response = subscribe()

    assert response.status_code == 201
    number = response.json()["id"]
    [query] = site.queries
    assert query["hub.mode"] == "subscribe"
    assert query.get("hub.verify_token") == "v-1"
    [listed] = http.get(subscriptions, params=CREDENTIALS).json()
    assert (listed["id"], listed["callback_url"]) == (number, site.url)

    assert http.delete(f"{subscriptions}/{number}", params=CREDENTIALS).status_code == 204
    assert http.get(subscriptions, params=CREDENTIALS).json() == []
    assert http.delete(f"{subscriptions}/{number}", params=CREDENTIALS).status_code == 404


def test_an_app_has_one_subscription(subscribe):
    assert subscribe().status_code == 201

    assert error_of(subscribe()) == {
        "resource": "PushSubscription", "field": None, "code": "already exists",
    }  # fmt: skip
    other = {"client_id": OTHER_CLIENT_ID, "client_secret": OTHER_CLIENT_SECRET}
    assert subscribe(**other).status_code == 201


def test_a_callback_that_does_not_answer_200_is_refused(subscribe, site):
    site.handshake = 403
    assert error_of(subscribe())["code"] == "GET to callback URL does not return 200"

    closed = {"callback_url": "http://127.0.0.1:9/"}
    assert error_of(subscribe(**closed))["code"] == "GET to callback URL does not return 200"


def test_a_callback_that_does_not_echo_is_refused(subscribe, site):
    site.challenge = "something else"

    assert error_of(subscribe())["code"] == "not verifiable"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://strava.example/webhook/",
        "http://169.254.169.254/latest/",
        "http://localhost@192.0.2.1/",
        "file:///etc/passwd",
        "http://[127.0.0.1/",
        "http://127.0.0.1:99999/",
    ],
)
def test_a_callback_elsewhere_is_never_called(subscribe, url):
    assert error_of(subscribe(callback_url=url))["field"] == "callback url"


def test_bad_credentials_see_nothing(http, subscribe, subscriptions):
    number = subscribe().json()["id"]
    wrong = CREDENTIALS | {"client_secret": "nope"}

    assert subscribe(**wrong).status_code == 401
    assert http.get(subscriptions, params=wrong).status_code == 401
    assert http.get(subscriptions).status_code == 400
    other = {"client_id": OTHER_CLIENT_ID, "client_secret": OTHER_CLIENT_SECRET}
    assert http.delete(f"{subscriptions}/{number}", params=other).status_code == 404
    assert len(http.get(subscriptions, params=CREDENTIALS).json()) == 1


def test_revoking_at_strava_kills_the_tokens_and_tells_the_site(subscribe, site, strava):
    number = subscribe().json()["id"]
    pair = strava.issue_tokens(ALICE)

    assert strava.revoke_as_athlete(ALICE) == [200]

    assert not strava.is_alive(pair["refresh_token"])
    [event] = site.events
    assert event.pop("event_time") > 1_700_000_000
    assert event == {
        "object_type": "athlete",
        "object_id": ALICE,
        "aspect_type": "update",
        "updates": {"authorized": "false"},
        "owner_id": ALICE,
        "subscription_id": number,
    }


def test_an_event_is_tried_three_times(subscribe, site, strava):
    subscribe()

    site.statuses = [500]
    assert strava.send_event(ALICE, object_type="activity", object_id=7) == [500, 200]
    site.statuses = [500] * 5
    assert strava.send_event(ALICE) == [500, 500, 500]
    assert [event["object_id"] for event in site.events] == [7, 7, ALICE, ALICE, ALICE]


def test_without_a_subscription_nobody_is_told(strava):
    strava.issue_tokens(ALICE)

    assert strava.revoke_as_athlete(ALICE) == []
