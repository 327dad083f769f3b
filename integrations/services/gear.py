"""Gear synced with both providers.

A sync first asks the provider, then writes in one transaction of set-based statements that start
with a condition on the link. So a killed sync leaves the gear whole, two at once end in the same
rows, and one that comes after a disconnect writes nothing.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Case, Count, F, Value, When

from .. import ending
from ..clock import later, over
from ..exceptions import (
    GearNotFound,
    IntegrationsDatabaseError,
    IntegrationsError,
    ProviderError,
    RateLimited,
    ScopeMissing,
    SyncInProgress,
)
from ..gear import OTHER, GearItem, GearList
from ..metrics import count_failure
from ..models import LINK_CONDITIONS, Gear, LinkStatus, UsersIntegrations
from ..signals import gear_synced
from . import _rows, _trail
from ._gear_sources import KEEPERS, Fetched, fetch_from_garminconnect, fetch_from_strava
from ._rows import database_errors
from ._trail import Event

logger = logging.getLogger("integrations.gear")

PROVIDERS = tuple(Gear.Provider.values)
GEAR_SCOPE = "profile:read_all"  # without it Strava shows no gear
SYNC_EVERY = timedelta(hours=6)
BACKOFF = timedelta(minutes=10)
MAX_BACKOFF = timedelta(days=1)
# How long the page shows a sync as under way if it never ends.
SYNCING_FOR = timedelta(minutes=1)

_COMPARED = ("kind", "name", "brand", "model", "distance", "primary", "retired", "last_seen_at")

_SAID = ("kind", "name", "distance", "primary", "retired")
_NEW = Gear(kind=OTHER)


class GearCounts(NamedTuple):
    """What a sync has changed."""

    created: int = 0
    updated: int = 0
    retired: int = 0


@database_errors
def sync_strava_gear(user_id: int) -> GearCounts:
    """Sync one user's gear with Strava now: one request, and one for each new gear.

    Raises StravaNotLinked, StravaRelinkRequired, ScopeMissing without profile:read_all, or a
    ProviderError; then no gear has changed.
    """
    return _sync(user_id, "strava", fetch_from_strava)


@database_errors
def sync_garminconnect_gear(user_id: int) -> GearCounts:
    """Sync one user's gear with Garmin Connect now.

    Raises GarminConnectNotLinked, GarminConnectRelinkRequired, or a GarminConnectError; then no
    gear has changed.
    """
    return _sync(user_id, "garminconnect", fetch_from_garminconnect)


def sync_gear(user_id: int, provider: str) -> GearCounts:
    """sync_strava_gear or sync_garminconnect_gear, by name."""
    sync = sync_strava_gear if provider == "strava" else sync_garminconnect_gear
    return sync(user_id)


@database_errors
def request_gear_sync(user_id: int, provider: str) -> str:
    """Note that a worker is about to sync, so that the page can show it.

    Returns the last sync's error code, or "", which is cleared.

    Raises SyncInProgress if one is under way; `not_linked` or `relink_required` of the provider;
    RateLimited while it must not be asked; ScopeMissing if its gear was not permitted.
    """
    keeper = KEEPERS[provider]
    row = keeper.linked_row(user_id)
    if not row.is_readable(provider):
        raise keeper.relink_required
    if is_gear_missing(row, provider):
        raise ScopeMissing
    keeper.require_no_limit(row, reading=True)
    free = over(f"{provider}_syncing_until", SYNCING_FOR)
    # This clears the last error, so that a polling page notices if the same one comes again.
    columns = {f"{provider}_syncing_until": later(SYNCING_FOR), f"{provider}_sync_error": ""}
    if not UsersIntegrations.objects.filter(free, user_id=user_id).update(**columns):
        raise SyncInProgress
    error: str = getattr(row, f"{provider}_sync_error")
    return error


def is_gear_missing(row: UsersIntegrations, provider: str) -> bool:
    """Whether the athlete has withheld the scope that gear needs."""
    known = provider == "strava" and bool(row.strava_scope)
    return known and GEAR_SCOPE not in row.strava_scopes


@database_errors
def withdraw_gear_sync(user_id: int, provider: str, error: str) -> None:
    """Take back request_gear_sync, which returned `error`, if the task could not be enqueued."""
    columns = {f"{provider}_syncing_until": None, f"{provider}_sync_error": error}
    _rows.update(user_id, **columns)


@database_errors
def set_sync_gear(user_id: int, provider: str, sync_gear: bool) -> None:
    """Switch sync on or off as the athlete wants it; on means due now.

    Unlike the seed's functions it makes the row if there is none.
    """
    _rows.ensure_row(user_id)
    _rows.update(user_id, **_rows.sync_columns(provider, sync_gear))


@database_errors
def get_gear(user_id: int) -> list[Gear]:
    """All gear of one user: in use before retired, primary first."""
    return list(
        Gear.objects.filter(user_id=user_id).order_by(
            "provider", "retired", "kind", "-primary", "-distance", "pk"
        )
    )


@database_errors
def count_gear(user_id: int) -> dict[str, int]:
    """How much gear a user has, retired gear included, by provider."""
    counts = Gear.objects.filter(user_id=user_id).values_list("provider").annotate(Count("pk"))
    return dict.fromkeys(PROVIDERS, 0) | dict(counts)


def wanting_gear(provider: str) -> Any:
    """The rows whose athletes want their gear synced, and whose link is alive."""
    return UsersIntegrations.objects.filter(
        LINK_CONDITIONS[provider][LinkStatus.LINKED], **{f"{provider}_sync_gear": True}
    )


@database_errors
def take_due_gear_syncs(provider: str, limit: int = 500) -> tuple[list[int], datetime]:
    """Up to `limit` user ids whose gear is due, each for one caller only, and until when.

    They are put off for an hour, in which the caller has to sync; a sync sets the next time. After
    that, others may take them (see is_gear_sync_taken).
    """
    due_at = f"{provider}_sync_due_at"
    due = wanting_gear(provider).filter(over(due_at, MAX_BACKOFF))
    return _rows.take_due(due, due_at, timedelta(hours=1), limit)


@database_errors
def is_gear_sync_taken(user_id: int, provider: str, until: datetime) -> bool:
    """Whether a sync taken until then is still due, and not taken by another.

    After hours without workers, the queue has each athlete once for every hour.
    """
    taken = UsersIntegrations.objects.filter(user_id=user_id, **{f"{provider}_sync_due_at": until})
    return taken.exists()


def iterate_wanting_gear(provider: str, user_id: int | None = None) -> Iterator[int]:
    """The user ids of all who want their gear synced, a few hundred in memory at a time.

    No more of them once the process is told to end.
    """
    rows = wanting_gear(provider).order_by("pk")
    if user_id is not None:
        rows = rows.filter(user_id=user_id)
    last = 0
    while batch := _batch(rows, last):
        last = batch[-1][0]
        for _, user_id in batch:
            if ending.told():
                return
            yield user_id


@database_errors
def _batch(rows: Any, last: int) -> list[tuple[int, int]]:
    return list(rows.filter(pk__gt=last).values_list("pk", "user_id")[:500])


# --- One sync ------------------------------------------------------------------------


def _sync(user_id: int, provider: str, fetch: Callable[[UsersIntegrations], Fetched]) -> GearCounts:
    _rows.require_autocommit()
    keeper = KEEPERS[provider]
    row = keeper.linked_row(user_id)
    try:
        keeper.require_no_limit(row, reading=True)
    except RateLimited as exc:
        # Without asking, because refused requests count, too.
        _note_failure(row, provider, exc, asked=False)
        raise
    try:
        fetched = fetch(row)
        _log_odd(row, provider, fetched.gear)
        counts = _apply(row, provider, fetched)
    except (IntegrationsDatabaseError, keeper.not_linked):
        raise  # our fault, or disconnected meanwhile: not an error of the link
    except IntegrationsError as exc:
        _rows.note_limit(user_id, provider, exc)
        _note_failure(row, provider, exc)
        raise
    _rows.send_after_commit(gear_synced, user_id, provider)
    return counts


def _apply(row: UsersIntegrations, provider: str, fetched: Fetched) -> GearCounts:
    now = row.read_at
    known = {
        gear.provider_gear_id: gear
        for gear in Gear.objects.filter(user_id=row.user_id, provider=provider)
    }
    items = {item.provider_gear_id: item for item in fetched.gear.items}
    created, changed, retired = [], [], 0
    for item in items.values():
        gear = known.get(item.provider_gear_id)
        item = _with_details(_with_known(item, gear), gear, fetched)
        values = {name: getattr(item, name, None) for name in _COMPARED}
        if gear is None:
            gear = Gear(
                user_id=row.user_id,
                provider=provider,
                provider_gear_id=item.provider_gear_id,
                first_seen_at=now,
                **values,
            )
            created.append(gear)
        elif any(getattr(gear, name) != value for name, value in values.items()):
            retired += bool(item.retired and not gear.retired)
            for name, value in values.items():
                setattr(gear, name, value)
            changed.append(gear)
    gone = [
        gear.pk
        for key, gear in known.items()
        if key not in items and gear.last_seen_at is None and gear.kind not in fetched.gear.partial
    ]
    last_seen_at = getattr(row, f"{provider}_synced_at") or now
    asked_for = _trail.acting() != _trail.SYSTEM  # then the trail notes any outcome
    if not (created or changed or gone or asked_for):
        _note_success(row, provider, fetched, now)
        return GearCounts()
    with _rows.atomic():
        # First, for its condition and its lock: a disconnect comes either before or after.
        _note_success(row, provider, fetched, now)
        # An upsert, because another sync may have just created the same gear.
        Gear.objects.bulk_create(
            created + changed,
            update_conflicts=True,
            unique_fields=["user", "provider", "provider_gear_id"],
            update_fields=_COMPARED,
        )
        if gone:
            retired += sum(not gear.retired for gear in known.values() if gear.pk in gone)
            Gear.objects.filter(pk__in=gone).update(
                retired=True, primary=False, last_seen_at=last_seen_at
            )
        counts = GearCounts(len(created), len(changed) + len(gone) - retired, retired)
        code = " ".join(f"{name}={count}" for name, count in counts._asdict().items())
        _trail.note(row.user_id, provider, Event.SYNCED, code)
    return counts


def _log_odd(row: UsersIntegrations, provider: str, gear: GearList) -> None:
    if gear.odd:
        event = {"event": f"{provider}.gear_odd", "user_id": row.user_id}
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(gear.odd.items()))
        logger.warning("%s lists odd gear: %s", provider, counts, extra=event)


def _with_known(item: GearItem, gear: Gear | None) -> GearItem:
    """Fill missing values from the stored gear, or with the defaults of new gear."""
    unsaid = [name for name in _SAID if getattr(item, name) is None]
    return replace(item, **{n: getattr(gear or _NEW, n) for n in unsaid}) if unsaid else item


def _with_details(item: GearItem, gear: Gear | None, fetched: Fetched) -> GearItem:
    if item.brand is not None:
        return item
    if gear is not None and gear.brand is not None and gear.name == item.name:
        return replace(item, brand=gear.brand, model=gear.model)
    if ending.told():  # a request for each piece takes long
        return replace(item, brand=gear.brand, model=gear.model) if gear is not None else item
    try:
        return fetched.details(item)
    except GearNotFound:
        if gear is not None and gear.brand is not None:
            return replace(item, brand=gear.brand, model=gear.model)
        return replace(item, brand="", model="")  # none exist, and asking again costs a request
    except ProviderError as exc:
        # They are missing until the next sync, which asks again.
        event = {"event": "strava.gear_details_missing"}
        logger.info("no details of gear: %s", exc.code, extra=event)
        if gear is None:
            return item
        return replace(item, brand=gear.brand, model=gear.model)


def _note_success(row: UsersIntegrations, provider: str, fetched: Fetched, now: datetime) -> None:
    columns = {
        "synced_at": now,
        "sync_error": "",
        "sync_failures": 0,
        "sync_due_at": now + SYNC_EVERY * random.uniform(0.9, 1.1),  # noqa: S311
        "syncing_until": None,
    }
    columns |= {
        name: value
        for name, value in (("units", fetched.units), ("athlete_name", fetched.athlete_name))
        if value
    }
    linked_at = f"{provider}_linked_at"
    if not (
        UsersIntegrations.objects.filter(
            LINK_CONDITIONS[provider][LinkStatus.LINKED],
            pk=row.pk,
            **{linked_at: getattr(row, linked_at)},
        ).update(**{f"{provider}_{name}": value for name, value in columns.items()})
    ):
        raise KEEPERS[provider].not_linked  # disconnected or reconnected meanwhile


def _note_failure(
    row: UsersIntegrations, provider: str, exc: IntegrationsError, asked: bool = True
) -> None:
    failures = getattr(row, f"{provider}_sync_failures")
    wait = min(BACKOFF * 2 ** min(failures, 10), MAX_BACKOFF)
    wait *= random.uniform(0.75, 1)  # noqa: S311
    retry_after = timedelta(seconds=getattr(exc, "retry_after", None) or 0)
    if isinstance(exc, RateLimited):
        wait = retry_after  # the window ends for all at once, however many were refused
    columns: dict[str, Any] = {"syncing_until": None}
    # An error of the link itself is noted only on the link: a second copy would remain after it is
    # fixed.
    if not isinstance(exc, KEEPERS[provider].relink_required):
        columns |= {
            "sync_error": Case(
                When(**{f"{provider}_error": exc.code}, then=Value("")), default=Value(exc.code)
            ),
            "sync_failures": F(f"{provider}_sync_failures") + 1,
            "sync_due_at": later(min(max(wait, retry_after), MAX_BACKOFF)),
        }
    linked_at = f"{provider}_linked_at"
    with _rows.atomic():  # so that no failure counts without a line in the trail
        if not UsersIntegrations.objects.filter(
            ~LINK_CONDITIONS[provider][LinkStatus.NOT_LINKED],
            pk=row.pk,
            **{linked_at: getattr(row, linked_at)},
        ).update(**{f"{provider}_{name}": value for name, value in columns.items()}):
            return  # disconnected or reconnected meanwhile
        # A sync put off without asking the provider is noted only if somebody requested it.
        if asked or _trail.acting() != _trail.SYSTEM:
            _trail.note(row.user_id, provider, Event.SYNC_FAILED, exc.code)
    if asked:
        count_failure(provider, "gear_sync", exc.code)
