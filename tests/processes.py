"""Other processes for a test: the same site, the same database, an environment of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from django.conf import settings
from django.db import connection
from django.test import Client

from project.env import _OF_PROVIDER

BASE_DIR = Path(__file__).resolve().parent.parent


def database_url() -> str:
    """The test database as a DATABASE_URL."""
    config = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{config['NAME']}"
    login = quote(config["USER"]) + (f":{quote(config['PASSWORD'])}" if config["PASSWORD"] else "")
    return f"postgres://{login}@{config['HOST']}:{config['PORT'] or 5432}/{config['NAME']}"


def environment(**more: str) -> dict[str, str]:
    """The environment in which `project.settings` is this test's site."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": str(BASE_DIR),
        "DEBUG": "on",
        "DATABASE_URL": database_url(),
        "SECRET_KEY": settings.SECRET_KEY,
        "FERNET_KEYS": ",".join(settings.FERNET_KEYS),
        "INTEGRATIONS_SPOOL_DIR": settings.INTEGRATIONS_SPOOL_DIR,
        **{
            name: str(getattr(settings, name))
            for name in dir(settings)
            if _OF_PROVIDER.fullmatch(name) and not name.endswith("_SCOPES")
        },
        **more,
    }


PYTHON = sys.executable


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Site:
    """The site as it runs in production: gunicorn, and workers beside it."""

    def __init__(self, **env: str) -> None:
        self.env = environment(**env)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.url = f"http://127.0.0.1:{free_port()}"

    def start(self, *arguments: str, console: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a process; `console` is a file for what it says there, otherwise left to ours."""
        said = console.open("ab") if console else None
        process = subprocess.Popen(
            [PYTHON, *arguments],
            env=self.env,
            cwd=BASE_DIR,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # so that its children can be ended with it
        )
        if said:
            said.close()
        self.processes.append(process)
        return process

    def web(
        self,
        workers: int = 3,
        ready: str = "/healthz/",
        more: Sequence[str] = (),
        console: Path | None = None,
    ) -> None:
        self.start(
            "-m",
            "gunicorn",
            "project.wsgi",
            "--workers",
            str(workers),
            "--bind",
            self.url.removeprefix("http://"),
            "--log-level",
            "error",
            *more,
            console=console,
        )
        wait_until(lambda: self.answers(ready))

    def answers(self, path: str = "/healthz/") -> bool:
        try:
            return requests.get(f"{self.url}{path}", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def worker(self) -> subprocess.Popen[bytes]:
        return self.start("manage.py", "db_worker", "--interval", "0.2", "--no-reload")

    def hurried_worker(self) -> subprocess.Popen[bytes]:
        """A worker that does not wait, as a person would, before it sends a password."""
        return self.start("-m", "tests.hurried_worker")

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # gunicorn has its checks done beside it, and they hold the test database open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], Any], seconds: float = 60, interval: float = 0.1) -> Any:
    """Wait for something to become true; generous, because the machine may be slow."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(interval)
    return found


class Away:
    """The test database as others see it, which can be away: cut off by a proxy in front of a
    server, locked where it is a file."""

    def __init__(self) -> None:
        self._lock: sqlite3.Connection | None = None
        self._sockets: list[socket.socket] = []
        self._away = False
        self.url = database_url()
        if connection.vendor == "sqlite":
            return
        self._server = socket.create_server(("127.0.0.1", 0))
        port = self._server.getsockname()[1]
        self.url = urlsplit(self.url)._replace(netloc=self._netloc(port)).geturl()
        threading.Thread(target=self._accept, daemon=True).start()

    def _netloc(self, port: int) -> str:
        login, _, _ = urlsplit(self.url).netloc.rpartition("@")
        return f"{login}@127.0.0.1:{port}"

    def _accept(self) -> None:
        config = connection.settings_dict
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self._away:
                    client.close()
                    continue
                server = socket.create_connection((config["HOST"], config["PORT"] or 5432))
                self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def go(self) -> None:
        self._away = True
        if connection.vendor == "sqlite":
            self._lock = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
            self._lock.execute("PRAGMA busy_timeout = 20000")
            self._lock.execute("BEGIN IMMEDIATE")
            return
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        self._away = False
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        self.go()
        self.come_back()
        if connection.vendor != "sqlite":
            self._server.close()
            for each in self._sockets:
                each.close()


class Athlete:
    """Somebody with a browser, at a site that runs."""

    def __init__(self, site: Site, user: Any) -> None:
        self.site, self.session = site, requests.Session()
        self.session.trust_env = False
        client = Client()
        client.force_login(user)  # tests hash passwords as the site does not
        # Of this process's settings, for a site over plain http.
        self.session.cookies["sessionid"] = client.cookies[settings.SESSION_COOKIE_NAME].value
        self.session.get(f"{site.url}/settings/integrations/", timeout=30).raise_for_status()

    def post(self, path: str, **fields: str) -> requests.Response:
        # A connection of its own each time, so that every worker gets its turn.
        return self.session.post(
            f"{self.site.url}{path}",
            data={**fields, "csrfmiddlewaretoken": self.session.cookies["csrftoken"]},
            headers={"Accept": "application/json", "Connection": "close"},
            timeout=30,
        )

    def status(self, provider: str) -> Any:
        response = self.session.get(
            f"{self.site.url}/integrations/status/", headers={"Connection": "close"}, timeout=30
        )
        return response.json()[provider]
