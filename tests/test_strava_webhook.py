"""Strava's push subscription: the handshake, events true and forged, and the command."""

from __future__ import annotations

import json
import re
import threading
import time
from datetime import timedelta
from io import BytesIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.db.models import F
from django.utils import timezone

from integrations import services
from integrations.models import Gear, LinkStatus, PushSubscription, UsersIntegrations
from integrations.reporting import REDACTED, redact
from integrations.sandbox.strava import ALICE, BJORN, CLIENT_ID
from integrations.strava import push as strava_webhook
from integrations.strava import tasks as strava_tasks
from integrations.strava.push import (
    confirm_revocation,
    learn_subscription,
    list_subscriptions,
    take_due_checks,
    take_revocation_hint,
)
from integrations.strava.webhook import MAX_EVENT

from .conftest import a_moment_ago, row_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("in_one_window")]

URL = "/integrations/strava/webhook/"
TOKEN = "verify-me"


@pytest.fixture(autouse=True)
def verify_token(settings):
    settings.STRAVA_WEBHOOK_VERIFY_TOKEN = TOKEN


def handshake(client, url=URL, **changes):
    query = {"hub.mode": "subscribe", "hub.challenge": "15f7d1a9", "hub.verify_token": TOKEN}
    return client.get(url, query | changes)


def event(athlete_id=ALICE, **changes):
    return {
        "object_type": "athlete",
        "object_id": athlete_id,
        "aspect_type": "update",
        "updates": {"authorized": "false"},
        "owner_id": athlete_id,
        "subscription_id": 1,
        "event_time": 1_790_000_000,
    } | changes


def send(client, body, url=URL):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return client.generic("POST", url, body, content_type="application/json")


def test_the_handshake_echoes_the_challenge(client):
    response = handshake(client)
    assert response.status_code == 200
    assert response.json() == {"hub.challenge": "15f7d1a9"}


@pytest.mark.parametrize(
    "changes",
    [
        {"hub.verify_token": "wrong"},
        {"hub.verify_token": ""},
        {"hub.mode": "unsubscribe"},
        {"hub.verify_token": "\0"},
        {"hub.verify_token": "é" * 10_000},
    ],
)
def test_a_stranger_is_not_echoed(client, changes):
    response = handshake(client, **changes)
    assert response.status_code == 403
    assert b"15f7d1a9" not in response.content


def test_without_a_token_of_the_sites_nobody_is_echoed(client, settings):
    settings.STRAVA_WEBHOOK_VERIFY_TOKEN = ""
    assert handshake(client, **{"hub.verify_token": ""}).status_code == 403


def test_the_token_is_compared_in_constant_time(client, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "integrations.strava.push.constant_time_compare",
        lambda *values: compared.append(values) or False,
    )
    assert handshake(client).status_code == 403
    assert compared == [(TOKEN, TOKEN)]


def test_a_revocation_is_confirmed_and_everything_deleted(alice, client, linked, strava):
    services.sync_strava_gear(alice.pk)
    strava.revoke_grant(ALICE)

    assert send(client, event()).status_code == 200

    row = row_of(alice)
    assert row.strava_status == LinkStatus.NOT_LINKED
    assert row.strava_refresh_token is None
    assert not Gear.objects.exists()


def test_a_forged_event_does_nothing(alice, client, linked, strava):
    before = row_of(alice).strava_refresh_token

    assert send(client, event()).status_code == 200

    assert row_of(alice).strava_status == LinkStatus.LINKED
    assert row_of(alice).strava_refresh_token == before


def test_forged_events_cannot_use_up_the_apps_requests(alice, client, linked, strava):
    for _ in range(20):
        assert send(client, event()).status_code == 200
    assert strava.calls["token"] == 3
    pass_time(minutes=15)
    for _ in range(20):
        send(client, event())
    assert strava.calls["token"] == 4
    pass_time(minutes=60)
    for _ in range(20):
        send(client, event())
    assert strava.calls["token"] == 7


@pytest.mark.django_db(transaction=True)
def test_forged_events_at_the_same_moment_cannot_either(alice, linked, strava):
    gate, taken = threading.Barrier(12), []

    def take():
        gate.wait(10)
        taken.append(take_revocation_hint(event()))
        connection.close()

    threads = [threading.Thread(target=take) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 1 <= taken.count(alice.pk) <= 3
    assert taken.count(None) == 12 - taken.count(alice.pk)


@pytest.fixture
def crowd(db, strava):
    """Forty athletes who are linked as the site's app."""
    users = get_user_model().objects.bulk_create(
        get_user_model()(username=f"user{number}") for number in range(40)
    )
    return UsersIntegrations.objects.bulk_create(
        UsersIntegrations(
            user=user,
            strava_token="a",
            strava_refresh_token=f"refresh-{user.pk}",
            strava_athlete_id=1000 + user.pk,
        )
        for user in users
    )


def test_nor_can_those_about_many_athletes(client, strava, crowd):
    """Their ids are public, and the limit is one of all together."""
    strava.fail("token", "500")
    for row in crowd:
        for _ in range(4):
            assert send(client, event(row.strava_athlete_id)).status_code == 200
    assert strava.calls["token"] == 15 * 3

    checked = set()
    for _ in range(5):  # nobody is forgotten
        UsersIntegrations.objects.update(strava_retry_at=None)
        pass_time(minutes=15)
        asked = strava.calls["token"]
        assert strava_tasks.confirm_due_strava_revocations.call() == 10
        assert strava.calls["token"] - asked == 10
        checked |= {row.pk for row in UsersIntegrations.objects.exclude(strava_failures=0)}
    assert checked == {row.pk for row in crowd}


def test_forged_events_cannot_starve_a_true_one(alice, client, linked, strava, crowd, monkeypatch):
    """Thirty linked ids once a minute, for ever: who waits longest gets a share of the checks."""
    monkeypatch.setattr(strava_webhook, "ask_strava", asked := Asked(alice, strava))
    forged = [event(row.strava_athlete_id) for row in crowd[:30]]
    minute = 0

    def a_minute_passes():
        nonlocal minute
        minute = asked.now = minute + 1
        pass_time(minutes=1)
        for each in forged:
            if (user_id := take_revocation_hint(each)) is not None:
                confirm_revocation(user_id)
        if minute % 5 == 0:  # as the scheduler does
            strava_tasks.confirm_due_strava_revocations.call()

    for _ in range(20):
        a_minute_passes()
    strava.revoke_grant(ALICE)
    send(client, event())
    assert row_of(alice).strava_status == LinkStatus.LINKED
    revoked_at = minute
    while row_of(alice).strava_status == LinkStatus.LINKED:
        assert minute - revoked_at < 25
        a_minute_passes()
    # And all this time the app has not used up its requests, of which it has 200.
    for start in range(minute - 15):
        assert asked.between(start, start + 15) <= 100


def test_whoever_was_never_asked_about_does_not_queue_behind_who_was(alice, linked, crowd):
    """Who has a list of a thousand linked ids keeps them all due, for hours ahead of a true one."""
    now = timezone.now()
    UsersIntegrations.objects.update(
        strava_check_due_at=now - timedelta(hours=1), strava_checks_until=now
    )
    UsersIntegrations.objects.filter(user=alice).update(
        strava_check_due_at=now, strava_checks_until=None
    )
    assert alice.pk in take_due_checks()


class Asked:
    """Instead of asking about forged links, which have no token that Strava knows."""

    def __init__(self, alice, strava):
        self.alice, self.ask, self.times = alice, strava_webhook.ask_strava, []
        self.now = 0

    def __call__(self, user_id):
        self.times.append(self.now)
        if user_id == self.alice.pk:
            self.ask(user_id)

    def between(self, start, end):
        return sum(start <= time < end for time in self.times)


def pass_time(minutes):
    """Let the limit of questions, and whatever is due, come nearer by so much."""
    UsersIntegrations.objects.update(
        **{
            name: F(name) - timedelta(minutes=minutes)
            for name in ("strava_checks_until", "strava_check_due_at")
        }
    )


def test_a_true_event_amid_forged_ones_is_only_put_off(alice, client, linked, strava):
    for _ in range(20):
        send(client, event())
    strava.revoke_grant(ALICE)
    send(client, event())
    assert row_of(alice).strava_status == LinkStatus.LINKED
    assert strava_tasks.confirm_due_strava_revocations.call() == 0

    pass_time(minutes=15)
    for _ in range(20):  # more of them push it no further
        UsersIntegrations.objects.update(strava_checks_until=timezone.now() + timedelta(hours=1))
        send(client, event())
    strava_tasks.confirm_due_strava_revocations.enqueue()

    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED
    assert row_of(alice).strava_check_due_at is None


def test_the_same_event_twice_is_harmless(alice, client, linked, strava):
    strava.revoke_grant(ALICE)
    assert [send(client, event()).status_code for _ in range(3)] == [200] * 3
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


def test_a_strava_in_trouble_is_asked_again_later(alice, client, linked, strava):
    strava.revoke_grant(ALICE)
    strava.fail("token", "500")
    send(client, event())
    assert row_of(alice).strava_status == LinkStatus.LINKED

    strava.recover()
    pass_time(minutes=10)
    assert (
        strava_tasks.confirm_due_strava_revocations.call() == 0
    )  # Strava was given a minute's rest
    UsersIntegrations.objects.update(strava_retry_at=a_moment_ago())
    assert strava_tasks.confirm_due_strava_revocations.call() == 1

    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED
    assert strava_tasks.confirm_due_strava_revocations.call() == 0


def test_a_link_that_stands_is_asked_about_no_more(alice, client, linked, strava):
    send(client, event())
    assert row_of(alice).strava_check_due_at is None


def test_an_event_that_comes_while_strava_is_asked_is_asked_about_too(
    alice, client, linked, strava, monkeypatch
):
    ask = strava_webhook.ask_strava

    def ask_while_another_comes(user_id):
        ask(user_id)
        assert take_revocation_hint(event()) == user_id

    monkeypatch.setattr(strava_webhook, "ask_strava", ask_while_another_comes)
    send(client, event())
    assert row_of(alice).strava_check_due_at is not None


def test_without_a_worker_the_event_waits_in_the_row(alice, client, linked, strava, monkeypatch):
    def down(*args):
        raise ConnectionError

    monkeypatch.setattr(type(strava_tasks.confirm_strava_revocation), "enqueue", down)
    strava.revoke_grant(ALICE)
    assert send(client, event()).status_code == 200
    monkeypatch.undo()

    assert row_of(alice).strava_status == LinkStatus.LINKED
    pass_time(minutes=10)
    strava_tasks.confirm_due_strava_revocations.enqueue()
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


def test_a_limit_of_reads_puts_no_check_off(alice, bob, link, strava):
    for user, athlete_id in ((alice, ALICE), (bob, BJORN)):
        link(user, athlete_id)
    UsersIntegrations.objects.update(strava_check_due_at=a_moment_ago())
    # Gear has run into a limit of reads, which the token endpoint is not read from.
    UsersIntegrations.objects.filter(user=bob).update(
        strava_limited_until=timezone.now() + timedelta(hours=5), strava_limited_reads=True
    )
    assert strava_tasks.confirm_due_strava_revocations.call() == 2
    assert strava.calls["token"] == 2
    assert not UsersIntegrations.objects.exclude(strava_check_due_at=None).exists()


def test_any_other_limit_puts_off_all_whose_app_it_is(alice, bob, link, strava):
    for user, athlete_id in ((alice, ALICE), (bob, BJORN)):
        link(user, athlete_id)
    UsersIntegrations.objects.update(strava_check_due_at=a_moment_ago())
    strava.fail("token", "429")

    assert strava_tasks.confirm_due_strava_revocations.call() == 2

    assert strava.calls["token"] == 1  # the other one need not be asked about
    UsersIntegrations.objects.update(strava_check_due_at=a_moment_ago())
    assert take_due_checks() == []
    strava.recover()
    UsersIntegrations.objects.update(strava_limited_until=None, strava_retry_at=None)
    assert strava_tasks.confirm_due_strava_revocations.call() == 2
    assert not UsersIntegrations.objects.exclude(strava_check_due_at=None).exists()


def test_a_lost_key_unlinks_nobody(alice, client, expired, strava, settings):
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopq"]
    send(client, event())
    assert row_of(alice).strava_refreshed_at is not None
    assert row_of(alice).has_secret("strava_refresh_token")


NOISE = [
    event(BJORN),
    event(updates={"authorized": "true"}),
    event(updates={"title": "Morning run"}, object_type="activity"),
    event(updates="false"),
    event(updates=None),
    event(owner_id=""),
    event(owner_id="20001x"),
    event(owner_id="-20001"),
    event(owner_id="9" * 5000),
    event(owner_id=-1),
    event(owner_id=2**70),
    event(owner_id=None),
    event(owner_id=True),
    event(owner_id=1.5),
    {},
    [],
    [event()],
    "text",
    5,
    None,
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 10_000,
    b'{"a":' * 3000,
    b"NaN",
    b"x" * 100_000,
    b'{"owner_id": 1e999}',
]


@pytest.mark.parametrize("body", NOISE, ids=range(len(NOISE)))
def test_noise_is_answered_and_unlinks_nobody(alice, client, linked, strava, body):
    strava.revoke_grant(ALICE)
    response = send(client, body)
    assert response.status_code in (200, 400, 413)
    assert row_of(alice).strava_status == LinkStatus.LINKED
    assert not strava.calls


def test_an_owner_may_come_as_text(alice, client, linked, strava):
    strava.revoke_grant(ALICE)
    assert send(client, event(owner_id=str(ALICE))).status_code == 200
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
def test_other_methods_are_refused(client, method):
    assert client.generic(method, URL).status_code == 405


def test_no_login_and_no_csrf_token_are_needed(db, strava):
    from django.test import Client

    assert send(Client(enforce_csrf_checks=True), event()).status_code == 200


def test_the_answer_does_not_wait_for_strava(alice, client, linked, strava, settings):
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    strava.fail("*", "silence", seconds=30)
    started = time.monotonic()
    assert send(client, event()).status_code == 200
    assert time.monotonic() - started < 2
    assert not strava.calls


def test_a_database_in_trouble_asks_strava_to_come_again(client, db, linked):
    def fail(execute, sql, params, many, context):
        raise DatabaseError("s3cret")

    with connection.execute_wrapper(fail):
        response = send(client, event())
    assert response.status_code == 503
    assert b"s3cret" not in response.content


# --- Chunks, and no last slash -----------------------------------------------------------------


def chunked(body, **more):
    return {
        "HTTP_TRANSFER_ENCODING": "chunked",
        "wsgi.input": BytesIO(body),
        "wsgi.input_terminated": True,
        "REMOTE_ADDR": "203.0.113.9",
        **more,
    }


class Broken(BytesIO):
    def read(self, size=-1):
        raise RuntimeError("an invalid chunk")


@pytest.mark.parametrize(
    ("stream", "terminated", "status"),
    [
        (b'{"object_type": "activity"}', True, 200),
        (b"x" * (MAX_EVENT + 1), True, 413),
        (b" " * 10_000_000, True, 413),
        (b"{", True, 400),
        (b"", True, 400),
        (Broken(), True, 400),
        (b'{"object_type": "activity"}', False, 411),
    ],
)
def test_a_host_s_webhook_understands_chunks(db, client, strava, stream, terminated, status):
    stream = BytesIO(stream) if isinstance(stream, bytes) else stream
    environ = chunked(b"", **{"wsgi.input": stream, "wsgi.input_terminated": terminated})
    response = client.generic("POST", URL, content_type="application/json", **environ)
    assert response.status_code == status


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("url", [URL, URL.rstrip("/")])
def test_the_webhook_answers_with_and_without_its_last_slash(db, client, settings, url, debug):
    settings.DEBUG, settings.STRAVA_WEBHOOK_VERIFY_TOKEN = debug, TOKEN
    query = {"hub.mode": "subscribe", "hub.challenge": "15f7d1a9", "hub.verify_token": TOKEN}
    assert client.get(url, query).json() == handshake(client).json()
    assert client.post(url, event(), content_type="application/json").status_code == 200
    assert client.get(f"{url}x").status_code == 404


# --- The command, over real HTTP both ways ------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_subscriptions_whole_life(live_server, alice, linked, strava, capsys, client):
    call_command("strava_webhook", "create", callback_url=f"{live_server.url}{URL}")
    call_command("strava_webhook", "list")
    out = capsys.readouterr().out
    assert "Created subscription" in out
    secret = re.search(rf"{live_server.url}{URL}([\w-]{{43}})/", out)[1]
    assert secret not in json.dumps(list(PushSubscription.objects.values()))

    # Nobody else knows where to send an event.
    for url in (URL, URL.rstrip("/"), f"{URL}{secret[:-1]}/", f"{URL}x/"):
        assert handshake(client, url=url).status_code == 404
        assert send(client, event(), url=url).status_code == 404
    assert redact(f"GET {URL}{secret}/ 200") == f"GET {URL}{REDACTED}/ 200"
    assert not strava.calls["token"]

    assert strava.revoke_as_athlete(ALICE) == [200]
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED

    call_command("strava_webhook", "delete")
    call_command("strava_webhook", "list")
    assert capsys.readouterr().out == "Deleted 1 subscription(s).\n"
    assert strava.violations == []


@pytest.mark.django_db(transaction=True)
def test_a_callback_that_does_not_answer_is_said_plainly(strava):
    with pytest.raises(CommandError, match="callback URL has to answer"):
        call_command("strava_webhook", "create", callback_url="http://127.0.0.1:9/")
    assert not PushSubscription.objects.exists()


# --- Which subscription is ours -----------------------------------------------------------------


@pytest.fixture
def old(strava):
    """A subscription that a former release has made; this one knows nothing of it yet."""
    return strava.subscribe(CLIENT_ID, f"https://example.com{URL}")


@pytest.fixture
def is_asked(alice, linked):
    """Whether an event causes a question."""

    def is_asked(secret="", **changes):
        found = take_revocation_hint(event(**changes), secret) == alice.pk
        UsersIntegrations.objects.update(strava_checks_until=None, strava_check_due_at=None)
        return found

    return is_asked


def test_one_that_is_not_known_yet_locks_nothing_out(client, old, is_asked):
    assert is_asked(subscription_id=old.id)
    assert is_asked(subscription_id=5)  # anybody's
    assert handshake(client).status_code == 200


def test_it_is_learned_from_strava(client, strava, old, is_asked):
    assert strava_tasks.learn_strava_subscription.call() is True
    assert is_asked(subscription_id=old.id)
    assert is_asked(subscription_id=str(old.id))
    for other in (5, 0, None, "", [], {}, True, f"{old.id}.0", -old.id):
        assert not is_asked(subscription_id=other), other
    assert handshake(client).status_code == 200  # the path answers until it is made anew

    strava.unsubscribe(old.id, CLIENT_ID)
    anew = strava.subscribe(CLIENT_ID, old.callback_url)  # by hand
    learn_subscription()
    assert is_asked(subscription_id=anew.id)
    assert not is_asked(subscription_id=old.id)

    strava.unsubscribe(anew.id, CLIENT_ID)
    learn_subscription()
    assert is_asked(subscription_id=5)


def test_its_secret_is_learned_as_well(client, strava, is_asked):
    """After a restored backup, for example."""
    secret = "x" * 43
    one = strava.subscribe(CLIENT_ID, f"https://example.com/sub{URL}{secret}/")
    assert handshake(client, url=f"{URL}{secret}/").status_code == 404
    list_subscriptions()
    assert handshake(client, url=f"{URL}{secret}/").status_code == 200
    assert handshake(client).status_code == 404
    assert is_asked(secret, subscription_id=one.id)
    assert not is_asked(secret, subscription_id=one.id + 1)


def test_a_proxy_with_paths_of_its_own_is_not_cut_off(client, strava, is_asked):
    one = strava.subscribe(CLIENT_ID, "https://hooks.example.com/strava")
    learn_subscription()
    assert handshake(client).status_code == 200
    assert is_asked(subscription_id=one.id)

    strava.unsubscribe(one.id, CLIENT_ID)
    secret = "y" * 43
    PushSubscription.objects.create(secret_digest=strava_webhook._digest(secret))
    assert is_asked(secret, subscription_id=77)  # made at this moment, so it has no id yet
    one = strava.subscribe(CLIENT_ID, f"https://hooks.example.com/strava/{secret}/")
    learn_subscription()
    assert handshake(client, url=f"{URL}{secret}/").status_code == 200
    assert is_asked(secret, subscription_id=one.id)


@pytest.mark.parametrize("fault", ["500", "401_client", "wrong_types", "reset_before"])
def test_a_strava_in_trouble_changes_nothing_of_it(strava, old, is_asked, fault):
    assert learn_subscription() is True
    strava.fail("push_subscriptions", fault)
    assert learn_subscription() is False
    assert is_asked(subscription_id=old.id)
    assert not is_asked(subscription_id=5)


@pytest.mark.parametrize("missing", ["STRAVA_WEBHOOK_VERIFY_TOKEN", "STRAVA_CLIENT_ID"])
def test_without_a_subscription_nothing_is_asked(strava, settings, missing):
    setattr(settings, missing, "")
    assert learn_subscription() is False
    assert not strava.calls


@pytest.mark.parametrize("missing", ["STRAVA_WEBHOOK_VERIFY_TOKEN", "STRAVA_CLIENT_ID"])
def test_a_missing_setting_is_said_plainly(strava, settings, missing):
    setattr(settings, missing, "")
    with pytest.raises(CommandError):
        call_command("strava_webhook", "create", callback_url="http://127.0.0.1:9/")


def test_create_needs_an_address(strava):
    with pytest.raises(CommandError, match="callback-url"):
        call_command("strava_webhook", "create")
