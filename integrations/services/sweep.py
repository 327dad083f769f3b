"""Refresh every token that is about to expire, for cron or a scheduler.

Rows are claimed a handful at a time with the same lease that a refresh on demand takes, so two
sweeps, or a sweep and an athlete, never refresh the same token, and memory does not grow with
the number of users. Links that are dead, or put off after a failure, are skipped. A sweep that is
told to end claims no more, stores what it has asked for, and releases the rest.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import DatabaseError, InterfaceError, connections, router
from django.db.models import Case, Q, Value, When
from django.db.models.functions import Now

from .. import ending, providers
from ..clock import dated, later, over
from ..exceptions import IntegrationsError, RateLimited, SiteClientRejected
from ..links import Provider
from ..models import LinkStatus
from . import _limits
from ._parallel import run_parallel
from ._rows import close_dead_connection, database_errors, require_autocommit
from ._single_flight import MAX_BACKOFF, WAITING, Lease
from .tokens import keeper_of

logger = logging.getLogger("integrations.links")

# Seconds that a claimed row may wait for its turn. After that, its lease might end during the
# request, and another process could spend the same token.
CLAIM_LASTS = 5
# Seconds for which a thread's connection that has stored an answer is trusted to store the next.
TRUSTED_FOR = 1
# Seconds that each provider gets, even if requests to those before it took all of the time.
LEAST = 1


@dataclass
class SweepCounts:
    """`due` at the start; then `refreshed`, `failed`, and `skipped`, which were not asked for.

    `attempted` is false if a rate limit or a missing app stopped all of them. Rows taken by another
    sweep count as attempted. `is_over` is false if the time was up before all were asked for.
    """

    due: int = 0
    refreshed: int = 0
    failed: int = 0
    skipped: int = 0
    attempted: bool = False
    is_over: bool = True

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("due", "refreshed", "failed", "skipped")}


@database_errors
def sweep_tokens(
    within: int = 3600,
    workers: int = 8,
    progress: Callable[[SweepCounts], object] = lambda counts: None,
    lasts: float = math.inf,
    names: Collection[str] = (),
) -> SweepCounts:
    """Refresh the tokens that expire within the given seconds, with the given number of threads.

    Those of the providers with these `names`, or of all, one provider after another, each with a
    fair share of the time: one that is silent must not use up that of the others.

    One row's failure stops no other, but the first failure to reach the database stops them all. A
    rate limit stops only the work of its own app, until its window ends. `progress` is called after
    each row, from any thread but never from two at once. After `lasts` seconds nothing is begun any
    more; nor once the process is told to end, which then ends as it would have, when all that was
    begun is stored. Raises UnknownProvider.
    """
    require_autocommit()
    swept = [providers.get(name) for name in names or providers.known()]
    time_is_up_at = time.monotonic() + lasts
    with ending.holding():
        sweeps = [
            _Sweep(provider, timedelta(seconds=within), workers)
            for provider in swept
            if provider.is_swept
        ]
        for number, sweep in enumerate(sweeps):
            left = time_is_up_at - time.monotonic()
            share = max(left / (len(sweeps) - number), min(lasts, LEAST))
            sweep.run(lambda: progress(_sum(sweeps)), time.monotonic() + share)
        return _sum(sweeps)


def _sum(sweeps: list[_Sweep]) -> SweepCounts:
    counts = [sweep.counts for sweep in sweeps]
    totals: Any = {n: sum(each.as_dict()[n] for each in counts) for n in SweepCounts().as_dict()}
    attempted = any(each.attempted for each in counts)
    return SweepCounts(**totals, attempted=attempted, is_over=all(each.is_over for each in counts))


class Claim(NamedTuple):
    """A row whose lease is ours, and since when (by time.monotonic)."""

    row: Any
    lease: Lease
    since: float


class _Sweep:
    def __init__(self, provider: Provider, within: timedelta, workers: int) -> None:
        self.provider, self.home = provider, provider.home
        self.keeper = keeper_of(provider)
        self.keeper.take_up()
        self._end_those_that_ran_out()
        self.started: datetime | None = None  # by the database's clock; claimed() sets it
        self.within = within
        self.workers = workers
        self.lock = threading.Lock()
        self.database_errors: list[Exception] = []
        self.database_is_away = False
        self.thread = threading.local()  # when its connection last stored an answer, as `stored`
        self.counts = SweepCounts(due=self.due().count())
        # Whether the provider has limited the site's app; an athlete's own has a limit of its own.
        self.site_limited = _limits.site_limited_for(provider) > 0

    def run(self, progress: Callable[[], object], time_is_up_at: float) -> None:
        self.progress, self.time_is_up_at = progress, time_is_up_at
        run_parallel(self.claimed(), self.refresh, self.workers)
        counts = self.counts
        if self.database_errors and counts.refreshed + counts.failed == len(self.database_errors):
            raise self.database_errors[0]  # apparently not because of one row
        # Rows that a limit held back, that another sweep has done, or that there was no time for.
        counts.skipped = max(counts.skipped, counts.due - counts.refreshed - counts.failed)
        counts.attempted |= not self.site_limited and counts.skipped > 0

    def _end_those_that_ran_out(self) -> None:
        """End the links whose token has run out, and which nothing can renew."""
        home = self.home
        over_now = home.q(relink_required_at=None, refresh_token=None, token_expires_at__lte=Now())
        if home.where:
            for row in dated(home.rows()).filter(over_now, home.q(token__isnull=False))[:1000]:
                self.keeper.declare_dead(row)

    def due(self) -> Any:
        """Links that are alive, expire in time, and were not put off by a failure.

        Nor refreshed since the sweep began: a new token's life may be shorter than the window.
        """
        home = self.home
        rows = home.rows().filter(
            over(home.column("retry_at"), timedelta(seconds=MAX_BACKOFF)),
            home.conditions[LinkStatus.LINKED],
            home.q(token_expires_at__lt=later(self.within), refresh_token__isnull=False),
        )
        if home.has("client_id"):
            rows = rows.filter(_limits.site_app(home) | _limits.own_unlimited(home))
        if self.started is None:
            return rows
        # A clock that was set back may have left a time that is still to come.
        return rows.exclude(home.q(refreshed_at__range=(self.started, Now())))

    def claimed(self) -> Iterator[Claim]:
        """Claim rows, as many at a time as there are workers.

        They come in the order of expiry, so each is visited once, whatever the outcome. (With more
        than an hour left, for example, Strava answers with the same token.)
        """
        home = self.home
        free = self.keeper.lease_is_over()
        further, expires_at = Q(), home.column("token_expires_at")
        while not self.has_to_end():
            due = self.due().filter(free, further)
            if self.site_limited:
                due = due.exclude(_limits.site_app(home)) if home.has("client_id") else due.none()
            found = list(
                dated(due)
                .order_by(expires_at, "pk")
                .values_list("pk", expires_at, "read_at")[: self.workers]
            )
            if not found:
                return
            self.started = self.started or found[0][2]
            ids = [pk for pk, _, _ in found]
            last_pk, last_expiry, _ = found[-1]
            # The second bound implies the first, but PostgreSQL does not derive it.
            further = home.q(token_expires_at__gte=last_expiry) & (
                home.q(token_expires_at__gt=last_expiry) | Q(pk__gt=last_pk)
            )
            lease, since = Lease(uuid.uuid4()), time.monotonic()
            doubtful = Lease(uuid.uuid4(), in_doubt=True)
            released = home.q(lease=None) | home.q(lease=WAITING)
            # Repeat the condition: another sweep may have chosen the same rows.
            due.filter(pk__in=ids).update(
                **home.columns(
                    lease=Case(When(released, then=Value(lease.id)), default=Value(doubtful.id)),
                    lease_until=self.keeper.lease_end(),
                )
            )
            claims = home.q(lease__in=[lease.id, doubtful.id])
            for row in dated(home.loaded()).filter(claims, pk__in=ids):
                in_doubt = home.get(row, "lease") == doubtful.id
                yield Claim(row, doubtful if in_doubt else lease, since)

    def has_to_end(self) -> bool:
        if time.monotonic() > self.time_is_up_at:
            self.counts.is_over = False
        return ending.told() or self.database_is_away or not self.counts.is_over

    def refresh(self, claim: Claim) -> None:
        row, lease, _ = claim
        outcome = Counter[str]()
        asked = True
        try:
            is_own = self.home.has_secret(row, "client_id")
            if self.has_to_end() or (
                _limits.limited_for(self.provider, row) if is_own else self.site_limited
            ):
                with suppress(DatabaseError, InterfaceError):
                    self.keeper.drop_lease(row, lease)
                asked = False
            elif not self.may_ask(claim):
                outcome["skipped"] += 1  # another's by now
            else:
                refreshed = self.keeper.refresh_leased(row, lease, patient=True)
                outcome["refreshed" if refreshed else "skipped"] += 1
                self.thread.stored = time.monotonic()
                if refreshed and refreshed.limit_reached:
                    self.site_limited |= not self.home.has_secret(row, "client_id")
        except RateLimited:
            self.site_limited |= not self.home.has_secret(row, "client_id")
            outcome["failed"] += 1
        except IntegrationsError as exc:  # noted on the row, and in the log
            outcome["failed"] += 1
            # The site's app is not set, so nobody was asked.
            asked = not isinstance(exc, SiteClientRejected) or exc.provider_status is not None
        except (DatabaseError, InterfaceError) as exc:  # for this row; the others go on
            close_dead_connection()
            self.database_is_away |= not self._is_reachable()
            event = {"event": f"{self.provider.name}.sweep_failed", "user_id": row.user_id}
            logger.error("sweep: %s", type(exc).__name__, extra=event)
            self.database_errors.append(exc)
            outcome["failed"] += 1
        with self.lock:
            self.counts.attempted |= asked
            for name, count in outcome.items():
                setattr(self.counts, name, getattr(self.counts, name) + count)
            self.progress()

    def may_ask(self, claim: Claim) -> bool:
        """Whether the claim is ours, and this thread's connection has just answered.

        The provider spends the token, so the connection that will store the answer has to work
        first: a thread may get none, where a server or a role allows only so many.
        """
        stored = getattr(self.thread, "stored", None)
        now = time.monotonic()
        if stored and now - stored < TRUSTED_FOR and now - claim.since <= CLAIM_LASTS:
            return True
        until = self.keeper.lease_end()
        return self.keeper.write_leased(claim.row, claim.lease, lease_until=until)

    def _is_reachable(self) -> bool:
        """Whether the database answers on this thread's connection."""
        connection = connections[router.db_for_write(self.home.model)]
        try:
            connection.ensure_connection()
        except (DatabaseError, InterfaceError):
            return False
        return connection.is_usable()
