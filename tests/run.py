"""Run every test on SQLite and, where one answers, on PostgreSQL; in CI one has to answer.

Without arguments for pytest it also measures how much of the code they run, and fails below the
floor that pyproject.toml names. Browsers, which do not care what is below the site, then meet one
database only.
"""

from __future__ import annotations

import os
import subprocess
import sys

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
    measured = not sys.argv[1:]
    pytest = ["coverage", "run", "-m", "pytest"] if measured else ["pytest", *sys.argv[1:]]
    if measured:
        python("coverage", "erase")
    for name, url in databases.items():
        print(f"\n=== Tests on {name} ===", flush=True)
        again = measured and name != list(databases)[-1]
        without_browsers = ["-m", "not browser"] if again else []
        if code := python(*pytest, *without_browsers, TEST_DATABASE_URL=url):
            return code
    if measured:
        print("\n=== Coverage ===", flush=True)
        python("coverage", "combine", "--quiet")
        return python("coverage", "report")
    return 0


def python(module: str, *arguments: str, **env: str) -> int:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.call(command, env={**os.environ, **env})


if __name__ == "__main__":
    sys.exit(main())
