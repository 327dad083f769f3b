"""The scheduler: enqueues the periodic tasks on time, for any TASKS_BACKEND.

    python -m project.schedule

You may start one on every machine. One of them leads and the others stand by. On PostgreSQL the
leader holds an advisory lock; on SQLite (one machine) it locks a file beside the database.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, close_old_connections, connection
from django.db.models.functions import Now
from django.tasks import Task, TaskResultStatus
from django.utils.module_loading import import_string

from integrations import ending
from integrations.clock import later

logger = logging.getLogger("project.schedule")

TICK = 5  # seconds
# A leader that PostgreSQL has not heard from for this long has died with its machine.
DEAD = timedelta(seconds=30)
# No task takes this long.
LOST_AFTER = timedelta(hours=1)
# The lock belongs to this site's database; another database has its own.
LOCK_ID = 0x696E7465_67726174


class Job(NamedTuple):
    name: str
    run: Callable[[], object]
    every: timedelta


def jobs() -> list[Job]:
    """What to do, and how often. Each job looks for what is due, so an extra run is harmless."""
    from integrations import providers, tasks  # need the apps to be ready
    from integrations.services import oauth

    own = [each for provider in providers.known().values() for each in provider.jobs]
    jobs = [(import_string(path), every) for path, every in own]
    jobs += [
        (oauth.forget_abandoned_authorizations, timedelta(minutes=1)),
        (forget_dead_sessions, timedelta(hours=1)),
        (tasks.refresh_due_tokens, timedelta(minutes=10)),
        (tasks.sync_due_gear, timedelta(hours=1)),
        (tasks.forget_old_link_events, timedelta(days=1)),
    ]
    # A task goes to a worker; anything else runs in this process.
    found = [
        Job(work.name, work.enqueue, every)
        if isinstance(work, Task)
        else Job(work.__name__, work, every)
        for work, every in jobs
    ]
    if settings.TASKS_BACKEND == "database":
        found += [
            Job("end_lost_tasks", end_lost_tasks, timedelta(minutes=10)),
            Job("forget_finished_tasks", forget_finished_tasks, timedelta(days=1)),
        ]
    return found


def forget_dead_sessions() -> None:
    """Delete sessions that have expired, which Django otherwise keeps forever."""
    call_command("clearsessions")


class WorkerLost(Exception):
    """The error of a task whose worker died."""


def end_lost_tasks() -> None:
    """Mark tasks whose worker died as failed: the database's queue never does.

    Nothing is run again here: the app's rows know what is still due. A task that was only slow
    overwrites the mark when it ends.
    """
    from django_tasks_db.models import DBTaskResult

    lost = DBTaskResult.objects.running().filter(started_at__lte=later(-LOST_AFTER))
    count = lost.update(
        status=TaskResultStatus.FAILED,
        finished_at=Now(),
        # Not its __module__, which is __main__ in a running scheduler.
        exception_class_path="project.schedule.WorkerLost",
    )
    if count:
        event = {"event": "scheduler.lost_tasks_ended"}
        logger.warning("%d tasks were lost with their workers", count, extra=event)


def forget_finished_tasks() -> None:
    """Delete finished tasks from the database's queue, which otherwise keeps them forever."""
    call_command("prune_db_task_results", min_age_days=3, verbosity=0)


class Lock(Protocol):
    def leads(self) -> bool:
        """Whether this process leads; it takes the lead if nobody has it."""

    def release(self) -> None: ...


class PostgresLock:
    """Lasts as long as its connection, which is not one of those that Django reconnects."""

    def __init__(self) -> None:
        self.session: Any = None

    def leads(self) -> bool:
        try:
            if self.session is not None:
                with self.session.cursor() as cursor:
                    cursor.execute("SELECT 1")
                return True
            self.session = connection.copy()
            with self.session.cursor() as cursor:
                # This releases the lock if the machine loses power or network.
                cursor.execute(f"SET idle_session_timeout = '{DEAD.seconds}s'")
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_ID])
                (taken,) = cursor.fetchone()
        except DatabaseError as exc:
            event = {"event": "scheduler.lead_not_asked"}
            logger.warning(
                "the scheduler cannot ask for the lead: %s", type(exc).__name__, extra=event
            )
            taken = False
        if not taken:
            self.release()
        return bool(taken)

    def release(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None


class FileLock:
    """The kernel releases it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[str] | None = None

    def leads(self) -> bool:
        if self.file is None:
            # Only for this user: whoever can open it can hold the lock.
            number = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            with suppress(OSError):
                os.fchmod(number, 0o600)
            self.file = os.fdopen(number, "w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def leader_lock() -> Lock:
    """The lock that all schedulers of this site compete for."""
    match connection.vendor:
        case "postgresql":
            return PostgresLock()
        case "sqlite":
            return FileLock(Path(f"{connection.settings_dict['NAME']}-scheduler"))
    raise ImproperlyConfigured("The scheduler knows only PostgreSQL and SQLite.")


class Scheduler:
    def __init__(
        self, jobs: Sequence[Job], lock: Lock, clock: Callable[[], float] = time.time
    ) -> None:
        self.jobs, self.lock, self.clock = jobs, lock, clock
        # Each job's last interval since the epoch, which stays right if the clock is set.
        self.done: dict[str, int] = {}
        self.led: bool | None = None

    def run(self) -> None:
        """Work until this process is told to end."""
        try:
            while not ending.told():
                self.tick()
                ending.wait(TICK)
        finally:
            self.lock.release()

    def tick(self) -> None:
        """Enqueue what is due, if this scheduler leads; everything, right after taking the lead."""
        leads = self.lock.leads()
        if leads is not self.led:
            event = {"event": "scheduler.lead_changed"}
            logger.info("the scheduler %s", "leads" if leads else "stands by", extra=event)
            self.led = leads
            self.done.clear()
        if not leads:
            return
        close_old_connections()
        for job in self.jobs:
            if ending.told():
                break
            interval = int(self.clock() // job.every.total_seconds())
            if self.done.get(job.name) == interval:
                continue
            try:
                job.run()
            except Exception as exc:
                # The broker or the database is down: try again at the next tick. Only the type,
                # because a message may hold a URL, and a URL a password.
                event = {"event": "scheduler.not_enqueued"}
                logger.warning("%s was not enqueued: %s", job.name, type(exc).__name__, extra=event)
            else:
                self.done[job.name] = interval
        close_old_connections()


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    django.setup()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ending.tell)
    Scheduler(jobs(), leader_lock()).run()


if __name__ == "__main__":
    main()
