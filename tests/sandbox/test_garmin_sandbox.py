"""The real garminconnect library, unmodified, gets along with the sandbox's Garmin."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from integrations.sandbox.garmin import (
    ALICE,
    BJORN,
    BLOCKED,
    CAPTCHA,
    CHIDI,
    CHINA,
    INACTIVE,
    LOCKED,
    MFA,
    MFA_CODE,
    PASSWORD,
    PHONE,
    SLOW,
    THROTTLED,
    WRONG_PASSWORDS,
    Gear,
    hook,
)

garminconnect = pytest.importorskip("garminconnect")
AuthenticationError = garminconnect.GarminConnectAuthenticationError
ConnectionFailed = garminconnect.GarminConnectConnectionError
TooManyRequests = garminconnect.GarminConnectTooManyRequestsError

ROOT = Path(__file__).resolve().parents[2]
WAYS_IN = ("mobile+cffi", "mobile+requests", "widget+cffi", "portal+cffi", "portal+requests")
# The library blames the password for these, too: what it could not load after signing in.
NO_PROFILE = "Failed to retrieve social profile"


@pytest.fixture
def outside(monkeypatch):
    """A proxy for all there is but loopback; `outside` collects what reaches it."""
    reached = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                reached.append(connection.recv(200))
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.upper(), url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield reached
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def garmin(sandbox, outside, monkeypatch):
    """Garmin, with the library pointed at it and in a hurry; nothing leaves loopback."""
    monkeypatch.delenv("GARMINTOKENS", raising=False)
    # Between two tries to load a profile.
    monkeypatch.setattr(garminconnect.api.base, "time", Hurried)
    with hook.pointed_at(sandbox.url, pauses=False):
        yield sandbox.garmin
    assert outside == []


class Hurried:
    time = staticmethod(time.time)

    @staticmethod
    def sleep(seconds):
        pass


def person(email=None, password=PASSWORD, *, only=WAYS_IN, **options):
    """A Garmin object that waits for nothing and takes only these ways in."""
    options = {"return_on_mfa": True, "retry_attempts": 0} | options
    found = garminconnect.Garmin(email, password if email else None, **options)
    found.client.skip_strategies = set(WAYS_IN) - set(only)
    return found


def resumed(session, **options):
    """A fresh Garmin object with what another one dumped."""
    found = person(**options)
    found.client.loads(session if isinstance(session, str) else json.dumps(session))
    return found


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


# Signing in


def test_a_password_is_enough_and_the_session_moves_to_another_object(garmin):
    first = person(ALICE)

    assert first.login() == (None, None)
    session = json.loads(first.client.dumps())

    assert set(session) == {"di_token", "di_refresh_token", "di_client_id"}
    assert claims(session["di_token"])["exp"] - time.time() == pytest.approx(86_400, abs=5)
    second = person()
    second.login(json.dumps(session))
    assert (second.display_name, second.full_name) == ("alice.archer", "Alice Archer")
    assert (second.profile_id, second.unit_system) == (70001, "metric")
    assert second.get_device_last_used()["userProfileNumber"] == 70001
    assert garmin.attempts == {ALICE: 1}
    assert garmin.calls["token"] == 1


def test_login_without_return_on_mfa_loads_the_profile(garmin):
    alice = person(ALICE, return_on_mfa=False)

    alice.login()

    assert alice.display_name == "alice.archer"
    assert alice.password is None


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_leads_in(garmin, way):
    alice = person(ALICE, only=[way])

    alice.login()

    assert garmin.is_alive(alice.client.di_token)
    assert garmin.attempts == {ALICE: 1}
    assert garmin.calls[f"{way.split('+')[0]}_login"] == 1


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_code_is_asked_for_and_another_object_brings_it(garmin, way):
    answer, state = person(MFA, only=[way]).login()
    assert answer == "needs_mfa"
    stored = json.dumps(state)
    assert PASSWORD not in stored

    later = person()
    for _ in range(2):
        with pytest.raises(AuthenticationError, match="MFA"):
            later.resume_login(json.loads(stored), "000000")
    assert later.resume_login(json.loads(stored), MFA_CODE) == (None, None)

    assert later.display_name
    assert garmin.is_alive(later.client.di_refresh_token)
    assert garmin.attempts == {MFA: 1}
    # But for the widget, each wrong code is tried at two addresses.
    assert garmin.mfa_attempts == {MFA: 3 if way == "widget+cffi" else 5}


def test_a_code_is_good_once(garmin):
    _, state = person(MFA).login()
    person().resume_login(state, MFA_CODE)

    with pytest.raises(AuthenticationError, match="SESSION_EXPIRED"):
        person().resume_login(state, MFA_CODE)


def test_a_code_that_comes_too_late_is_refused(garmin):
    _, state = person(MFA).login()
    assert garmin.end_mfa(MFA) == 1

    with pytest.raises(AuthenticationError, match="SESSION_EXPIRED"):
        person().resume_login(state, MFA_CODE)


def test_each_account_has_a_code_of_its_own(garmin):
    garmin.edit_account(MFA, mfa_code="777777")
    _, state = person(MFA).login()

    with pytest.raises(AuthenticationError):
        person().resume_login(state, MFA_CODE)
    person().resume_login(state, "777777")


def test_a_code_is_verified_at_the_second_address_if_the_first_is_throttled(garmin):
    _, state = person(MFA).login()
    garmin.fail("mfa", "429", times=1)

    person().resume_login(state, MFA_CODE)


def test_a_code_is_throttled_at_both_addresses(garmin):
    _, state = person(MFA).login()
    garmin.fail("mfa", "429")

    with pytest.raises(TooManyRequests):
        person().resume_login(state, MFA_CODE)


@pytest.mark.parametrize("spoil", ["domain", "flow", "cookies", "service_url"])
def test_a_spoilt_state_is_named_before_anything_is_sent(garmin, spoil):
    _, state = person(MFA).login()

    with pytest.raises(AuthenticationError):
        person().resume_login(state | {spoil: "https://evil.example"}, MFA_CODE)
    assert garmin.calls["mfa"] == 0


OTHER_PROCESS = """
import json, sys
from integrations.sandbox.garmin.hook import point_library_at
point_library_at(sys.argv[1])
import garminconnect
given = json.load(sys.stdin)
garmin = garminconnect.Garmin(return_on_mfa=True)
garmin.resume_login(given["state"], given["code"])
print(garmin.client.dumps())
"""


def test_another_process_brings_the_code(garmin, sandbox):
    _, state = person(MFA).login()

    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, sandbox.url],
        input=json.dumps({"state": state, "code": MFA_CODE}),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert garmin.is_alive(json.loads(done.stdout)["di_token"])


# Not signing in


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_wrong_password_is_tried_once(garmin, way):
    with pytest.raises(AuthenticationError):
        person(ALICE, "wrong", only=[way]).login()

    assert garmin.attempts == {ALICE: 1}


def test_a_wrong_password_stops_at_the_first_way_in(garmin):
    with pytest.raises(AuthenticationError, match="Invalid Username or Password"):
        person(ALICE, "wrong").login()

    assert garmin.attempts == {ALICE: 1}
    assert garmin.calls == {"mobile_page": 1, "mobile_login": 1}


def test_an_unknown_address_looks_like_a_wrong_password(garmin):
    with pytest.raises(AuthenticationError, match="Invalid Username or Password"):
        person("nobody@example.com").login()


def test_the_fifth_wrong_password_locks_the_account(garmin):
    for _ in range(WRONG_PASSWORDS):
        with pytest.raises(AuthenticationError, match="Invalid Username or Password"):
            person(ALICE, "wrong").login()

    with pytest.raises(AuthenticationError, match="locked"):
        person(ALICE).login()

    garmin.unlock(ALICE)
    person(ALICE).login()


def test_a_right_password_starts_the_count_again(garmin):
    for password in ["wrong"] * 4 + [PASSWORD] + ["wrong"] * 4:
        if password == PASSWORD:
            person(ALICE).login()
        else:
            with pytest.raises(AuthenticationError):
                person(ALICE, password).login()

    person(ALICE).login()


def test_a_locked_account_is_named_by_the_third_way_in_only(garmin):
    with pytest.raises(AuthenticationError, match="Account locked"):
        person(LOCKED).login()

    assert garmin.attempts == {LOCKED: 5}
    assert garmin.calls["portal_login"] == 0


def test_a_captcha_is_no_authentication_error_and_sends_the_password_eleven_times(garmin):
    with pytest.raises(ConnectionFailed, match="CAPTCHA"):
        person(CAPTCHA).login()

    assert garmin.attempts == {CAPTCHA: 11}


def test_a_throttled_account_is_throttled_everywhere(garmin):
    with pytest.raises(TooManyRequests):
        person(THROTTLED).login()

    assert garmin.attempts == {THROTTLED: 11}


@pytest.mark.parametrize(("fault", "error"), [("429", TooManyRequests), ("427", TooManyRequests)])
def test_a_front_that_throttles_at_the_door_sees_no_password(garmin, fault, error):
    for page in ("mobile_page", "widget_page", "portal_page"):
        garmin.fail(page, fault)

    with pytest.raises(error):
        person(ALICE).login()

    assert garmin.attempts == {}


@pytest.mark.parametrize("fault", ["429", "403", "500", "reset_before"])
def test_a_password_counts_whatever_it_is_answered(garmin, fault):
    garmin.fail("mobile_login", fault, times=1)

    person(ALICE).login()

    assert garmin.attempts == {ALICE: 2}
    assert garmin.accounts[ALICE].wrong_passwords == 0


def test_a_blocked_way_in_leads_to_the_next(garmin):
    person(BLOCKED).login()

    assert garmin.attempts == {BLOCKED: 5}
    assert garmin.calls["widget_login"] == 1


def test_one_way_in_sends_one_password(garmin):
    """What `skip_strategies` is good for."""
    for email, error in ((LOCKED, AuthenticationError), (CAPTCHA, ConnectionFailed)):
        with pytest.raises(error):
            person(email, only=["mobile+requests"]).login()
        assert garmin.attempts[email] == 1


def test_a_slow_answer_comes(garmin):
    garmin.edit_account(SLOW, delay=0.3)
    started = time.monotonic()

    person(SLOW).login()

    assert 0.3 <= time.monotonic() - started < 5


def test_a_token_that_the_api_refuses_sends_the_password_again_and_again(garmin):
    garmin.fail("profile", "403")

    with pytest.raises(ConnectionFailed, match="blocking this client"):
        person(ALICE).login()

    assert garmin.attempts == {ALICE: 5}


def test_a_token_that_is_not_active_yet_sends_the_password_again_and_again(garmin):
    with pytest.raises(ConnectionFailed, match="rejected by API tier"):
        person(INACTIVE).login()

    assert garmin.attempts == {INACTIVE: 5}


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("mobile+requests", "responseStatus=UPDATE_PHONE_NUMBER"),
        ("widget+cffi", "unexpected title 'Update Phone Number'"),
        ("portal+requests", "responseStatus=UPDATE_PHONE_NUMBER"),
    ],
)
def test_what_garmin_asks_for_first_is_no_authentication_error(garmin, way, said):
    with pytest.raises(ConnectionFailed, match=said):
        person(PHONE, only=[way]).login()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("mobile+requests", "UPDATE_PHONE_NUMBER"),
        ("widget+cffi", "Widget MFA failed: Update Phone Number"),
        ("portal+requests", "UPDATE_PHONE_NUMBER"),
    ],
)
def test_what_garmin_asks_for_after_the_code_looks_like_a_wrong_one(garmin, way, said):
    garmin.edit_account(MFA, wants="UPDATE_PHONE_NUMBER")
    _, state = person(MFA, only=[way]).login()

    with pytest.raises(AuthenticationError, match=said):
        person().resume_login(state, MFA_CODE)


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("email", [ALICE, MFA])
def test_a_ticket_that_cannot_be_exchanged_looks_like_a_wrong_password(garmin, email, way):
    alice = person(email, only=[way])
    answer, state = alice.login() if email == MFA else (None, None)
    garmin.fail("token", "500")
    garmin.fail("ticket", "200_html")  # nor for a cookie

    with pytest.raises(AuthenticationError, match="JWT_WEB"):
        alice.client.resume_login(state, MFA_CODE) if answer else alice.login()

    assert garmin.calls["token"] == 4


# China


def test_each_side_of_the_world_has_its_own_accounts(garmin):
    for email, is_cn in ((CHINA, False), (ALICE, True)):
        with pytest.raises(AuthenticationError):
            person(email, is_cn=is_cn).login()

    china = person(CHINA, is_cn=True)
    china.login()

    assert {each["path"].split("/")[2] for each in garmin.requests[-4:]} == {
        "sso.garmin.cn",
        "diauth.garmin.cn",
        "connectapi.garmin.cn",
    }
    session = china.client.dumps()
    assert resumed(session, is_cn=True).get_gear("80001")[0]["gearTypeName"] == "Bike"
    with pytest.raises(AuthenticationError):
        resumed(session, is_cn=False).get_gear("80001")


def test_a_state_from_one_side_is_refused_on_the_other(garmin):
    garmin.edit_account(CHINA, mfa_code="654321")
    _, state = person(CHINA, is_cn=True).login()

    with pytest.raises(AuthenticationError, match=r"garmin\.cn"):
        person().resume_login(state, "654321")
    person(is_cn=True).resume_login(state, "654321")


# Sessions


def test_a_token_that_has_expired_at_garmin_is_refreshed_on_the_401(garmin):
    before = garmin.issue_session(ALICE)
    assert garmin.expire(ALICE) == 1
    alice = resumed(before)

    assert len(alice.get_gear("70001")) == 4

    after = json.loads(alice.client.dumps())
    assert after["di_token"] != before["di_token"]
    assert after["di_refresh_token"] != before["di_refresh_token"]
    assert after["di_client_id"] == before["di_client_id"]
    assert not garmin.is_alive(before["di_refresh_token"])
    assert garmin.calls == {"gear": 2, "token": 1}


@pytest.mark.parametrize(("expires_in", "refreshes"), [(-1, 1), (899, 1), (960, 0)])
def test_a_token_is_refreshed_a_quarter_of_an_hour_early(garmin, expires_in, refreshes):
    alice = resumed(garmin.issue_session(ALICE, expires_in=expires_in))

    alice.get_gear("70001")

    assert garmin.calls["token"] == refreshes
    assert garmin.calls["gear"] == 1


def test_a_lifetime_below_the_quarter_is_refreshed_at_every_call(garmin):
    garmin.token_lifetime = 600
    alice = resumed(garmin.issue_session(ALICE))

    for _ in range(3):
        alice.get_gear("70001")

    assert garmin.calls["token"] == 3


def test_the_second_of_two_objects_with_one_refresh_token_is_out(garmin):
    session = garmin.issue_session(ALICE, expires_in=-1)
    first, second = resumed(session), resumed(session)

    assert first.get_gear("70001")
    with pytest.raises(AuthenticationError):
        second.get_gear("70001")

    assert first.get_gear("70001")
    assert json.loads(second.client.dumps()) == session


def test_two_sessions_of_one_account_live_side_by_side(garmin):
    sessions = [garmin.issue_session(ALICE, expires_in=-1) for _ in range(2)]

    for session in sessions:
        assert resumed(session).get_gear("70001")


def test_a_revoked_session_is_an_authentication_error_and_changes_nothing(garmin):
    session = garmin.issue_session(ALICE)
    assert garmin.revoke(ALICE) == 1
    alice = resumed(session)

    with pytest.raises(AuthenticationError, match="401"):
        alice.get_gear("70001")

    assert json.loads(alice.client.dumps()) == session
    assert garmin.attempts == {}
    with pytest.raises(AuthenticationError, match=NO_PROFILE):
        person().login(json.dumps(session))


def test_a_refresh_token_ends_by_itself(garmin):
    garmin.refresh_lifetime = 0
    alice = resumed(garmin.issue_session(ALICE, expires_in=-1))

    with pytest.raises(AuthenticationError):
        alice.get_gear("70001")


def test_a_lost_answer_to_a_refresh_loses_the_session(garmin):
    alice = resumed(garmin.issue_session(ALICE, expires_in=-1))
    garmin.fail("token", "reset_after", times=1)

    for _ in range(2):
        with pytest.raises(AuthenticationError):
            alice.get_gear("70001")


@pytest.mark.parametrize(
    "fault",
    ["500", "502_html", "200_html", "empty", "half_json", "429", "401_client", "reset_before"],
)
def test_a_token_endpoint_in_trouble_looks_like_a_revoked_session_but_spends_nothing(garmin, fault):
    alice = resumed(garmin.issue_session(ALICE, expires_in=-1))
    garmin.fail("token", fault)

    with pytest.raises(AuthenticationError):
        alice.get_gear("70001")

    garmin.recover()
    assert alice.get_gear("70001")


def test_a_reply_of_wrong_types_is_taken_for_tokens(garmin):
    alice = resumed(garmin.issue_session(ALICE, expires_in=-1))
    garmin.fail("token", "wrong_types", times=1)

    with pytest.raises((AuthenticationError, ConnectionFailed)):
        alice.get_gear("70001")

    assert json.loads(alice.client.dumps())["di_token"] == ["not", "a", "string"]


def test_without_the_token_endpoint_a_sign_in_ends_with_a_cookie_that_cannot_be_kept(garmin):
    garmin.fail("token", "500")
    alice = person(ALICE)

    alice.login()

    assert alice.client.is_authenticated
    assert set(json.loads(alice.client.dumps()).values()) == {None}
    assert len(alice.get_gear("70001")) == 4


def test_a_throttled_account_keeps_its_refresh_token(garmin):
    session = garmin.issue_session(ALICE, expires_in=-1)
    garmin.edit_account(ALICE, throttled=True)

    with pytest.raises(AuthenticationError):
        resumed(session).get_gear("70001")

    garmin.edit_account(ALICE, throttled=False)
    assert resumed(session).get_gear("70001")


# Gear


def test_gear_comes_in_two_shapes(garmin):
    bjorn = resumed(garmin.issue_session(BJORN))

    older, newer = bjorn.get_gear("70002"), bjorn.get_gear_list(limit=100)

    assert [each["gearTypeName"] for each in older] == ["Bike"] * 3 + ["Shoes"] * 3 + ["Other"]
    assert [each["gearStatusName"] for each in older].count("retired") == 1
    assert [each["displayName"] for each in older].count(None) == 2
    assert older[0]["displayName"] == "🚲💨 Blitz"
    for old, new in zip(older, newer, strict=True):
        assert old["uuid"] == new["uuid"].replace("-", "")
        assert old["displayName"] == new.get("name")
        assert old["gearTypeName"].upper() == new["gearType"]
        assert old["gearStatusName"].upper() == new["status"]


@pytest.mark.parametrize(
    ("kind", "model"), [("Bike", "Unknown Bike"), ("Shoes", "Unknown Shoes"), ("Other", "Other")]
)
def test_an_unlisted_make_is_other_in_the_older_shape(garmin, kind, model):
    garmin.accounts[BJORN].gear[:] = [Gear(1, kind, None, "Marin", "Headlands", listed=False)]
    [older] = resumed(garmin.issue_session(BJORN)).get_gear("70002")
    assert (older["gearMakeName"], older["gearModelName"]) == ("Other", model)
    assert (older["displayName"], older["customMakeModel"]) == (None, "Marin Headlands")


def test_the_list_has_pages_and_filters(garmin):
    bjorn = resumed(garmin.issue_session(BJORN))

    pages = [bjorn.get_gear_list(start=start, limit=3) for start in (0, 3, 6, 9)]

    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert len(bjorn.get_gear_list(gear_statuses=["retired"])) == 1
    assert len(bjorn.get_gear_list(gear_statuses=["ACTIVE", "RETIRED"])) == 7
    assert len(bjorn.get_gear_list(gear_type="shoes")) == 3
    uuid = pages[0][0]["uuid"]
    assert bjorn.get_gear_details(uuid)["notes"] == ""


def test_statistics_come_by_the_older_uuid_and_removed_gear_has_none(garmin):
    bjorn = resumed(garmin.issue_session(BJORN))
    gear = {each["displayName"]: each["uuid"] for each in bjorn.get_gear("70002")}

    assert bjorn.get_gear_stats(gear["🚲💨 Blitz"])["totalDistance"] == 99_999_999.9
    assert bjorn.get_gear_stats(gear["Worn out"]) == {}
    assert bjorn.get_gear_stats("0" * 32) == {}


def test_no_gear_is_an_empty_list(garmin):
    chidi = resumed(garmin.issue_session(CHIDI))

    assert chidi.get_gear("70003") == []
    assert chidi.get_gear_list() == []


def test_the_gear_of_others_is_none_of_ones_business(garmin):
    with pytest.raises(ConnectionFailed, match="403") as caught:
        resumed(garmin.issue_session(ALICE)).get_gear("70002")
    assert caught.value.response.status_code == 403


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("500", ConnectionFailed),
        ("502_html", ConnectionFailed),
        ("200_html", ConnectionFailed),
        ("empty", ConnectionFailed),
        ("half_json", ConnectionFailed),
        ("403", ConnectionFailed),
        ("427", ConnectionFailed),
        ("429", TooManyRequests),
        ("reset_before", ConnectionFailed),
        ("reset_after", ConnectionFailed),
    ],
)
@pytest.mark.parametrize("endpoint", ["gear", "gear_list"])
def test_gear_in_trouble_is_an_error_with_a_name(garmin, endpoint, fault, error):
    alice = resumed(garmin.issue_session(ALICE))
    garmin.fail(endpoint, fault)

    with pytest.raises(error):
        alice.get_gear("70001") if endpoint == "gear" else alice.get_gear_list()

    assert garmin.calls[endpoint] == 1


def test_gear_of_wrong_types_is_handed_on_as_it_is(garmin):
    garmin.fail("gear_list", "wrong_types")

    assert isinstance(resumed(garmin.issue_session(ALICE)).get_gear_list(), dict)


def test_a_profile_in_trouble_looks_like_a_bad_password(garmin):
    session = garmin.issue_session(ALICE)
    garmin.fail("profile", "500")

    with pytest.raises(AuthenticationError, match=NO_PROFILE) as caught:
        person().login(json.dumps(session))

    assert caught.value.__cause__.response.status_code == 500
    assert garmin.calls["profile"] == 3


# The sandbox itself


def test_no_secret_is_kept_of_a_call(garmin):
    _, state = person(MFA, only=["mobile+requests"]).login()
    mira = person()
    mira.resume_login(state, MFA_CODE)
    person(ALICE, only=["widget+cffi"]).login()
    garmin.expire(MFA)
    mira.get_gear("70004")

    kept = json.dumps(garmin.requests)

    assert MFA in kept
    assert ALICE in kept
    for secret in (PASSWORD, MFA_CODE, "ST-", *json.loads(mira.client.dumps()).values()):
        assert secret == mira.client.di_client_id or secret not in kept


def test_a_password_without_the_page_before_it_is_throttled(garmin, sandbox, http):
    url = f"{sandbox.url}/garmin/sso.garmin.com/mobile/api/login"

    response = http.post(url, json={"username": ALICE, "password": PASSWORD})

    assert response.status_code == 429
    assert garmin.attempts == {ALICE: 1}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sso.garmin.com/mobile/api/login", "["),
        ("sso.garmin.com/mobile/api/login", '{"username": ["a"], "password": {}}'),
        ("sso.garmin.com/mobile/api/mfa/verifyCode", "null"),
        ("sso.garmin.com/sso/verifyMFA/mfaCode", "{}"),
        ("diauth.garmin.com/di-oauth2-service/oauth/token", "{}"),
        ("connectapi.garmin.com/gear-service/gear/filterGear", "{}"),
        ("sso.garmin.org/mobile/api/login", "{}"),
        ("evil.example/mobile/api/login", "{}"),
    ],
)
def test_garbage_is_a_client_error(garmin, sandbox, http, path, body):
    headers = {"Content-Type": "application/json"}

    response = http.post(f"{sandbox.url}/garmin/{path}", data=body, headers=headers)

    assert 400 <= response.status_code < 500


def test_another_process_turns_everything(garmin, sandbox, http):
    def control(action, **fields):
        return http.post(f"{sandbox.url}/_sandbox/garmin/{action}", json=fields)

    session = control("session", email=ALICE, expires_in=-1).json()
    assert control("alive", token=session["di_token"]).json() == {"alive": False}
    assert control("alive", token=session["di_refresh_token"]).json() == {"alive": True}
    assert control("account", email=ALICE, locked=True).json()["traits"] == ["locked"]
    assert control("unlock", email=ALICE).status_code == 200
    assert not garmin.accounts[ALICE].locked
    added = control("account", email="eve@example.com", gear=[{"pk": 1, "type": "Bike"}])
    assert added.json()["gear"] == 1
    assert control("lifetime", seconds=60).json()["token_lifetime"] == 60
    assert control("expire", email=ALICE).json() == {"expired": 1}
    assert control("revoke", email=ALICE).json() == {"revoked": 1}
    assert control("attempts").json() == {"attempts": {}, "mfa_attempts": {}}
    assert control("end_mfa", email=MFA).json() == {"ended": 0}

    for fields in (
        {"email": "nobody@example.com", "profile_id": 1},
        {"email": ALICE, "locked": "yes"},
        {"email": ALICE, "domain": "example.com"},
        {"email": ALICE, "blocked": ["moon"]},
        {"email": ALICE, "delay": -1},
        {"email": ALICE, "gear": [{"pk": 1}]},
        {"email": ALICE, "gear": [{"pk": 1, "type": "Moon"}]},
    ):
        assert control("account", **fields).status_code == 400
    assert control("session", email="nobody@example.com").status_code == 400

    fault = {"provider": "garmin", "endpoint": "token", "fault": "429"}
    assert http.post(f"{sandbox.url}/_sandbox/faults", json=fault).status_code == 200
    state = http.get(f"{sandbox.url}/_sandbox/state").json()["garmin"]
    assert state["faults"][0]["fault"] == "429"
    assert ALICE in http.get(sandbox.url).text


# The hook


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:8001",
        "http://sandbox.example",
        "http://127.0.0.1.example:1",
        "http://127.0.0.1@evil.example",
        "http://evil.example@127.0.0.1:8001",
        "http://192.0.2.1:8001",
        "http://127.0.0.1:8001/path",
        "http://127.0.0.1:8001?x=1",
        "http://127.0.0.1:8001\n",
        "http://localhost.example",
        "127.0.0.1:8001",
        "",
    ],
)
def test_the_hook_points_at_loopback_only(url):
    with pytest.raises(ValueError, match="loopback"):
        hook.point_library_at(url)


def test_the_hook_moves_leaves_and_says_where_everything_goes(sandbox):
    for _ in range(2):
        hook.point_library_at(f"{sandbox.url}/")
    hook.point_library_at("http://localhost:9")
    client = garminconnect.Garmin().client
    addresses = [value for value in vars(client).values() if "://" in str(value)]
    assert len(addresses) >= 7
    assert all(value.startswith("http://localhost:9/garmin/") for value in addresses)
    assert client._resolve_url("https://ghs.garmin.com/x") == (
        "http://localhost:9/garmin/ghs.garmin.com/x"
    )
    with pytest.raises(ValueError, match="host"):
        client._resolve_url("https://evil.example/x")

    hook.restore_library()

    assert garminconnect.Garmin().client._sso == "https://sso.garmin.com"
    assert garminconnect.client.sso.MOBILE_DELAY_MIN_S == 2.0


def test_the_hook_sends_nothing_through_a_proxy(sandbox, monkeypatch):
    monkeypatch.setenv("no_proxy", "intranet.example")
    monkeypatch.delenv("NO_PROXY", raising=False)

    for _ in range(2):
        hook.point_library_at(sandbox.url)
    hook.restore_library()

    assert os.environ["no_proxy"] == "intranet.example,127.0.0.1"
    assert os.environ["NO_PROXY"] == "127.0.0.1"


def test_the_hook_fails_rather_than_let_a_password_out(sandbox, monkeypatch):
    def elsewhere(self, *args, **kwargs):
        self._hosts = {"sso": "https://sso.garmin.com"}

    monkeypatch.setattr(garminconnect.client.Client, "__init__", elsewhere)

    with hook.pointed_at(sandbox.url), pytest.raises(RuntimeError, match="cannot reach"):
        garminconnect.Garmin()


def test_importing_the_sandbox_imports_no_library():
    code = (
        "import sys, integrations.sandbox, integrations.sandbox.garmin.hook; "
        "sys.exit('garminconnect' in sys.modules or 'curl_cffi' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    assert subprocess.run([sys.executable, "-c", code], env=environ, timeout=60).returncode == 0
