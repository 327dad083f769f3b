"""Run every test on SQLite and, where one answers, on PostgreSQL; in CI one has to answer.

What uses no database is tested once. Without arguments for pytest both are tested at the same time,
because most tests wait for other processes, and each has a browser afterwards. It also measures how
much of the code the tests run, and fails below the floor that pyproject.toml names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from subprocess import STDOUT
from typing import NamedTuple

import psycopg

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")


def main() -> int:
    databases = {"SQLite": "sqlite:///unused.sqlite3"}
    try:
        psycopg.connect(POSTGRES_URL, connect_timeout=3).close()
        databases["PostgreSQL"] = POSTGRES_URL
    except psycopg.OperationalError:
        if os.environ.get("CI"):
            print("No PostgreSQL answers at TEST_POSTGRES_URL, and CI needs one.")
            return 1
        print("No PostgreSQL answers at TEST_POSTGRES_URL: testing on SQLite alone.")
    if sys.argv[1:]:
        for name, url in databases.items():
            print(f"\n=== Tests on {name} ===", flush=True)
            if code := python("pytest", *sys.argv[1:], TEST_DATABASE_URL=url):
                return code
        return 0
    python("coverage", "erase")
    # Two of them may run at a time for the same reason; whoever has no more takes from the other.
    others = ("--ignore=tests/browser", "--ignore=tests/wheel")  # `make dist` has the wheel
    two = ("--numprocesses=2", "--dist=worksteal")
    rest = (*others, *two)
    sqlite, postgresql = databases["SQLite"], databases.get("PostgreSQL")
    firefox = Run("Firefox", sqlite, ("tests/browser", "-k", "firefox"))
    chromium = Run("Chromium", postgresql or sqlite, ("tests/browser", *two, "-k", "not firefox"))
    lanes = [[Run("Tests on SQLite", sqlite, rest), firefox], [chromium]]
    if postgresql:
        lanes[1].insert(0, Run("Tests on PostgreSQL", postgresql, (*rest, "-m", "database")))
    with ThreadPoolExecutor() as threads:
        failed = [code for codes in threads.map(in_turn, lanes) for code in codes if code]
    if failed:
        return failed[0]
    print("\n=== Coverage ===", flush=True)
    python("coverage", "combine", "--quiet")
    return python("coverage", "report")


class Run(NamedTuple):
    """One pytest: on which database, and with which arguments."""

    title: str
    url: str
    arguments: tuple[str, ...]


def in_turn(runs: list[Run]) -> list[int]:
    """Run one after the other, and print each once it has ended; returns the exit codes."""
    codes = []
    for title, url, arguments in runs:
        measured = ("--cov", "--cov-report=", "--cov-fail-under=0")  # the floor is for all together
        env = {
            **os.environ,
            # Hundreds of processes begin: the first may compile for the others.
            "PYTHONDONTWRITEBYTECODE": "",
            "TEST_DATABASE_URL": url,
            "COVERAGE_FILE": f".coverage.{title}",
        }
        command = [sys.executable, "-m", "pytest", *measured, *arguments]
        # Not a pipe, whose end a process that a test has left behind would keep from coming.
        with tempfile.TemporaryFile() as output:
            codes.append(subprocess.call(command, env=env, stdout=output, stderr=STDOUT))
            output.seek(0)
            told = output.read().decode(errors="replace")
        print(f"\n=== {title} ===\n{told}", flush=True)
    return codes


def python(module: str, *arguments: str, **env: str) -> int:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.call(command, env={**os.environ, **env})


if __name__ == "__main__":
    sys.exit(main())
