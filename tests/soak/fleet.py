"""The site as it runs in production, and a supervisor that starts again what has died."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from django.conf import settings

from integrations.sandbox import Sandbox
from integrations.sandbox.strava import CLIENT_ID, CLIENT_SECRET

from ..processes import PYTHON, Site, wait_until

# The database's canary is sealed with the first.
KEYS = [*settings.FERNET_KEYS, "soak-only-fernet-key-0123456789-abcdefghij"]
VERIFY_TOKEN = "soak-only-verify-token"


class Fleet(Site):
    """Processes by their role; their standard errors go to a file each in `logs`."""

    def __init__(self, logs: Path, sandbox: Sandbox) -> None:
        super().__init__(
            ALLOWED_HOSTS="127.0.0.1",
            FERNET_KEYS=",".join(KEYS),
            INTEGRATIONS_SANDBOX="on",
            INTEGRATIONS_SANDBOX_URL=sandbox.url,
            STRAVA_CLIENT_ID=CLIENT_ID,
            STRAVA_CLIENT_SECRET=CLIENT_SECRET,
            STRAVA_OAUTH_URL=f"{sandbox.url}/oauth",
            STRAVA_API_URL=f"{sandbox.url}/api/v3",
            STRAVA_WEBHOOK_VERIFY_TOKEN=VERIFY_TOKEN,
            TASKS_BACKEND="database",
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

    def worker_command(self) -> list[str]:
        # An id that tells the dead from the living.
        self.number += 1
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
                [PYTHON, *self.roles[role]()], env=self.env, stdout=log, stderr=log
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

    def kill(self, role: str) -> None:
        """kill -9 a role; of "web" one of its workers, or with "web master" all of it."""
        with self.lock:
            process = self.running.get(role.split()[0])
        if process is None:
            return
        pids = [process.pid]
        if role == "web":
            found = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
            )
            pids = [int(pid) for pid in found.stdout.split()[:1]]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def command(self, *arguments: str, seconds: float | None = None, **env: str) -> int:
        """Run a management command, and kill -9 it after so many seconds; returns its code."""
        with self.log("commands") as log:
            process = subprocess.Popen(
                [PYTHON, "manage.py", *arguments], env=self.env | env, stdout=log, stderr=log
            )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

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
