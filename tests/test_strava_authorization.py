"""Connecting Strava, from the button to the link, and everything that must not make one."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from integrations import exceptions, services
from integrations.exceptions import IntegrationsError, InvalidState
from integrations.models import LinkStatus, UsersIntegrations
from integrations.models.integrations import STRAVA
from integrations.sandbox.strava import (
    ALICE,
    BJORN,
    CLIENT_ID,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
)
from integrations.services.oauth import forget_abandoned_authorizations

from .conftest import a_moment_ago, begin, come_back, messages_of, row_of

FULL = "read,profile:read_all"
STRAVA_FIELDS = [
    field.attname
    for field in UsersIntegrations._meta.concrete_fields
    if field.name.startswith("strava") and "state" not in field.name and "pending" not in field.name
]


def snapshot(user):
    row = row_of(user)
    # But for what the redirect's second delivery is to be answered with.
    noted = "strava_exchanging_error"
    return {name: getattr(row, name) for name in STRAVA_FIELDS if name != noted}


@pytest.fixture
def state(alice_client, strava):
    """A connection of Alice's that is waiting at the consent page."""
    return begin(alice_client)["state"]


def test_the_button_leads_to_the_consent_page(alice_client, strava, sandbox):
    response = alice_client.post(reverse("integrations:strava_connect"))

    url = urlsplit(response["Location"])
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert response["Location"].startswith(f"{sandbox.url}/oauth/authorize?")
    assert len(query.pop("state")) >= 22  # 128 bits in base64
    assert query == {
        "client_id": CLIENT_ID,
        "redirect_uri": "http://testserver/integrations/strava/callback/",
        "response_type": "code",
        "approval_prompt": "auto",
        "scope": FULL,
    }


def test_reconnecting_a_link_that_works_asks_for_permissions_again(alice_client, linked):
    assert begin(alice_client)["approval_prompt"] == "force"


def test_a_program_gets_json(alice_client, strava):
    response = alice_client.post(
        reverse("integrations:strava_connect"), headers={"accept": "application/json"}
    )

    body = response.json()
    assert response.status_code == 200
    assert set(body) == {"authorization_url", "state", "expires_in"}
    assert body["expires_in"] == 600
    assert f"state={body['state']}" in body["authorization_url"]


def test_code_is_exchanged_and_state_is_spent(alice, alice_client, strava, state):
    before = timezone.now()
    response = come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)

    assert response.status_code == 302
    assert response["Location"] == reverse("integrations:settings")
    assert messages_of(alice_client) == ["Strava is connected."]
    assert strava.calls["token"] == 1
    assert not UsersIntegrations.objects.filter(strava_state=state).exists()
    row = row_of(alice)
    assert row.strava_status == LinkStatus.LINKED
    assert strava.is_alive(row.strava_token)
    assert row.strava_athlete_id == ALICE
    assert STRAVA.scopes(row) == ["read", "profile:read_all"]
    assert row.strava_linked_at >= before
    assert row.strava_client_id is None  # the site's app: nothing of the athlete's own
    assert abs(row.strava_token_expires_at - before - timedelta(hours=6)) < timedelta(minutes=1)


def test_the_callback_can_answer_json(alice_client, strava, state):
    response = alice_client.get(
        reverse("integrations:strava_callback"),
        {"state": "wrong", "code": "c"},
        headers={"accept": "application/json"},
    )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_state"


def test_a_second_callback_links_nothing_and_calls_nobody(alice, alice_client, strava, state):
    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)
    messages_of(alice_client)
    before = snapshot(alice)

    come_back(alice_client, state=state, code=strava.grant(BJORN), scope=FULL)

    assert messages_of(alice_client) == ["Strava is connected."]  # which is how it stands
    assert strava.calls["token"] == 1
    assert snapshot(alice) == before


def test_another_users_state_links_nothing_and_calls_nobody(
    alice, bob, bob_client, alice_client, strava, state
):
    begin(bob_client)

    come_back(bob_client, state=state, code=strava.grant(ALICE), scope=FULL)

    assert strava.calls["token"] == 0
    assert row_of(bob).strava_status == LinkStatus.NOT_LINKED
    # and Alice's own attempt is not harmed by it
    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)
    assert row_of(alice).strava_status == LinkStatus.LINKED


def test_a_user_without_a_row_has_no_state(bob_client, bob, strava, state):
    come_back(bob_client, state=state, code=strava.grant(ALICE), scope=FULL)

    assert strava.calls["token"] == 0
    assert not UsersIntegrations.objects.filter(user=bob).exists()


def test_a_stranger_is_asked_to_log_in_and_nobody_is_called(strava, state):
    response = come_back(Client(), state=state, code=strava.grant(ALICE))

    assert response.status_code == 302
    assert response["Location"].startswith(reverse("login"))
    assert strava.calls["token"] == 0


def test_a_session_that_ended_meanwhile_goes_on_after_the_login(alice, strava, state, client):
    url = come_back(client, state=state, code=strava.grant(ALICE), scope=FULL)["Location"]

    response = client.post(url, {"username": "alice", "password": "alice-demo"}, follow=True)

    assert response.status_code == 200
    assert row_of(alice).strava_status == LinkStatus.LINKED


def test_an_expired_state_links_nothing_and_calls_nobody(alice, alice_client, strava, state):
    UsersIntegrations.objects.update(strava_state_expires_at=a_moment_ago())

    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)

    assert "expired" in messages_of(alice_client)[0]
    assert strava.calls["token"] == 0
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


def test_a_state_lives_for_ten_minutes(alice, state):
    left = row_of(alice).strava_state_expires_at - timezone.now()
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)


def test_a_new_attempt_replaces_the_one_before(alice, alice_client, strava, state):
    second = begin(alice_client)["state"]

    come_back(alice_client, state=state, code=strava.grant(BJORN), scope=FULL)
    assert strava.calls["token"] == 0
    come_back(alice_client, state=second, code=strava.grant(ALICE), scope=FULL)
    assert row_of(alice).strava_athlete_id == ALICE


def test_states_are_compared_in_constant_time(alice_client, strava, state, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "integrations.services.oauth.constant_time_compare",
        lambda *values: compared.append(values) or False,
    )
    come_back(alice_client, state=state, code="c")

    assert compared[0] == (state, state)
    assert strava.calls["token"] == 0


@pytest.mark.django_db(transaction=True)
def test_of_callbacks_at_once_one_goes_on_and_the_others_wait_for_it(alice, strava):
    strava.fail("token", "delay", seconds=0.3)
    state = services.begin_authorization(alice.pk, "strava", "http://testserver/cb").state
    code = strava.grant(ALICE)
    outcomes, barrier = [], threading.Barrier(4)

    def callback():
        barrier.wait()
        try:
            services.complete_authorization(alice.pk, "strava", state=state, code=code, scope=FULL)
            outcomes.append("linked")
        except InvalidState:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=callback) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outcomes == ["linked"] * 4  # all are told how it stands, and one has asked Strava
    assert strava.calls["token"] == 1


def test_denial_is_said_plainly(alice, alice_client, strava, state):
    come_back(alice_client, state=state, error="access_denied")

    assert "chose not to give access" in messages_of(alice_client)[0]
    assert strava.calls["token"] == 0
    assert row_of(alice).strava_state is None


@pytest.mark.parametrize(
    ("error", "words"),
    [("temporarily_unavailable", "cannot be reached"), ("<script>", "did not accept")],
)
def test_other_errors_at_the_consent_page_are_said_plainly(
    alice_client, strava, state, error, words
):
    come_back(alice_client, state=state, error=error)
    [message] = messages_of(alice_client)
    assert words in message
    assert "script" not in message


def test_an_unticked_scope_is_named_with_its_cost(alice, alice_client, strava, state):
    come_back(alice_client, state=state, code=strava.grant(ALICE, scope="read"), scope="read")

    page = alice_client.get(reverse("integrations:settings"))
    assert [str(each) for each in page.context["messages"]] == ["Strava is connected."]
    assert page.content.decode().count("your bikes and shoes cannot be read") == 1
    assert STRAVA.scopes(row_of(alice)) == ["read"]


def test_a_redirect_without_a_scope_granted_what_was_asked_for(alice, alice_client, strava, state):
    come_back(alice_client, state=state, code=strava.grant(ALICE))
    assert row_of(alice).strava_scope == FULL


@pytest.mark.parametrize(
    ("asked", "said", "kept"),
    [
        ("read,profile:read_all", "read,profile:read_all,activity:write", FULL),
        ("read,profile:read_all", "admin:all root <script>", ","),
        (
            "read,profile:read_all",
            "profile:read_all profile:read_all,read",
            "profile:read_all,read",
        ),
        # Strava's own truth: a lesser scope than the one asked for, and `read` unasked.
        ("activity:read_all", "read,activity:read", "read,activity:read"),
        ("activity:read", "read,activity:read_all", "read"),
    ],
)
def test_a_redirect_cannot_claim_more_than_was_asked_for(
    alice, alice_client, strava, settings, asked, said, kept
):
    settings.STRAVA_SCOPES = asked
    state = begin(alice_client)["state"]
    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=said)
    assert row_of(alice).strava_scope == kept


# --- What Strava may answer ---------------------------------------------------------------------

FAULTS = {
    "500": "cannot be reached",
    "502_html": "cannot be reached",
    "200_html": "could not use",
    "empty": "could not use",
    "half_json": "could not use",
    "wrong_types": "could not use",
    "429": "limit for now",
    "401_client": "not your fault",
    "403_inactive": "inactive",
    "403_limit": "as many athletes",
    "reset_before": "cannot be reached",
    "reset_after": "cannot be reached",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_relink_that_fails_leaves_the_link_exactly_as_it_was(
    alice, alice_client, strava, linked, fault
):
    before = snapshot(alice)
    state = begin(alice_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)[
        "state"
    ]
    strava.fail("token", fault)

    response = come_back(
        alice_client, state=state, code=strava.grant(ALICE, OTHER_CLIENT_ID), scope="read"
    )

    assert response.status_code == 302
    [message] = messages_of(alice_client)
    # An app of their own is the athlete's to put right.
    words = "Compare both" if fault == "401_client" else FAULTS[fault]
    assert words in message
    assert snapshot(alice) == before
    assert services.get_strava_access_token(alice.pk) == before["strava_token"]
    assert row_of(alice).strava_pending_client_secret is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_first_link_that_fails_is_said_plainly(alice, alice_client, strava, state, fault):
    strava.fail("token", fault)

    response = come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)

    assert response.status_code == 302
    assert FAULTS[fault] in messages_of(alice_client)[0]
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


@pytest.mark.parametrize(("fault", "seconds"), [("silence", 30), ("drip", 30), ("drip", 0.1)])
def test_strava_may_not_hold_a_worker(
    alice, alice_client, strava, state, monkeypatch, fault, seconds
):
    monkeypatch.setattr("integrations.http.READ_TIMEOUT", 0.5)
    monkeypatch.setattr("integrations.http.CONNECT_TIMEOUT", 0.5)
    strava.fail("token", fault, seconds=seconds)
    started = time.monotonic()

    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)

    assert time.monotonic() - started < 10

    assert "cannot be reached" in messages_of(alice_client)[0]


def test_nobody_listening_is_said_plainly(alice, alice_client, strava, state, settings):
    settings.STRAVA_OAUTH_URL = "http://127.0.0.1:9/oauth"

    come_back(alice_client, state=state, code="code", scope=FULL)

    assert "cannot be reached" in messages_of(alice_client)[0]


def test_an_abandoned_relink_leaves_the_link_exactly_as_it_was(alice, alice_client, strava, linked):
    before = snapshot(alice)
    begin(alice_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)

    assert snapshot(alice) == before
    assert services.get_strava_access_token(alice.pk) == before["strava_token"]


def test_a_bad_code_is_said_plainly(alice, alice_client, strava, state):
    come_back(alice_client, state=state, code="never-issued", scope=FULL)

    assert "did not accept the confirmation" in messages_of(alice_client)[0]


# --- Whose app, whose athlete -------------------------------------------------------------------


def test_the_athletes_own_app_wins_over_the_sites(alice, alice_client, strava):
    query = begin(alice_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)
    assert query["client_id"] == OTHER_CLIENT_ID
    row = row_of(alice)
    assert row.strava_client_id is None  # not before the exchange has succeeded

    code = strava.grant(ALICE, OTHER_CLIENT_ID)
    come_back(alice_client, state=query["state"], code=code, scope=FULL)

    row = row_of(alice)
    assert (row.strava_client_id, row.strava_client_secret) == (
        OTHER_CLIENT_ID,
        OTHER_CLIENT_SECRET,
    )
    assert row.strava_pending_client_id is None
    # and the next connect goes on with it, with nothing to paste
    assert begin(alice_client)["client_id"] == OTHER_CLIENT_ID


def test_without_any_app_one_has_to_be_pasted(alice_client, strava, settings):
    settings.STRAVA_CLIENT_ID = settings.STRAVA_CLIENT_SECRET = ""

    response = alice_client.post(reverse("integrations:strava_connect"))

    assert response.status_code == 302
    assert "enter both" in messages_of(alice_client)[0]
    assert begin(alice_client, client_id="10002", client_secret="s")["client_id"] == "10002"


@pytest.mark.parametrize("fields", [{"client_id": "10002"}, {"client_secret": "s"}])
def test_half_an_app_is_refused(alice_client, strava, fields):
    response = alice_client.post(
        reverse("integrations:strava_connect"), fields, headers={"accept": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "client_required"


def test_the_callback_domain_to_enter_at_strava_is_shown(alice_client, strava, settings):
    settings.STRAVA_CLIENT_ID = ""
    page = alice_client.get(reverse("integrations:settings"), headers={"host": "localhost:8123"})

    assert "localhost</" in page.content.decode()
    assert page.context["strava"]["callback_domain"] == "localhost"


def test_an_athlete_linked_to_another_user_is_refused(alice, bob, bob_client, strava, linked):
    state = begin(bob_client)["state"]

    come_back(bob_client, state=state, code=strava.grant(ALICE), scope=FULL)

    [message] = messages_of(bob_client)
    assert "already connected to another account" in message
    assert "alice" not in message.lower()
    assert row_of(bob).strava_status == LinkStatus.NOT_LINKED
    assert strava.calls["revoke"] == 0
    assert strava.is_alive(services.get_strava_access_token(alice.pk))


def test_another_athlete_replaces_the_one_before_and_revokes_it(
    alice, alice_client, strava, linked
):
    old = linked.strava_token
    state = begin(alice_client)["state"]

    come_back(alice_client, state=state, code=strava.grant(BJORN), scope=FULL)

    row = row_of(alice)
    assert row.strava_athlete_id == BJORN
    assert strava.is_alive(row.strava_token)
    assert not strava.is_alive(old)


def test_reconnecting_the_same_athlete_does_not_revoke_the_new_link(
    alice, alice_client, strava, linked
):
    state = begin(alice_client)["state"]

    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)

    assert strava.calls["revoke"] == 0
    assert strava.is_alive(row_of(alice).strava_token)


def test_changing_to_an_app_of_ones_own_revokes_the_old_link(alice, alice_client, strava, linked):
    old = linked.strava_token
    state = begin(alice_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)[
        "state"
    ]

    come_back(alice_client, state=state, code=strava.grant(ALICE, OTHER_CLIENT_ID), scope=FULL)

    assert strava.is_alive(row_of(alice).strava_token)
    assert not strava.is_alive(old)


def test_a_link_that_needed_it_is_made_whole(alice, alice_client, strava, linked):
    UsersIntegrations.objects.update(
        strava_relink_required_at=timezone.now(), strava_error="relink_required"
    )
    state = begin(alice_client)["state"]

    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)

    row = row_of(alice)
    assert row.strava_status == LinkStatus.LINKED
    assert row.strava_error == ""


@pytest.mark.django_db(transaction=True)
def test_no_provider_is_asked_inside_a_transaction(alice, strava):
    from django.db import transaction

    with transaction.atomic(), pytest.raises(RuntimeError, match="non_atomic_requests"):
        services.complete_authorization(alice.pk, "strava", state="s", code="c")
    with transaction.atomic(), pytest.raises(RuntimeError):
        services.get_strava_access_token(alice.pk)
    with transaction.atomic(), pytest.raises(RuntimeError):
        services.disconnect(alice.pk, "strava")


@pytest.mark.django_db(transaction=True)
def test_a_site_with_atomic_requests_can_connect(alice, strava, settings, alice_client):
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        state = begin(alice_client)["state"]
        come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert row_of(alice).strava_status == LinkStatus.LINKED


# --- Garbage ------------------------------------------------------------------------------------

GARBAGE = [
    "",
    "\0",
    "a\0b",
    "x" * 60_000,
    "é" * 500,
    "\ud7ff\U0010ffff",
    "'; --",
    " ",
    "\r\n",
    "%00",
]


@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name", ["state", "code", "scope", "error"])
def test_garbage_to_the_callback_is_harmless(alice, alice_client, strava, state, name, value):
    query = {"state": state, "code": "code", "scope": FULL, name: value}

    response = come_back(alice_client, **query)

    assert response.status_code < 500
    assert messages_of(alice_client)
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


RAW = [
    "",
    "state",
    "state=%ff%fe&code=%80",
    "state=%00",
    "&&&===",
    "state[]=a&state[]=b",
    "state=a&state=b&code=c",
    "%",
    "state=" + "a" * 50_000,
    "&".join(f"p{n}=1" for n in range(2000)),
    "state=%F0%9F%9A%B4&code=%ED%A0%80",
]


@pytest.mark.parametrize("query", RAW, ids=range(len(RAW)))
def test_raw_garbage_to_the_callback_is_harmless(alice, alice_client, strava, state, query):
    response = alice_client.get(f"{reverse('integrations:strava_callback')}?{query}")

    assert response.status_code < 500
    assert strava.calls["token"] == 0
    assert row_of(alice).strava_state == state


@pytest.mark.parametrize("doubled", ["state", "code", "scope", "error"])
def test_doubled_parameters_are_refused(alice, alice_client, strava, state, doubled):
    query = f"state={state}&code={strava.grant(ALICE)}&scope=read&{doubled}=x"
    query += f"&{doubled}=y" if doubled == "error" else ""

    response = alice_client.get(f"{reverse('integrations:strava_callback')}?{query}")

    assert response.status_code == 302
    assert strava.calls["token"] == 0


@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name", ["client_id", "client_secret"])
def test_garbage_to_the_form_is_harmless(alice, alice_client, strava, linked, name, value):
    before = snapshot(alice)

    response = alice_client.post(
        reverse("integrations:strava_connect"),
        {"client_id": "10002", "client_secret": "secret", name: value},
    )

    assert response.status_code == 302
    assert snapshot(alice) == before


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xff\xfe\x00", "application/x-www-form-urlencoded"),
        (b"client_id=%ff&client_secret=%00", "application/x-www-form-urlencoded"),
        (b"a=b", "application/x-www-form-urlencoded; charset=bogus"),
        (b"\xff\xff", "application/x-www-form-urlencoded; charset=utf-16"),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"--", "multipart/form-data"),
        (b"{", "application/json"),
        (b"&".join(b"p%d=1" % n for n in range(5000)), "application/x-www-form-urlencoded"),
        (b"client_id=" + b"a" * 5_000_000, "application/x-www-form-urlencoded"),
        (b"client_id=1&client_id=2&client_secret=s", "application/x-www-form-urlencoded"),
    ],
)
@pytest.mark.parametrize("name", ["strava_connect", "strava_disconnect"])
def test_raw_garbage_to_the_forms_is_harmless(alice_client, strava, name, body, content_type):
    response = alice_client.generic(
        "POST", reverse(f"integrations:{name}"), body, content_type=content_type
    )
    assert response.status_code < 500


def test_every_error_has_its_own_words():
    classes = [IntegrationsError]
    for cls in classes:
        classes.extend(cls.__subclasses__())
    # Bases; a failure of ours, of which there is no more to say; one that counts minutes; and
    # one that callers never see.
    general = {
        IntegrationsError,
        exceptions.ProviderError,
        exceptions.GarminConnectError,
        exceptions.IntegrationsDatabaseError,
        exceptions.TooManyAttempts,
        exceptions.InvalidSession,
    }
    by_message = {}
    for cls in set(classes) - general:
        by_message.setdefault(str(cls.default_message), set()).add(cls.code)
    assert {message: codes for message, codes in by_message.items() if len(codes) > 1} == {}


def test_what_nobody_came_back_to_is_forgotten(alice, bob, alice_client, bob_client, strava):
    for client in (alice_client, bob_client):
        begin(client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)
    UsersIntegrations.objects.filter(user=alice).update(strava_state_expires_at=a_moment_ago())

    assert forget_abandoned_authorizations() == 1
    row = row_of(alice)
    assert (row.strava_state, row.strava_pending_client_secret) == (None, None)
    assert row_of(bob).strava_pending_client_secret == OTHER_CLIENT_SECRET
    assert forget_abandoned_authorizations() == 0


def test_a_callback_that_comes_too_late_leaves_nothing_waiting(alice, alice_client, strava):
    state = begin(alice_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)
    UsersIntegrations.objects.update(strava_state_expires_at=a_moment_ago())
    come_back(alice_client, state=state["state"], code=strava.grant(ALICE, OTHER_CLIENT_ID))
    row = row_of(alice)
    assert (row.strava_state, row.strava_pending_client_secret) == (None, None)
    assert not strava.calls


@pytest.mark.parametrize("accept", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_program_may_say_more_of_the_json_it_takes(alice_client, strava, accept):
    response = alice_client.post(reverse("integrations:strava_connect"), headers={"accept": accept})
    assert response["Content-Type"] == "application/json"
