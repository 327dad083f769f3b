"""One refresh at a time for a link, across threads, processes and machines.

A caller that finds a token too old takes a lease on the row with one conditional UPDATE, asks the
provider with no transaction open, and writes the answer with another UPDATE, guarded by the secret
that it replaces. Other callers wait for the winner's token. If a refresher dies midway, its lease
runs out and another can go on.

A keeper says what differs between providers. It works on the columns `PROVIDER_lease`,
`_lease_until`, `_failures`, `_error`, `_retry_at` and `_relink_required_at`.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import InterfaceError, InternalError, OperationalError, connections, router
from django.db.models import F, Q
from django.utils import timezone

from .. import ending
from ..clock import later, over
from ..exceptions import (
    IntegrationsError,
    IntegrationsNotFound,
    InvalidGrant,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    SecretUnreadable,
    error_by_code,
)
from ..metrics import counts_refreshes
from ..models import UsersIntegrations
from ..signals import relink_required
from . import _rows, _trail
from ._trail import Actor, Event

logger = logging.getLogger("integrations.links")

# Seconds.
STORE_FOR = 12
BACKOFF = 60
MAX_BACKOFF = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Refreshed[Token]:
    """What a provider answered: the token to hand out, the columns to write, and how to revoke it
    if the link is gone by then."""

    token: Token = field(repr=False)
    columns: dict[str, Any] = field(repr=False)
    discard: Callable[[], object] = lambda: None
    # Whether the provider has said that the app must stop asking for a while.
    limit_reached: bool = False


class TokenKeeper[Token](ABC):
    provider: str
    guard: str  # the encrypted column that a refresh spends and replaces
    not_linked: type[IntegrationsError]
    relink_required: type[IntegrationsError]
    dead: type[InvalidGrant]  # the only answer that ends a link
    errors: type[ProviderError] = ProviderError  # the provider's branch of the tree
    unavailable: type[ProviderError] = ProviderUnavailable
    # Seconds. Longer than a refresh with its timeouts, and short enough that a killed refresher
    # blocks others for less than a minute.
    lease: int = 30

    @abstractmethod
    def is_fresh(self, row: UsersIntegrations) -> bool:
        """Whether the stored token is good for long enough."""

    @abstractmethod
    def read(self, row: UsersIntegrations) -> Token:
        """The stored token. Raises SecretUnreadable if no key opens it."""

    @abstractmethod
    def refresh(self, row: UsersIntegrations) -> Refreshed[Token]:
        """Ask the provider, once. Raises `dead`, or another ProviderError."""

    def limited_for(self, row: UsersIntegrations, *, reading: bool) -> int:
        """Seconds until the provider may be asked for this link; 0 if it may be asked now."""
        return _rows.limited_for(row, self.provider)

    def require_no_limit(self, row: UsersIntegrations, *, reading: bool = False) -> None:
        """Raises RateLimited while the provider may not be asked.

        `reading` is true before a read from the API, false before a request to the token endpoint.
        """
        if seconds := self.limited_for(row, reading=reading):
            raise error_by_code(RateLimited.code, self.errors)(retry_after=seconds)

    def obtain(
        self, user_id: int, *, replacing: Token | None = None, asking: bool = False
    ) -> Token:
        """A fresh token, never the one that is being replaced.

        With `asking` this call itself asks the provider: another's answer may be older than the
        reason to ask.

        Raises `not_linked`, `relink_required`, or a ProviderError that leaves the link as it is.
        """
        _rows.require_autocommit()
        give_up = time.monotonic() + self.lease + 10
        pause = 0.03
        first = None
        while True:
            row = self.linked_row(user_id)
            first = first or row
            if self.is_fresh(row) and not asking:
                token = self.open(row)
                if replacing is None or token != replacing:
                    return token
            if self._get(row, "failures") > self._get(first, "failures"):
                # The refresh that this call waited for has failed: share its answer, because a
                # provider in trouble is not helped by every waiter asking once more.
                raise self._stored_error(row)
            self.require_no_limit(row)
            lease = uuid.uuid4()
            if self._take_lease(row, lease):
                refreshed = self.refresh_leased(row, lease)
                if refreshed is not None:
                    return refreshed.token
            if time.monotonic() > give_up:
                raise self.unavailable(retry_after=self.lease)
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (jitter, not a secret)
            pause = min(pause * 1.5, 0.3)

    def stored(self, user_id: int) -> Token:
        """The token as it is stored, fresh or not. Raises `not_linked` or `relink_required`."""
        return self.open(self.linked_row(user_id))

    def open(self, row: UsersIntegrations) -> Token:
        """The token in a row. Raises `relink_required` if no key opens it."""
        try:
            return self.read(row)
        except SecretUnreadable as exc:
            # Not written to the row: once the operator fixes the wrong key, the link works again.
            logger.error(
                "no key opens the %s tokens of user %s",
                self.provider,
                row.user_id,
                extra={"event": f"{self.provider}.tokens_unreadable", "user_id": row.user_id},
            )
            raise self.relink_required from exc

    def linked_row(self, user_id: int) -> UsersIntegrations:
        """The user's row. Raises `not_linked` or `relink_required`."""
        try:
            row = _rows.get_row(user_id)
        except IntegrationsNotFound:
            raise self.not_linked from None
        if not row.is_linked(self.provider):
            raise self.not_linked
        if row.has_ended(self.provider):
            raise self.relink_required
        return row

    def declare_dead(self, row: UsersIntegrations) -> bool:
        """End a link that the provider has ended, unless the row has a newer secret.

        Another process may have rotated it a moment ago, so one statement checks and writes the
        row.
        """
        ended = self._rows(row.user_id).filter(
            **{self.guard: row.sealed(self.guard), self._column("relink_required_at"): None}
        )
        columns = self._columns(
            relink_required_at=timezone.now(),
            error=self.relink_required.code,
            retry_at=None,
            lease=None,
            lease_until=None,
        )
        with _rows.atomic():  # so that no link ends without a line in the trail
            if not ended.update(**columns):
                return False
            code = self.relink_required.code
            _trail.note(row.user_id, self.provider, Event.RELINK_REQUIRED, code, Actor.PROVIDER)
            _rows.send_after_commit(relink_required, row.user_id, self.provider)
        event = {"event": f"{self.provider}.link_ended", "user_id": row.user_id}
        logger.warning("%s link of user %s has ended", self.provider, row.user_id, extra=event)
        return True

    # --- columns by provider --------------------------------------------------------------------

    def _column(self, name: str) -> str:
        return f"{self.provider}_{name}"

    def _columns(self, **values: Any) -> dict[str, Any]:
        return {self._column(name): value for name, value in values.items()}

    def _get(self, row: UsersIntegrations, name: str) -> Any:
        return getattr(row, self._column(name))

    def _rows(self, user_id: int) -> Any:
        return UsersIntegrations.objects.filter(user_id=user_id)

    # --- the steps ------------------------------------------------------------------------------

    def _stored_error(self, row: UsersIntegrations) -> ProviderError:
        error = error_by_code(self._get(row, "error"), self.errors)
        retry_at = self._get(row, "retry_at")
        left = None if retry_at is None else round((retry_at - row.read_at).total_seconds())
        return error(retry_after=None if left is None else max(0, left))

    def _take_lease(self, row: UsersIntegrations, lease: uuid.UUID) -> bool:
        """Take the lease on what was read, unless it was refreshed or has failed since.

        The database's clock decides, because machines disagree about the time.
        """
        unchanged = {
            self.guard: row.sealed(self.guard),
            **self._columns(failures=self._get(row, "failures"), relink_required_at=None),
        }
        return bool(
            self._rows(row.user_id)
            .filter(self.lease_is_over(), **unchanged)
            .update(**self._columns(lease=lease, lease_until=later(timedelta(seconds=self.lease))))
        )

    def lease_is_over(self) -> Q:
        return over(self._column("lease_until"), timedelta(seconds=self.lease))

    def renew_lease(self, row: UsersIntegrations, lease: uuid.UUID) -> bool:
        """Restart the time of a lease, if it is still ours."""
        return bool(
            self._rows(row.user_id)
            .filter(**self._columns(lease=lease))
            .update(**self._columns(lease_until=later(timedelta(seconds=self.lease))))
        )

    def drop_lease(self, row: UsersIntegrations, lease: uuid.UUID, **columns: Any) -> bool:
        """Release the lease, if it is still ours."""
        return bool(
            self._rows(row.user_id)
            .filter(**self._columns(lease=lease))
            .update(**self._columns(lease=None, lease_until=None, **columns))
        )

    @counts_refreshes
    @ending.holding()  # or the provider's answer would be lost
    def refresh_leased(self, row: UsersIntegrations, lease: uuid.UUID) -> Refreshed[Token] | None:
        """Ask the provider and write its answer; return None if the row has to be read again."""
        settled = False
        try:
            refreshed = self.refresh(row)
            settled = True  # from here on the row is written, or is no longer ours to write
            return self._store(row, lease, refreshed)
        except self.dead as exc:
            settled = self.declare_dead(row)
            if not settled:
                return None
            raise self.relink_required from exc
        except (ProviderError, SecretUnreadable) as exc:
            # A lost key does not end the link: the operator can fix it.
            if not settled:
                settled = True
                _rows.note_limit(row.user_id, self.provider, exc)
                self._note_failure(row, lease, exc)
            if isinstance(exc, SecretUnreadable):
                raise self.relink_required from exc
            raise
        finally:
            if not settled:
                self.drop_lease(row, lease)

    def _note_failure(
        self, row: UsersIntegrations, lease: uuid.UUID, exc: IntegrationsError
    ) -> None:
        """Release the lease and set the next try's time, unless the lease is another's by now."""
        with _rows.atomic():  # so that no failure counts without a line in the trail
            if self.drop_lease(
                row,
                lease,
                error=exc.code,
                failures=F(self._column("failures")) + 1,
                retry_at=later(timedelta(seconds=self._backoff(row, exc))),
            ):
                # An athlete's request may cause a refresh but does not ask for one; staff can.
                forced = _trail.acting()[0] == Actor.STAFF
                actor = None if forced else Actor.SYSTEM
                _trail.note(row.user_id, self.provider, Event.REFRESH_FAILED, exc.code, actor)

    def _backoff(self, row: UsersIntegrations, exc: IntegrationsError) -> float:
        """Seconds until a sweep may try again: doubling up to a day, with jitter.

        A rate limit ends with its window, however often it was hit.
        """
        retry_after: int = getattr(exc, "retry_after", None) or 0
        if isinstance(exc, RateLimited) and retry_after:
            return min(retry_after, MAX_BACKOFF)
        seconds: float = min(BACKOFF * 2 ** min(self._get(row, "failures"), 20), MAX_BACKOFF)
        seconds *= random.uniform(0.75, 1.25)  # noqa: S311 (jitter, not a secret)
        return min(max(seconds, retry_after), MAX_BACKOFF)

    def _store(
        self, row: UsersIntegrations, lease: uuid.UUID, refreshed: Refreshed[Token]
    ) -> Refreshed[Token] | None:
        """Write the answer, if the secret that it replaces is still the stored one.

        The provider has rotated already, and losing its answer means losing the link. So a write
        that fails is tried again for a while.
        """
        replaced = row.sealed(self.guard)
        give_up = time.monotonic() + STORE_FOR
        while True:
            try:
                if _rows.update_where(
                    {"user": row.user_id, self.guard: replaced}, refreshed.columns
                ):
                    return refreshed
                current = self._rows(row.user_id).first()
            except (OperationalError, InterfaceError, InternalError) as exc:
                connection = connections[router.db_for_write(UsersIntegrations)]
                if connection.in_atomic_block or time.monotonic() > give_up:
                    raise
                if isinstance(exc, InternalError):
                    # A server that is read-only now, because another has taken over.
                    connection.close()
                _rows.close_dead_connection()
                time.sleep(0.2)
                continue
            if current is None or not current.has_secret(self.guard):
                # Disconnected while the provider was being asked.
                refreshed.discard()
                raise self.not_linked
            if self._was_replaced(row, current, lease):
                # Reconnected, or refreshed by another after our lease ran out.
                if self.is_another_grant(row, current):
                    refreshed.discard()
                return None
            replaced = current.sealed(self.guard)  # re-encrypted with another key

    def _was_replaced(
        self, row: UsersIntegrations, current: UsersIntegrations, lease: uuid.UUID
    ) -> bool:
        """Whether the row has another secret, and not the same one under another key."""
        try:
            return bool(getattr(current, self.guard) != getattr(row, self.guard))
        except SecretUnreadable:
            # It is under a key that this process does not know yet. Replacing a secret clears the
            # lease; sealing it with a new key does not.
            return bool(self._get(current, "lease") != lease)

    def is_another_grant(self, row: UsersIntegrations, current: UsersIntegrations) -> bool:
        """Whether a reconnect made a separate grant: revoking one leaves the other alive."""
        return False
