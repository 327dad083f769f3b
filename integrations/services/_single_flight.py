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

A provider says what differs. The keeper works on the columns `lease`, `lease_until`, `failures`,
`error`, `retry_at` and `relink_required_at` of its home.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, InternalError, connections, router
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from .. import ending, exceptions
from ..clock import later, over
from ..links import Provider, Refreshed
from ..metrics import count_failure, counts_refreshes
from ..signals import relink_required
from . import _compiled, _limits, _rows, _spool, links, trail
from ._providers import reading
from ._spool import DATABASE_AWAY, Answer
from .trail import Actor, Event

logger = logging.getLogger("integrations.links")

# Seconds. After STORE_FOR, a caller whom somebody waits for leaves the rest to a thread.
STORE_FOR = 5
GRACE = 5 * 60
BACKOFF = 60
MAX_BACKOFF = 24 * 60 * 60

# What tells whether a token is fresh.
_FRESH = dict.fromkeys(("token", "refresh_token", "token_expires_at", "relink_required_at"))

# In place of a lease: the token was refused after another's lease ran out.
WAITING = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh. It is in doubt if it was taken from somebody who never released it."""

    id: uuid.UUID
    in_doubt: bool = False


class TokenKeeper:
    """Keeps one provider's tokens fresh."""

    def __init__(self, provider: Provider) -> None:
        self.provider, self.home = provider, provider.home
        self.columns_of_freshness = tuple(self.home.columns(**_FRESH))

    def require_no_limit(self, row: Any, *, reading: bool = False) -> None:
        """Raises RateLimited while the provider may not be asked.

        `reading` is true before a read from the API, false before a request to the token endpoint.
        """
        if seconds := _limits.limited_for(self.provider, row, reading=reading):
            raise exceptions.error_by_code(exceptions.RateLimited.code, self.provider.errors)(
                retry_after=seconds
            )

    def obtain(self, user_id: Any, *, replacing: Any = None, asking: bool = False) -> Any:
        """A fresh token, never the one that is being replaced.

        With `asking` this call itself asks the provider: another's answer may be older than the
        reason to ask.

        Raises `not_linked`, `relink_required`, or a ProviderError that leaves the link as it is.
        """
        _rows.require_autocommit()
        give_up = time.monotonic() + self.provider.lease + 10
        pause = 0.03
        first = None
        while True:
            row = self.linked_row(user_id)
            first = first or row
            if self.provider.is_fresh(row) and not asking:
                token = self.open(row)
                if replacing is None or token != replacing:
                    return token
            if self.home.get(row, "failures") > self.home.get(first, "failures"):
                # The refresh that this call waited for has failed: share its answer, because a
                # provider in trouble is not helped by every waiter asking once more.
                error = exceptions.error_by_code(self.home.get(row, "error"), self.provider.errors)
                raise error(retry_after=self._seconds_until(row, "retry_at"))
            self.require_no_limit(row)
            lease = self._take_lease(row)
            if lease is not None:
                refreshed = self.refresh_leased(row, lease)
                if refreshed is not None:
                    return refreshed.token
            elif self.home.get(row, "lease") == WAITING and not self.take_up():
                raise self.provider.unavailable(retry_after=self._seconds_until(row, "lease_until"))
            if time.monotonic() > give_up:
                raise self.provider.unavailable(retry_after=self.provider.lease)
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (jitter, not a secret)
            pause = min(pause * 1.5, 0.3)

    def fresh(self, user_id: Any) -> Any:
        """The token, if `obtain` would hand it out at once; otherwise None.

        Loads what that takes of most providers. What another may want, Django loads when asked.
        """
        _rows.require_autocommit()
        home = self.home
        where = {"user": user_id, **home.where}
        row = _compiled.find(home.model, where, self.columns_of_freshness)
        if row is None or not home.is_linked(row) or home.has_ended(row):
            return None
        return self.open(row) if self.provider.is_fresh(row) else None

    def stored(self, user_id: Any) -> Any:
        """The token as it is stored, fresh or not. Raises `not_linked` or `relink_required`."""
        return self.open(self.linked_row(user_id))

    def open(self, row: Any) -> Any:
        """The token in a row. Raises `relink_required` if no key opens it."""
        try:
            return self.provider.read(row)
        except exceptions.SecretUnreadable as exc:
            # Not written to the row: once the operator fixes the wrong key, the link works again.
            logger.error(
                "no key opens the %s tokens of user %s",
                self.provider.label,
                row.user_id,
                extra={"event": f"{self.provider.name}.tokens_unreadable", "user_id": row.user_id},
            )
            raise self.provider.relink_required(reason=exc) from exc

    def linked_row(self, user_id: Any) -> Any:
        """The user's row. Raises `not_linked` or `relink_required`."""
        try:
            row = _rows.get_row(self.home, user_id)
        except exceptions.IntegrationsNotFound:
            raise self.provider.not_linked from None
        if not self.home.is_linked(row):
            raise self.provider.not_linked
        if self.home.has_ended(row):
            if self.home.get(row, "relink_required_at") is None:  # its token has run out
                self.declare_dead(row)
            raise self.provider.relink_required
        return row

    def declare_dead(self, row: Any, lease: Lease | None = None) -> bool:
        """End a link that the provider has ended, unless the row has a newer secret, or the lease
        is another's by now.

        Another process may have rotated it a moment ago, so one statement checks and writes the
        row.
        """
        alive = self._unchanged(row) & self.home.q(relink_required_at=None)
        if lease is not None:
            alive &= self.home.q(lease=lease.id)
        code = self.provider.relink_required.code
        with _rows.atomic():  # so that no link ends without a line in the trail
            if not self.home.write(
                row.user_id,
                alive,
                relink_required_at=timezone.now(),
                error=code,
                retry_at=None,
                lease=None,
                lease_until=None,
            ):
                return False
            trail.note(row.user_id, self.provider.name, Event.RELINK_REQUIRED, code, Actor.PROVIDER)
            _rows.send_after_commit(relink_required, row.user_id, self.provider.name)
        event = {"event": f"{self.provider.name}.link_ended", "user_id": row.user_id}
        logger.warning(
            "%s link of user %s has ended", self.provider.label, row.user_id, extra=event
        )
        return True

    def declare_unusable(self, user_id: Any, token: Any) -> None:
        """End a link whose token is none, unless it has another by now."""
        row = self.linked_row(user_id)
        if self.provider.read(row) == token:
            self.declare_dead(row)

    # --- the steps ------------------------------------------------------------------------------

    def _seconds_until(self, row: Any, column: str) -> int | None:
        moment = self.home.get(row, column)
        return None if moment is None else max(0, round((moment - row.read_at).total_seconds()))

    def _take_lease(self, row: Any) -> Lease | None:
        """Take the lease on what was read, unless it was refreshed or has failed since.

        The database's clock decides, because machines disagree about the time.
        """
        former, failures = self.home.get(row, "lease"), self.home.get(row, "failures")
        same = self.home.q(lease=former, failures=failures, relink_required_at=None)
        lease = Lease(uuid.uuid4(), in_doubt=former not in (None, WAITING))
        taken = self.home.write(
            row.user_id,
            self.lease_is_over() & self._unchanged(row) & same,
            lease=lease.id,
            lease_until=self.lease_end(),
        )
        return lease if taken else None

    def lease_end(self) -> Any:
        return later(timedelta(seconds=self.provider.lease))

    def lease_is_over(self) -> Q:
        return over(
            self.home.column("lease_until"), timedelta(seconds=max(self.provider.lease, GRACE))
        )

    def write_leased(self, row: Any, lease: Lease, /, **columns: Any) -> bool:
        """Write a row, if the lease is still ours."""
        return self.home.write(row.user_id, self.home.q(lease=lease.id), **columns)

    def drop_lease(self, row: Any, lease: Lease, **columns: Any) -> bool:
        """Release the lease, if it is still ours.

        One in doubt is left as one that ran out: whoever takes it next is in the same doubt.
        """
        left = {"lease_until": Now()} if lease.in_doubt else {"lease": None, "lease_until": None}
        return self.write_leased(row, lease, **left, **columns)

    @counts_refreshes
    @ending.holding()  # or the provider's answer would be lost
    def refresh_leased(
        self, row: Any, lease: Lease, *, patient: bool = False
    ) -> Refreshed[Any] | None:
        """Ask the provider and write its answer; return None if the row has to be read again.

        With `patient`, nobody waits for this call: it returns only once the answer is stored, or
        the process is told to end.
        """
        settled = False
        try:
            with reading(self.provider):
                refreshed = self.provider.refresh(row)
            settled = True  # from here on the row is written, or is no longer ours to write
            answer = Answer(
                self.provider.name, row, lease.id, self.home.columns(**refreshed.values)
            )
            if not self._store(answer, patient=patient):
                return None
            return self._use(row, refreshed)
        except self.provider.dead as exc:
            self.take_up()  # a database that was restored knows of no lease, and of no doubt
            if lease.in_doubt:
                # Leave the row to whoever let the lease run out.
                grace = later(timedelta(seconds=GRACE))
                settled = self.write_leased(row, lease, lease=WAITING, lease_until=grace)
                if not settled:
                    return None
                event = {"event": f"{self.provider.name}.refresh_in_doubt", "user_id": row.user_id}
                logger.warning(
                    "%s refused a token that may be spent", self.provider.label, extra=event
                )
                raise self.provider.unavailable(retry_after=GRACE) from None
            settled = self.declare_dead(row, lease)
            if not settled:
                return None
            raise self.provider.relink_required(reason=exc) from exc
        except (exceptions.ProviderError, exceptions.SecretUnreadable) as exc:
            # A lost key does not end the link: the operator can fix it.
            if not settled:
                settled = True
                _rows.note_limit(self.home, row.user_id, exc)
                self._note_failure(row, lease, exc)
            if isinstance(exc, exceptions.SecretUnreadable):
                raise self.provider.relink_required(reason=exc) from exc
            raise
        finally:
            if not settled:
                self.drop_lease(row, lease)

    def _note_failure(self, row: Any, lease: Lease, exc: exceptions.IntegrationsError) -> None:
        """Release the lease and set the next try's time, unless the lease is another's by now."""
        with _rows.atomic():  # so that no failure counts without a line in the trail
            if self.drop_lease(
                row,
                lease,
                error=exc.code,
                failures=F(self.home.column("failures")) + 1,
                retry_at=later(timedelta(seconds=self._backoff(row, exc))),
            ):
                # An athlete's request may cause a refresh but does not ask for one; staff can.
                forced = trail.acting()[0] == Actor.STAFF
                actor = None if forced else Actor.SYSTEM
                trail.note(row.user_id, self.provider.name, Event.REFRESH_FAILED, exc.code, actor)

    def _backoff(self, row: Any, exc: exceptions.IntegrationsError) -> float:
        """Seconds until a sweep may try again: doubling up to a day, with jitter.

        A rate limit ends with its window, however often it was hit.
        """
        retry_after: int = getattr(exc, "retry_after", None) or 0
        if isinstance(exc, exceptions.RateLimited) and retry_after:
            return min(retry_after, MAX_BACKOFF)
        seconds: float = min(BACKOFF * 2 ** min(self.home.get(row, "failures"), 20), MAX_BACKOFF)
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
            connection = connections[router.db_for_write(self.home.model)]
            if not (patient or connection.in_atomic_block):
                threading.Thread(target=self._store_on, args=[answer], daemon=True).start()
            raise

    def _store_for(self, answer: Answer, seconds: float | None) -> bool:
        started, pause = time.monotonic(), 0.2
        while True:
            try:
                return self._store_once(answer)
            except DATABASE_AWAY as exc:
                connection = connections[router.db_for_write(self.home.model)]
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
            with suppress(exceptions.IntegrationsError, *DATABASE_AWAY):
                self._store(answer, patient=True)
        finally:
            connections.close_all()

    def _store_once(self, answer: Answer) -> bool:
        """Write an answer, if the secret that it replaces is still the stored one."""
        row = answer.row
        guard = self.provider.guard(row)
        replaced = self.home.sealed(row, guard)
        where = {"user": row.user_id, **self.home.where}
        while True:
            unchanged = {self.home.column(guard): replaced}
            if _compiled.update_where(self.home.model, where | unchanged, answer.columns):
                return True
            current = self.home.of(row.user_id).first()
            if current is None or not self.home.has_secret(current, guard):
                # Disconnected while the provider was being asked.
                self._discard(row, answer.columns)
                raise self.provider.not_linked
            if self._was_replaced(row, current, answer.lease):
                # Reconnected, or refreshed by another after our lease ran out.
                if self.provider.is_another_grant(row, current):
                    self._discard(row, answer.columns)
                return False
            replaced = self.home.sealed(current, guard)  # re-encrypted with another key

    def _discard(self, row: Any, columns: dict[str, Any]) -> None:
        if links.stands_elsewhere(self.provider, row):
            return
        try:
            with reading(self.provider):
                self.provider.revoke_refreshed(row, columns)
        except exceptions.IntegrationsError as exc:  # the app is another by now, for example
            count_failure(self.provider.name, "revoke", exc.code)

    def _use(self, row: Any, refreshed: Refreshed[Any]) -> Refreshed[Any]:
        """What a new token may need is no part of the refresh, which has succeeded.

        If it fails, this is noted as the link's error, so that the next refresh can make up for it.
        """
        try:
            with reading(self.provider):
                self.provider.used(row, refreshed.token)
        except exceptions.IntegrationsError as exc:
            count_failure(self.provider.name, "use", exc.code)
            ours = self.home.q(refreshed_at=refreshed.values["refreshed_at"])
            with suppress(*DATABASE_AWAY):  # the token is stored, whatever happens now
                _rows.note_limit(self.home, row.user_id, exc)
                self.home.write(row.user_id, ours, error=exc.code)
            return replace(
                refreshed,
                limit_reached=refreshed.limit_reached or isinstance(exc, exceptions.RateLimited),
            )
        return refreshed

    def _unchanged(self, row: Any) -> Q:
        """Whether a row still has the secret that was read."""
        guard = self.provider.guard(row)
        return self.home.q(**{guard: self.home.sealed(row, guard)})

    def take_up(self) -> int:
        """Store the answers that wait in files; returns how many were there."""
        count = 0
        for answer in _spool.waiting(self.provider.name):
            try:
                with suppress(exceptions.IntegrationsError):  # disconnected meanwhile
                    self._store_once(answer)
            except DATABASE_AWAY:
                raise
            except DatabaseError as exc:  # of this one; the others go on
                event = {"event": f"{self.provider.name}.answer_not_stored"}
                logger.error("an answer cannot be stored: %s", type(exc).__name__, extra=event)
                continue
            _spool.forget(answer)
            count += 1
        return count

    def _was_replaced(self, row: Any, current: Any, lease: uuid.UUID) -> bool:
        """Whether the row has another secret, and not the same one under another key."""
        guard = self.provider.guard(row)
        try:
            return bool(self.home.get(current, guard) != self.home.get(row, guard))
        except exceptions.SecretUnreadable:
            # It is under a key that this process does not know yet. Replacing a secret clears the
            # lease; sealing it with a new key does not.
            return bool(self.home.get(current, "lease") not in (lease, WAITING))
