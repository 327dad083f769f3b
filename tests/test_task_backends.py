"""Background work over machines: Celery on a real RabbitMQ, and the scheduler."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from datetime import timedelta

import kombu
import pytest
from django.db import connection
from django.utils import timezone
from django_tasks_db.models import DBTaskResult

from integrations import services
from integrations.garminconnect import tasks as garmin_tasks
from integrations.garminconnect.login import begin_login
from integrations.models import GarminConnectLogin
from integrations.sandbox.garmin import MFA, MFA_CODE, PASSWORD
from project import schedule
from project.schedule import Job, Scheduler, leader_lock

from .conftest import a_moment_ago, row_of
from .processes import BASE_DIR, PYTHON, Athlete, Site, environment, wait_until
from .test_project import PRODUCTION, manage

RABBITMQ_URL = os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
REDIS_URL = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15")

CONNECT = "/integrations/garminconnect/connect/"
MFA_URL = "/integrations/garminconnect/mfa/"


class Queue:
    """A queue of the test's own, seen from the broker's side."""

    def __init__(self, url, name=None):
        self.url, self.name = url, name or f"tests-{uuid.uuid4()}"
        self.env = {
            "TASKS_BACKEND": "celery",
            "CELERY_BROKER_URL": url,
            "CELERY_TASK_DEFAULT_QUEUE": self.name,
        }
        options = {"priority_steps": [0, 1, 2, 3, 4]} if url.startswith("redis") else {}
        self.connection = kombu.Connection(url, connect_timeout=3, transport_options=options)
        self.connection.connect()
        self.channel = self.connection.channel()
        self.got = []

    def get(self):
        """The message that a worker would get next; nobody else gets it until it is requeued."""
        message = wait_until(lambda: kombu.Queue(self.name)(self.channel).get(accept=["json"]))
        self.got.append(message)
        return message

    def length(self):
        """How many messages wait, those in a worker's hands apart."""
        return self.channel.queue_declare(self.name, passive=True).message_count

    def empty(self):
        for message in self.got:
            if not message.acknowledged:
                message.ack()
        self.channel.queue_purge(self.name)
        self.connection.release()

    def delete(self):
        self.channel.queue_delete(self.name)
        if self.url.startswith("amqp"):
            self.channel.exchange_delete(self.name)
        else:
            for key in self.channel.client.keys(f"*{self.name}*"):
                self.channel.client.delete(key)
        self.connection.release()


def queue_on(url):
    try:
        return Queue(url)
    except OSError:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a broker, and none answers for {url.split(chr(58))[0]}.")
        pytest.skip(f"no {url.split(':')[0]} broker answers")


@pytest.fixture
def queue():
    queue = queue_on(RABBITMQ_URL)
    yield queue
    queue.delete()


@pytest.fixture(scope="module")
def web(django_db_setup, running_sandbox):
    """Two web processes, which stand for all tests, and so does the queue that they send to."""
    queue = queue_on(RABBITMQ_URL)
    site = processes_at(running_sandbox, queue.env)
    site.web(workers=2)
    yield site
    site.stop()
    queue.delete()


@pytest.fixture
def sent(web):
    """The queue that the web processes send to; what a test leaves there is gone with it."""
    queue = Queue(RABBITMQ_URL, web.env["CELERY_TASK_DEFAULT_QUEUE"])
    yield queue
    queue.empty()


@pytest.fixture
def site(sandbox, db, sent):
    """The workers, which each test has to itself."""
    site = processes_at(sandbox, sent.env)
    yield site
    site.stop()


def processes_at(sandbox, env):
    return Site(INTEGRATIONS_SANDBOX="on", INTEGRATIONS_SANDBOX_URL=sandbox.url, **env)


@pytest.fixture
def athlete(alice, web, site):
    return Athlete(web, alice)


def celery_worker(site, log=None):
    """Start a worker, as the leader of its process group; `log` is a file."""
    worker = subprocess.Popen(
        [
            *(PYTHON, "-m", "celery", "-A", "project", "--quiet", "worker"),
            *("--concurrency", "1", "--hostname", f"{uuid.uuid4()}@tests"),
        ],
        env=site.env,
        cwd=BASE_DIR,
        stdout=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
    )
    site.processes.append(worker)
    return worker


# --- Celery -------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_mfa_journey_over_rabbitmq_and_two_celery_workers(alice, site, athlete, garmin):
    for _ in range(2):
        celery_worker(site)

    assert athlete.post(CONNECT, email=MFA, password=PASSWORD).status_code == 202
    wait_until(lambda: athlete.status("garminconnect")["status"] == "mfa_required")
    assert athlete.post(MFA_URL, code="999999").status_code == 202
    wait_until(lambda: athlete.status("garminconnect")["error"])
    assert athlete.post(MFA_URL, code=MFA_CODE).status_code == 202
    wait_until(lambda: athlete.status("garminconnect")["status"] == "linked")

    assert garmin.attempts[MFA] == 1
    assert garmin.is_alive(row_of(alice).garminconnect_oauth2["di_token"])
    assert services.get_garminconnect_client(alice.pk).get_gear_list() is not None
    assert not GarminConnectLogin.objects.exists()
    assert not DBTaskResult.objects.exists()


def everything_in(message):
    return repr((message.body, message.headers, message.properties, message.delivery_info))


@pytest.mark.django_db(transaction=True)
def test_messages_hold_ids_and_never_a_secret(alice, site, athlete, garmin, sent):
    athlete.post(CONNECT, email=MFA, password=PASSWORD)
    sign_in = sent.get()
    attempt = str(GarminConnectLogin.objects.get().attempt)
    args, kwargs, _ = sign_in.payload
    assert sign_in.content_type == "application/json"
    assert (args, kwargs) == ([alice.pk, attempt], {})
    assert PASSWORD not in everything_in(sign_in)
    assert MFA not in everything_in(sign_in)
    sign_in.requeue()

    worker = celery_worker(site)
    wait_until(lambda: athlete.status("garminconnect")["status"] == "mfa_required")
    worker.terminate()
    assert worker.wait(30) == 0

    athlete.post(MFA_URL, code=MFA_CODE)
    answer = sent.get()
    assert answer.payload[:2] == [[alice.pk, attempt], {}]
    assert f"'{MFA_CODE}'" not in everything_in(answer)
    assert f'"{MFA_CODE}"' not in everything_in(answer)


@pytest.mark.django_db(transaction=True)
def test_a_task_whose_worker_was_killed_comes_again_and_finds_itself_superseded(
    alice, site, athlete, garmin, sent, tmp_path
):
    worker = celery_worker(site)
    garmin.fail("mobile_page", "silence", seconds=60)
    athlete.post(CONNECT, email=MFA, password=PASSWORD)
    wait_until(lambda: garmin.calls["mobile_page"])
    assert sent.length() == 0
    time.sleep(1)  # in which a worker that did so at once would have taken it off the queue
    os.killpg(worker.pid, signal.SIGKILL)  # with the process that it runs the task in
    worker.wait()

    again = sent.get()
    assert again.delivery_info["redelivered"]
    args, kwargs, _ = again.payload
    garmin.recover()
    asked = garmin.calls["mobile_page"]
    assert garmin_tasks.sign_in_to_garminconnect.call(*args, **kwargs) == "superseded"
    again.requeue()
    log = tmp_path / "log"
    with log.open("w") as file:
        worker = celery_worker(site, file)
    wait_until(lambda: "state=SUCCESSFUL" in log.read_text())
    worker.terminate()
    assert worker.wait(30) == 0

    assert sent.length() == 0
    assert garmin.calls["mobile_page"] == asked
    login = GarminConnectLogin.objects.get()
    assert (login.step, login.password) == ("running", None)


ENQUEUE = """
import django
django.setup()
from integrations.garminconnect import tasks
task = tasks.sign_in_to_garminconnect
for priority in (-100, 0, 50, 100, -50):
    task.using(priority=priority).enqueue(priority, "")
"""


@pytest.mark.parametrize("url", [RABBITMQ_URL, REDIS_URL], ids=["RabbitMQ", "Redis"])
def test_the_urgent_comes_first(url, db):
    queue = queue_on(url)
    try:
        subprocess.run(
            [PYTHON, "-c", ENQUEUE], env=environment(**queue.env), cwd=BASE_DIR, check=True
        )
        messages = [queue.get() for _ in range(5)]
        assert [message.payload[0][0] for message in messages] == [100, 50, 0, -50, -100]
        for message in messages:
            message.ack()
    finally:
        queue.delete()


# --- Settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"TASKS_BACKEND": "carrier-pigeon"}, "TASKS_BACKEND must be one of database, immediate,"),
        ({"TASKS_BACKEND": "celery"}, "CELERY_BROKER_URL must be"),
        ({"TASKS_BACKEND": "celery", "CELERY_BROKER_URL": ""}, "CELERY_BROKER_URL must be"),
        (
            {"TASKS_BACKEND": "celery", "CELERY_BROKER_URL": "sqs://me:hunter22@x"},
            "CELERY_BROKER_URL must be",
        ),
    ],
)
def test_a_wrong_task_backend_is_refused_with_one_clear_line(change, words):
    code, _out, err = manage("check", **PRODUCTION, **change)
    assert code == 1
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert "hunter22" not in err


@pytest.mark.parametrize("url", ["amqp://guest:guest@127.0.0.1//", "redis://127.0.0.1/0"])
def test_the_deployment_check_is_silent_with_celery(url):
    code, out, err = manage(
        *("check", "--deploy", "--fail-level", "INFO"),
        **PRODUCTION,
        TASKS_BACKEND="celery",
        CELERY_BROKER_URL=url,
    )
    assert (code, err) == (0, "")
    assert out.startswith("System check identified no issues")


def test_a_worker_of_the_wrong_kind_says_so_and_ends(db):
    celery = [PYTHON, "-m", "celery", "-A", "project", "worker"]
    for command, backend in ((celery, "database"), ([PYTHON, "manage.py", "db_worker"], "celery")):
        result = subprocess.run(
            command,
            env=environment(TASKS_BACKEND=backend, CELERY_BROKER_URL=RABBITMQ_URL),
            cwd=BASE_DIR,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode != 0
        assert "TASKS_BACKEND is database" in result.stderr or "not a database" in result.stderr


# --- The scheduler ------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0  # an hour begins

    def __call__(self):
        return self.now


class FreeLock:
    free = True

    def leads(self):
        return self.free

    def release(self):
        pass


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ran():
    return []


def job(ran, name, **every):
    return Job(name, lambda: ran.append(name), timedelta(**every))


def test_the_scheduler_runs_each_job_once_an_interval(clock, ran):
    jobs = [job(ran, "minutely", minutes=1), job(ran, "hourly", hours=1)]
    scheduler = Scheduler(jobs, FreeLock(), clock)
    for _ in range(2 * 3600 // 5):
        scheduler.tick()
        clock.now += 5
    assert ran.count("minutely") == 120
    assert ran.count("hourly") == 2


@pytest.mark.parametrize("jump", [-86400, 86400])
def test_a_clock_that_is_set_makes_nothing_wait(clock, ran, jump):
    scheduler = Scheduler([job(ran, "hourly", hours=1)], FreeLock(), clock)
    scheduler.tick()
    clock.now += jump
    scheduler.tick()
    assert len(ran) == 2


def test_a_job_that_fails_is_tried_again_and_holds_up_no_other(clock, ran, caplog):
    def fail():
        ran.append("broken")
        raise OSError("amqp://me:hunter22@broker")

    jobs = [Job("broken", fail, timedelta(hours=1)), job(ran, "hourly", hours=1)]
    scheduler = Scheduler(jobs, FreeLock(), clock)
    scheduler.tick()
    scheduler.tick()
    assert ran == ["broken", "hourly", "broken"]
    assert "broken was not enqueued: OSError" in caplog.text
    assert "hunter22" not in caplog.text


def test_a_scheduler_that_does_not_lead_does_nothing_until_it_does(clock, ran):
    lock = FreeLock()
    lock.free = False
    scheduler = Scheduler([job(ran, "hourly", hours=1)], lock, clock)
    scheduler.tick()
    assert ran == []
    lock.free = True
    scheduler.tick()
    assert ran == ["hourly"]


@pytest.mark.django_db(transaction=True)
def test_one_of_many_schedulers_leads_and_another_follows(db):
    first, second = leader_lock(), leader_lock()
    try:
        assert first.leads()
        assert not second.leads()
        assert first.leads()
        first.release()
        assert second.leads()
        assert not first.leads()
    finally:
        first.release()
        second.release()


@pytest.mark.django_db(transaction=True)
def test_a_leader_that_loses_its_database_session_is_none_any_more(db):
    if connection.vendor != "postgresql":
        pytest.skip("PostgreSQL's lock")
    first, second = leader_lock(), leader_lock()
    try:
        assert first.leads()
        with first.session.cursor() as cursor:
            cursor.execute("SHOW idle_session_timeout")
            assert cursor.fetchone() == ("30s",)
            cursor.execute("SELECT pg_backend_pid()")
            pid = cursor.fetchone()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", pid)
        wait_until(second.leads)
        assert not first.leads()
    finally:
        first.release()
        second.release()


# Done by the scheduler itself, and handed to workers.
ITSELF = {
    "forget_dead_logins": timedelta(minutes=1),
    "forget_abandoned_authorizations": timedelta(minutes=1),
    "forget_dead_sessions": timedelta(hours=1),
}
EVERY = {
    "confirm_due_strava_revocations": timedelta(minutes=5),
    "refresh_due_tokens": timedelta(minutes=10),
    "sync_due_gear": timedelta(hours=1),
    "forget_old_link_events": timedelta(days=1),
    "learn_strava_subscription": timedelta(days=1),
}


def path_of(name):
    return f"integrations.{'strava.' if 'strava' in name else ''}tasks.{name}"


def test_what_is_scheduled_whatever_the_backend():
    assert {job.name: job.every for job in schedule.jobs()} == ITSELF | EVERY


@pytest.mark.django_db(transaction=True)
def test_what_is_scheduled_for_the_database(database_backend):
    assert {job.name: job.every for job in schedule.jobs()} == {
        **ITSELF,
        **EVERY,
        "end_lost_tasks": timedelta(minutes=10),
        "forget_finished_tasks": timedelta(days=1),
    }
    Scheduler(schedule.jobs(), FreeLock()).tick()
    paths = DBTaskResult.objects.values_list("task_path", flat=True)
    assert sorted(paths) == sorted(
        f"integrations.{'strava.' if 'strava' in name else ''}tasks.{name}" for name in EVERY
    )


@pytest.mark.django_db(transaction=True)
def test_a_password_is_forgotten_in_time_though_no_worker_runs(alice, database_backend):
    begin_login(alice.pk, "alice@example.com", "s3cret")
    GarminConnectLogin.objects.update(step_until=a_moment_ago())
    Scheduler(schedule.jobs(), FreeLock()).tick()
    assert not GarminConnectLogin.objects.exists()


@pytest.fixture
def database_backend(settings):
    settings.TASKS_BACKEND = "database"
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}


def test_finished_tasks_are_forgotten_after_three_days(db, database_backend):
    for status, days in (("SUCCESSFUL", 4), ("FAILED", 4), ("SUCCESSFUL", 2), ("READY", 4)):
        result = garmin_tasks.sign_in_to_garminconnect.enqueue(1, f"{status} {days}")
        finished = None if status == "READY" else timezone.now() - timedelta(days=days)
        DBTaskResult.objects.filter(id=result.id).update(status=status, finished_at=finished)
    schedule.forget_finished_tasks()
    left = DBTaskResult.objects.values_list("args_kwargs__args__1", flat=True)
    assert sorted(left) == ["READY 4", "SUCCESSFUL 2"]


def test_a_task_that_died_with_its_worker_is_ended(db, database_backend, caplog):
    for status, hours in (("RUNNING", 2), ("RUNNING", 0), ("SUCCESSFUL", 2)):
        result = garmin_tasks.sign_in_to_garminconnect.enqueue(1, f"{status} {hours}")
        started = timezone.now() - timedelta(hours=hours)
        DBTaskResult.objects.filter(id=result.id).update(
            status=status, started_at=started, worker_ids=["w1"]
        )
    schedule.end_lost_tasks()

    statuses = dict(DBTaskResult.objects.values_list("args_kwargs__args__1", "status"))
    assert statuses == {"RUNNING 2": "FAILED", "RUNNING 0": "RUNNING", "SUCCESSFUL 2": "SUCCESSFUL"}
    lost = DBTaskResult.objects.get(status="FAILED")
    assert lost.finished_at is not None
    # Also where the scheduler is __main__.
    assert lost.exception_class_path == "project.schedule.WorkerLost"
    assert lost.task_result.errors[0].exception_class is schedule.WorkerLost
    assert [record.event for record in caplog.records] == ["scheduler.lost_tasks_ended"]
    schedule.end_lost_tasks()
    assert len(caplog.records) == 1


class Process:
    """A scheduler that runs."""

    def __init__(self, log):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "project.schedule"],
                env=environment(TASKS_BACKEND="database"),
                cwd=BASE_DIR,
                stderr=file,
            )

    def says(self, words):
        wait_until(lambda: words in self.log.read_text())

    def stop(self):
        self.process.terminate()
        return self.process.wait(20)


@pytest.mark.django_db(transaction=True)
def test_two_schedulers_enqueue_once_and_stop_on_sigterm(tmp_path):
    names = sorted(map(path_of, EVERY))
    enqueued = DBTaskResult.objects.order_by("enqueued_at").values_list("task_path", flat=True)
    processes = []
    try:
        processes.append(leader := Process(tmp_path / "leader"))
        leader.says("leads")
        wait_until(lambda: len(enqueued.all()) == len(EVERY))
        processes.append(standby := Process(tmp_path / "standby"))
        standby.says("stands by")
        assert sorted(enqueued.all()) == names

        assert leader.stop() == 0
        standby.says("leads")
        wait_until(lambda: len(enqueued.all()) == 2 * len(EVERY))
        assert standby.stop() == 0
    finally:
        for process in processes:
            process.process.kill()
            process.process.wait()
    assert sorted(enqueued.all()) == sorted(2 * names)
