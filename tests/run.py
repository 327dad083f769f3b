"""Run every test on SQLite and, where one answers, on PostgreSQL; in CI one has to answer.

Without arguments for pytest both are tested at the same time, because most tests wait for other
processes. Browsers, which do not care what is below the site, then meet PostgreSQL only. It also
measures how much of the code the tests run, and fails below the floor that pyproject.toml names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

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
    pytest = ["coverage", "run", "-m", "pytest"]
    sqlite, *others = databases.items()
    with tempfile.TemporaryFile() as output:
        if others:
            beside = subprocess.Popen(
                [sys.executable, "-m", *pytest, "-m", "not browser"],
                env={**os.environ, "TEST_DATABASE_URL": sqlite[1]},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        name, url = others[0] if others else sqlite
        print(f"\n=== Tests on {name} ===", flush=True)
        failed = python(*pytest, TEST_DATABASE_URL=url)
        if others:
            print(f"\n=== Tests on {sqlite[0]} ===", flush=True)
            failed = beside.wait() or failed
            output.seek(0)
            print(output.read().decode(errors="replace"), flush=True)
    if failed:
        return failed
    print("\n=== Coverage ===", flush=True)
    python("coverage", "combine", "--quiet")
    return python("coverage", "report")


def python(module: str, *arguments: str, **env: str) -> int:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.call(command, env={**os.environ, **env})


if __name__ == "__main__":
    sys.exit(main())
