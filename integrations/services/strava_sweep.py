"""Refresh every Strava token that is about to expire, for cron or a scheduler.

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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, router
from django.db.models import Case, Q, Value, When
from django.db.models.functions import Now

from .. import ending
from ..clock import dated, later, over
from ..exceptions import IntegrationsError, RateLimited, SiteClientRejected
from ..models import LINK_CONDITIONS, LinkStatus, UsersIntegrations
from . import strava
from ._parallel import run_parallel
from ._rows import close_dead_connection, database_errors, require_autocommit
from ._single_flight import MAX_BACKOFF, WAITING, Lease
from .strava_tokens import StravaTokenKeeper

logger = logging.getLogger("integrations.strava")

_keeper = StravaTokenKeeper()

# Seconds that a claimed row may wait for its turn. After that, its lease might end during the
# request, and another process could spend the same token.
CLAIM_LASTS = 5
# Seconds for which a thread's connection that has stored an answer is trusted to store the next.
TRUSTED_FOR = 1


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
    attempted: bool = field(default=False, repr=False)
    is_over: bool = field(default=True, repr=False)

    def as_dict(self) -> dict[str, int]:
        counts = asdict(self)
        return {name: counts[name] for name in ("due", "refreshed", "failed", "skipped")}


@database_errors
def sweep_strava_tokens(
    within: int = 3600,
    workers: int = 8,
    progress: Callable[[SweepCounts], object] = lambda counts: None,
    lasts: float = math.inf,
) -> SweepCounts:
    """Refresh the tokens that expire within the given seconds, with the given number of threads.

    One row's failure stops no other, but the first failure to reach the database stops them all. A
    rate limit stops only the work of its own Strava app, until its window ends. `progress` is
    called after each row, from any thread but never from two at once. After `lasts` seconds nothing
    is begun any more; nor once the process is told to end, which then ends as it would have, when
    all that was begun is stored.
    """
    require_autocommit()
    _keeper.take_up()
    sweep = _Sweep(timedelta(seconds=within), workers, progress, lasts)
    with ending.holding():
        run_parallel(sweep.claimed(), sweep.refresh, workers)
        return sweep.finish()


@dataclass(frozen=True, slots=True)
class Claim:
    """A row whose lease is ours, and since when (by time.monotonic)."""

    row: UsersIntegrations
    lease: Lease
    since: float

    def is_old(self) -> bool:
        return time.monotonic() - self.since > CLAIM_LASTS


class _Sweep:
    def __init__(
        self,
        within: timedelta,
        workers: int,
        progress: Callable[[SweepCounts], object],
        lasts: float,
    ) -> None:
        self.started: datetime | None = None  # by the database's clock; claimed() sets it
        self.within = within
        self.workers = workers
        self.progress = progress
        self.time_is_up_at = time.monotonic() + lasts
        self.lock = threading.Lock()
        self.database_errors: list[Exception] = []
        self.database_is_away = False
        self.thread = threading.local()  # when its connection last stored an answer, as `stored`
        self.counts = SweepCounts(due=self.due().count())
        # Whether Strava has limited the site's app; an athlete's own app has a limit of its own.
        self.site_limited = strava.site_limited_for() > 0

    def due(self) -> Any:
        """Links that are alive, expire in time, and were not put off by a failure.

        Nor refreshed since the sweep began: a new token's life may be shorter than the window.
        """
        rows = UsersIntegrations.objects.filter(
            Q(strava_client_id=None) | strava.own_unlimited(),
            over("strava_retry_at", timedelta(seconds=MAX_BACKOFF)),
            LINK_CONDITIONS["strava"][LinkStatus.LINKED],
            strava_token_expires_at__lt=later(self.within),
            strava_refresh_token__isnull=False,
        )
        if self.started is None:
            return rows
        # A clock that was set back may have left a time that is still to come.
        return rows.exclude(strava_refreshed_at__range=(self.started, Now()))

    def claimed(self) -> Iterator[Claim]:
        """Claim rows, as many at a time as there are workers.

        They come in the order of expiry, so each is visited once, whatever the outcome. (With more
        than an hour left, for example, Strava answers with the same token.)
        """
        free = _keeper.lease_is_over()
        further = Q()
        while not self.has_to_end():
            due = self.due().filter(free, further)
            if self.site_limited:
                due = due.filter(strava_client_id__isnull=False)
            found = list(
                dated(due)
                .order_by("strava_token_expires_at", "pk")
                .values_list("pk", "strava_token_expires_at", "read_at")[: self.workers]
            )
            if not found:
                return
            self.started = self.started or found[0][2]
            ids = [pk for pk, _, _ in found]
            last_pk, last_expiry, _ = found[-1]
            # The second bound implies the first, but PostgreSQL does not derive it.
            further = Q(strava_token_expires_at__gte=last_expiry) & (
                Q(strava_token_expires_at__gt=last_expiry) | Q(pk__gt=last_pk)
            )
            lease, since = Lease(uuid.uuid4()), time.monotonic()
            doubtful = Lease(uuid.uuid4(), in_doubt=True)
            released = Q(strava_lease=None) | Q(strava_lease=WAITING)
            # Repeat the condition: another sweep may have chosen the same rows.
            due.filter(pk__in=ids).update(
                strava_lease=Case(When(released, then=Value(lease.id)), default=Value(doubtful.id)),
                strava_lease_until=later(timedelta(seconds=_keeper.lease)),
            )
            rows = dated(UsersIntegrations.objects).filter(
                pk__in=ids, strava_lease__in=[lease.id, doubtful.id]
            )
            rows = rows.defer("garminconnect_oauth1", "garminconnect_oauth2")
            for row in rows:
                yield Claim(row, doubtful if row.strava_lease == doubtful.id else lease, since)

    def has_to_end(self) -> bool:
        if time.monotonic() > self.time_is_up_at:
            self.counts.is_over = False
        return ending.told() or self.database_is_away or not self.counts.is_over

    def refresh(self, claim: Claim) -> None:
        row, lease = claim.row, claim.lease
        outcome = Counter[str]()
        asked = True
        try:
            is_own = row.has_secret("strava_client_id")
            if self.has_to_end() or (strava.limited_for(row) if is_own else self.site_limited):
                with suppress(DatabaseError, InterfaceError):
                    _keeper.drop_lease(row, lease)
                asked = False
            elif not self.may_ask(claim):
                outcome["skipped"] += 1  # another's by now
            else:
                refreshed = _keeper.refresh_leased(row, lease, patient=True)
                outcome["refreshed" if refreshed else "skipped"] += 1
                self.thread.stored = time.monotonic()
                if refreshed and refreshed.limit_reached:
                    self.site_limited |= not row.has_secret("strava_client_id")
        except RateLimited:
            self.site_limited |= not row.has_secret("strava_client_id")
            outcome["failed"] += 1
        except IntegrationsError as exc:  # noted on the row, and in the log
            outcome["failed"] += 1
            # The site's app is not set, so Strava was not asked.
            asked = not isinstance(exc, SiteClientRejected) or exc.provider_status is not None
        except (DatabaseError, InterfaceError) as exc:  # for this row; the others go on
            close_dead_connection()
            self.database_is_away |= not _is_reachable()
            event = {"event": "strava.sweep_failed", "user_id": row.user_id}
            logger.error("sweep: %s", type(exc).__name__, extra=event)
            self.database_errors.append(exc)
            outcome["failed"] += 1
        with self.lock:
            self.counts.attempted |= asked
            for name, count in outcome.items():
                setattr(self.counts, name, getattr(self.counts, name) + count)
            self.progress(self.counts)

    def may_ask(self, claim: Claim) -> bool:
        """Whether the claim is ours, and this thread's connection has just answered.

        Strava spends the token, so the connection that will store the answer has to work first: a
        thread may get none, where a server or a role allows only so many.
        """
        stored = getattr(self.thread, "stored", None)
        if stored and time.monotonic() - stored < TRUSTED_FOR and not claim.is_old():
            return True
        return _keeper.renew_lease(claim.row, claim.lease)

    def finish(self) -> SweepCounts:
        counts = self.counts
        if self.database_errors and counts.refreshed + counts.failed == len(self.database_errors):
            raise self.database_errors[0]  # apparently not because of one row
        # Rows that a limit held back, that another sweep has done, or that there was no time for.
        counts.skipped = max(counts.skipped, counts.due - counts.refreshed - counts.failed)
        counts.attempted |= not self.site_limited and counts.skipped > 0
        return counts


def _is_reachable() -> bool:
    """Whether the database answers on this thread's connection."""
    connection = connections[router.db_for_write(UsersIntegrations)]
    try:
        connection.ensure_connection()
    except (DatabaseError, InterfaceError):
        return False
    return connection.is_usable()
