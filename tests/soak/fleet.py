"""The site as it runs in production, and a supervisor that starts again what has died."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import kombu
from django.conf import settings

from integrations.sandbox import Sandbox
from integrations.sandbox.strava import CLIENT_ID, CLIENT_SECRET

from ..clock import Clock
from ..processes import PYTHON, Site, database_url, wait_until
from .server import Broker, PostgresServer, Server

# The database's canary is sealed with the first.
KEYS = [*settings.FERNET_KEYS, "soak-only-fernet-key-0123456789-abcdefghij"]
VERIFY_TOKEN = "soak-only-verify-token"
# Seconds between SIGTERM and SIGKILL; an orchestrator has to be told to wait for requests.
GRACE = {"web": 40}
USUAL_GRACE = 10
# How wrong a clock may be, in seconds.
OFF_BY = (0, 0, 60, -60, 600, -600, 86_400, -86_400)


class Fleet(Site):
    """Processes by their role; their standard errors go to a file each in `logs`."""

    def __init__(
        self,
        logs: Path,
        sandbox: Sandbox,
        rng: random.Random,
        harms: Collection[str],
        broker: str | None,
    ) -> None:
        self.server = Server() if "sqlite" in database_url() else PostgresServer()
        self.broker = Broker(broker) if broker else None
        self.queue = f"soak-{os.getpid()}"
        self.rng, self.harms = rng, harms
        self.clocks = Path(tempfile.mkdtemp(prefix="integrations-clocks-"))
        super().__init__(
            DATABASE_URL=self.server.url,
            ALLOWED_HOSTS="127.0.0.1",
            FERNET_KEYS=",".join(KEYS),
            INTEGRATIONS_SANDBOX="on",
            INTEGRATIONS_SANDBOX_URL=sandbox.url,
            STRAVA_CLIENT_ID=CLIENT_ID,
            STRAVA_CLIENT_SECRET=CLIENT_SECRET,
            STRAVA_OAUTH_URL=f"{sandbox.url}/oauth",
            STRAVA_API_URL=f"{sandbox.url}/api/v3",
            STRAVA_WEBHOOK_VERIFY_TOKEN=VERIFY_TOKEN,
            TASKS_BACKEND="celery" if self.broker else "database",
            CELERY_BROKER_URL=self.broker.url if self.broker else "",
            CELERY_TASK_DEFAULT_QUEUE=self.queue,
            LOG_FORMAT="json",
        )
        self.logs = logs
        self.lock = threading.Lock()
        self.restarts = 0
        self.number = 0
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        bind = self.url.removeprefix("http://")
        web = ["-m", "gunicorn", "project.wsgi", "--workers", "2", "--bind", bind]
        self.roles: dict[str, Callable[[], list[str]]] = {
            "web": lambda: [*web, "--log-level", "error"],
            "scheduler": lambda: ["-m", "project.schedule"],
            "host": lambda: ["-m", "tests.soak.host"],
        }
        for number in range(3):
            self.roles[f"worker-{number}"] = self.worker_command
        self.harmed = {role: threading.Lock() for role in self.roles}

    def worker_command(self) -> list[str]:
        # An id that tells the dead from the living.
        self.number += 1
        if self.broker:
            name = f"--hostname=w{self.number}@soak"
            return ["-m", "celery", "-A", "project", "-q", "worker", "--concurrency=1", name]
        return [
            "manage.py",
            "db_worker",
            "--interval=0.3",
            "--no-reload",
            f"--worker-id=w{self.number}",
        ]

    def log(self, role: str) -> IO[bytes]:
        return (self.logs / f"{role}.log").open("ab")

    def launch(self) -> None:
        for role in self.roles:
            self._start(role)
        wait_until(self.answers)
        threading.Thread(target=self._supervise, daemon=True).start()

    def _start(self, role: str) -> None:
        with self.log(role) as log:
            process = subprocess.Popen(
                [PYTHON, *self.roles[role]()], env=self.env | self.clock(), stdout=log, stderr=log
            )
        self.running[role] = process
        self.processes.append(process)

    def _supervise(self) -> None:
        while True:
            with self.lock:
                if not self.running:
                    return
                for role, process in self.running.items():
                    if process.poll() is not None:
                        self.restarts += 1
                        self._start(role)
            time.sleep(0.3)

    def clock(self) -> dict[str, str]:
        """The environment of a process whose clock may be wrong."""
        if "clocks" not in self.harms:
            return {}
        return Clock(self.clocks, self.rng.choice(OFF_BY)).env

    def kill(self, role: str) -> None:
        """kill -9 a role; of "web" one of its workers, or with "web master" all of it."""
        with self._at(role) as process:
            if process is not None:
                pids = _children(process)[:1] if role == "web" else [process.pid]
                _send(signal.SIGKILL, pids)

    def end(self, role: str) -> bool:
        """SIGTERM, and kill -9 what has not ended in time; returns whether it has."""
        with self._at(role) as process:
            return process is None or _end(process, GRACE.get(role.split()[0], USUAL_GRACE))

    def pause(self, role: str, seconds: float) -> None:
        """Stop a role, with its children, and let it go on."""
        with self._at(role) as process:
            if process is not None:
                pids = [process.pid, *_children(process)]
                _send(signal.SIGSTOP, pids)
                time.sleep(seconds)
                _send(signal.SIGCONT, pids)

    @contextmanager
    def _at(self, role: str) -> Iterator[subprocess.Popen[bytes] | None]:
        """A role's process, to one harm at a time: what is paused cannot end when it is told to."""
        name = role.split()[0]
        if not self.harmed[name].acquire(blocking=False):
            yield None
            return
        try:
            with self.lock:
                process = self.running.get(name)
            yield process
        finally:
            self.harmed[name].release()

    def command(
        self, *arguments: str, seconds: float | None = None, gently: bool = False, **env: str
    ) -> bool:
        """Run a management command, and kill it after so many seconds, or `gently` with SIGTERM.

        Returns whether it ended well, or in time after it was told to.
        """
        with self.log("commands") as log:
            process = subprocess.Popen(
                [PYTHON, "manage.py", *arguments],
                env=self.env | self.clock() | env,
                stdout=log,
                stderr=log,
            )
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return _end(process, USUAL_GRACE if gently else 0)

    def worker_ids(self) -> set[str]:
        """The ids of the task workers that live."""
        with self.lock:
            return {
                str(argument).removeprefix("--worker-id=")
                for process in self.running.values()
                if process.poll() is None
                for argument in process.args  # type: ignore[union-attr]
                if str(argument).startswith("--worker-id=")
            }

    def stop(self) -> None:
        with self.lock:
            self.running = {}
        super().stop()
        self.server.close()
        if self.broker:
            with kombu.Connection(self.broker.url) as connection:
                kombu.Queue(self.queue)(connection.default_channel).delete()
            self.broker.close()
        shutil.rmtree(self.clocks)


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def _send(number: int, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _end(process: subprocess.Popen[bytes], grace: float) -> bool:
    if grace:
        process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
        return True
    process.kill()
    process.wait()
    return False
