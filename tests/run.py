"""Run every test on SQLite and, where one answers, on PostgreSQL; in CI one has to answer.

Without arguments for pytest both are tested at the same time, because most tests wait for other
processes; the browsers come afterwards, each with one database. It also measures how much of the
code the tests run, and fails below the floor that pyproject.toml names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from subprocess import STDOUT

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
    # Most tests wait for other processes, so two of them may run at a time.
    rest = ("--ignore=tests/browser", "--numprocesses=2", "--dist=loadfile")
    failed = together({f"Tests on {name}": (url, *rest) for name, url in databases.items()})
    firefox = (databases["SQLite"], "tests/browser", "-k", "firefox")
    chromium = ([*databases.values()][-1], "tests/browser", "-k", "not firefox")
    failed = together({"Firefox": firefox, "Chromium": chromium}) or failed
    if failed:
        return failed
    print("\n=== Coverage ===", flush=True)
    python("coverage", "combine", "--quiet")
    return python("coverage", "report")


def together(runs: dict[str, tuple[str, ...]]) -> int:
    """Run pytest on several databases, each with its arguments, and print one after the other."""
    started = {}
    # Hundreds of processes begin: the first may compile for the others.
    common = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    measured = ("--cov", "--cov-report=", "--cov-fail-under=0")  # the floor is for all together
    for title, (url, *arguments) in runs.items():
        output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        command = [sys.executable, "-m", "pytest", *measured, *arguments]
        env = {**common, "TEST_DATABASE_URL": url, "COVERAGE_FILE": f".coverage.{title}"}
        started[title] = output, subprocess.Popen(command, env=env, stdout=output, stderr=STDOUT)
    failed = 0
    for title, (output, run) in started.items():
        failed = run.wait() or failed
        output.seek(0)
        print(f"\n=== {title} ===\n{output.read().decode(errors='replace')}", flush=True)
    return failed


def python(module: str, *arguments: str, **env: str) -> int:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.call(command, env={**os.environ, **env})


if __name__ == "__main__":
    sys.exit(main())
