"""Each fault is what it says, strikes where it should, and ends when told."""

import base64
import json
import time
from pathlib import Path

import pytest
import requests

from integrations.sandbox import Sandbox
from integrations.sandbox.faults import FAULTS
from integrations.sandbox.strava import ALICE, CLIENT_ID, CLIENT_SECRET


@pytest.fixture
def pair(strava):
    return strava.issue_tokens(ALICE, expires_in=-1)


@pytest.fixture
def refresh(http, sandbox, pair):
    """A refresh that would rotate the pair, if it came through."""

    def refresh(timeout=5, **options):
        fields = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "grant_type": "refresh_token",
            "refresh_token": pair["refresh_token"],
        }
        url = f"{sandbox.url}/oauth/token"
        return http.post(url, data=fields, timeout=timeout, **options)

    return refresh


@pytest.mark.parametrize(
    ("fault", "status", "content_type", "body"),
    [
        ("500", 500, "application/json", "Internal Server Error"),
        ("502_html", 502, "text/html", "<h1>502"),
        ("200_html", 200, "text/html", "<h1>"),
        ("empty", 200, "application/json", ""),
        ("half_json", 200, "application/json", '"access_token": "0123456789abc'),
        ("wrong_types", 200, "application/json", '"expires_at": "soon"'),
        ("429", 429, "application/json", "Rate Limit Exceeded"),
        ("401_client", 401, "application/json", '"resource": "Application", "field": ""'),
        ("403_inactive", 403, "application/json", '"field": "Status", "code": "Inactive"'),
        ("403_limit", 403, "application/json", "Forbidden"),
    ],
)
def test_a_fault_replaces_the_answer_and_nothing_is_processed(
    refresh, strava, pair, fault, status, content_type, body
):
    strava.fail("token", fault, times=1)

    response = refresh()

    assert response.status_code == status
    assert response.headers["Content-Type"].startswith(content_type)
    assert body in response.text
    assert strava.is_alive(pair["refresh_token"])
    assert strava.requests[-1]["fault"] == fault
    assert refresh().status_code == 200


def test_no_fault_is_left_untested():
    here = Path(__file__).read_text(encoding="utf-8")

    assert [name for name in FAULTS if f'"{name}"' not in here] == []


def test_a_flood_is_of_400_megabytes_and_nothing_is_processed(refresh, strava, pair):
    strava.fail("token", "flood", times=1)

    with refresh(stream=True) as response:
        assert response.status_code == 200
        assert int(response.headers["Content-Length"]) > 400_000_000
        assert response.raw.read(3) == b"{  "
    assert strava.is_alive(pair["refresh_token"])


def test_a_redirect_leads_to_another_host_with_everything(refresh, strava, pair):
    strava.fail("token", "redirect")

    assert refresh(allow_redirects=False).headers["Location"].startswith("http://localhost:")
    assert strava.calls["elsewhere"] == 0
    assert refresh().json() == {}
    assert strava.calls["elsewhere"] == 1
    assert strava.is_alive(pair["refresh_token"])


def test_half_json_cannot_be_parsed(refresh, strava):
    strava.fail("token", "half_json")

    with pytest.raises(requests.exceptions.JSONDecodeError):
        refresh().json()


def test_a_429_carries_the_headers_of_the_limit(refresh, strava):
    strava.fail("token", "429")

    assert refresh().headers["X-RateLimit-Usage"] == "201,1500"


def test_a_reset_before_processing_leaves_the_token_alive(refresh, strava, pair):
    strava.fail("token", "reset_before", times=1)

    with pytest.raises(requests.ConnectionError, match="reset"):
        refresh()

    assert strava.calls["token"] == 1
    assert strava.is_alive(pair["refresh_token"])


def test_a_reset_after_processing_loses_the_new_pair(refresh, strava, pair):
    strava.fail("token", "reset_after", times=1)

    with pytest.raises(requests.ConnectionError, match="reset"):
        refresh()

    assert strava.calls["token"] == 1
    assert not strava.is_alive(pair["refresh_token"])


def test_silence_outlasts_a_timeout_and_nothing_is_processed(refresh, strava, pair):
    strava.fail("token", "silence", times=1, seconds=0.4)

    with pytest.raises(requests.ReadTimeout):
        refresh(timeout=0.1)

    time.sleep(0.4)
    assert strava.is_alive(pair["refresh_token"])


def test_silence_ends_with_the_connection_closed(refresh, strava):
    strava.fail("token", "silence", times=1, seconds=0.1)

    with pytest.raises(requests.ConnectionError, match="without response"):
        refresh()


def test_a_dripping_answer_is_whole_and_outlives_every_read_timeout(refresh, strava):
    strava.fail("token", "drip", times=1, seconds=0.002)
    started = time.monotonic()

    response = refresh(timeout=0.1)

    assert time.monotonic() - started > 0.2
    assert set(response.json()) >= {"access_token", "refresh_token", "expires_at"}


def test_a_dripping_answer_comes_a_byte_at_a_time(refresh, strava):
    strava.fail("token", "drip", times=1, seconds=0.2)

    with refresh(stream=True) as response:
        assert response.raw.read(1) == b"{"
    assert int(response.headers["Content-Length"]) > 100


def test_a_delayed_answer_is_normal(refresh, strava):
    strava.fail("token", "delay", times=1, seconds=0.2)
    started = time.monotonic()

    assert refresh().status_code == 200
    assert time.monotonic() - started >= 0.2


def test_a_delay_holds_nobody_else_up(http, refresh, sandbox, strava):
    strava.fail("token", "delay", seconds=5)
    with pytest.raises(requests.ReadTimeout):
        refresh(timeout=0.05)
    started = time.monotonic()

    assert http.get(f"{sandbox.url}/oauth/authorize").status_code == 400
    assert strava.calls["token"] == 1
    assert time.monotonic() - started < 1


def test_faults_can_be_told_in_sequence(refresh, strava):
    strava.fail("token", "500", times=2)
    strava.fail("token", "429", times=1)

    assert [refresh().status_code for _ in range(4)] == [500, 500, 429, 200]


def test_a_fault_without_an_end_lasts_until_recovery(refresh, strava):
    strava.fail("token", "502_html")
    assert [refresh().status_code for _ in range(3)] == [502] * 3

    strava.fail("token", "429")
    assert refresh().status_code == 429

    strava.recover()
    assert refresh().status_code == 200


def test_a_star_means_every_endpoint_and_a_name_only_its_own(http, refresh, sandbox, strava):
    strava.fail("gear", "500")
    assert http.get(f"{sandbox.url}/api/v3/athlete").status_code == 401
    assert http.get(f"{sandbox.url}/api/v3/gear/b1001").status_code == 500

    strava.fail("*", "502_html")
    assert http.get(f"{sandbox.url}/api/v3/athlete").status_code == 502
    assert refresh().status_code == 502


@pytest.mark.parametrize(
    "arguments",
    [
        {"endpoint": "nowhere", "fault": "500"},
        {"endpoint": "token", "fault": "599"},
        {"endpoint": "token", "fault": "500", "times": 0},
        {"endpoint": "token", "fault": "delay", "seconds": -1},
        {"endpoint": "token", "fault": "delay", "seconds": float("nan")},
    ],
)
def test_a_fault_that_does_not_exist_is_an_error(strava, arguments):
    with pytest.raises(ValueError, match=r"no such|must be"):
        strava.fail(**arguments)


def test_stopping_wakes_whoever_sleeps(http):
    sandbox = Sandbox().start()
    sandbox.strava.fail("token", "silence", seconds=60)
    with pytest.raises(requests.ReadTimeout):
        http.post(f"{sandbox.url}/oauth/token", timeout=0.05)
    started = time.monotonic()

    sandbox.stop()

    assert time.monotonic() - started < 2


def test_an_amended_answer_is_the_good_one_but_for_what_was_edited(refresh, strava, pair):
    strava.amend("token", lambda answer: answer | {"expires_in": "soon"})

    answer = refresh().json()

    assert answer["expires_in"] == "soon"
    assert strava.is_alive(answer["access_token"])  # it was processed
    with pytest.raises(ValueError, match="no such endpoint"):
        strava.amend("tokens", dict)
    strava.recover()
    pair["refresh_token"] = answer["refresh_token"]
    assert isinstance(refresh().json()["expires_in"], int)


@pytest.mark.parametrize("ahead", [-7200, 7200])
def test_a_providers_clock_may_be_wrong(strava, garmin, ahead):
    strava.ahead = garmin.ahead = ahead

    pair = strava.issue_tokens(ALICE)
    claims = garmin.issue_session("alice@example.com")["di_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))

    assert abs(pair["expires_at"] - pair["expires_in"] - time.time() - ahead) < 5
    assert abs(claims["iat"] - time.time() - ahead) < 5
    strava.reset()
    assert abs(strava.clock() - time.time()) < 1
