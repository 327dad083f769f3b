"""How long a web request may wait for a lock of another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from django.db import connections, router, transaction

from ..models import UsersIntegrations

LOCK_WAIT = 3  # seconds
_LOCKING = {"INSERT", "UPDATE", "DELETE"}


@contextmanager
def short_waits() -> Iterator[None]:
    """Within it, this thread's statements wait at most LOCK_WAIT seconds for a lock, and then fail
    with DatabaseBusy.

    For web requests: one locked row and as many presses as there are threads, and no page opens.
    A worker can wait, and a migration has to.
    """
    connection = connections[router.db_for_write(UsersIntegrations)]
    if connection.vendor == "sqlite":
        with _short_busy_timeout(connection):
            yield
    elif connection.vendor == "postgresql" and _impatiently not in connection.execute_wrappers:
        with connection.execute_wrapper(_impatiently):
            yield
    else:
        yield


def _impatiently(
    execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    """Execute a statement that locks with a limit which its transaction takes along.

    A setting of the session would stay with it, and a pooler gives the session to somebody else.
    """
    connection = context["connection"]
    text = str(sql)
    if text.lstrip()[:6].upper() not in _LOCKING and "FOR UPDATE" not in text:
        return execute(sql, params, many, context)
    in_one = connection.in_atomic_block
    with nullcontext() if in_one else transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT * 1000}")
        return execute(sql, params, many, context)


@contextmanager
def _short_busy_timeout(connection: Any) -> Iterator[None]:
    """The same for SQLite, which locks the file: its limit is the connection's."""
    before: dict[Any, int] = {}

    def impatiently(execute: Callable[..., Any], *args: Any) -> Any:
        raw = connection.connection
        if raw not in before:
            (before[raw],) = raw.execute("PRAGMA busy_timeout").fetchone()
            raw.execute(f"PRAGMA busy_timeout = {min(before[raw], LOCK_WAIT * 1000)}")
        return execute(*args)

    try:
        with connection.execute_wrapper(impatiently):
            yield
    finally:
        if (raw := connection.connection) in before:  # neither closed nor opened anew
            raw.execute(f"PRAGMA busy_timeout = {before[raw]}")
