"""Signing in to Garmin, stage by stage: what fails where, what is said, and what is sent again."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from django.http import JsonResponse

from integrations import services
from integrations.garminconnect import login as garminconnect_login
from integrations.garminconnect import watch
from integrations.models import GarminConnectAttempt, GarminConnectLogin
from integrations.sandbox.garmin import (
    ALICE,
    CAPTCHA,
    INACTIVE,
    LOCKED,
    MFA,
    PASSWORD,
    PHONE,
    sso,
)

from .test_garminconnect_login import answer, connect, status

# How often Garmin's front turns the library away at the door of the app's way in, where it sees
# no password: so each way in can be the one that sends it.
WAYS = {"mobile": 0, "another fingerprint": 1, "mobile by requests": 3, "widget": 4}


def lead(garmin, way):
    """Let the way in be this one."""
    if WAYS[way]:
        garmin.fail("mobile_page", "403", times=WAYS[way])


def told(client):
    """What the page tells: the code of an error, or the link's status."""
    now = status(client)
    return now["error"]["code"] if now["error"] else now["status"]


# What follows the password: whose it is, the fault that is switched on, and what is told. Where
# the widget tells it otherwise, that too.
AFTER = {
    "nothing": (ALICE, None, "linked"),
    "a code": (MFA, None, "mfa_required"),
    "a password that is wrong": ("nobody@example.com", None, "invalid_credentials"),
    "a lock": (LOCKED, None, "account_locked"),
    "a captcha": (CAPTCHA, None, "captcha_required", "action_required"),
    "a wish": (PHONE, None, "action_required"),
    "a profile refused with 401": (INACTIVE, None, "linked"),
    "a profile refused with 403": (ALICE, ("profile", "403"), "linked"),
    "no profile": (ALICE, ("profile", "500"), "linked"),
    "429 for the ticket": (ALICE, ("token", "429"), "sign_in_unfinished"),
    "500 for the ticket": (ALICE, ("token", "500"), "sign_in_unfinished"),
    "502 for the ticket": (ALICE, ("token", "502_html"), "sign_in_unfinished"),
    "403 for the ticket": (ALICE, ("token", "403"), "sign_in_unfinished"),
    "401 for the ticket": (ALICE, ("token", "401_client"), "sign_in_unfinished"),
    "HTML for the ticket": (ALICE, ("token", "200_html"), "sign_in_unfinished"),
    "nonsense for the ticket": (ALICE, ("token", "wrong_types"), "sign_in_unfinished"),
    "nobody for the ticket": (ALICE, ("token", "reset_before"), "sign_in_unfinished"),
    "a ticket that is lost": (ALICE, ("token", "reset_after"), "sign_in_unfinished"),
    "429 for the password": (ALICE, ("*_login", "429"), "rate_limited"),
    "427 for the password": (ALICE, ("*_login", "427"), "rate_limited"),
    "500 for the password": (ALICE, ("*_login", "500"), "provider_unavailable"),
    "502 for the password": (ALICE, ("*_login", "502_html"), "provider_unavailable"),
    "nobody for the password": (ALICE, ("*_login", "reset_before"), "provider_unavailable"),
    "silence after the password": (ALICE, ("*_login", "reset_after"), "provider_unavailable"),
    "an empty answer": (ALICE, ("*_login", "empty"), "invalid_provider_reply"),
    "half an answer": (ALICE, ("*_login", "half_json"), "invalid_provider_reply"),
    "an answer of nonsense": (ALICE, ("*_login", "wrong_types"), "invalid_provider_reply"),
    "another page": (
        ALICE,
        ("*_login", "200_html"),
        "invalid_provider_reply",
        "provider_unavailable",  # its title is "Bad gateway"
    ),
}


def switch_on(garmin, fault):
    endpoint, name = fault
    for each in ("mobile", "widget") if endpoint == "*_login" else ("",):
        garmin.fail(endpoint.replace("*", each), name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", AFTER)
def test_a_password_is_sent_once_and_what_failed_is_told(alice_client, garmin, caplog, after, way):
    email, fault, *codes = AFTER[after]
    lead(garmin, way)
    if fault:
        switch_on(garmin, fault)

    connect(alice_client, email)

    assert told(alice_client) == codes[-1 if way == "widget" else 0]
    assert garmin.attempts == {email: 1}
    assert garmin.calls["widget_login"] == (way == "widget")
    assert garmin.calls["portal_page"] == 0
    assert garmin.calls["token"] <= 4
    assert garmin.calls["ticket"] == 0
    for secret in (PASSWORD, "ST-", email):
        assert secret not in caplog.text


@pytest.mark.parametrize("way", WAYS)
def test_a_password_that_was_taken_without_a_ticket_is_not_sent_again(
    alice_client, garmin, way, monkeypatch
):
    monkeypatch.setattr(garmin, "grant_ticket", lambda account: "")
    lead(garmin, way)

    connect(alice_client)

    assert told(alice_client) == "sign_in_unfinished"
    assert garmin.attempts == {ALICE: 1}


@pytest.mark.parametrize(("email", "spoilt"), [(ALICE, "serviceURL"), (MFA, "customerMfaInfo")])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "widget"])
def test_a_password_that_was_taken_in_a_spoilt_answer_is_not_sent_again(
    alice_client, garmin, way, email, spoilt, monkeypatch
):
    def spoil(kind, *, answer=sso._answer, **fields):
        body = json.loads(answer(kind, **fields).content)
        del body["serviceTicketId"]
        return JsonResponse(body | {spoilt: None})

    monkeypatch.setattr(sso, "_answer", spoil)
    lead(garmin, way)

    connect(alice_client, email)

    assert told(alice_client) == "sign_in_unfinished"
    assert garmin.attempts == {email: 1}


@pytest.mark.parametrize("fault", ["429", "500", "reset_before"])
def test_a_code_that_the_widget_cannot_have_sent_is_no_outage(alice_client, garmin, fault):
    lead(garmin, "widget")
    garmin.fail("widget_mfa_request", fault)

    connect(alice_client, MFA)

    assert told(alice_client) == "sign_in_unfinished"
    assert garmin.attempts == {MFA: 1}


@pytest.mark.parametrize("fault", ["429", "427", "403"])
def test_a_front_that_refuses_at_every_door_is_told_as_one(alice_client, garmin, fault):
    for page in ("mobile_page", "widget_page"):
        garmin.fail(page, fault)

    connect(alice_client)

    assert told(alice_client) == "rate_limited"
    assert not garmin.attempts


def test_a_front_that_refuses_every_client_unseen_is_told_as_one(alice_client, garmin):
    """The one answer after which another way in gets the password."""
    garmin.edit_account(ALICE, blocked=["mobile", "widget"])

    connect(alice_client)

    assert told(alice_client) == "rate_limited"
    assert garmin.attempts == {ALICE: 5}


@pytest.mark.parametrize("wants", ["PASSWORD_RESET_REQUIRED", "CONSENT_REQUIRED", "PARENT"])
@pytest.mark.parametrize("way", WAYS)
def test_what_garmin_wants_of_the_athlete_is_said_as_such(alice_client, garmin, way, wants):
    garmin.edit_account(ALICE, wants=wants)
    lead(garmin, way)

    connect(alice_client)

    error = status(alice_client)["error"]
    assert error["code"] == "action_required"
    assert "Sign in once at connect.garmin.com and answer what Garmin asks" in error["message"]
    garmin.edit_account(ALICE, wants="")
    connect(alice_client)
    assert told(alice_client) == "linked"


class Page:
    """An answer of the widget's, as either HTTP library gives it."""

    def __init__(self, title, status_code=200, more=""):
        self.status_code = status_code
        self.text = f"<html><title>{title}</title>{more}"


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Success", "SUCCESSFUL"),
        ("Invalid sign in", "INVALID_USERNAME_PASSWORD"),
        ("Incorrect e-mail or password", "INVALID_USERNAME_PASSWORD"),
        ("Account locked", "ACCOUNT_LOCKED"),
        ("Enter MFA code for login", "MFA_REQUIRED"),
        ("Update Phone Number", "ANOTHER_PAGE"),
        ("Invalid phone number", "ANOTHER_PAGE"),
        ("Account error", "ANOTHER_PAGE"),
        ("Access blocked", "ANOTHER_PAGE"),
        ("Unable to sign in", "ANOTHER_PAGE"),
        ("GARMIN Authentication Application", "ANOTHER_PAGE"),
        ("", ""),
    ],
)
def test_only_the_widgets_own_words_are_a_wrong_password(title, kind):
    assert watch._read_page(Page(title)) == (200, kind)


@pytest.mark.parametrize(
    ("title", "status", "means"),
    [
        ("502 Bad Gateway", 200, 503),
        ("Garmin: Maintenance", 200, 503),
        ("Just a moment...", 403, 403),
        ("Attention Required! | Cloudflare", 200, 403),
        ("Success", 500, 500),
        ("Invalid sign in", 429, 429),
    ],
)
def test_a_page_that_is_not_the_widgets_says_nothing_of_the_password(title, status, means):
    assert watch._read_page(Page(title, status)) == (means, "")


def test_the_page_for_a_code_may_have_the_title_of_the_sign_in_page():
    page = Page("GARMIN Authentication Application", more='<script>var mfaMethod = "email";')
    assert watch._read_page(page) == (200, "MFA_REQUIRED")


# --- After the password was taken ---------------------------------------------------------------


@pytest.mark.parametrize("fault", ["429", "500", "502_html", "reset_before"])
@pytest.mark.parametrize("email", [ALICE, MFA])
def test_a_ticket_is_presented_again_without_the_password(alice_client, garmin, email, fault):
    garmin.fail("token", fault, times=2)

    connect(alice_client, email)
    if email == MFA:
        answer(alice_client)

    assert told(alice_client) == "linked"
    assert garmin.calls["token"] == 3
    assert garmin.attempts == {email: 1}
    assert garmin.calls["mfa"] == (email == MFA)


@pytest.mark.parametrize(("takes", "slept"), [(0, [1, 4]), (9, [1]), (30, [])])
def test_a_ticket_is_not_presented_for_ever(alice_client, garmin, monkeypatch, takes, slept):
    now, pauses = [0.0], []

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds

    def post(client, *arguments):
        now[0] += takes
        raise TimeoutError

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(watch, "TICKET_PAUSES", (1, 4))
    monkeypatch.setattr(watch, "time", clock)
    monkeypatch.setattr("garminconnect.client.Client._di_token_post", post)

    connect(alice_client)

    assert told(alice_client) == "sign_in_unfinished"
    assert pauses == slept


def test_a_session_that_the_api_does_not_know_yet_is_a_link_and_heals(alice, alice_client, garmin):
    connect(alice_client, INACTIVE)
    services.set_user_garminconnect_sync_gear(alice.pk, True)
    garmin.edit_account(INACTIVE, inactive=False)

    services.sync_garminconnect_gear(alice.pk)

    assert told(alice_client) == "linked"
    assert garmin.attempts == {INACTIVE: 1}


def test_what_garmin_could_not_finish_is_counted_apart(alice, alice_client, garmin, monkeypatch):
    counted = []
    monkeypatch.setattr(
        garminconnect_login, "count_failure", lambda *labels: counted.append(labels)
    )
    garmin.fail("token", "500")

    for _ in range(7):
        assert connect(alice_client).status_code == 202
    garmin.recover()
    connect(alice_client)

    assert told(alice_client) == "linked"
    assert counted == [("garminconnect", "sign_in", "sign_in_unfinished")] * 7


def test_what_garmin_could_not_finish_after_the_code_is_counted_apart(alice_client, garmin):
    garmin.fail("token", "500")

    for _ in range(6):
        assert connect(alice_client, MFA).status_code == 202
        answer(alice_client)

    assert told(alice_client) == "sign_in_unfinished"
    garmin.recover()
    connect(alice_client, MFA)
    assert told(alice_client) == "mfa_required"


def test_a_wrong_password_counts_before_and_after_what_was_not_finished(alice_client, garmin):
    for email, password in [(ALICE, "wrong"), (ALICE, PASSWORD)] * 4 + [(ALICE, "wrong")]:
        if password == PASSWORD:
            garmin.fail("token", "500", times=3)
        assert connect(alice_client, email, password).status_code == 202

    refused = connect(alice_client)

    assert refused.json()["error"]["code"] == "too_many_attempts"
    assert garmin.attempts == {ALICE: 9}


def test_what_garmin_cannot_finish_is_not_tried_for_ever(alice_client, garmin):
    garmin.fail("token", "500")
    codes = [connect(alice_client).status_code for _ in range(12)]

    assert codes == [202] * 10 + [503] * 2
    assert connect(alice_client).json()["error"]["code"] == "sign_in_unfinished"
    assert garmin.attempts == {ALICE: 10}
    assert ALICE not in repr(list(GarminConnectAttempt.objects.values()))


# --- The code -----------------------------------------------------------------------------------

CODE_WAYS = ["mobile", "widget"]


@pytest.fixture
def asked(alice_client, garmin):
    """Begin a sign-in that waits for a code, by one way in."""

    def ask(way):
        lead(garmin, way)
        connect(alice_client, MFA)
        assert told(alice_client) == "mfa_required"

    return ask


def code_endpoint(way):
    return "widget_mfa" if way == "widget" else "mfa"


@pytest.mark.parametrize("way", CODE_WAYS)
def test_a_wrong_code_is_sent_once(alice_client, garmin, asked, way):
    asked(way)
    answer(alice_client, "000000")

    assert told(alice_client) == "invalid_mfa_code"
    assert garmin.mfa_attempts == {MFA: 1}
    answer(alice_client)
    assert told(alice_client) == "linked"


@pytest.mark.parametrize("way", CODE_WAYS)
def test_what_garmin_wants_after_the_code_is_no_wrong_code(alice_client, garmin, asked, way):
    asked(way)
    garmin.edit_account(MFA, wants="CONSENT_REQUIRED")

    answer(alice_client)

    assert told(alice_client) == "action_required"
    assert garmin.mfa_attempts == {MFA: 1}
    assert not GarminConnectLogin.objects.exists()


@pytest.mark.parametrize("fault", ["429", "500", "200_html", "reset_after", "401_client"])
@pytest.mark.parametrize("way", CODE_WAYS)
def test_what_fails_after_the_code_is_no_wrong_code(alice_client, garmin, asked, way, fault):
    asked(way)
    garmin.fail("token", fault)

    answer(alice_client)

    assert told(alice_client) == "sign_in_unfinished"
    assert garmin.mfa_attempts == {MFA: 1}
    assert garmin.calls["ticket"] == 0
    assert not GarminConnectLogin.objects.exists()


@pytest.mark.parametrize("fault", [None, "403", "500"])
@pytest.mark.parametrize("way", CODE_WAYS)
def test_a_session_after_a_code_needs_no_profile(alice_client, garmin, asked, way, fault):
    asked(way)
    if fault:
        garmin.fail("profile", fault)
    else:
        garmin.edit_account(MFA, inactive=True)

    answer(alice_client)

    assert told(alice_client) == "linked"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("429", "rate_limited"),
        ("427", "rate_limited"),
        ("403", "rate_limited"),
        ("500", "provider_unavailable"),
        ("reset_before", "provider_unavailable"),
        ("empty", "invalid_provider_reply"),
        ("wrong_types", "invalid_provider_reply"),
    ],
)
@pytest.mark.parametrize("way", CODE_WAYS)
def test_a_code_that_nobody_has_looked_at_can_be_entered_again(
    alice_client, garmin, asked, way, fault, code
):
    asked(way)
    garmin.fail(code_endpoint(way), fault)

    answer(alice_client)

    assert told(alice_client) == code
    assert GarminConnectLogin.objects.get().wrong_codes == 0
    assert garmin.calls[code_endpoint(way)] <= (1 if way == "widget" else 2)
    garmin.recover()
    answer(alice_client)
    assert told(alice_client) == "linked"


def test_a_state_that_leads_nowhere_ends_the_sign_in(alice_client, garmin, asked):
    asked("mobile")
    GarminConnectLogin.objects.update(client_state={})

    answer(alice_client)

    assert told(alice_client) == "login_expired"
    assert garmin.calls["mfa"] == 0
