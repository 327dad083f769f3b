"""One refresh at a time for a link, across threads, processes and machines.

A caller that finds a token too old takes a lease on the row with one conditional UPDATE, asks the
provider with no transaction open, and writes the answer with another UPDATE, guarded by the secret
that it replaces. Other callers wait for the winner's token. If a refresher dies midway, its lease
runs out and another can go on.

A lease that ran out without being released is a reason to wait, not to conclude. Its holder may be
paused, or hold an answer that the database does not take: then the token is spent, and the good
pair is still to come. So whoever takes such a lease over may ask, but a refusal ends nothing. The
row is left waiting for GRACE, in which nobody asks and callers get a transient error, and the next
refusal after that ends the link. If the holder comes back even later, its pair makes the link whole
again.

A keeper says what differs between providers. It works on the columns `PROVIDER_lease`,
`_lease_until`, `_failures`, `_error`, `_retry_at` and `_relink_required_at`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, InternalError, connections, router
from django.db.models import F, Q
from django.db.models.functions import Now
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
from . import _rows, _spool, _trail
from ._spool import DATABASE_AWAY, Answer
from ._trail import Actor, Event

logger = logging.getLogger("integrations.links")

# Seconds. After STORE_FOR, a caller whom somebody waits for leaves the rest to a thread.
STORE_FOR = 5
GRACE = 5 * 60
BACKOFF = 60
MAX_BACKOFF = 24 * 60 * 60

# In place of a lease: the token was refused after another's lease ran out.
WAITING = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh. It is in doubt if it was taken from somebody who never released it."""

    id: uuid.UUID
    in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Refreshed[Token]:
    """What a provider answered: the token to hand out, and the columns to write."""

    token: Token = field(repr=False)
    columns: dict[str, Any] = field(repr=False)
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

    def discard(self, row: UsersIntegrations, columns: dict[str, Any]) -> None:  # noqa: B027
        """Revoke what a refresh of the row brought, because the link is gone by now."""

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
            lease = self._take_lease(row)
            if lease is not None:
                refreshed = self.refresh_leased(row, lease)
                if refreshed is not None:
                    return refreshed.token
            elif self._get(row, "lease") == WAITING and not self.take_up():
                raise self.unavailable(retry_after=self._seconds_until(row, "lease_until"))
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

    def declare_dead(self, row: UsersIntegrations, lease: Lease | None = None) -> bool:
        """End a link that the provider has ended, unless the row has a newer secret, or the lease
        is another's by now.

        Another process may have rotated it a moment ago, so one statement checks and writes the
        row.
        """
        ended = self._rows(row.user_id).filter(
            **{self.guard: row.sealed(self.guard), self._column("relink_required_at"): None}
        )
        if lease is not None:
            ended = ended.filter(**self._columns(lease=lease.id))
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
        return error(retry_after=self._seconds_until(row, "retry_at"))

    def _seconds_until(self, row: UsersIntegrations, column: str) -> int | None:
        moment = self._get(row, column)
        return None if moment is None else max(0, round((moment - row.read_at).total_seconds()))

    def _take_lease(self, row: UsersIntegrations) -> Lease | None:
        """Take the lease on what was read, unless it was refreshed or has failed since.

        The database's clock decides, because machines disagree about the time.
        """
        unchanged = {
            self.guard: row.sealed(self.guard),
            **self._columns(
                lease=self._get(row, "lease"),
                failures=self._get(row, "failures"),
                relink_required_at=None,
            ),
        }
        lease = Lease(uuid.uuid4(), in_doubt=self._get(row, "lease") not in (None, WAITING))
        taken = (
            self._rows(row.user_id)
            .filter(self.lease_is_over(), **unchanged)
            .update(
                **self._columns(lease=lease.id, lease_until=later(timedelta(seconds=self.lease)))
            )
        )
        return lease if taken else None

    def lease_is_over(self) -> Q:
        return over(self._column("lease_until"), timedelta(seconds=max(self.lease, GRACE)))

    def renew_lease(self, row: UsersIntegrations, lease: Lease) -> bool:
        """Restart the time of a lease, if it is still ours."""
        return bool(
            self._rows(row.user_id)
            .filter(**self._columns(lease=lease.id))
            .update(**self._columns(lease_until=later(timedelta(seconds=self.lease))))
        )

    def drop_lease(self, row: UsersIntegrations, lease: Lease, **columns: Any) -> bool:
        """Release the lease, if it is still ours.

        One in doubt is left as one that ran out: whoever takes it next is in the same doubt.
        """
        left = {"lease_until": Now()} if lease.in_doubt else {"lease": None, "lease_until": None}
        return bool(
            self._rows(row.user_id)
            .filter(**self._columns(lease=lease.id))
            .update(**self._columns(**left, **columns))
        )

    def _wait(self, row: UsersIntegrations, lease: Lease) -> bool:
        """Leave the row to whoever let the lease run out, if it is still ours."""
        return bool(
            self._rows(row.user_id)
            .filter(**self._columns(lease=lease.id))
            .update(**self._columns(lease=WAITING, lease_until=later(timedelta(seconds=GRACE))))
        )

    @counts_refreshes
    @ending.holding()  # or the provider's answer would be lost
    def refresh_leased(
        self, row: UsersIntegrations, lease: Lease, *, patient: bool = False
    ) -> Refreshed[Token] | None:
        """Ask the provider and write its answer; return None if the row has to be read again.

        With `patient`, nobody waits for this call: it returns only once the answer is stored, or
        the process is told to end.
        """
        settled = False
        try:
            refreshed = self.refresh(row)
            settled = True  # from here on the row is written, or is no longer ours to write
            answer = Answer(self.provider, row, lease.id, refreshed.columns)
            return refreshed if self._store(answer, patient=patient) else None
        except self.dead as exc:
            self.take_up()  # a database that was restored knows of no lease, and of no doubt
            if lease.in_doubt:
                settled = self._wait(row, lease)
                if not settled:
                    return None
                event = {"event": f"{self.provider}.refresh_in_doubt", "user_id": row.user_id}
                logger.warning("%s refused a token that may be spent", self.provider, extra=event)
                raise self.unavailable(retry_after=GRACE) from None
            settled = self.declare_dead(row, lease)
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

    def _note_failure(self, row: UsersIntegrations, lease: Lease, exc: IntegrationsError) -> None:
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

    def _store(self, answer: Answer, *, patient: bool) -> bool:
        """Write an answer; returns whether it was still wanted.

        The provider has rotated already, and losing its answer means losing the link. So a write
        that fails is tried again for as long as the process lives, by a thread if a caller waits;
        and the answer waits in a file, too.
        """
        try:
            with _spool.in_hand(answer):
                return self._store_for(answer, None if patient else STORE_FOR)
        except DATABASE_AWAY:
            connection = connections[router.db_for_write(UsersIntegrations)]
            if not (patient or connection.in_atomic_block):
                threading.Thread(target=self._store_on, args=[answer], daemon=True).start()
            raise

    def _store_for(self, answer: Answer, seconds: float | None) -> bool:
        started, pause = time.monotonic(), 0.2
        while True:
            try:
                return self._store_once(answer)
            except DATABASE_AWAY as exc:
                connection = connections[router.db_for_write(UsersIntegrations)]
                if connection.in_atomic_block:
                    raise
                if isinstance(exc, InternalError):
                    # A server that is read-only now, because another has taken over.
                    connection.close()
                _rows.close_dead_connection()
                took = time.monotonic() - started
                if seconds is not None and took > seconds:
                    raise
                # Without a file, this process is all that holds the answer.
                if ending.told() and (answer.path or took > STORE_FOR):
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, 2)

    def _store_on(self, answer: Answer) -> None:
        try:
            with suppress(IntegrationsError, *DATABASE_AWAY):
                self._store(answer, patient=True)
        finally:
            connections.close_all()

    def _store_once(self, answer: Answer) -> bool:
        """Write an answer, if the secret that it replaces is still the stored one."""
        row = answer.row
        replaced = row.sealed(self.guard)
        while True:
            if _rows.update_where({"user": row.user_id, self.guard: replaced}, answer.columns):
                return True
            current = self._rows(row.user_id).first()
            if current is None or not current.has_secret(self.guard):
                # Disconnected while the provider was being asked.
                self.discard(row, answer.columns)
                raise self.not_linked
            if self._was_replaced(row, current, answer.lease):
                # Reconnected, or refreshed by another after our lease ran out.
                if self.is_another_grant(row, current):
                    self.discard(row, answer.columns)
                return False
            replaced = current.sealed(self.guard)  # re-encrypted with another key

    def take_up(self) -> int:
        """Store the answers that wait in files; returns how many were there."""
        count = 0
        for answer in _spool.waiting(self.provider):
            try:
                self._store_once(answer)
            except IntegrationsError:  # disconnected meanwhile
                pass
            except DATABASE_AWAY:
                raise
            except DatabaseError as exc:  # of this one; the others go on
                event = {"event": f"{self.provider}.answer_not_stored"}
                logger.error("an answer cannot be stored: %s", type(exc).__name__, extra=event)
                continue
            _spool.forget(answer)
            count += 1
        return count

    def _was_replaced(
        self, row: UsersIntegrations, current: UsersIntegrations, lease: uuid.UUID
    ) -> bool:
        """Whether the row has another secret, and not the same one under another key."""
        try:
            return bool(getattr(current, self.guard) != getattr(row, self.guard))
        except SecretUnreadable:
            # It is under a key that this process does not know yet. Replacing a secret clears the
            # lease; sealing it with a new key does not.
            return bool(self._get(current, "lease") not in (lease, WAITING))

    def is_another_grant(self, row: UsersIntegrations, current: UsersIntegrations) -> bool:
        """Whether a reconnect made a separate grant: revoking one leaves the other alive."""
        return False
