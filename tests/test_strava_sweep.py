"""The sweep: every token that is due, once, whoever else is at it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import uuid
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.utils import timezone

from integrations import services, tasks
from integrations.exceptions import IntegrationsDatabaseError
from integrations.models import LinkStatus, UsersIntegrations
from integrations.sandbox.strava import OTHER_CLIENT_ID, OTHER_CLIENT_SECRET
from integrations.services._parallel import run_parallel
from integrations.services.sweep import sweep_tokens
from integrations.strava.client import StravaTokens

from .conftest import a_moment_ago
from .processes import BASE_DIR, PYTHON, database_url, environment

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("in_one_window"),
]


@pytest.fixture
def athletes(strava):
    """Make that many linked users, whose tokens expire in so many seconds; returns their ids."""

    def athletes(count, expires_in=600, own_app=False, start=1):
        users = get_user_model().objects.bulk_create(
            get_user_model()(username=f"athlete{start + number}-{expires_in}-{own_app}")
            for number in range(count)
        )
        rows = []
        for number, user in enumerate(users):
            athlete_id = 900_000 + user.pk
            strava.add_athlete(athlete_id)
            client_id = OTHER_CLIENT_ID if own_app else strava_client_id(strava)
            tokens = StravaTokens(
                **strava.issue_tokens(athlete_id, client_id, expires_in=expires_in)
            )
            rows.append(
                UsersIntegrations(
                    user=user,
                    strava_token=tokens.access_token,
                    strava_refresh_token=tokens.refresh_token,
                    strava_token_expires_at=tokens.expires(timezone.now())
                    + timedelta(microseconds=number),
                    strava_athlete_id=athlete_id,
                    strava_linked_at=timezone.now(),
                    strava_client_id=OTHER_CLIENT_ID if own_app else None,
                    strava_client_secret=OTHER_CLIENT_SECRET if own_app else None,
                )
            )
        UsersIntegrations.objects.bulk_create(rows)
        return [user.pk for user in users]

    return athletes


def strava_client_id(strava):
    from integrations.sandbox.strava import CLIENT_ID

    return CLIENT_ID


def sweep(**options):
    return sweep_tokens(**options).as_dict()


def test_what_is_due_is_refreshed_and_nothing_else(athletes, strava):
    due = athletes(10, expires_in=600)
    fresh = athletes(5, expires_in=7200)

    assert sweep() == {"due": 10, "refreshed": 10, "failed": 0, "skipped": 0}

    assert strava.calls["token"] == 10
    for row in UsersIntegrations.objects.filter(user__in=due):
        assert row.strava_token_expires_at > timezone.now() + timedelta(hours=5)
        assert strava.is_alive(row.strava_token)
        assert strava.is_alive(row.strava_refresh_token)
        assert row.strava_lease is None
    assert UsersIntegrations.objects.filter(user__in=fresh, strava_refreshed_at=None).count() == 5
    assert sweep() == {"due": 0, "refreshed": 0, "failed": 0, "skipped": 0}


def test_a_window_longer_than_a_tokens_life_renews_each_token_once(athletes, strava):
    athletes(4)
    strava.token_lifetime = 900
    assert sweep(within=86_400) == {"due": 4, "refreshed": 4, "failed": 0, "skipped": 0}
    assert strava.calls["token"] == 4


def test_a_wider_window_does_not_ask_for_ever(athletes, strava):
    athletes(3, expires_in=7200)  # Strava answers with the same token
    assert sweep(within=10_000)["refreshed"] == 3
    assert strava.calls["token"] == 3


def test_one_failure_stops_no_other(athletes, strava):
    ids = athletes(6)
    strava.revoke_grant(900_000 + ids[2])
    strava.fail("token", "500", times=1)

    assert sweep(workers=1) == {"due": 6, "refreshed": 4, "failed": 2, "skipped": 0}

    dead = UsersIntegrations.objects.get(user=ids[2])
    assert dead.strava_status == LinkStatus.RELINK_REQUIRED
    [put_off] = UsersIntegrations.objects.filter(strava_failures=1)
    assert put_off.strava_retry_at > timezone.now()
    # what is dead or put off is not asked again
    before = strava.calls["token"]
    assert sweep()["due"] == 0
    assert strava.calls["token"] == before
    UsersIntegrations.objects.update(strava_retry_at=a_moment_ago())
    assert sweep()["refreshed"] == 1


def test_a_rate_limit_stops_that_apps_work_alone(athletes, strava):
    athletes(6)
    athletes(2, own_app=True)
    strava.fail("token", "429", times=1)

    counts = sweep(workers=1)

    assert counts == {"due": 8, "refreshed": 2, "failed": 1, "skipped": 5}
    assert strava.calls["token"] == 3
    assert UsersIntegrations.objects.filter(strava_lease__isnull=False).count() == 0
    # the next sweep knows it, without asking
    assert sweep(workers=1)["skipped"] == 5
    assert strava.calls["token"] == 3
    # until the window turns
    UsersIntegrations.objects.filter(strava_error="rate_limited").update(
        strava_retry_at=a_moment_ago(), strava_limited_until=timezone.now()
    )
    assert sweep()["refreshed"] == 6


def test_two_sweeps_do_not_do_the_same_work(athletes, strava):
    athletes(60)
    strava.fail("token", "delay", seconds=0.02)
    results = []

    def run():
        results.append(sweep(workers=4))
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert strava.calls["token"] == 60
    assert sum(result["refreshed"] for result in results) == 60
    assert sum(result["failed"] for result in results) == 0


def test_two_sweeps_in_two_processes_refresh_each_token_once(athletes, strava):
    athletes(80)
    strava.fail("token", "delay", seconds=0.02)
    processes = [
        subprocess.Popen(
            [PYTHON, "manage.py", "refresh_strava_tokens", "--json", "--workers", "6"],
            env=environment(),
            cwd=BASE_DIR,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    counts = [json.loads(process.communicate(timeout=120)[0]) for process in processes]

    assert strava.calls["token"] == 80
    assert sum(count["refreshed"] for count in counts) == 80
    assert sum(count["failed"] for count in counts) == 0
    assert UsersIntegrations.objects.filter(strava_error="").count() == 80


def test_an_athlete_and_the_sweep_share_one_refresh(athletes, strava):
    [user_id] = athletes(1, expires_in=-60)
    strava.fail("token", "delay", seconds=0.5)
    got = []

    def ask():
        got.append(services.get_strava_access_token(user_id))
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    while not UsersIntegrations.objects.filter(strava_lease__isnull=False).exists():
        pass
    sweep()
    thread.join()

    assert strava.calls["token"] == 1
    assert got == [UsersIntegrations.objects.get().strava_token]


def test_a_lease_of_the_dead_is_taken_over(athletes, strava):
    athletes(3)
    UsersIntegrations.objects.update(
        strava_lease=uuid.uuid4(), strava_lease_until=a_moment_ago() - timedelta(minutes=1)
    )
    assert sweep()["refreshed"] == 3


def test_a_lost_key_is_gone_past(athletes, strava, settings):
    athletes(30)
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopq", *settings.FERNET_KEYS[1:]]
    assert sweep(workers=2)["failed"] == 30
    assert strava.calls["token"] == 0
    assert sweep()["due"] == 0  # put off, like any failure
    assert not UsersIntegrations.objects.filter(strava_relink_required_at__isnull=False).exists()


def test_no_more_is_drawn_than_the_workers_are_busy_with():
    drawn, done, most = 0, 0, 0

    def items():
        nonlocal drawn, most
        for number in range(200):
            drawn += 1
            most = max(most, drawn - done)
            yield number

    def work(item):
        nonlocal done
        time.sleep(0.001)
        done += 1

    run_parallel(items(), work, workers=4)

    assert done == 200
    assert most <= 2 * 4 + 2


def test_a_worker_that_fails_stops_no_other_and_is_told_at_the_end():
    done = []

    def work(item):
        if item == 3:
            raise ZeroDivisionError
        done.append(item)

    with pytest.raises(ZeroDivisionError):
        run_parallel(range(10), work, workers=2)
    assert len(done) == 9


def test_due_rows_are_found_by_the_partial_index(athletes, strava):
    athletes(2)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off")  # two rows are quicker without it
    try:
        plan = UsersIntegrations.objects.filter(
            strava_token_expires_at__lt=timezone.now(), strava_relink_required_at__isnull=True
        ).explain()
    finally:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET enable_seqscan = on")
    assert "users_integrations_strava_due" in plan


# --- A database that has no connection for the threads ------------------------------------------


@pytest.fixture
def role_of_few_connections():
    """A login to the test database that PostgreSQL gives so many connections at a time."""
    name = f"integrations_few_{connection.settings_dict['NAME']}"

    def role(limit):
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'few' CONNECTION LIMIT {limit}")
            cursor.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
            cursor.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
        _, host = database_url().split("@")
        return f"postgres://{name}:few@{host}"

    yield role
    with connection.cursor() as cursor:
        cursor.execute(f"DROP OWNED BY {name}")
        cursor.execute(f"DROP ROLE {name}")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="a file has no connections to count")
@pytest.mark.parametrize("limit", [1, 4])
def test_a_role_with_few_connections_costs_no_token(
    athletes, strava, role_of_few_connections, limit
):
    athletes(40)
    done = subprocess.run(
        [PYTHON, "manage.py", "refresh_strava_tokens", "--workers", "8"],
        env=environment(DATABASE_URL=role_of_few_connections(limit)),
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "too many connections" not in done.stdout  # no internals
    assert lost_at(strava) == 0
    if limit == 1:
        assert done.returncode
        assert not strava.calls["token"]


@pytest.mark.parametrize("threads_that_get_one", [0, 2])
def test_no_token_is_spent_by_a_thread_that_cannot_store_the_answer(
    athletes, strava, monkeypatch, threads_that_get_one
):
    athletes(40)
    strava.fail("token", "delay", seconds=0.02)
    backend, opened = type(connections["default"]), []
    connect = backend.get_new_connection

    def refuse(self, params):
        if threading.current_thread() is not threading.main_thread():
            opened.append(self)
            if len(opened) > threads_that_get_one:
                raise OperationalError("too many connections")
        return connect(self, params)

    monkeypatch.setattr(backend, "get_new_connection", refuse)
    counts = None
    try:
        counts = sweep(workers=6)
    except IntegrationsDatabaseError:
        assert not threads_that_get_one
    assert lost_at(strava) == 0
    assert strava.calls["token"] < 40  # no more is claimed
    if counts:
        assert counts["refreshed"] == strava.calls["token"]
        assert sum(counts.values()) == 2 * counts["due"]


def lost_at(strava):
    """How many links hold a token that Strava has replaced."""
    rows = UsersIntegrations.objects.all()
    return sum(not strava.is_alive(row.strava_refresh_token) for row in rows)


# --- The command --------------------------------------------------------------------------------


def run(*arguments):
    out = StringIO()
    call_command("refresh_strava_tokens", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_prints_its_counts(athletes, strava):
    athletes(3)
    assert run() == "due: 3  refreshed: 3  failed: 0  skipped: 0\n"
    assert json.loads(run("--json")) == {"due": 0, "refreshed": 0, "failed": 0, "skipped": 0}


def test_the_command_fails_where_nothing_could_be_attempted(athletes, strava, settings):
    athletes(2)
    UsersIntegrations.objects.update(strava_limited_until=timezone.now() + timedelta(minutes=5))
    with pytest.raises(CommandError, match="Nothing could be attempted"):
        run()
    UsersIntegrations.objects.update(strava_limited_until=None)
    settings.STRAVA_CLIENT_ID = settings.STRAVA_CLIENT_SECRET = ""
    with pytest.raises(CommandError, match="Nothing could be attempted"):
        run()
    assert not strava.calls["token"]


def test_the_command_is_content_where_another_sweep_is_at_it(athletes, strava):
    athletes(2)
    UsersIntegrations.objects.update(
        strava_lease=uuid.uuid4(), strava_lease_until=a_moment_ago() + timedelta(seconds=30)
    )
    assert run() == "due: 2  refreshed: 0  failed: 0  skipped: 2\n"


def test_the_command_tells_of_its_progress_in_plain_lines(athletes, strava, monkeypatch):
    monkeypatch.setattr("integrations.management.progress.REPORT_EVERY", 0)
    athletes(3)
    lines = run("--workers", "1").splitlines()
    assert len(lines) == 4
    assert lines[0] == "due: 3  refreshed: 1  failed: 0  skipped: 0"


def test_a_window_of_its_own(athletes, strava):
    athletes(1, expires_in=600)
    assert "due: 0" in run("--within", "60")
    assert "due: 1" in run("--within", "900")


@pytest.mark.parametrize("arguments", [("--workers", "0"), ("--within", "-1")])
def test_nonsense_is_refused(strava, arguments):
    with pytest.raises(CommandError):
        run(*arguments)


def test_a_failure_of_every_row_is_an_exit_of_zero(athletes, strava):
    athletes(2)
    strava.fail("token", "500")
    assert "failed: 2" in run()


def test_a_database_that_is_gone_is_an_error(strava):
    def fail(*args):
        raise OperationalError("gone")

    with connection.execute_wrapper(fail), pytest.raises(CommandError, match="attempted"):
        run()


def test_the_task_is_the_sweep(athletes, strava):
    athletes(2)
    assert tasks.refresh_due_tokens.enqueue().return_value["refreshed"] == 2
