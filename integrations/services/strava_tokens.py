"""A fresh Strava token on demand: one refresh at a time for a user, wherever it is asked for.

Whoever finds a token too old takes a lease on the row with one conditional UPDATE, asks Strava
with no transaction open, and writes the new pair with another UPDATE, guarded by the refresh
token that it replaces. Whoever comes second waits for the winner's token. A refresher that dies
midway frees the way when its lease runs out.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from datetime import datetime, timedelta

from django.db import InterfaceError, OperationalError, connections, router
from django.db.models import F
from django.utils import timezone

from ..exceptions import (
    IntegrationsNotFound,
    InvalidRefreshToken,
    ProviderError,
    ProviderUnavailable,
    SecretUnreadable,
    StravaNotLinked,
    StravaRelinkRequired,
    error_by_code,
)
from ..models import LinkStatus, UsersIntegrations
from ..signals import relink_required
from ..strava.client import StravaClient, StravaTokens
from . import _rows, strava
from ._rows import database_errors

logger = logging.getLogger("integrations.strava")

FRESH_FOR = timedelta(minutes=5)
# Seconds. Longer than a refresh may take (http.py's timeouts and the retries of _store), and
# short enough for a refresher that was killed to free the way within a minute.
LEASE = 30
STORE_FOR = 12
WAIT = LEASE + 10
BACKOFF = 60
MAX_BACKOFF = 24 * 60 * 60


@database_errors
def get_strava_access_token(user_id: int) -> str:
    """An access token for Strava that is good for at least five more minutes.

    Refreshes it where needed; any number of threads, processes and machines that ask at once
    cause one request to Strava and get the same token. Not inside atomic(): a rollback would
    lose the rotated token.

    Raises StravaNotLinked, StravaRelinkRequired if the athlete has to connect again, or a
    ProviderError, which leaves the link as it is (`retry_after` in seconds where known).
    """
    _rows.require_autocommit()
    return _obtain(user_id, force=False)


@database_errors
def refresh_strava_access_token(user_id: int) -> str:
    """Ask Strava for a fresh token now, however fresh the stored one is.

    While more than an hour is left Strava answers with the token there is. Raises what
    get_strava_access_token raises.
    """
    _rows.require_autocommit()
    return _obtain(user_id, force=True)


def _obtain(user_id: int, *, force: bool) -> str:
    give_up = time.monotonic() + WAIT
    pause = 0.03
    first = None
    while True:
        row = _linked_row(user_id)
        first = first or row
        if row.sealed("strava_token") != first.sealed("strava_token") or not force:
            expires_at = row.strava_token_expires_at
            if expires_at is not None and expires_at > timezone.now() + FRESH_FOR:
                return _open(row, "strava_token")
        if row.strava_failures > first.strava_failures:
            # The refresh that this call waited for has failed: share its answer, because a
            # provider in trouble is not helped by every waiter asking once more.
            raise _as_error(row)
        lease = uuid.uuid4()
        if _take_lease(row, lease):
            token = _refresh(row, lease)
            if token is not None:
                return token
        if time.monotonic() > give_up:
            raise ProviderUnavailable(retry_after=LEASE)
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (jitter, not a secret)
        pause = min(pause * 1.5, 0.3)


def _linked_row(user_id: int) -> UsersIntegrations:
    try:
        row = _rows.get_row(user_id)
    except IntegrationsNotFound:
        raise StravaNotLinked from None
    match row.strava_status:
        case LinkStatus.NOT_LINKED:
            raise StravaNotLinked
        case LinkStatus.RELINK_REQUIRED:
            raise StravaRelinkRequired
    return row


def _open(row: UsersIntegrations, name: str) -> str:
    try:
        return getattr(row, name)
    except SecretUnreadable as exc:
        # Not written to the row: a wrong key is the operator's to put right, and then the
        # link works again.
        logger.error("no key opens the strava tokens of user %s", row.user_id)
        raise StravaRelinkRequired from exc


def _as_error(row: UsersIntegrations) -> Exception:
    error = error_by_code(row.strava_error)
    if not issubclass(error, ProviderError):
        error = ProviderUnavailable
    return error(retry_after=_seconds_until(row.strava_retry_at))


def _seconds_until(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return max(0, round((moment - timezone.now()).total_seconds()))


def _take_lease(row: UsersIntegrations, lease: uuid.UUID) -> bool:
    """Win the right to refresh what was read: not if it was refreshed or has failed since."""
    return bool(
        UsersIntegrations.objects.filter(
            user_id=row.user_id,
            strava_refresh_token=row.sealed("strava_refresh_token"),
            strava_token_expires_at=row.strava_token_expires_at,
            strava_failures=row.strava_failures,
            strava_relink_required_at=None,
        ).lease_strava(lease, LEASE)
    )


def _drop_lease(user_id: int, lease: uuid.UUID, **columns: object) -> None:
    """Free the way, if the lease is still ours."""
    UsersIntegrations.objects.filter(user_id=user_id, strava_lease=lease).update(
        strava_lease=None, strava_lease_until=None, **columns
    )


def _refresh(row: UsersIntegrations, lease: uuid.UUID) -> str | None:
    """Ask Strava; returns the new access token, or None if the row has to be read again."""
    done = False
    try:
        if not row.has_secret("strava_refresh_token"):
            done = _declare_dead(row)
            raise StravaRelinkRequired
        refresh_token = _open(row, "strava_refresh_token")
        try:
            client = strava.client_for(row)
        except SecretUnreadable as exc:
            raise StravaRelinkRequired from exc
        tokens = client.refresh_access_token(refresh_token)
        done = True  # from here on the row is written, or is no longer ours to write
        return _store(row, refresh_token, client, tokens)
    except InvalidRefreshToken as exc:
        done = _declare_dead(row)
        if not done:
            return None
        raise StravaRelinkRequired from exc
    except ProviderError as exc:
        if not done:
            _drop_lease(
                row.user_id,
                lease,
                strava_error=exc.code,
                strava_failures=F("strava_failures") + 1,
                strava_retry_at=timezone.now() + timedelta(seconds=_backoff(row, exc)),
            )
            done = True
        raise
    finally:
        if not done:
            _drop_lease(row.user_id, lease)


def _backoff(row: UsersIntegrations, exc: ProviderError) -> float:
    """Seconds until a sweep may try again: doubling up to a day, with jitter."""
    seconds = min(BACKOFF * 2 ** min(row.strava_failures, 20), MAX_BACKOFF)
    seconds *= random.uniform(0.75, 1.25)  # noqa: S311 (jitter, not a secret)
    return min(max(seconds, exc.retry_after or 0), MAX_BACKOFF)


def _store(
    row: UsersIntegrations, refresh_token: str, client: StravaClient, tokens: StravaTokens
) -> str | None:
    """Write a new pair, if the token that it replaces is still the stored one.

    Strava has rotated already, so a database that hiccups is asked again for a while before
    the pair is given up: losing it is losing the link.
    """
    replaced = row.sealed("strava_refresh_token")
    columns = strava.token_columns(tokens)
    give_up = time.monotonic() + STORE_FOR
    while True:
        try:
            if UsersIntegrations.objects.filter(
                user_id=row.user_id, strava_refresh_token=replaced
            ).update(**columns):
                return tokens.access_token
            current = UsersIntegrations.objects.filter(user_id=row.user_id).first()
        except (OperationalError, InterfaceError):
            connection = connections[router.db_for_write(UsersIntegrations)]
            if connection.in_atomic_block or time.monotonic() > give_up:
                raise
            connection.close_if_unusable_or_obsolete()
            time.sleep(0.2)
            continue
        if current is None or not current.has_secret("strava_refresh_token"):
            # Disconnected while Strava was being asked. The revocation hit the old pair only.
            strava.revoke_quietly(client, tokens.refresh_token)
            raise StravaNotLinked
        if _open(current, "strava_refresh_token") != refresh_token:
            return None  # relinked, or refreshed by another after our lease had run out
        replaced = current.sealed("strava_refresh_token")  # re-encrypted with another key


def _declare_dead(row: UsersIntegrations) -> bool:
    """End a link that Strava has ended, unless a newer refresh token stands in the row.

    Another process may have rotated the token a moment ago; the condition reads the row again
    and writes it in one statement.
    """
    refresh_token = row.sealed("strava_refresh_token")
    ended = UsersIntegrations.objects.filter(
        user_id=row.user_id, strava_refresh_token=refresh_token, strava_relink_required_at=None
    ).update(
        strava_relink_required_at=timezone.now(),
        strava_error=StravaRelinkRequired.code,
        strava_retry_at=None,
        strava_lease=None,
        strava_lease_until=None,
    )
    if ended:
        logger.warning("strava link of user %s has ended: athlete has to relink", row.user_id)
        _rows.send_after_commit(relink_required, row.user_id, "strava")
    return bool(ended)
