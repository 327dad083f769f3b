"""A fresh token on demand, whoever asks and whatever Strava answers."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.utils import timezone

from integrations import providers, services
from integrations.exceptions import (
    ApplicationInactive,
    InvalidClient,
    InvalidProviderReply,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    StravaNotLinked,
    StravaRelinkRequired,
)
from integrations.models import LinkStatus, UsersIntegrations
from integrations.sandbox.strava import ALICE, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET
from integrations.signals import relink_required
from integrations.strava.client import StravaClient
from integrations.strava.provider import Strava

from .conftest import row_of

get_token = services.get_strava_access_token


def lapse(**more):
    """Let the stored token expire, wherever its row is."""
    UsersIntegrations.objects.update(
        strava_token_expires_at=timezone.now() - timedelta(minutes=1), **more
    )


def test_a_fresh_token_costs_no_request(alice, linked, strava):
    assert get_token(alice.pk) == linked.strava_token
    assert strava.calls["token"] == 0


@pytest.mark.parametrize(("left", "calls"), [(301, 0), (299, 1)])
def test_a_token_is_good_for_five_more_minutes(alice, linked, strava, left, calls):
    UsersIntegrations.objects.update(
        strava_token_expires_at=timezone.now() + timedelta(seconds=left)
    )
    strava.expire(ALICE, expires_in=left)

    get_token(alice.pk)

    assert strava.calls["token"] == calls


def test_an_expired_token_is_refreshed_and_the_newest_pair_is_stored(alice, expired, strava):
    old = expired.strava_refresh_token

    token = get_token(alice.pk)

    row = row_of(alice)
    assert strava.is_alive(token)
    assert row.strava_token == token
    assert row.strava_refresh_token != old
    assert strava.is_alive(row.strava_refresh_token)
    assert not strava.is_alive(old)
    assert row.strava_token_expires_at > timezone.now() + timedelta(hours=5)
    assert timezone.now() - row.strava_refreshed_at < timedelta(minutes=1)
    assert row.strava_lease is None
    assert get_token(alice.pk) == token
    assert strava.calls["token"] == 1


def test_without_a_link_there_is_no_token(alice, strava):
    with pytest.raises(StravaNotLinked):
        get_token(alice.pk)
    services.create_user_integrations(alice.pk)
    with pytest.raises(StravaNotLinked):
        get_token(alice.pk)
    assert not strava.calls


def test_the_athletes_own_app_refreshes_its_own_tokens(alice, strava):
    row = services.create_user_integrations(alice.pk)
    services.set_user_strava_client(alice.pk, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)
    services.link_strava_account(row, strava.issue_tokens(ALICE, OTHER_CLIENT_ID, expires_in=-60))

    assert strava.is_alive(get_token(alice.pk))
    assert strava.requests[-1]["client_id"] == OTHER_CLIENT_ID


# --- What ends a link, and what does not --------------------------------------------------------


def test_a_dead_refresh_token_ends_the_link(
    alice, expired, strava, django_capture_on_commit_callbacks
):
    strava.revoke_grant(ALICE)
    heard = []

    def receiver(sender, signal, **rest):
        heard.append(rest)

    relink_required.connect(receiver)
    try:
        with django_capture_on_commit_callbacks(execute=True), pytest.raises(StravaRelinkRequired):
            get_token(alice.pk)
        assert row_of(alice).strava_status == LinkStatus.RELINK_REQUIRED

        with django_capture_on_commit_callbacks(execute=True), pytest.raises(StravaRelinkRequired):
            get_token(alice.pk)
    finally:
        relink_required.disconnect(receiver)

    assert heard == [{"user_id": alice.pk, "provider": "strava"}]
    assert strava.calls["token"] == 1  # a dead link is never asked again


def test_a_link_without_a_refresh_token_ends_when_its_token_does(alice, expired, strava):
    UsersIntegrations.objects.update(strava_refresh_token=None)

    with pytest.raises(StravaRelinkRequired):
        get_token(alice.pk)

    assert row_of(alice).strava_status == LinkStatus.RELINK_REQUIRED
    assert strava.calls["token"] == 0


FAULTS = {
    "500": ProviderUnavailable,
    "502_html": ProviderUnavailable,
    "200_html": InvalidProviderReply,
    "empty": InvalidProviderReply,
    "half_json": InvalidProviderReply,
    "wrong_types": InvalidProviderReply,
    "429": RateLimited,
    "401_client": InvalidClient,
    "403_inactive": ApplicationInactive,
    "403_limit": ProviderError,
    "reset_before": ProviderUnavailable,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_never_ends_a_link(alice, expired, strava, fault):
    pair = (expired.strava_token, expired.strava_refresh_token)
    strava.fail("token", fault, times=1)

    with pytest.raises(FAULTS[fault]) as caught:
        get_token(alice.pk)

    row = row_of(alice)
    assert row.strava_status == LinkStatus.LINKED
    assert (row.strava_token, row.strava_refresh_token) == pair
    assert row.strava_error == caught.value.code
    assert row.strava_failures == 1
    assert row.strava_retry_at > timezone.now()
    assert row.strava_lease is None

    UsersIntegrations.objects.update(strava_limited_until=None)  # a limit's window has turned
    assert strava.is_alive(get_token(alice.pk))
    row = row_of(alice)
    assert (row.strava_error, row.strava_failures, row.strava_retry_at) == ("", 0, None)


def test_a_rate_limit_says_when_its_window_turns(alice, expired, strava):
    strava.fail("token", "429")

    with pytest.raises(RateLimited) as caught:
        get_token(alice.pk)

    assert 0 < caught.value.retry_after <= 86_400
    assert row_of(alice).strava_retry_at >= timezone.now() + timedelta(
        seconds=caught.value.retry_after - 5
    )


def test_failures_back_off_up_to_a_day(alice, expired, strava):
    strava.fail("token", "500")
    waits = []
    for failures in (0, 1, 2, 5, 12, 200):
        UsersIntegrations.objects.update(strava_failures=failures)
        with pytest.raises(ProviderUnavailable):
            get_token(alice.pk)
        waits.append((row_of(alice).strava_retry_at - timezone.now()).total_seconds())

    assert 40 < waits[0] < 80
    assert waits[0] < waits[2] < waits[3] < waits[4]
    assert max(waits) <= 86_400


def test_the_operators_typo_ends_nobodys_link(alice, expired, strava, settings):
    settings.STRAVA_CLIENT_ID = OTHER_CLIENT_ID  # another app of the operator's
    settings.STRAVA_CLIENT_SECRET = OTHER_CLIENT_SECRET

    with pytest.raises(InvalidClient):
        get_token(alice.pk)

    # Strava would have called the refresh token invalid: it is, for this app.
    assert strava.calls["token"] == 0
    assert row_of(alice).strava_status == LinkStatus.LINKED


def test_an_app_that_is_gone_ends_nobodys_link(alice, expired, strava, settings):
    settings.STRAVA_CLIENT_ID = ""

    with pytest.raises(InvalidClient):
        get_token(alice.pk)

    assert row_of(alice).strava_status == LinkStatus.LINKED


def test_a_token_rotated_a_moment_ago_by_someone_else_saves_the_link(
    alice, expired, strava, monkeypatch
):
    """Strava calls our refresh token dead because another process has used it just now."""
    ask = StravaClient.refresh_access_token

    def overtaken(self, refresh_token):
        monkeypatch.undo()
        other = ask(self, refresh_token)
        UsersIntegrations.objects.update(
            strava_token=other.access_token,
            strava_refresh_token=other.refresh_token,
            strava_token_expires_at=other.expires(timezone.now()),
        )
        return ask(self, refresh_token)

    monkeypatch.setattr(StravaClient, "refresh_access_token", overtaken)

    token = get_token(alice.pk)

    row = row_of(alice)
    assert row.strava_status == LinkStatus.LINKED
    assert token == row.strava_token
    assert strava.is_alive(token)


def test_a_lost_key_asks_for_a_relink_and_touches_nothing(alice, expired, strava, settings):
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopq"]

    with pytest.raises(StravaRelinkRequired):
        get_token(alice.pk)

    settings.FERNET_KEYS = ["tests-only-fernet-key-0123456789-abcdefghijklmnop"]
    assert strava.is_alive(get_token(alice.pk))


# --- One at a time ------------------------------------------------------------------------------


def call_together(count, function):
    """Run a function in that many threads at once; returns what each returned or raised."""
    outcomes, barrier = [], threading.Barrier(count)

    def run():
        barrier.wait()
        try:
            outcomes.append(function())
        except Exception as exc:
            outcomes.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.django_db(transaction=True)
def test_threads_that_ask_at_once_share_one_refresh(alice, expired, strava):
    strava.fail("token", "delay", seconds=0.4)

    tokens = call_together(12, lambda: get_token(alice.pk))

    assert strava.calls["token"] == 1
    assert set(tokens) == {row_of(alice).strava_token}


@pytest.mark.django_db(transaction=True)
def test_threads_that_ask_at_once_share_one_failure(alice, expired, strava):
    strava.fail("token", "delay", times=1, seconds=0.4)
    strava.revoke_grant(ALICE)

    outcomes = call_together(6, lambda: get_token(alice.pk))

    assert {type(outcome) for outcome in outcomes} == {StravaRelinkRequired}
    assert strava.calls["token"] == 1


@pytest.mark.django_db(transaction=True)
def test_waiters_do_not_each_ask_a_provider_in_trouble(alice, expired, strava, monkeypatch):
    monkeypatch.setattr("integrations.http.READ_TIMEOUT", 0.5)
    strava.fail("token", "silence", seconds=30)

    outcomes = call_together(6, lambda: get_token(alice.pk))

    assert {type(outcome) for outcome in outcomes} == {ProviderUnavailable}
    assert strava.calls["token"] == 1
    assert row_of(alice).strava_failures == 1


@pytest.mark.django_db(transaction=True)
def test_nothing_is_locked_while_strava_is_asked(alice, expired, strava):
    strava.fail("token", "delay", seconds=1.5)
    thread = threading.Thread(target=lambda: (get_token(alice.pk), connection.close()))
    thread.start()
    while not strava.requests:
        time.sleep(0.01)

    started = time.monotonic()
    services.set_user_strava_sync_gear(alice.pk, True)
    took = time.monotonic() - started
    still_asking = thread.is_alive()
    thread.join()

    assert still_asking
    assert took < 1
    assert row_of(alice).strava_sync_gear is True


def test_a_refresher_that_died_frees_the_way(alice, expired, strava):
    UsersIntegrations.objects.update(
        strava_lease=uuid.uuid4(), strava_lease_until=Now() + timedelta(seconds=1)
    )
    started = time.monotonic()

    assert strava.is_alive(get_token(alice.pk))

    assert 0.5 < time.monotonic() - started < 10


def test_a_lease_runs_out_within_a_minute():
    for provider in providers.known().values():
        assert provider.lease < 60


def test_whoever_waits_too_long_is_told_to_come_back(alice, expired, strava, monkeypatch):
    monkeypatch.setattr(Strava, "lease", -9.8)
    UsersIntegrations.objects.update(
        strava_lease=uuid.uuid4(), strava_lease_until=Now() + timedelta(seconds=30)
    )

    with pytest.raises(ProviderUnavailable) as caught:
        get_token(alice.pk)

    assert caught.value.retry_after is not None
    assert strava.calls["token"] == 0


@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
def test_a_refresher_that_is_interrupted_leaves_no_lease(
    alice, expired, strava, monkeypatch, exception
):
    def interrupt(self, refresh_token):
        raise exception

    monkeypatch.setattr(StravaClient, "refresh_access_token", interrupt)
    with pytest.raises(exception):
        get_token(alice.pk)

    assert row_of(alice).strava_lease is None


# --- What happens meanwhile ---------------------------------------------------------------------


def meanwhile(monkeypatch, action):
    """Do something at the moment when Strava has answered and nothing is stored yet."""
    ask = StravaClient.refresh_access_token

    def asked(self, refresh_token):
        tokens = ask(self, refresh_token)
        action()
        return tokens

    monkeypatch.setattr(StravaClient, "refresh_access_token", asked)


def test_a_disconnect_meanwhile_wins_and_the_new_pair_is_revoked(
    alice, expired, strava, monkeypatch
):
    meanwhile(monkeypatch, lambda: services.disconnect(alice.pk, "strava"))

    with pytest.raises(StravaNotLinked):
        get_token(alice.pk)

    row = row_of(alice)
    assert row.strava_token is None
    assert strava.counts()["refresh_tokens"] == 0


def test_a_relink_meanwhile_wins(alice, expired, strava, monkeypatch, link):
    relinked = []
    meanwhile(monkeypatch, lambda: relinked.append(link(alice)))

    token = get_token(alice.pk)

    assert token == relinked[0].strava_token == row_of(alice).strava_token
    assert strava.is_alive(token)


def test_a_key_rotation_meanwhile_does_not_lose_the_new_pair(alice, expired, strava, monkeypatch):
    def rotate():
        row = row_of(alice)
        UsersIntegrations.objects.update(strava_refresh_token=row.strava_refresh_token)

    meanwhile(monkeypatch, rotate)

    assert get_token(alice.pk) == row_of(alice).strava_token
    assert strava.is_alive(row_of(alice).strava_refresh_token)


@pytest.mark.django_db(transaction=True)
def test_a_database_that_hiccups_does_not_lose_the_new_pair(alice, expired, strava):
    failures = iter([True, True])

    def hiccup(execute, sql, params, many, context):
        if sql.startswith("UPDATE") and strava.calls["token"] and next(failures, False):
            raise OperationalError("database is locked")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(hiccup):
        token = get_token(alice.pk)

    assert token == row_of(alice).strava_token


def test_a_forced_refresh_asks_strava_however_fresh_the_token_is(alice, linked, strava):
    services.refresh_link(alice.pk, "strava")
    assert row_of(alice).strava_token == linked.strava_token
    assert strava.calls["token"] == 1

    strava.expire(ALICE, expires_in=60)
    services.refresh_link(alice.pk, "strava")
    assert row_of(alice).strava_token != linked.strava_token


def test_a_head_at_a_byte_a_time_is_hung_up_on(alice, expired, strava, settings, monkeypatch):
    monkeypatch.setattr("integrations.http.READ_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.STRAVA_OAUTH_URL = f"http://127.0.0.1:{server.getsockname()[1]}"

        def drip():
            connection, _ = server.accept()
            with connection, suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200:
                    connection.send(bytes([byte]))
                    time.sleep(0.1)

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        started = time.monotonic()
        with pytest.raises(ProviderUnavailable):
            get_token(alice.pk)
        assert time.monotonic() - started < 5
        thread.join()
