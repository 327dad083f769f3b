"""Run every test on SQLite and, where one answers, on PostgreSQL; in CI one has to answer."""

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
    for name, url in databases.items():
        print(f"\n=== Tests on {name} ===", flush=True)
        code = subprocess.call(
            [sys.executable, "-m", "pytest", *sys.argv[1:]],
            env={**os.environ, "TEST_DATABASE_URL": url},
        )
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
