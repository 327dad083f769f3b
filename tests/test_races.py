"""Two things at once that both concern one link: none of them ends it, loses it or leaves it alive
at the provider unseen."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import InternalError, OperationalError, connection, connections, transaction
from django.db.models.signals import pre_delete
from django.utils import timezone

from integrations import exceptions, services, tasks
from integrations.garminconnect import client as garminconnect_client
from integrations.garminconnect import login as garminconnect_login
from integrations.garminconnect import provider as garmin_provider
from integrations.garminconnect import tasks as garmin_tasks
from integrations.garminconnect.login import begin_login, forget_dead_logins, run_login
from integrations.models import GarminConnectLogin, Gear, LinkEvent, LinkStatus, UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import PASSWORD
from integrations.sandbox.strava import ALICE, BJORN, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET
from integrations.services import (
    _compiled,
    links,
)
from integrations.services import sweep as sweep_module
from integrations.services.keys import rotate_fernet_keys
from integrations.services.sweep import sweep_tokens
from integrations.services.trail import get_link_events
from integrations.signals import account_unlinked, relink_required
from integrations.strava.client import StravaClient
from integrations.strava.provider import Strava
from integrations.strava.push import confirm_revocation, take_revocation_hint

from .conftest import begin, come_back, row_of
from .test_garminconnect_session import link as link_garmin
from .test_strava_webhook import event

pytestmark = pytest.mark.django_db(transaction=True)

JSON = {"accept": "application/json"}


def elsewhere(work):
    """Do it in another thread, as another process would, and wait for it."""
    raised = []

    def run():
        try:
            work()
        except Exception as exc:
            raised.append(exc)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def connect(user, strava, athlete_id):
    state = services.begin_authorization(user.pk, "strava", "http://testserver/").state
    services.complete_authorization(
        user.pk, "strava", state=state, code=strava.grant(athlete_id), scope="read,profile:read_all"
    )


@pytest.fixture
def heard():
    """What host projects are told: pairs of a signal's name and a provider."""
    heard = []

    def receive(name):
        return lambda provider, **kwargs: heard.append((name, provider))

    receivers = {
        account_unlinked: receive("account_unlinked"),
        relink_required: receive("relink_required"),
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver, weak=False)
    yield heard
    for signal, receiver in receivers.items():
        signal.disconnect(receiver)


def answered_before(monkeypatch, method, work):
    """Do something between Strava's answer to one request and what the caller makes of it."""
    ask = getattr(StravaClient, method)

    def asked(self, *args):
        answer = ask(self, *args)
        monkeypatch.setattr(StravaClient, method, ask)
        work()
        return answer

    monkeypatch.setattr(StravaClient, method, asked)


def asked_after(monkeypatch, method, work):
    """Do something right before one request reaches Strava."""
    ask = getattr(StravaClient, method)

    def asked(self, *args):
        monkeypatch.setattr(StravaClient, method, ask)
        work()
        return ask(self, *args)

    monkeypatch.setattr(StravaClient, method, asked)


# --- The sweep ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["on demand", "forged event"])
def test_a_slow_sweep_does_not_let_a_second_one_spend_the_token(
    link, strava, monkeypatch, heard, what
):
    # A tenth of the real times: a lease of 3 s, answers after 1.25 s.
    monkeypatch.setattr(Strava, "lease", 3)
    monkeypatch.setattr(sweep_module, "CLAIM_LASTS", 0.5)
    users = []
    for number in range(3):
        users.append(get_user_model().objects.create(username=f"athlete{number}"))
        strava.add_athlete(5000 + number)
        link(users[-1], 5000 + number, 600 + number)
    ask = StravaClient.refresh_access_token

    def dawdle(self, refresh_token):
        tokens = ask(self, refresh_token)
        time.sleep(1.25)
        return tokens

    monkeypatch.setattr(StravaClient, "refresh_access_token", dawdle)
    counts = []
    sweep = threading.Thread(
        target=lambda: (
            counts.append(sweep_tokens(workers=1)),
            connections.close_all(),
        )
    )
    sweep.start()
    time.sleep(3.2)  # the first lease of the third row would be over
    UsersIntegrations.objects.filter(user=users[2]).update(strava_token_expires_at=timezone.now())
    if what == "on demand":
        assert strava.is_alive(services.get_strava_access_token(users[2].pk))
    else:
        assert take_revocation_hint(event(5002)) == users[2].pk
        assert confirm_revocation(users[2].pk) == "alive"
    sweep.join()

    assert counts[0].refreshed == 3
    assert heard == []
    assert row_of(users[2]).strava_status == LinkStatus.LINKED
    assert strava.is_alive(row_of(users[2]).strava_refresh_token)


def test_a_user_who_is_deleted_meanwhile_stops_no_sweep(alice, bob, link, strava, monkeypatch):
    link(alice, ALICE, 300)
    link(bob, BJORN, 400)

    def fail():
        alice.delete()
        raise exceptions.ProviderUnavailable

    asked_after(monkeypatch, "refresh_access_token", fail)
    counts = sweep_tokens(workers=1)
    assert (counts.due, counts.refreshed, counts.failed) == (2, 1, 1)


def test_a_database_that_fails_for_one_row_stops_no_sweep(alice, bob, link, strava, monkeypatch):
    link(alice, ALICE, 300)
    link(bob, BJORN, 400)

    def fail():
        raise OperationalError("s3cret")

    asked_after(monkeypatch, "refresh_access_token", fail)
    counts = sweep_tokens(workers=1)
    assert (counts.refreshed, counts.failed) == (1, 1)


# --- A revocation that is looked into ------------------------------------------------------------


def test_a_link_made_anew_is_not_taken_for_the_revoked_one(alice, linked, strava, heard):
    strava.revoke_grant(ALICE)

    def reconnect(**kwargs):
        connect(alice, strava, ALICE)

    relink_required.connect(reconnect)
    take_revocation_hint(event())
    try:
        assert confirm_revocation(alice.pk) == "relink_required"
    finally:
        relink_required.disconnect(reconnect)

    assert row_of(alice).strava_status == LinkStatus.LINKED
    assert strava.is_alive(row_of(alice).strava_refresh_token)
    assert ("account_unlinked", "strava") not in heard


def test_an_answer_older_than_the_event_is_no_answer_to_it(alice, expired, strava, monkeypatch):
    outcomes = []
    confirm = threading.Thread(
        target=lambda: (
            outcomes.append(confirm_revocation(alice.pk)),
            connections.close_all(),
        )
    )

    def revoke():
        strava.revoke_grant(ALICE)
        take_revocation_hint(event())
        confirm.start()
        time.sleep(0.3)

    answered_before(monkeypatch, "refresh_access_token", revoke)
    services.get_strava_access_token(alice.pk)
    confirm.join()

    assert outcomes == ["unlinked"]
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


def test_events_leave_no_line_in_the_trail(alice, linked):
    before = LinkEvent.objects.count()
    for _ in range(3):
        take_revocation_hint(event())
        confirm_revocation(alice.pk)
    assert LinkEvent.objects.count() == before


def test_a_link_that_cannot_ask_is_never_unlinked_by_events(alice, linked, strava):
    UsersIntegrations.objects.update(strava_refresh_token=None)
    for _ in range(2):
        take_revocation_hint(event())
        assert confirm_revocation(alice.pk) == "relink_required"
    assert row_of(alice).strava_status == LinkStatus.RELINK_REQUIRED
    assert not strava.calls["token"]


# --- Disconnecting, relinking, deleting ----------------------------------------------------------


def test_disconnecting_amid_a_refresh_revokes_the_new_pair_too(alice, expired, strava, monkeypatch):
    asked_after(
        monkeypatch,
        "revoke_token",
        lambda: elsewhere(lambda: services.get_strava_access_token(alice.pk)),
    )
    assert services.disconnect(alice.pk, "strava")
    assert strava.counts()["refresh_tokens"] == 0
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


def test_relinking_amid_a_refresh_revokes_the_replaced_pair(alice, expired, strava, monkeypatch):
    asked_after(
        monkeypatch,
        "exchange_code",
        lambda: elsewhere(lambda: services.get_strava_access_token(alice.pk)),
    )
    connect(alice, strava, BJORN)
    assert strava.counts()["refresh_tokens"] == 1
    assert strava.is_alive(row_of(alice).strava_refresh_token)


def test_a_refresh_that_comes_after_a_relink_discards_its_pair(alice, expired, strava, monkeypatch):
    answered_before(monkeypatch, "refresh_access_token", lambda: connect(alice, strava, BJORN))
    token = services.get_strava_access_token(alice.pk)
    assert strava.is_alive(token)
    assert strava.counts()["refresh_tokens"] == 1


def test_a_refresh_that_comes_after_a_relink_by_another_app_discards_its_pair(
    alice, expired, strava, monkeypatch
):
    def relink_by_own_app():
        state = services.begin_authorization(
            alice.pk, "strava", "http://testserver/", OTHER_CLIENT_ID, OTHER_CLIENT_SECRET
        ).state
        code = strava.grant(ALICE, OTHER_CLIENT_ID)
        services.complete_authorization(alice.pk, "strava", state=state, code=code)

    answered_before(monkeypatch, "refresh_access_token", relink_by_own_app)
    assert strava.is_alive(services.get_strava_access_token(alice.pk))
    assert strava.counts()["refresh_tokens"] == 1


@pytest.mark.parametrize("before", [ALICE, None])
@pytest.mark.parametrize("after", [ALICE, None])
def test_a_refresh_amid_a_relink_of_the_same_athlete_ends_nothing(
    alice, expired, strava, monkeypatch, before, after
):
    UsersIntegrations.objects.update(strava_athlete_id=before)
    exchange = StravaClient.exchange_code

    def without_athlete(self, *args):
        return exchange(self, *args).model_copy(update={"answer": {}})

    if after is None:  # Strava does not say
        monkeypatch.setattr(StravaClient, "exchange_code", without_athlete)
    answered_before(monkeypatch, "refresh_access_token", lambda: connect(alice, strava, ALICE))
    assert strava.is_alive(services.get_strava_access_token(alice.pk))
    assert strava.is_alive(row_of(alice).strava_refresh_token)


def test_a_user_deleted_amid_a_refresh_leaves_no_pair_alive(alice, expired, strava):
    refreshes = []

    def refresh(**kwargs):
        def ask():
            try:
                services.get_strava_access_token(alice.pk)
            except exceptions.IntegrationsError as exc:
                refreshes.append(exc.code)
            finally:
                connections.close_all()

        refreshes.append(thread := threading.Thread(target=ask))
        thread.start()
        time.sleep(0.3)

    pre_delete.connect(refresh, sender=UsersIntegrations)
    try:
        alice.delete()
    finally:
        pre_delete.disconnect(refresh, sender=UsersIntegrations)
    refreshes[0].join()

    assert strava.counts()["refresh_tokens"] == 0


def test_gear_goes_with_the_athlete_that_it_is_of(alice, linked, strava):
    services.sync_strava_gear(alice.pk)
    connect(alice, strava, BJORN)
    assert not Gear.objects.exists()
    assert row_of(alice).strava_synced_at is None
    services.sync_strava_gear(alice.pk)
    connect(alice, strava, BJORN)  # the same once more
    assert Gear.objects.exists()


def test_whose_link_it_is_is_found_out_where_strava_does_not_say(
    alice, bob, link, linked, strava, monkeypatch
):
    exchange = StravaClient.exchange_code

    def without_athlete(self, *args):
        return exchange(self, *args).model_copy(update={"answer": {}})

    monkeypatch.setattr(StravaClient, "exchange_code", without_athlete)
    connect(alice, strava, BJORN)
    assert row_of(alice).strava_athlete_id is None
    services.sync_strava_gear(alice.pk)
    assert row_of(alice).strava_athlete_id == BJORN

    connect(bob, strava, BJORN)  # who is Alice's already
    services.sync_strava_gear(bob.pk)
    assert row_of(bob).strava_athlete_id is None


def test_a_disconnect_of_nothing_is_told_to_nobody(alice, linked, heard):
    services.disconnect(alice.pk, "strava")
    for disconnect, error in (
        (lambda pk: services.disconnect(pk, "strava"), exceptions.StravaNotLinked),
        (lambda pk: services.disconnect(pk, "garminconnect"), exceptions.GarminConnectNotLinked),
    ):
        for _ in range(2):
            with pytest.raises(error):
                disconnect(alice.pk)
    services.unlink_strava_account(alice.pk)
    services.unlink_garminconnect_account(alice.pk)
    assert heard == [("account_unlinked", "strava")]
    assert LinkEvent.objects.filter(event="unlinked").count() == 1


def test_two_disconnects_at_once_are_one(alice, linked, heard):
    barrier = threading.Barrier(2)

    def unlink():
        barrier.wait()
        services.unlink_strava_account(alice.pk)
        connections.close_all()

    threads = [threading.Thread(target=unlink) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [("account_unlinked", "strava")]
    assert LinkEvent.objects.filter(event="unlinked").count() == 1


def test_a_user_deleted_while_a_sign_in_ends_locks_nobody_out(alice, garmin, monkeypatch):
    attempt = begin_login(alice.pk, GARMIN_ALICE, PASSWORD)
    thread = threading.Thread(
        target=lambda: (get_user_model().objects.get(pk=alice.pk).delete(), connections.close_all())
    )
    write_link = links.write_link

    def meanwhile(*args, **kwargs):
        thread.start()
        time.sleep(0.5)  # until the deletion waits for what this transaction holds
        write_link(*args, **kwargs)

    monkeypatch.setattr(links, "write_link", meanwhile)
    assert run_login(alice.pk, attempt) == "linked"
    thread.join()
    assert not get_user_model().objects.filter(pk=alice.pk).exists()


def test_an_athlete_of_anothers_leaves_no_pair_of_another_app(
    alice, bob, linked, strava, bob_client
):
    state = begin(bob_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)["state"]
    code = strava.grant(ALICE, OTHER_CLIENT_ID)
    assert come_back(bob_client, state=state, code=code).status_code == 302
    assert strava.counts()["refresh_tokens"] == 1  # Alice's own

    state = begin(bob_client)["state"]
    come_back(bob_client, state=state, code=strava.grant(ALICE))
    assert strava.is_alive(row_of(alice).strava_refresh_token)


# --- Gear ----------------------------------------------------------------------------------------


def test_a_synchronisation_that_comes_after_a_disconnect_leaves_no_word(
    alice, alice_client, linked, monkeypatch
):
    fetch = Strava.fetch_gear

    def fetch_and_disconnect(self, *args):
        fetched = fetch(self, *args)
        services.disconnect(alice.pk, "strava")
        return fetched

    monkeypatch.setattr(Strava, "fetch_gear", fetch_and_disconnect)
    with pytest.raises(exceptions.StravaNotLinked):
        services.sync_strava_gear(alice.pk)

    row = row_of(alice)
    assert (row.strava_sync_error, row.strava_sync_failures) == ("", 0)
    assert row.strava_sync_due_at is None
    assert get_link_events(alice.pk)[0].event == "unlinked"
    assert alice_client.get("/integrations/status/").json()["strava"]["error"] is None


def test_a_failure_of_a_link_that_is_gone_is_not_noted(alice, linked, strava, monkeypatch):
    def fail():
        services.disconnect(alice.pk, "strava")
        raise exceptions.ProviderUnavailable

    asked_after(monkeypatch, "get_athlete", fail)
    with pytest.raises(exceptions.ProviderUnavailable):
        services.sync_strava_gear(alice.pk)
    assert row_of(alice).strava_sync_error == ""


def test_a_session_made_anew_is_not_ended_for_the_old_one(alice, garmin, monkeypatch):
    link_garmin(garmin, alice)
    fetch = garmin_provider.fetch_gear

    def fetch_with_the_dead(client):
        garmin.revoke(GARMIN_ALICE)
        try:
            return fetch(client)
        finally:
            link_garmin(garmin, alice)

    monkeypatch.setattr(garmin_provider, "fetch_gear", fetch_with_the_dead)
    with pytest.raises(exceptions.GarminConnectRelinkRequired):
        services.sync_garminconnect_gear(alice.pk)
    monkeypatch.undo()
    assert row_of(alice).garminconnect_status == LinkStatus.LINKED


def test_a_worker_without_the_newest_key_ends_no_session(alice, garmin, settings, monkeypatch):
    link_garmin(garmin, alice)
    fetch, old = garmin_provider.fetch_gear, list(settings.FERNET_KEYS)
    both = ["tests-only-newest-key-0123456789-abcdefghijklmno", *old]

    def renewed_elsewhere(client):
        settings.FERNET_KEYS = both
        services.refresh_link(alice.pk, "garminconnect")
        settings.FERNET_KEYS = old
        client.client.di_token = client.client.di_token[:-3] + "xxx"  # and is no longer accepted
        return fetch(client)

    monkeypatch.setattr(garmin_provider, "fetch_gear", renewed_elsewhere)
    with pytest.raises(exceptions.IntegrationsError):
        services.sync_garminconnect_gear(alice.pk)

    settings.FERNET_KEYS = both
    assert row_of(alice).garminconnect_status == LinkStatus.LINKED
    assert services.get_garminconnect_client(alice.pk)


# --- A database and keys that change under a refresh ---------------------------------------------


def test_a_pair_is_stored_though_the_row_was_sealed_with_a_key_not_known_here(
    alice, expired, strava, settings, monkeypatch
):
    old = list(settings.FERNET_KEYS)
    both = ["tests-only-newest-key-0123456789-abcdefghijklmno", *old]

    def turn():
        settings.FERNET_KEYS = both
        rotate_fernet_keys()
        settings.FERNET_KEYS = old

    answered_before(monkeypatch, "refresh_access_token", turn)
    assert strava.is_alive(services.get_strava_access_token(alice.pk))
    settings.FERNET_KEYS = both
    assert strava.is_alive(row_of(alice).strava_refresh_token)


def test_a_server_that_writes_no_more_is_left_for_its_successor(
    alice, expired, strava, monkeypatch
):
    update, refusals = _compiled.update_where, []

    def refuse_twice(*args):
        if len(refusals) < 2:
            refusals.append(connection.connection)
            raise InternalError("cannot execute UPDATE in a read-only transaction")
        return update(*args)

    monkeypatch.setattr(_compiled, "update_where", refuse_twice)
    assert strava.is_alive(services.get_strava_access_token(alice.pk))
    assert strava.is_alive(row_of(alice).strava_refresh_token)
    assert refusals[0] is not refusals[1]  # not over the same connection


def test_a_connection_without_autocommit_is_a_transaction_too(alice, expired, strava):
    transaction.set_autocommit(False)
    try:
        with pytest.raises(RuntimeError, match="inside a transaction"):
            services.get_strava_access_token(alice.pk)
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert not strava.calls["token"]


def test_an_error_within_a_hosts_transaction_leaves_the_host_its_connection(alice, bob, db):
    services.create_user_integrations(alice.pk)
    services.set_user_strava_state(alice.pk, "taken")
    with transaction.atomic():
        services.create_user_integrations(bob.pk)
        with pytest.raises(exceptions.IntegrationsDatabaseError), transaction.atomic():
            services.set_user_strava_state(bob.pk, "taken")
        services.set_user_strava_state(bob.pk, "free")
    assert row_of(bob).strava_state == "free"


def test_the_admins_actions_work_where_requests_are_transactions(
    alice, linked, strava, admin_client
):
    admin_client.raise_request_exception = False
    listing = "/admin/integrations/usersintegrations/"
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        for action in ("refresh_strava", "disconnect_strava"):
            fields = {"action": action, "_selected_action": [linked.pk], "confirmed": "yes"}
            assert admin_client.post(listing, fields).status_code == 302
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED
    assert strava.counts()["refresh_tokens"] == 0


# --- A rate limit --------------------------------------------------------------------------------


def test_a_rate_limit_puts_a_link_off_until_its_window_turns(alice, expired, strava):
    UsersIntegrations.objects.update(strava_failures=10)
    strava.fail("token", "429")
    with pytest.raises(exceptions.RateLimited) as limited:
        services.get_strava_access_token(alice.pk)
    wait = row_of(alice).strava_retry_at - timezone.now()
    assert wait <= timedelta(seconds=limited.value.retry_after)


# --- Garmin's sign-in ----------------------------------------------------------------------------


def test_one_heartbeat_that_fails_does_not_end_a_sign_in(alice, garmin, monkeypatch):
    monkeypatch.setattr(garminconnect_login, "HEARTBEAT", 0.1)
    monkeypatch.setattr(garminconnect_login, "ALIVE", timedelta(seconds=0.6))
    mine, beats = garminconnect_login._mine, []

    def first_fails(login):
        if threading.current_thread() is not threading.main_thread():
            beats.append(login)
            if len(beats) == 1:
                raise OperationalError("database is locked")
        return mine(login)

    monkeypatch.setattr(garminconnect_login, "_mine", first_fails)
    sign_in = garminconnect_client.sign_in

    def slowly(*args):
        session = sign_in(*args)
        time.sleep(1.2)
        elsewhere(forget_dead_logins)
        return session

    monkeypatch.setattr(garminconnect_client, "sign_in", slowly)
    attempt = begin_login(alice.pk, GARMIN_ALICE, PASSWORD)
    assert run_login(alice.pk, attempt) == "linked"
    assert len(beats) > 2


def test_a_code_that_no_worker_could_be_told_of_can_be_entered_again(
    alice, alice_client, monkeypatch
):
    until = timezone.now() + timedelta(minutes=5)
    GarminConnectLogin.objects.create(
        user=alice,
        attempt="00000000-0000-0000-0000-000000000001",
        step="mfa_required",
        step_until=until,
        mfa_until=until,
        client_state={},
    )
    services.create_user_integrations(alice.pk)

    def down(*args):
        raise ConnectionError

    monkeypatch.setattr(type(garmin_tasks.answer_garminconnect_mfa), "enqueue", down)
    for _ in range(2):
        response = alice_client.post(
            "/integrations/garminconnect/mfa/", {"code": "123456"}, headers=JSON
        )
        assert response.json()["error"]["code"] == "task_queue_unavailable"
    login = GarminConnectLogin.objects.get()
    assert (login.step, login.step_until, login.mfa_code) == ("mfa_required", until, None)


def test_a_sync_that_no_worker_could_be_told_of_leaves_what_was_told(
    alice_client, linked, monkeypatch
):
    UsersIntegrations.objects.update(strava_sync_error="provider_unavailable")
    before = alice_client.get("/integrations/status/").json()["strava"]

    def down(*args):
        raise ConnectionError

    monkeypatch.setattr(type(tasks.sync_gear), "enqueue", down)
    response = alice_client.post("/integrations/strava/gear/sync/", headers=JSON)
    assert response.json()["error"]["code"] == "task_queue_unavailable"
    assert before["error"]
    assert alice_client.get("/integrations/status/").json()["strava"] == before


def test_a_library_that_fails_ends_no_session(alice, garmin, monkeypatch):
    link_garmin(garmin, alice)

    def fail(self, text):
        raise MemoryError

    monkeypatch.setattr("garminconnect.client.Client.loads", fail)
    with pytest.raises(MemoryError):
        services.get_garminconnect_client(alice.pk)
    assert row_of(alice).garminconnect_status == LinkStatus.LINKED


@pytest.mark.parametrize("tokens", [{}, {"access_token": "x"}, {"di_token": "x"}])
def test_what_is_no_session_asks_the_athlete_to_sign_in(alice, garmin, tokens):
    services.create_user_integrations(alice.pk)
    services.link_garminconnect_account(alice.pk, None, tokens)
    if "di_token" in tokens:
        UsersIntegrations.objects.update(garminconnect_token_expires_at=timezone.now())
    for call in (services.get_garminconnect_client, services.sync_garminconnect_gear):
        with pytest.raises(exceptions.GarminConnectRelinkRequired):
            call(alice.pk)
    assert row_of(alice).garminconnect_status == LinkStatus.RELINK_REQUIRED
