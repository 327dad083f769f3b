"""A provider has answered, and the token that it was asked with is spent: the answer is stored,
however long the database or the process that holds the answer is away."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import OperationalError, ProgrammingError, connection, connections
from django.utils import timezone

from integrations import exceptions, providers, receivers, services
from integrations.fields import fernet
from integrations.models import LinkEvent, LinkStatus, UsersIntegrations
from integrations.models.integrations import STRAVA
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.strava import ALICE
from integrations.services import _compiled, _single_flight, _spool
from integrations.services._single_flight import GRACE, WAITING
from integrations.services.keys import rotate_fernet_keys
from integrations.services.sweep import sweep_tokens
from integrations.services.tokens import keeper_of
from integrations.signals import relink_required
from integrations.strava.client import StravaClient
from integrations.strava.provider import Strava as StravaProvider
from integrations.strava.push import confirm_revocation

from .conftest import a_moment_ago, row_of
from .processes import BASE_DIR, PYTHON, Away, environment, wait_until
from .test_garminconnect_session import link as link_garmin

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("in_one_window"),
]


@pytest.fixture
def spooled(settings):
    """The files in which answers wait."""
    return lambda: list(Path(settings.INTEGRATIONS_SPOOL_DIR).glob("*"))


@pytest.fixture
def away(monkeypatch):
    """A database for other processes that can be away; and for this one, whose store fails."""
    database = Away()
    yield database
    database.close()


@pytest.fixture
def storing_fails(monkeypatch):
    """Set `.now`, and the database takes no answer until it is unset again."""
    update = _compiled.update_where

    class Failing:
        now = False

    def update_where(*args):
        if Failing.now:
            raise OperationalError("the database system is starting up")
        return update(*args)

    monkeypatch.setattr(_compiled, "update_where", update_where)
    yield Failing
    Failing.now = False
    wait_until(lambda: not _spool._in_hand.answers, 30, 0.02)


@pytest.fixture
def told_dead():
    """The providers of the links that host projects are told to relink."""
    told = []

    def receive(provider, **kwargs):
        told.append(provider)

    relink_required.connect(receive)
    yield told
    relink_required.disconnect(receive)


def run(*arguments, **env):
    return subprocess.Popen(
        [PYTHON, *arguments],
        env=environment(**env),
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def let_the_lease_run_out(provider="strava"):
    UsersIntegrations.objects.update(**{f"{provider}_lease_until": timezone.now()})


def let_the_grace_pass(provider="strava"):
    rows = UsersIntegrations.objects.filter(**{f"{provider}_lease": WAITING})
    assert rows.update(**{f"{provider}_lease_until": timezone.now()})


# --- A database that is away --------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_process_could_not_store_is_stored_by_the_next(
    alice, expired, strava, away, spooled, end
):
    strava.fail("token", "delay", seconds=0.5)
    sweep = run("manage.py", "refresh_strava_tokens", DATABASE_URL=away.url)
    wait_until(lambda: strava.requests, interval=0.01)
    away.go()
    wait_until(spooled)
    [path] = wait_until(lambda: [each for each in spooled() if each.suffix == ".sealed"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    sweep.send_signal(end)
    # A statement that waits for a lock notices no signal: that is what orchestrators kill for.
    if end == signal.SIGKILL or connection.vendor != "sqlite":
        sweep.communicate(timeout=15)
    else:
        sweep.kill()
        sweep.communicate()
    away.come_back()
    assert not strava.is_alive(row_of(alice).strava_refresh_token)

    strava.recover()
    run("manage.py", "refresh_strava_tokens", DATABASE_URL=away.url).communicate(timeout=60)

    assert strava.calls["token"] == 1
    assert strava.is_alive(row_of(alice).strava_refresh_token)
    assert row_of(alice).strava_status == LinkStatus.LINKED
    assert spooled() == []


def test_a_caller_is_told_to_try_again_and_the_answer_is_stored_later(
    alice, expired, strava, storing_fails, monkeypatch, spooled
):
    monkeypatch.setattr(_single_flight, "STORE_FOR", 0.3)
    storing_fails.now = True
    with pytest.raises(exceptions.IntegrationsDatabaseError):
        services.get_strava_access_token(alice.pk)
    assert not strava.is_alive(row_of(alice).strava_refresh_token)

    # Whoever asks after the lease has run out gets no wrong answer either.
    let_the_lease_run_out()
    storing_fails.now = False
    wait_until(lambda: strava.is_alive(row_of(alice).strava_refresh_token), 15)

    assert strava.is_alive(services.get_strava_access_token(alice.pk))
    assert strava.calls["token"] == 1
    wait_until(lambda: not spooled())


def test_a_sweep_waits_until_all_of_it_is_stored(
    alice, expired, strava, storing_fails, monkeypatch
):
    monkeypatch.setattr(_single_flight, "STORE_FOR", 0.1)
    storing_fails.now = True
    counts = []

    def sweep():
        counts.append(sweep_tokens().as_dict())
        connections.close_all()

    thread = threading.Thread(target=sweep)
    thread.start()
    wait_until(lambda: strava.calls["token"])
    time.sleep(0.5)
    assert thread.is_alive()
    storing_fails.now = False
    thread.join(20)
    assert counts[0]["refreshed"] == 1
    assert strava.is_alive(row_of(alice).strava_refresh_token)


def test_without_a_file_the_process_holds_the_answer(
    alice, expired, strava, storing_fails, monkeypatch, settings, tmp_path, caplog
):
    """A full disk takes no file either."""
    monkeypatch.setattr(_single_flight, "STORE_FOR", 0.3)
    monkeypatch.setattr(_spool, "WRITE_AFTER", 0.1)
    (tmp_path / "file").touch()
    settings.INTEGRATIONS_SPOOL_DIR = str(tmp_path / "file")
    storing_fails.now = True
    with pytest.raises(exceptions.IntegrationsDatabaseError):
        services.get_strava_access_token(alice.pk)
    storing_fails.now = False
    wait_until(lambda: strava.is_alive(row_of(alice).strava_refresh_token), 15)
    [_] = [each for each in caplog.records if each.event == "strava.answer_not_spooled"]


def test_garmins_session_is_held_the_same_way(alice, garmin, storing_fails, monkeypatch, spooled):
    monkeypatch.setattr(_single_flight, "STORE_FOR", 0.1)
    link_garmin(garmin, alice, expires_in=300)
    storing_fails.now = True
    with pytest.raises(exceptions.IntegrationsDatabaseError):
        services.get_garminconnect_client(alice.pk)
    storing_fails.now = False
    wait_until(lambda: garmin_lives(alice, garmin), 15)
    assert services.get_garminconnect_client(alice.pk)


def garmin_lives(user, garmin):
    return garmin.is_alive(row_of(user).garminconnect_oauth2["di_refresh_token"])


# --- The file -----------------------------------------------------------------------------------


@pytest.fixture
def left_behind(alice, expired, garmin, strava, storing_fails, monkeypatch):
    """Both providers' answers are in files, and nobody holds them any more."""
    link_garmin(garmin, alice, expires_in=300)
    monkeypatch.setattr(_single_flight, "STORE_FOR", 0)
    monkeypatch.setattr(_single_flight.TokenKeeper, "_store_on", lambda *args: None)
    storing_fails.now = True
    for ask in (services.get_strava_access_token, services.get_garminconnect_client):
        with pytest.raises(exceptions.IntegrationsDatabaseError):
            ask(alice.pk)
    storing_fails.now = False
    assert not strava.is_alive(row_of(alice).strava_refresh_token)
    assert not garmin_lives(alice, garmin)


def test_a_process_that_starts_stores_what_waits(alice, left_behind, strava, garmin, spooled):
    assert len(spooled()) == 2
    run("manage.py", "shell", "-c", STARTED).communicate(timeout=60)
    wait_until(lambda: not spooled(), 10)
    assert strava.is_alive(row_of(alice).strava_refresh_token)
    assert garmin_lives(alice, garmin)
    assert row_of(alice).strava_lease is row_of(alice).garminconnect_lease is None


STARTED = "import time; from integrations.models import Gear; Gear.objects.count(); time.sleep(2)"


def test_a_sweep_stores_what_waits_before_it_asks(alice, left_behind, strava):
    """A worker that has been running for days looked into the files when it started."""
    asked = strava.calls["token"]
    let_the_lease_run_out()
    sweep_tokens()
    assert strava.calls["token"] == asked
    assert strava.is_alive(row_of(alice).strava_refresh_token)


def test_a_refusal_looks_into_the_files_first(alice, left_behind, strava, garmin, spooled):
    for provider, ask in (
        ("strava", services.get_strava_access_token),
        ("garminconnect", services.get_garminconnect_client),
    ):
        let_the_lease_run_out(provider)
        assert ask(alice.pk)
    assert spooled() == []
    assert strava.is_alive(row_of(alice).strava_refresh_token)


def test_a_file_shows_nothing_to_whoever_has_no_key(
    alice, left_behind, strava, garmin, spooled, settings, caplog
):
    content = b"".join(path.read_bytes() for path in spooled())
    for secret in ("access_token", "strava", "di_refresh_token", str(ALICE), GARMIN_ALICE):
        assert secret.encode() not in content
    keys, settings.FERNET_KEYS = settings.FERNET_KEYS, ["another-key-0123456789-abcdefghijklmnopq"]
    receivers._take_up_answers()
    assert len(spooled()) == 2
    assert {each.event for each in caplog.records if "opened" in each.message} == {
        "spool.unreadable"
    }
    settings.FERNET_KEYS = ["a-newer-key-0123456789-abcdefghijklmn", *keys]
    rotate_fernet_keys()
    receivers._take_up_answers()
    assert spooled() == []
    assert strava.is_alive(row_of(alice).strava_refresh_token)
    assert garmin_lives(alice, garmin)


def test_an_answer_of_another_database_is_left_to_its_own(
    alice, left_behind, strava, spooled, monkeypatch
):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(_spool, "_database", lambda: "another")
        receivers._take_up_answers()
        assert len(spooled()) == 2
    receivers._take_up_answers()
    assert spooled() == []
    assert strava.is_alive(row_of(alice).strava_refresh_token)


def test_an_answer_of_another_release_is_stored_as_far_as_its_columns_are_known(
    alice, left_behind, strava, garmin, spooled
):
    for path in spooled():
        content = json.loads(fernet().decrypt(path.read_bytes()))
        content["row"]["of_another_release"] = content["columns"]["of_another_release"] = "1"
        path.write_bytes(fernet().encrypt(json.dumps(content).encode()))
    assert sweep_tokens().as_dict()["failed"] == 0
    receivers._take_up_answers()
    assert spooled() == []
    assert strava.is_alive(row_of(alice).strava_refresh_token)
    assert garmin_lives(alice, garmin)


def test_a_refusal_looks_into_the_files_even_if_the_lease_was_forgotten(
    alice, left_behind, strava, told_dead
):
    """A server that takes over, or a backup, may not have heard of the last lease."""
    UsersIntegrations.objects.update(strava_lease=None, strava_lease_until=None)
    assert strava.is_alive(services.get_strava_access_token(alice.pk))
    assert told_dead == []
    assert row_of(alice).strava_status == LinkStatus.LINKED


@pytest.mark.parametrize("content", [b"", b"gAAAAA", b"{}", b"[1]"])
@pytest.mark.parametrize("is_sealed", [True, False])
def test_what_is_no_answer_is_left_alone(alice, left_behind, spooled, content, is_sealed):
    other = spooled()[0].with_name("other.sealed")
    other.write_bytes(fernet().encrypt(content) if is_sealed else content)
    receivers._take_up_answers()
    assert spooled() == [other]


def test_an_answer_that_cannot_be_stored_stops_no_other(
    alice, left_behind, strava, garmin, spooled, monkeypatch
):
    def refuse(answer):
        raise ProgrammingError("permission denied")

    monkeypatch.setattr(keeper_of(providers.get("strava")), "_store_once", refuse)
    assert sweep_tokens().as_dict()["failed"] == 0
    receivers._take_up_answers()
    assert len(spooled()) == 1
    assert garmin_lives(alice, garmin)


def test_a_link_made_anew_meanwhile_stays_as_it_is(alice, left_behind, strava, garmin, spooled):
    state = services.begin_authorization(alice.pk, "strava", "http://testserver/").state
    services.complete_authorization(alice.pk, "strava", state=state, code=strava.grant(ALICE))
    link_garmin(garmin, alice)
    stored = row_of(alice).strava_refresh_token, row_of(alice).garminconnect_oauth2
    receivers._take_up_answers()
    assert spooled() == []
    assert (row_of(alice).strava_refresh_token, row_of(alice).garminconnect_oauth2) == stored
    assert strava.is_alive(stored[0])


def test_a_link_that_is_gone_by_then_is_revoked(alice, left_behind, strava, spooled):
    services.unlink_strava_account(alice.pk)
    services.unlink_garminconnect_account(alice.pk)
    assert strava.counts()["refresh_tokens"] == 1
    receivers._take_up_answers()
    assert strava.counts()["refresh_tokens"] == 0
    assert spooled() == []


# Refreshes, forks, and refreshes again in the child, where the database does not answer.
FORK = """
import os, sys, time, django
django.setup()
from django.db import connection
from integrations import services
user_id, parent = int(sys.argv[1]), os.getpid()
def hang(execute, sql, *more):
    while '"strava_token" = ' in sql:
        if os.getppid() != parent:
            os._exit(0)
        time.sleep(0.05)
    return execute(sql, *more)
services.refresh_link(user_id, "strava")
connection.close()
if os.fork() == 0:
    connection.execute_wrappers.append(hang)
    services.refresh_link(user_id, "strava")
os.wait()
"""


def test_an_answer_of_a_forked_process_is_written_to_a_file_too(alice, expired, strava, spooled):
    parent = run("-c", FORK, str(alice.pk))
    try:
        wait_until(lambda: [each for each in spooled() if each.suffix == ".sealed"], 30)
    finally:
        parent.kill()
        parent.communicate()
    assert strava.calls["token"] == 2


# --- A lease that ran out without being released ------------------------------------------------

ASK = """
import sys, django
django.setup()
from integrations import services
print("ready", flush=True)
sys.stdin.readline()
print(services.get_strava_access_token(int(sys.argv[1])))
"""


def test_a_holder_paused_past_its_lease_loses_nothing(alice, expired, strava, told_dead):
    strava.fail("token", "delay", times=1, seconds=0.5)
    holder = subprocess.Popen(
        [PYTHON, "-c", ASK, str(alice.pk)],
        env=environment(),
        cwd=BASE_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "ready\n"
    before = row_of(alice).strava_refresh_token, LinkEvent.objects.count()
    holder.stdin.write("go\n")
    holder.stdin.flush()
    wait_until(lambda: strava.requests, interval=0.01)
    holder.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: not strava.is_alive(before[0]), interval=0.02)
        let_the_lease_run_out()
        for _ in range(2):  # the second does not even ask
            with pytest.raises(exceptions.ProviderUnavailable) as refused:
                services.get_strava_access_token(alice.pk)
            assert 0 < refused.value.retry_after <= GRACE
        assert strava.calls["token"] == 2
        assert sweep_tokens().as_dict()["skipped"] == 1
        assert row_of(alice).strava_status == LinkStatus.LINKED
        assert LinkEvent.objects.count() == before[1]
        assert row_of(alice).strava_error == ""
    finally:
        holder.send_signal(signal.SIGCONT)
    token, _ = holder.communicate(timeout=30)

    assert strava.is_alive(token.strip())
    assert row_of(alice).strava_token == token.strip()
    assert row_of(alice).strava_lease is None
    assert strava.is_alive(row_of(alice).strava_refresh_token)
    assert told_dead == []
    assert LinkEvent.objects.count() == before[1]


def code_of(call, user):
    with pytest.raises(exceptions.IntegrationsError) as caught:
        call(user.pk)
    return caught.value.code


def ask_on_demand(user):
    return code_of(services.get_strava_access_token, user)


def sweep(user):
    counts = sweep_tokens(within=10**6)
    assert counts.refreshed == 0
    return (
        "relink_required"
        if row_of(user).strava_status == "relink_required"
        else "provider_unavailable"
    )


def ask_garmin(user):
    return code_of(services.get_garminconnect_client, user)


def confirm(user):
    UsersIntegrations.objects.update(strava_check_due_at=a_moment_ago())
    return confirm_revocation(user.pk)


@pytest.fixture
def ended(alice, expired, strava, garmin):
    """Both providers have ended the link, and a refresher of each was killed."""
    link_garmin(garmin, alice, expires_in=300)
    strava.revoke_grant(ALICE)
    garmin.revoke(GARMIN_ALICE)
    UsersIntegrations.objects.update(strava_lease=uuid.uuid4(), garminconnect_lease=uuid.uuid4())
    for provider in ("strava", "garminconnect"):
        let_the_lease_run_out(provider)


@pytest.mark.parametrize(
    ("provider", "ask"),
    [
        ("strava", ask_on_demand),
        ("strava", sweep),
        ("strava", confirm),
        ("garminconnect", ask_garmin),
    ],
)
def test_a_link_that_has_really_ended_ends_after_a_bounded_wait(
    alice, ended, told_dead, provider, ask
):
    before = LinkEvent.objects.count()
    for _ in range(2):
        assert ask(alice) == "provider_unavailable"
    row = row_of(alice)
    assert not providers.get(provider).home.has_ended(row)
    left = getattr(row, f"{provider}_lease_until") - timezone.now()
    assert timedelta(seconds=GRACE - 60) < left <= timedelta(seconds=GRACE)
    assert LinkEvent.objects.count() == before
    assert told_dead == []

    let_the_grace_pass(provider)

    assert ask(alice) in ("relink_required", "unlinked")
    assert told_dead == [provider]


@pytest.mark.parametrize("ask", [ask_on_demand, sweep])
def test_trouble_at_the_provider_takes_no_doubt_away(alice, ended, strava, told_dead, ask):
    strava.fail("token", "500", times=1)
    assert ask(alice) == "provider_unavailable"
    UsersIntegrations.objects.update(strava_retry_at=None)
    assert ask(alice) == "provider_unavailable"
    assert strava.calls["token"] == 2
    assert told_dead == []
    assert row_of(alice).strava_lease == WAITING


def test_one_whose_lease_is_anothers_by_now_concludes_nothing(
    alice, expired, strava, told_dead, monkeypatch
):
    """The other has spent the token, and is about to store what it got."""
    ask, tokens = StravaClient.refresh_access_token, []

    def overtaken(self, refresh_token):
        tokens.append(ask(self, refresh_token))  # as the other
        UsersIntegrations.objects.update(
            strava_lease=uuid.uuid4(), strava_lease_until=a_moment_ago() + timedelta(seconds=20)
        )
        monkeypatch.setattr(StravaClient, "refresh_access_token", ask)
        threading.Timer(0.5, store).start()
        return ask(self, refresh_token)

    def store():
        UsersIntegrations.objects.update(
            **STRAVA.columns(**StravaProvider().token_values(tokens[0], timezone.now()))
        )
        connections.close_all()

    monkeypatch.setattr(StravaClient, "refresh_access_token", overtaken)
    assert strava.is_alive(services.get_strava_access_token(alice.pk))
    assert told_dead == []


def test_a_pair_that_comes_after_the_end_makes_the_link_whole(alice, left_behind, strava):
    UsersIntegrations.objects.update(
        strava_relink_required_at=timezone.now(), strava_error="relink_required"
    )
    receivers._take_up_answers()
    assert row_of(alice).strava_status == LinkStatus.LINKED
    assert row_of(alice).strava_error == ""
    assert strava.is_alive(services.get_strava_access_token(alice.pk))
