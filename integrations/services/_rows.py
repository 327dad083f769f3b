"""How services reach rows: in one statement if possible, and with named errors."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, router, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.dispatch import Signal

from .. import exceptions
from ..clock import dated, later
from ..links import HEALTHY, Home
from ..models import UsersIntegrations
from ._compiled import find, update_where

# How long an athlete may take at the consent page.
AUTHORIZATION_LIFETIME = 600  # seconds
# The longest wait of a limit: Strava's day.
LIMIT_LASTS = timedelta(days=1)


def database_errors[**P, R](service: Callable[P, R]) -> Callable[P, R]:
    """Raise a database failure as IntegrationsDatabaseError, without its internals."""

    @wraps(service)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return service(*args, **kwargs)
        except (DatabaseError, InterfaceError) as exc:
            # Code that runs after the error must not get the same dead connection: a page that
            # saves its session, or a task worker, which would die while recording the error.
            close_dead_connection()
            raise (
                exceptions.DatabaseBusy if _is_busy(exc) else exceptions.IntegrationsDatabaseError
            ) from exc

    return wrapper


def _is_busy(exc: Exception) -> bool:
    """Whether another's lock was waited for in vain."""
    cause = exc.__cause__
    locked = "55P03"  # https://www.postgresql.org/docs/current/errcodes-appendix.html
    return (
        getattr(cause, "sqlstate", None) == locked
        or getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    )


def close_dead_connection() -> None:
    """Let the next statement open a new connection, if this one is lost outside a transaction."""
    connection = connections[router.db_for_write(UsersIntegrations)]
    # Django would close a good one, too, in the middle of a transaction.
    if not connection.in_atomic_block and connection.autocommit:
        connection.close_if_unusable_or_obsolete()


def atomic() -> AbstractContextManager[None]:
    """A transaction, or a savepoint within one, on the database that has this app's tables."""
    return transaction.atomic(using=router.db_for_write(UsersIntegrations))


def savepoint() -> AbstractContextManager[None]:
    """What spares a caller's open transaction the failure of one statement."""
    alias = router.db_for_write(UsersIntegrations)
    return atomic() if connections[alias].in_atomic_block else nullcontext()


def require_autocommit() -> None:
    """Refuse to go on inside a transaction.

    Asking a provider inside one would hold locks, and a rollback would undo the write of a token
    that the provider has already rotated: the link would be lost. Test cases, which wrap each test
    in a transaction, pass, as they do for Django's `atomic(durable=True)`.
    """
    connection = transaction.get_connection(router.db_for_write(UsersIntegrations))
    if connection.in_atomic_block:
        outside = any(
            getattr(block, "_from_testcase", False) for block in connection.atomic_blocks[-1:]
        )
    else:
        outside = connection.get_autocommit()
    if not outside:
        raise RuntimeError(
            "This service asks the provider and must not run inside a transaction: call it "
            "outside atomic(), and with ATOMIC_REQUESTS decorate the view with "
            "django.db.transaction.non_atomic_requests."
        )


def get_row(home: Home, user_id: Any, *, lock: bool = False) -> Any:
    """With `lock` it stays locked until the transaction ends; for use within atomic().

    Raises IntegrationsNotFound if the user has no row there.
    """
    row = find(home.model, {"user": user_id, **home.where}, lock=lock)
    if row is None:
        raise exceptions.IntegrationsNotFound
    return row


def ensure_row(home: Home, user_id: Any) -> None:
    """Make the user's row if there is none; safe if several do it at once."""
    if not home.of(user_id).exists():
        _make(home.model(user_id=user_id, **home.where))
    # Staff find whoever has any link by the other row.
    elsewhere = home.model is not UsersIntegrations
    if elsewhere and not UsersIntegrations.objects.filter(user_id=user_id).exists():
        _make(UsersIntegrations(user_id=user_id))


def _make(row: Any) -> None:
    type(row).objects.bulk_create([row], ignore_conflicts=True)


def update(home: Home, user_id: Any, **columns: Any) -> None:
    """Write the named columns of one user's row, in one statement.

    Raises IntegrationsNotFound if the user has no row there.
    """
    if not update_where(home.model, {"user": user_id, **home.where}, columns):
        raise exceptions.IntegrationsNotFound


def take_due(
    due: Any, column: str, put_off: timedelta, limit: int, *, first: Any = (), **columns: Any
) -> tuple[list[int], datetime]:
    """Take up to `limit` user ids of the rows that are `due` by a column, each for one caller only.

    The oldest come first, after the orderings in `first`. The rows are put off by `put_off`, to the
    moment that is also returned (and means nothing if no row was due). Until then the caller has
    time to set the column. `columns` are written, too.
    """
    found = list(dated(due).order_by(*first, column).values_list("pk", "read_at")[:limit])
    if not found:
        return [], datetime.min
    ids = [pk for pk, _ in found]
    # A random moment, by which this caller recognizes the rows that it won.
    until = found[0][1] + put_off + timedelta(microseconds=random.randrange(10**6))  # noqa: S311
    # Repeat the condition: another may have chosen the same rows.
    due.filter(pk__in=ids).update(**{column: until}, **columns)
    taken = due.model.objects.filter(pk__in=ids, **{column: until})
    return list(taken.values_list("user_id", flat=True)), until


def state_values(state: str | None) -> dict[str, Any]:
    """The values of an authorization in progress; without a state there is none.

    A new state starts with no client waiting: it clears what an earlier attempt left.
    """
    if not state or state == "null":
        state, expires_at = None, None
    else:
        expires_at = later(timedelta(seconds=AUTHORIZATION_LIFETIME))
    return {
        "state": state,
        "state_expires_at": expires_at,
        "redirect_uri": "",
        "pending_client_id": None,
        "pending_client_secret": None,
    }


# What was noted of a link, and is forgotten whenever one is made anew or ended: the new one starts
# without errors, failures, waits and limits, and its gear is due at once, if it is wanted.
_NOTED: dict[str, Any] = {
    **HEALTHY,
    "limited_until": None,
    "limited_reads": False,
    "spent_state": "",
    "exchanging_state": "",
    "exchanging_until": None,
    "exchanging_error": "",
    "check_due_at": None,
    "checks_until": None,
    "login_error": "",
    "sync_error": "",
    "sync_failures": 0,
    "sync_due_at": None,
    "syncing_until": None,
}
# A link whose gear was never synced.
UNSYNCED: dict[str, Any] = {"units": "", "synced_at": None}


def anew_columns(home: Home) -> dict[str, Any]:
    """What every write that makes or ends a link also writes."""
    return home.columns(**_NOTED)


def sync_columns(home: Home, sync_gear: bool) -> dict[str, Any]:
    """The columns that switch gear sync on (due now) or off."""
    # A moment also where it is off: the athlete has answered.
    values: dict[str, Any] = {"sync_gear": sync_gear, "sync_due_at": Now()}
    if sync_gear:
        values["sync_failures"] = 0
    return home.columns(**values)


def note_limit(home: Home, user_id: Any, exc: exceptions.IntegrationsError) -> None:
    """Note a rate limit where every request to the provider checks for it."""
    if isinstance(exc, exceptions.RateLimited):
        wait = min(timedelta(seconds=exc.retry_after or 900), LIMIT_LASTS)
        home.write(user_id, Q(), limited_until=later(wait), limited_reads=exc.reads_only)


def send_after_commit(signal: Signal, user_id: Any, provider: str) -> None:
    """Tell host projects; a failing receiver undoes nothing."""
    transaction.on_commit(
        lambda: signal.send_robust(sender=UsersIntegrations, user_id=user_id, provider=provider),
        using=router.db_for_write(UsersIntegrations),
    )
