"""What /healthz/ looks at: the database, its migrations, the task backend, the Fernet keys.

Anybody may ask, so the answer has only names with "ok" or "failed"; the log has the reason. A probe
must not hang along with what it checks, so each check has a time limit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from health_check import HealthCheck  # type: ignore[import-untyped]
from health_check.contrib import redis  # type: ignore[import-untyped]
from health_check.exceptions import ServiceUnavailable  # type: ignore[import-untyped]
from health_check.views import HealthCheckView  # type: ignore[import-untyped]
from redis.asyncio import Redis as Client

from integrations import services

logger = logging.getLogger("project.health")

TIMEOUT = timedelta(seconds=2)  # for each check; django-health-check adds a second

# Nothing waits for these threads: a silent broker must not hold the request.
_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="health")


class Unhealthy(Exception):
    """A check that failed."""


@contextmanager
def _in_time() -> Iterator[None]:
    """Limit the time of the statements within: a migration, for example, may hold a lock."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            (usual,) = cursor.execute("PRAGMA busy_timeout").fetchone()
            cursor.execute(f"PRAGMA busy_timeout = {TIMEOUT // timedelta(milliseconds=1)}")
            try:
                yield
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {usual}")
        return
    if connection.vendor != "postgresql":
        yield
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('statement_timeout', %s, true)",
            [f"{TIMEOUT.total_seconds():.0f}s"],
        )
        yield


class OnThisConnection:
    """Runs a check in the request's thread, and so on the connection that requests use."""

    timeout = TIMEOUT

    async def run(self) -> None:
        await sync_to_async(self._look)()

    def _look(self) -> None:
        try:
            with _in_time():
                self.look()
        except Exception as exc:
            raise ServiceUnavailable(type(exc.__cause__ or exc).__name__) from None

    def look(self) -> None:
        """Raise any exception if something is wrong."""
        raise NotImplementedError


@dataclasses.dataclass
class Database(OnThisConnection, HealthCheck):
    """The database answers, and takes writes: a standby, for example, does not."""

    name = "database"

    def look(self) -> None:
        # It finds no row, so that a stranger who asks without end costs the disk nothing.
        Session.objects.filter(session_key="").update(session_data="")


@dataclasses.dataclass
class Migrations(OnThisConnection, HealthCheck):
    """Every migration of this code is applied. A newer release may have applied more."""

    name = "migrations"

    def look(self) -> None:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise Unhealthy


@dataclasses.dataclass
class FernetKeys(OnThisConnection, HealthCheck):
    """FERNET_KEYS opens what is stored."""

    name = "key"

    def look(self) -> None:
        if not services.fernet_keys_open_secrets():
            raise Unhealthy


@dataclasses.dataclass
class DatabaseQueue(OnThisConnection, HealthCheck):
    """The table of TASKS_BACKEND=database is there and can be read."""

    name = "task_backend"

    def look(self) -> None:
        from django_tasks_db.models import DBTaskResult

        DBTaskResult.objects.exists()


@dataclasses.dataclass
class RabbitMQ(HealthCheck):
    """The broker of TASKS_BACKEND=celery answers. Workers may be down: it keeps the work."""

    name = "task_backend"
    timeout = TIMEOUT

    def run(self) -> None:
        from .celery import app

        try:
            # `with` calls release(); connect(), unlike ensure_connection(), tries only once.
            with app.connection_for_write(connect_timeout=TIMEOUT.total_seconds()) as broker:
                broker.connect()
        except Exception as exc:
            # `from None`: the message holds the address, and an address may hold a password.
            raise ServiceUnavailable(type(exc).__name__) from None


@dataclasses.dataclass
class Redis(redis.Redis):
    """The same for Redis, without Celery, which would wait for minutes."""

    name = "task_backend"
    timeout = TIMEOUT
    client_factory: Callable[[], Any] = lambda: Client.from_url(settings.CELERY_BROKER_URL)


@dataclasses.dataclass
class NoQueue(HealthCheck):
    """TASKS_BACKEND=immediate needs nothing."""

    name = "task_backend"

    async def run(self) -> None:
        pass


def task_backend() -> type[HealthCheck]:
    match settings.TASKS_BACKEND:
        case "database":
            return DatabaseQueue
        case "celery":
            return Redis if settings.CELERY_BROKER_URL.startswith("redis") else RabbitMQ
    return NoQueue


class HealthView(HealthCheckView):
    """Answers 200 if all is well, otherwise 503."""

    http_method_names = ["get", "head"]

    def get_checks(self) -> Iterator[Any]:
        yield from (Database(), Migrations(), task_backend()(), FernetKeys())

    def get_executor(self) -> AbstractContextManager[ThreadPoolExecutor]:
        return nullcontext(_threads)

    async def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> JsonResponse:
        # The base class would answer 500, with details, in the requested format.
        with self.get_executor() as executor:
            results = await asyncio.gather(
                *(check.get_result(executor) for check in self.get_checks())
            )
        for result in results:
            if result.error:
                logger.error(
                    "%s is not healthy: %s",
                    result.check.name,
                    result.error.message,
                    extra={"event": f"health.{result.check.name}_failed"},
                )
        failed = any(result.error for result in results)
        return JsonResponse(
            {
                "status": "unavailable" if failed else "ok",
                "checks": {
                    result.check.name: "failed" if result.error else "ok" for result in results
                },
            },
            status=503 if failed else 200,
        )
