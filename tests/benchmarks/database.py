"""A site to measure: production's settings, and a database that is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
# A name of its own for each run: two at once must not drop each other's.
DATABASE = f"integrations_bench_{os.getpid()}"
CLIENT_ID = "4242"

# All that project.settings reads, so that nobody's shell or .env changes what is measured.
# DEBUG is off: it would keep every query in memory.
_ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "project.settings",
    "DEBUG": "off",
    "SECRET_KEY": "benchmarks-only-secret-key-0123456789-abcdefghij",
    "FERNET_KEYS": "benchmarks-only-fernet-key-0123456789-abcdefghij",
    "ALLOWED_HOSTS": "testserver",
    "CSRF_TRUSTED_ORIGINS": "",
    "INTEGRATIONS_SANDBOX": "off",
    "TASKS_BACKEND": "database",
    "CACHE_URL": "locmemcache://",
    "STRAVA_CLIENT_ID": CLIENT_ID,
    "STRAVA_CLIENT_SECRET": "benchmarks-only-client-secret",
    "STRAVA_SCOPES": "read,profile:read_all",
    "STRAVA_WEBHOOK_VERIFY_TOKEN": "",
    # Nobody listens there.
    "STRAVA_OAUTH_URL": "http://127.0.0.1:9/oauth",
    "STRAVA_API_URL": "http://127.0.0.1:9/api/v3",
}


@contextmanager
def throw_away(choice: str, *apps: str) -> Iterator[str]:
    """Set Django up on an empty database, with further apps; gives the database's name.

    `choice` is "sqlite", "postgres", or "" for PostgreSQL where one answers.
    """
    if choice != "sqlite":
        if has_postgres():
            choice = "postgres"
        elif choice:
            raise SystemExit("No PostgreSQL answers at TEST_POSTGRES_URL.")
    database = _postgres() if choice == "postgres" else _sqlite()
    with database as url, tempfile.TemporaryDirectory(prefix="integrations-spool-") as spool:
        os.environ.update(_ENVIRONMENT, DATABASE_URL=url, INTEGRATIONS_SPOOL_DIR=spool)
        import django
        from django.conf import settings
        from django.core.management import call_command
        from django.db import connections

        settings.INSTALLED_APPS += apps
        django.setup()
        call_command("migrate", verbosity=0)
        call_command("migrate", run_syncdb=True, verbosity=0)  # for `apps`, which have users, too
        try:
            yield "PostgreSQL" if choice == "postgres" else "SQLite"
        finally:
            connections.close_all()


def has_postgres() -> bool:
    try:
        psycopg.connect(POSTGRES_URL, connect_timeout=3).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def _postgres() -> Iterator[str]:
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(DATABASE))
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE))
    with psycopg.connect(POSTGRES_URL, autocommit=True) as server:
        server.execute(create)
    try:
        yield urlsplit(POSTGRES_URL)._replace(path=f"/{DATABASE}").geturl()
    finally:
        with psycopg.connect(POSTGRES_URL, autocommit=True) as server:
            server.execute(drop)


@contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="integrations-bench-") as folder:
        yield f"sqlite:///{folder}/bench.sqlite3"
