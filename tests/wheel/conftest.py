"""The wheel that `make dist` has built, and an empty project that took it as docs/start.md says."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..processes import BASE_DIR, free_port

PAGE = (BASE_DIR / "docs/start.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.M | re.S)
USER, PASSWORD = "admin", "admin-of-mysite"
# The newest patch of each, unless a run names others.
DJANGOS = os.environ.get("TEST_DJANGO", "6.0 6.1").split()


@pytest.fixture(scope="session")
def wheel() -> Path:
    found = list((BASE_DIR / "dist").glob("*.whl"))
    assert len(found) == 1, "run these by `make dist`, which builds the wheel"
    return found[0]


class Newcomer:
    """Somebody who follows the page to the letter, on a machine with nothing but Python."""

    def __init__(self, directory: Path, wheel: Path, django: str) -> None:
        self.wheel, self.directory, self.processes = wheel, directory, []
        self.lines: list[str] = []
        subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
        self.site = f"http://127.0.0.1:{free_port()}"
        self.sandbox = f"http://127.0.0.1:{free_port()}"
        (directory / "constraints.txt").write_text(f"Django~={django}.0")
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DJANGO_"))},
            "PATH": f"{directory / 'venv/bin'}{os.pathsep}{os.environ['PATH']}",
            "PIP_CONSTRAINT": str(directory / "constraints.txt"),
            "DJANGO_SUPERUSER_USERNAME": USER,
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            "DJANGO_SUPERUSER_EMAIL": "admin@example.com",
        }
        self.since = time.monotonic()
        for language, block in BLOCKS:
            if language == "sh":
                for line in block.splitlines():
                    self.type(line)
            elif header := re.match(r"# (mysite/\w+\.py), at its end\n", block):
                self.add(header[1], block.removeprefix(header[0]))

    def type(self, line: str) -> None:
        """Type a line of a shell's, with this test's ports where the page has the usual ones."""
        words = shlex.split(line)
        if words[0] == "cd":
            self.directory /= words[1]
            # Somebody else may have the usual port.
            self.add("mysite/settings.py", f"INTEGRATIONS_SANDBOX_URL = {self.sandbox!r}\n", False)
            return
        if words[:2] == ["pip", "install"]:
            words = [
                each.replace("django-athlete-integrations", str(self.wheel)) for each in words
            ] + ["--quiet"]
        more = {
            "createsuperuser": ["--noinput"],
            "sandbox": ["--port", self.sandbox.rpartition(":")[2], "--quiet"],
            "runserver": [self.site.removeprefix("http://"), "--noreload"],
        }
        words += more.get(words[-1], [])
        if {"sandbox", "db_worker", "runserver"}.isdisjoint(words):
            self.run(*words)
        else:
            log = self.directory / f"{words[2]}.log"
            with log.open("wb") as said:
                process = subprocess.Popen(
                    words, cwd=self.directory, env=self.env, stdout=said, stderr=said
                )
            self.processes.append(process)

    def add(self, path: str, code: str, counts: bool = True) -> None:
        with (self.directory / path).open("a") as file:
            file.write(f"\n{code}")
        if counts:
            self.lines += [line for line in code.splitlines() if line]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=self.directory, env=self.env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@pytest.fixture(scope="session", params=DJANGOS, ids=lambda version: f"django{version}")
def newcomer(request: Any, wheel: Path, tmp_path_factory: Any) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path_factory.mktemp("host"), wheel, request.param)
    yield newcomer
    newcomer.stop()
