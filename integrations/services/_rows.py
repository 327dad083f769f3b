"""How services reach rows: in one statement if possible, and with named errors."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import lru_cache, wraps
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, router, transaction
from django.db.models.functions import Now
from django.dispatch import Signal

from ..clock import MAY_WAIT, dated, later, read_at
from ..exceptions import (
    DatabaseBusy,
    IntegrationsDatabaseError,
    IntegrationsError,
    IntegrationsNotFound,
    RateLimited,
)
from ..models import UsersIntegrations

# How long an athlete may take at the consent page.
AUTHORIZATION_LIFETIME = 600  # seconds
# The longest wait of a limit: Strava's day.
LIMIT_LASTS = timedelta(days=1)

_STRAVA_TOKENS = {"strava_token", "strava_refresh_token", "strava_token_expires_at"}
_GARMINCONNECT_TOKENS = {"garminconnect_oauth1", "garminconnect_oauth2"}
TOKENS = _STRAVA_TOKENS | _GARMINCONNECT_TOKENS


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
            raise (DatabaseBusy if _is_busy(exc) else IntegrationsDatabaseError) from exc

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


def get_row(user_id: int) -> UsersIntegrations:
    """Raises IntegrationsNotFound if the user has no integrations row."""
    try:
        row: UsersIntegrations = dated(UsersIntegrations.objects).get(user_id=user_id)
    except UsersIntegrations.DoesNotExist:
        raise IntegrationsNotFound from None
    return row


def lock_row(user_id: int) -> UsersIntegrations:
    """The row, locked until the transaction ends; for use within atomic().

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    rows = dated(UsersIntegrations.objects).select_for_update()
    row: UsersIntegrations | None = rows.filter(user_id=user_id).first()
    if row is None:
        raise IntegrationsNotFound
    return row


def ensure_row(user_id: int) -> None:
    """Make the user's row if there is none; safe if several do it at once."""
    if not UsersIntegrations.objects.filter(user_id=user_id).exists():
        UsersIntegrations.objects.bulk_create(
            [UsersIntegrations(user_id=user_id)], ignore_conflicts=True
        )


def update(user_id: int, **columns: Any) -> None:
    """Write the named columns of one user's row, in one statement.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    if not UsersIntegrations.objects.filter(user_id=user_id).update(**columns):
        raise IntegrationsNotFound


def require_writes(user_id: int) -> None:
    """Write a row as it is: before a provider is asked for what cannot be undone, the database has
    to show that it will take the outcome.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    update(user_id, user=user_id)


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
    taken = UsersIntegrations.objects.filter(pk__in=ids, **{column: until})
    return list(taken.values_list("user_id", flat=True)), until


def update_where(where: dict[str, Any], columns: dict[str, Any]) -> int:
    """`UsersIntegrations.objects.filter(**where).update(**columns)` for plain values.

    Its SQL is built once and kept: a sweep does this write for each of thousands of tokens, and the
    ORM's compiler costs more than the database does.
    """
    using = router.db_for_write(UsersIntegrations)
    connection = connections[using]
    params = [
        _column(name).get_db_prep_save(value, connection)
        for name, value in (*columns.items(), *where.items())
    ]
    with connection.cursor() as cursor:
        cursor.execute(_update_sql(using, tuple(columns), tuple(where)), params)
        return int(cursor.rowcount)


def _column(name: str) -> Any:
    return UsersIntegrations._meta.get_field(name)


@lru_cache(maxsize=16)
def _update_sql(using: str, columns: tuple[str, ...], where: tuple[str, ...]) -> str:
    quote = connections[using].ops.quote_name

    def assignments(names: tuple[str, ...]) -> Iterator[str]:
        for name in names:
            yield f"{quote(_column(name).column)} = %s"

    table = quote(UsersIntegrations._meta.db_table)
    return f"UPDATE {table} SET {', '.join(assignments(columns))} WHERE " + " AND ".join(  # noqa: S608
        assignments(where)
    )


def state_columns(state: str | None) -> dict[str, Any]:
    """The columns of an authorization in progress; without a state there is none.

    A new state starts with no client waiting: it clears what an earlier attempt left.
    """
    if not state or state == "null":
        state, expires_at = None, None
    else:
        expires_at = later(timedelta(seconds=AUTHORIZATION_LIFETIME))
    return {
        "strava_state": state,
        "strava_state_expires_at": expires_at,
        "strava_pending_client_id": None,
        "strava_pending_client_secret": None,
    }


def healthy_columns(provider: str) -> dict[str, Any]:
    """What every write of tokens also writes: a healthy link and a free lease."""
    return {
        f"{provider}_relink_required_at": None,
        f"{provider}_error": "",
        f"{provider}_failures": 0,
        f"{provider}_retry_at": None,
        f"{provider}_lease": None,
        f"{provider}_lease_until": None,
    }


def anew_columns(provider: str) -> dict[str, Any]:
    """What every write that makes or ends a link also writes.

    The new link starts without the old one's errors, failures, waits and limits. Its gear is due at
    once, if it is wanted.
    """
    return (
        healthy_columns(provider)
        | {
            f"{provider}_sync_error": "",
            f"{provider}_sync_failures": 0,
            f"{provider}_sync_due_at": None,
            f"{provider}_syncing_until": None,
        }
        | _NOTED_OF[provider]
    )


_NOTED_OF: dict[str, dict[str, Any]] = {
    "strava": {
        "strava_limited_until": None,
        "strava_limited_reads": False,
        "strava_check_due_at": None,
        "strava_checks_until": None,
        "strava_spent_state": "",
        "strava_exchanging_state": "",
        "strava_exchanging_until": None,
        "strava_exchanging_error": "",
    },
    "garminconnect": {"garminconnect_limited_until": None, "garminconnect_login_error": ""},
}


def unsynced_columns(provider: str) -> dict[str, Any]:
    """The columns of a link whose gear was never synced."""
    return {f"{provider}_units": "", f"{provider}_synced_at": None}


def sync_columns(provider: str, sync_gear: bool) -> dict[str, Any]:
    """The columns that switch gear sync on (due now) or off."""
    columns: dict[str, Any] = {
        f"{provider}_sync_gear": sync_gear,
        # A moment also where it is off: the athlete has answered.
        f"{provider}_sync_due_at": Now(),
    }
    if sync_gear:
        columns[f"{provider}_sync_failures"] = 0
    return columns


def note_limit(user_id: int, provider: str, exc: IntegrationsError) -> None:
    """Note a rate limit where every request to the provider checks for it."""
    if isinstance(exc, RateLimited):
        wait = min(timedelta(seconds=exc.retry_after or 900), LIMIT_LASTS)
        columns: dict[str, Any] = {f"{provider}_limited_until": later(wait)}
        if provider == "strava":
            columns["strava_limited_reads"] = exc.reads_only
        UsersIntegrations.objects.filter(user_id=user_id).update(**columns)


def limited_for(row: UsersIntegrations | None, provider: str) -> int:
    """Seconds until a link's rate limit is over; 0 if it has none."""
    until: datetime | None = getattr(row, f"{provider}_limited_until", None)
    if row is None or until is None:
        return 0
    left = until - read_at(row)
    if not timedelta() < left <= LIMIT_LASTS + MAY_WAIT:  # as in clock.over
        return 0
    return max(1, round(left.total_seconds()))


def seed_columns(columns: dict[str, Any]) -> dict[str, Any]:
    """A partial update by the seed's fields, with the columns that have to change with them."""
    if "strava_state" in columns:
        columns |= state_columns(columns["strava_state"])
    for provider in ("strava", "garminconnect"):
        if f"{provider}_sync_gear" in columns:
            columns |= sync_columns(provider, columns[f"{provider}_sync_gear"])
    if columns.keys() & _STRAVA_TOKENS:
        columns |= anew_columns("strava")
    if "strava_refresh_token" in columns:
        columns["strava_site_client_id"] = ""  # the host does not say which app this one is of
    if columns.keys() & _GARMINCONNECT_TOKENS:
        columns |= anew_columns("garminconnect")
    return columns


def send_after_commit(signal: Signal, user_id: int, provider: str) -> None:
    """Tell host projects; a failing receiver undoes nothing."""
    transaction.on_commit(
        lambda: signal.send_robust(sender=UsersIntegrations, user_id=user_id, provider=provider),
        using=router.db_for_write(UsersIntegrations),
    )
