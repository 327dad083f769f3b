"""Signals to end, which hold until what must not be cut in two is whole."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from django_tasks_db.models import DBTaskResult

from integrations import ending, services, tasks
from integrations.garminconnect import tasks as garmin_tasks
from integrations.garminconnect.login import begin_login
from integrations.models import FernetCanary, Gear, LinkEvent, UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import PASSWORD
from integrations.services.keys import plant_fernet_canary
from integrations.strava.client import StravaTokens
from project.schedule import Job, Scheduler

from .conftest import row_of
from .processes import BASE_DIR, PYTHON, Athlete, Site, wait_until
from .test_task_backends import RABBITMQ_URL, celery_worker, queue_on

BLOCK = """
import signal, sys, time
from integrations import ending
{before}
with ending.holding():
    print("within", flush=True)
    while not ending.told():
        time.sleep(0.01)
    time.sleep({seconds})
    print("whole", flush=True)
print("after", flush=True)
"""


def start(before="", seconds=0.2):
    process = subprocess.Popen(
        [PYTHON, "-c", BLOCK.format(before=before, seconds=seconds)],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdout.readline() == "within\n"
    return process


@pytest.mark.parametrize("number", ending.SIGNALS)
def test_a_signal_ends_the_process_once_the_block_is_over(number):
    process = start()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert out == "whole\n"
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)


def test_the_handler_that_was_there_before_is_called_and_there_again():
    process = start("signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))")
    process.terminate()
    assert process.communicate(timeout=20)[0] == "whole\nhandled\nafter\n"
    assert process.returncode == 0


def test_what_is_ignored_stays_ignored():
    process = start("signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_a_signal_that_comes_twice_at_once_is_one():
    process = start()
    process.send_signal(signal.SIGHUP)
    process.terminate()
    assert process.communicate(timeout=20)[0] == "whole\n"


def test_a_signal_that_comes_again_later_is_not_held_back():
    process = start(seconds=60)
    process.terminate()
    time.sleep(ending.AGAIN + 0.2)
    process.terminate()
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == -signal.SIGTERM


@pytest.fixture
def ends():
    """What a handler of the process's own has been told."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)
    assert not ending.told()


def test_a_process_that_lives_on_is_not_told_any_more(ends):
    with ending.holding():
        signal.raise_signal(signal.SIGTERM)
        assert ending.wait(20)
        assert not ends
    assert ends == [signal.SIGTERM]


def test_a_block_within_another_changes_nothing(ends):
    with ending.holding():
        with ending.holding():
            signal.raise_signal(signal.SIGTERM)
            assert ending.wait(20)
        assert ending.told()
        assert not ends
    assert ends == [signal.SIGTERM]


def test_a_block_in_a_thread_leaves_the_signals_alone(ends):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with ending.holding():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_block_where_python_has_no_signals_is_a_block(monkeypatch):
    def refuse(*args):
        raise ValueError("signal only works in main thread of the main interpreter")

    monkeypatch.setattr(signal, "signal", refuse)
    with ending.holding():
        pass


def test_a_server_that_listens_is_told_for_good():
    script = """
import signal
from integrations import ending
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
ending.listen()
with ending.holding():
    signal.raise_signal(signal.SIGTERM)
print(ending.wait(20), signal.getsignal(signal.SIGHUP) == signal.SIG_DFL)
"""
    done = subprocess.run(
        [PYTHON, "-c", script], cwd=BASE_DIR, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "handled\nTrue True\n", done.stderr


def test_a_worker_of_gunicorn_listens_and_still_ends_as_gunicorn_wants():
    script = """
import runpy, signal
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
runpy.run_path("gunicorn.conf.py")["post_worker_init"](None)
from integrations import ending
signal.raise_signal(signal.SIGTERM)
print(ending.told())
"""
    done = subprocess.run(
        [PYTHON, "-c", script], cwd=BASE_DIR, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "handled\nTrue\n", done.stderr


def test_a_forked_process_is_told_with_its_parent_and_never_the_other_way_round():
    script = """
import os, sys
from integrations import ending
child = os.fork()
if child == 0:
    ending.tell() if sys.argv[1] == "child" else ending.wait(20)
    os._exit(ending.told())
ending.tell() if sys.argv[1] == "parent" else None
status = os.waitstatus_to_exitcode(os.wait()[1])
print(ending.told(), bool(status))
"""
    for who, expected in (("parent", "True True"), ("child", "False True")):
        done = subprocess.run(
            [PYTHON, "-c", script, who], cwd=BASE_DIR, capture_output=True, text=True, timeout=30
        )
        assert done.stdout.strip() == expected, done.stderr


# --- A sweep that is told to end, and killed ten seconds later ------------------------------------

AFTER = 10  # seconds, what an orchestrator waits before its SIGKILL
SENDS = "import django\ndjango.setup()\nfrom integrations import tasks\ntasks.{task}.enqueue()"


class Sweep:
    """A process that works through links, and what becomes of them."""

    def __init__(self, site, strava, count):
        self.site, self.strava = site, strava
        users = get_user_model().objects.bulk_create(
            get_user_model()(username=f"athlete{number}") for number in range(count)
        )
        rows = []
        for user in users:
            strava.add_athlete(900_000 + user.pk)
            tokens = StravaTokens(**strava.issue_tokens(900_000 + user.pk, expires_in=60))
            rows.append(
                UsersIntegrations(
                    user=user,
                    strava_token=tokens.access_token,
                    strava_refresh_token=tokens.refresh_token,
                    strava_token_expires_at=tokens.expires(timezone.now()),
                    strava_athlete_id=900_000 + user.pk,
                    strava_linked_at=timezone.now(),
                    strava_sync_gear=True,
                )
            )
        UsersIntegrations.objects.bulk_create(rows)

    def command(self, *arguments):
        return subprocess.Popen(
            [PYTHON, "manage.py", *arguments],
            env=self.site.env,
            cwd=BASE_DIR,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def enqueue(self, task):
        subprocess.run(
            [PYTHON, "-c", SENDS.format(task=task)], env=self.site.env, cwd=BASE_DIR, check=True
        )

    def end(self, process, number=signal.SIGTERM, group=False):
        """Tell it to end in the middle, and kill it ten seconds later; returns its exit code."""
        wait_until(lambda: self.strava.calls["token"] >= 12)
        (os.killpg if group else os.kill)(process.pid, number)
        try:
            return process.wait(AFTER)
        except subprocess.TimeoutExpired:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
            return process.wait()

    def outcome(self):
        """How many links were refreshed, are left as they were, and are lost."""
        time.sleep(DELAY)  # so that Strava is through with what it got
        found = Counter()
        for row in UsersIntegrations.objects.filter(strava_refresh_token__isnull=False):
            if not self.strava.is_alive(row.strava_refresh_token):
                found["lost"] += 1
            else:
                found["refreshed" if row.strava_refreshed_at else "left"] += 1
        return found

    def assert_that_it_ended_in_order(self):
        """No link is lost, nothing is left claimed, and it had not simply gone on to the end."""
        found = self.outcome()
        assert found["lost"] == 0
        assert found["refreshed"] == self.strava.calls["token"]
        assert found["left"] > 20
        assert not UsersIntegrations.objects.filter(strava_lease__isnull=False).exists()
        return found


DELAY = 0.7  # seconds that Strava takes for an answer


@pytest.fixture
def sweep(transactional_db, strava):
    strava.fail("token", "delay", seconds=DELAY)
    site = Site(TASKS_BACKEND="database")
    yield lambda count: Sweep(site, strava, count)
    site.stop()


@pytest.fixture
def broker():
    queue = queue_on(RABBITMQ_URL)
    yield queue
    queue.delete()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_sweeps_stores_what_it_has_asked_for(sweep, number):
    sweep = sweep(100)
    process = sweep.command("refresh_strava_tokens", "--json")
    code = sweep.end(process, number)
    out, err = process.communicate()

    found = sweep.assert_that_it_ended_in_order()
    assert code == (130 if number == signal.SIGINT else -number)
    counts = json.loads(out.splitlines()[-1])
    assert counts == {
        "due": 100, "refreshed": found["refreshed"], "failed": 0, "skipped": found["left"]
    }  # fmt: skip
    assert err == "Stopped before the end. Run it again for the rest.\n"


def test_a_command_that_syncs_stores_what_it_has_asked_for(sweep):
    sweep = sweep(100)
    process = sweep.command("sync_gear", "--workers", "8")
    code = sweep.end(process)
    out, err = process.communicate()

    found = sweep.assert_that_it_ended_in_order()
    assert code == -signal.SIGTERM
    assert out.startswith(f"strava  synced: {found['refreshed']}  failed: 0")
    assert err == "Stopped before the end. Run it again for the rest.\n"


def test_a_task_worker_that_sweeps_stores_what_it_has_asked_for(sweep):
    sweep = sweep(200)
    sweep.enqueue("refresh_due_tokens")
    worker = sweep.site.worker()

    assert sweep.end(worker) == 0
    sweep.assert_that_it_ended_in_order()
    assert DBTaskResult.objects.get().status == "SUCCESSFUL"


@pytest.mark.parametrize("group", [False, True], ids=["the worker", "its whole group"])
def test_a_celery_worker_that_sweeps_stores_what_it_has_asked_for(sweep, broker, group):
    sweep = sweep(200)
    sweep.site.env |= broker.env
    worker = celery_worker(sweep.site)
    sweep.enqueue("refresh_due_tokens")

    assert sweep.end(worker, group=group) == 0
    sweep.assert_that_it_ended_in_order()


# --- Others that are told to end in the middle ----------------------------------------------------


@pytest.fixture
def site(transactional_db, sandbox, strava):
    """The site's processes; the press of a button itself asks the provider."""
    site = Site(
        TASKS_BACKEND="immediate", INTEGRATIONS_SANDBOX="on", INTEGRATIONS_SANDBOX_URL=sandbox.url
    )
    yield site
    site.stop()


def test_a_server_stores_and_answers_what_it_has_asked_for(site, alice, link, strava):
    link(alice, expires_in=60)
    strava.fail("token", "delay", seconds=3)
    site.web(workers=1)
    athlete = Athlete(site, alice)
    answers = []
    press = threading.Thread(
        target=lambda: answers.append(athlete.post("/integrations/strava/gear/sync/"))
    )
    press.start()
    wait_until(lambda: strava.calls["token"])
    [server] = site.processes
    server.terminate()
    assert server.wait(AFTER) == 0
    press.join()
    assert [answer.status_code for answer in answers] == [202]
    assert strava.is_alive(row_of(alice).strava_refresh_token)
    assert row_of(alice).strava_synced_at


def test_a_task_worker_ends_a_sign_in_that_it_has_begun(site, alice, garmin, settings):
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    site.env["TASKS_BACKEND"] = "database"
    garmin.fail("mobile_page", "delay", seconds=2)
    attempt = begin_login(alice.pk, GARMIN_ALICE, PASSWORD)
    garmin_tasks.sign_in_to_garminconnect.enqueue(alice.pk, str(attempt))
    worker = site.hurried_worker()
    wait_until(lambda: garmin.calls["mobile_page"])
    worker.terminate()
    assert worker.wait(AFTER) == 0
    assert garmin.is_alive(row_of(alice).garminconnect_oauth2["di_token"])
    assert DBTaskResult.objects.get().status == "SUCCESSFUL"


# --- Long tasks, in slices ------------------------------------------------------------------------


@pytest.fixture
def enqueued(monkeypatch):
    """What tasks enqueue, which is not run."""
    names = []
    monkeypatch.setattr(tasks, "enqueue_now", lambda task, *args: names.append(task.name))
    return names


def test_a_sweep_goes_on_in_another_task_once_its_time_is_up(sweep, enqueued, monkeypatch):
    sweep(30)
    monkeypatch.setattr(tasks, "SLICE", 0.5)
    first = tasks.refresh_due_tokens.call()
    assert 8 <= first["refreshed"] < 30
    assert first["skipped"] == 30 - first["refreshed"]
    assert not UsersIntegrations.objects.filter(strava_lease__isnull=False).exists()
    assert enqueued == ["refresh_due_tokens"]

    monkeypatch.setattr(tasks, "SLICE", 20)
    assert tasks.refresh_due_tokens.call()["refreshed"] == first["skipped"]
    assert enqueued == ["refresh_due_tokens"]


def test_syncs_of_gear_are_enqueued_in_several_tasks(sweep, enqueued, monkeypatch):
    sweep(3)
    monkeypatch.setattr(tasks, "SLICE", -1)
    assert tasks.sync_due_gear.call() == 0
    assert enqueued == ["sync_due_gear"]
    monkeypatch.setattr(tasks, "SLICE", 20)
    assert tasks.sync_due_gear.call() == 3
    assert enqueued == ["sync_due_gear", *["sync_taken_gear"] * 3]


def test_old_events_are_forgotten_in_several_tasks(alice, enqueued, monkeypatch):
    LinkEvent.objects.bulk_create(
        LinkEvent(user=alice, provider="strava", event="linked", at=timezone.now() - YEARS)
        for _ in range(1500)
    )
    monkeypatch.setattr(tasks, "EVENTS", 1000)
    assert tasks.forget_old_link_events.call() == 1000
    assert tasks.forget_old_link_events.call() == 500
    assert enqueued == ["forget_old_link_events"]


YEARS = timedelta(days=1000)


# --- Told in the middle ---------------------------------------------------------------------------


@pytest.fixture
def told_at(ends, monkeypatch):
    """Tell this process to end as soon as a function of that path is called."""

    def told_at(path):
        module, _, name = path.rpartition(".")
        function = getattr(importlib.import_module(module), name)

        def tell_first(*args, **options):
            signal.raise_signal(signal.SIGTERM)
            return function(*args, **options)

        monkeypatch.setattr(path, tell_first)

    return told_at


def test_a_rotation_that_is_told_to_end_plants_no_canary(bob, linked, link, strava, told_at, ends):
    strava.add_athlete(900_001)
    link(bob, athlete_id=900_001)
    plant_fernet_canary()
    canary = everything_of(FernetCanary)
    told_at("integrations.services.keys._rotate_row")
    out, err = StringIO(), StringIO()
    call_command("rotate_fernet_keys", "--accept-loss", stdout=out, stderr=err)
    assert out.getvalue() == "rotated: 0  current: 1  unreadable: 0\n"
    assert "Run it again for the rest." in err.getvalue()
    assert everything_of(FernetCanary) == canary
    assert ends == [signal.SIGTERM]


def everything_of(model):
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {model._meta.db_table}")
        return cursor.fetchall()


def test_a_sync_that_is_told_to_end_asks_for_no_more_details(alice, linked, strava, told_at, ends):
    told_at("integrations.services.gear._apply")
    counts = tasks.sync_gear.call(alice.pk, "strava")
    assert counts["created"] > 1
    assert not strava.calls["gear"]
    assert ends == [signal.SIGTERM]
    services.sync_gear(alice.pk, "strava")  # the next one
    assert not Gear.objects.filter(user=alice, brand=None).exists()


def test_a_scheduler_that_is_told_to_end_begins_no_more(db, told_at, ends):
    ran = []
    told_at("tests.test_ending.first")
    jobs = [Job(name, lambda: ran.append(first()), timedelta(1)) for name in "ab"]
    with ending.holding():
        Scheduler(jobs, Leading()).run()
    assert ran == ["done"]
    assert ends == [signal.SIGTERM]


def first():
    return "done"


class Leading:
    def leads(self):
        return True

    def release(self):
        pass
