"""One refresh at a time over processes, and a refresher that is killed midway."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from django.utils import timezone

from integrations import exceptions, services
from integrations.models import LinkStatus, UsersIntegrations

from .conftest import a_moment_ago, row_of
from .processes import BASE_DIR, PYTHON, environment

# Asks in several threads at once when told to on standard input; prints what each one got.
CALLERS = """
import json, sys, threading, django
django.setup()
from django.db import connection
from integrations import exceptions, services
user_id, count = int(sys.argv[1]), int(sys.argv[2])
got, barrier = [], threading.Barrier(count)
def ask():
    connection.ensure_connection()
    barrier.wait()
    try:
        got.append(services.get_strava_access_token(user_id))
    except Exception as exc:
        got.append(type(exc).__name__)
    finally:
        connection.close()
threads = [threading.Thread(target=ask) for _ in range(count)]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(got))
"""


@pytest.fixture
def callers():
    """Start a process with that many callers; it waits for a line to begin."""
    processes = []

    def start(user, count):
        process = subprocess.Popen(
            [PYTHON, "-c", CALLERS, str(user.pk), str(count)],
            env=environment(),
            cwd=BASE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.django_db(transaction=True)
def test_24_callers_in_3_processes_cause_one_refresh(alice, expired, strava, callers):
    strava.fail("token", "delay", seconds=0.5)
    processes = [callers(alice, 8) for _ in range(3)]

    for process in processes:
        go(process)
    tokens = [token for process in processes for token in json.loads(process.stdout.readline())]

    assert len(tokens) == 24
    assert strava.calls["token"] == 1
    assert set(tokens) == {row_of(alice).strava_token}
    assert strava.is_alive(tokens[0])


@pytest.mark.django_db(transaction=True)
def test_a_refresher_killed_before_strava_answers_frees_the_way(alice, expired, strava, callers):
    strava.fail("token", "silence", times=1, seconds=30)
    process = callers(alice, 1)
    go(process)
    while not row_of(alice).strava_lease or not strava.requests:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    row = row_of(alice)
    assert row.strava_lease is not None
    assert (row.strava_lease_until - timezone.now()).total_seconds() < 60
    # Half a minute is long for a test: let the rest of the lease pass at once.
    UsersIntegrations.objects.update(strava_lease_until=a_moment_ago())

    token = services.get_strava_access_token(alice.pk)

    assert strava.is_alive(token)


@pytest.mark.django_db(transaction=True)
def test_a_refresher_killed_after_strava_rotated_costs_a_relink_and_says_so(
    alice, expired, strava, callers
):
    """The one window that nobody can close: Strava has spent the token, and we are gone."""
    strava.fail("token", "reset_after", times=1)
    with pytest.raises(exceptions.ProviderUnavailable):
        services.get_strava_access_token(alice.pk)
    assert row_of(alice).strava_status == LinkStatus.LINKED

    with pytest.raises(exceptions.StravaRelinkRequired):
        services.get_strava_access_token(alice.pk)
    assert row_of(alice).strava_status == LinkStatus.RELINK_REQUIRED
