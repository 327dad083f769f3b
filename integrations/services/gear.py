"""Gear synced with the providers that know any.

A sync first asks the provider, then writes in one transaction of set-based statements that start
with a condition on the link. So a killed sync leaves the gear whole, two at once end in the same
rows, and one that comes after a disconnect writes nothing.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import IntegrityError
from django.db.models import Case, Count, F, Q, Value, When

from .. import ending, exceptions, providers
from ..clock import later, over
from ..gear import OTHER, GearItem
from ..links import FetchedGear, Provider
from ..metrics import count_failure
from ..models import Gear, LinkStatus
from ..signals import gear_synced
from . import _rows, trail
from ._providers import of_provider
from ._rows import database_errors
from .tokens import keeper_of
from .trail import Event

logger = logging.getLogger("integrations.gear")

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


@of_provider
def sync_gear(user_id: Any, provider: Provider) -> GearCounts:
    """Sync one user's gear with a provider now.

    Raises NotLinked, RelinkRequired, ScopeMissing if the athlete has withheld it, or a
    ProviderError; then no gear has changed.
    """
    _require_gear(provider)
    _rows.require_autocommit()
    keeper = keeper_of(provider)
    row = keeper.linked_row(user_id)
    try:
        keeper.require_no_limit(row, reading=True)
    except exceptions.RateLimited as exc:
        # Without asking, because refused requests count, too.
        _note_failure(row, provider, exc, asked=False)
        raise
    try:
        token = keeper.open(row) if provider.is_fresh(row) else keeper.obtain(user_id)
        fetched = provider.fetch_gear(
            row, token, database_errors(lambda used: keeper.obtain(user_id, replacing=used))
        )
        _note_account(row, provider, fetched)
        if odd := fetched.gear.odd:
            event = {"event": f"{provider.name}.gear_odd", "user_id": user_id}
            counted = ", ".join(f"{kind} {count}" for kind, count in sorted(odd.items()))
            logger.warning("%s lists odd gear: %s", provider.name, counted, extra=event)
        counts = _apply(row, provider, fetched)
    except provider.dead as exc:  # no session at all, or one that the keeper has seen end
        keeper.declare_unusable(user_id, token)
        raise provider.relink_required(reason=exc) from exc
    except (exceptions.IntegrationsDatabaseError, provider.not_linked):
        raise  # our fault, or disconnected meanwhile: not an error of the link
    except exceptions.IntegrationsError as exc:
        _rows.note_limit(provider.home, user_id, exc)
        _note_failure(row, provider, exc)
        raise
    _rows.send_after_commit(gear_synced, user_id, provider.name)
    return counts


def _require_gear(provider: Provider) -> None:
    if not provider.has_gear:
        raise exceptions.UnknownProvider


@of_provider
def request_gear_sync(user_id: Any, provider: Provider) -> str:
    """Note that a worker is about to sync, so that the page can show it.

    Returns the last sync's error code, or "", which is cleared.

    Raises SyncInProgress if one is under way; `not_linked` or `relink_required` of the provider;
    RateLimited while it must not be asked; ScopeMissing if its gear was not permitted.
    """
    _require_gear(provider)
    home, keeper = provider.home, keeper_of(provider)
    row = keeper.linked_row(user_id)
    if not home.is_readable(row):
        raise provider.relink_required
    if is_gear_missing(provider, row):
        raise exceptions.ScopeMissing
    keeper.require_no_limit(row, reading=True)
    free = over(home.column("syncing_until"), SYNCING_FOR)
    # This clears the last error, so that a polling page notices if the same one comes again.
    if not home.write(user_id, free, syncing_until=later(SYNCING_FOR), sync_error=""):
        raise exceptions.SyncInProgress
    error: str = home.get(row, "sync_error")
    return error


def is_gear_missing(provider: Provider, row: Any) -> bool:
    """Whether the athlete has withheld the scope that gear needs."""
    known = bool(provider.gear_scope) and bool(provider.home.get(row, "scope"))
    return known and provider.gear_scope not in provider.home.scopes(row)


@of_provider
def withdraw_gear_sync(user_id: Any, provider: Provider, error: str) -> None:
    """Take back request_gear_sync, which returned `error`, if the task could not be enqueued."""
    columns = provider.home.columns(syncing_until=None, sync_error=error)
    _rows.update(provider.home, user_id, **columns)


@of_provider
def set_sync_gear(user_id: Any, provider: Provider, sync_gear: bool) -> None:
    """Switch sync on or off as the athlete wants it; on means due now.

    Unlike the seed's functions it makes the row if there is none.
    """
    _require_gear(provider)
    _rows.ensure_row(provider.home, user_id)
    _rows.update(provider.home, user_id, **_rows.sync_columns(provider.home, sync_gear))


@of_provider
def wants_gear(user_id: Any, provider: Provider) -> bool:
    """Whether the athlete has switched gear sync on."""
    _require_gear(provider)
    home = provider.home
    return bool(home.of(user_id).filter(home.q(sync_gear=True)).exists())


@database_errors
def get_gear(user_id: Any) -> list[Gear]:
    """All gear of one user: in use before retired, primary first."""
    return list(
        Gear.objects.filter(user_id=user_id).order_by(
            "provider", "retired", "kind", "-primary", "-distance", "pk"
        )
    )


@database_errors
def count_gear(user_id: Any) -> dict[str, int]:
    """How much gear a user has, retired gear included, by provider."""
    counts = Gear.objects.filter(user_id=user_id).values_list("provider").annotate(Count("pk"))
    return dict(counts)


def _wanting_gear(provider: Provider) -> Any:
    """The rows whose athletes want their gear synced, and whose link is alive."""
    home = provider.home
    return home.rows().filter(home.conditions[LinkStatus.LINKED], home.q(sync_gear=True))


@database_errors
def take_due_gear_syncs(provider: str, limit: int = 500) -> tuple[list[int], datetime]:
    """Up to `limit` user ids whose gear is due, each for one caller only, and until when.

    They are put off for an hour, in which the caller has to sync; a sync sets the next time. After
    that, others may take them (see is_gear_sync_taken).
    """
    found = providers.get(provider)
    due_at = found.home.column("sync_due_at")
    due = _wanting_gear(found).filter(over(due_at, MAX_BACKOFF))
    return _rows.take_due(due, due_at, timedelta(hours=1), limit)


@of_provider
def is_gear_sync_taken(user_id: Any, provider: Provider, until: datetime) -> bool:
    """Whether a sync taken until then is still due, and not taken by another.

    After hours without workers, the queue has each athlete once for every hour.
    """
    home = provider.home
    return bool(home.of(user_id).filter(home.q(sync_due_at=until)).exists())


def iterate_wanting_gear(provider: str, user_id: Any = None) -> Iterator[Any]:
    """The user ids of all who want their gear synced, a few hundred in memory at a time.

    No more of them once the process is told to end.
    """
    rows = _wanting_gear(providers.get(provider)).order_by("pk")
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


def _note_account(row: Any, provider: Provider, fetched: FetchedGear) -> None:
    """Note whose link it is, if the token endpoint did not say. Raises InvalidProviderReply if the
    gear is another account's."""
    home, found = provider.home, fetched.account.id
    known = home.get(row, "account_id") if found else None
    if known is not None and str(known) != found:
        raise exceptions.InvalidProviderReply
    if found and known is None:
        # If another user has linked the account, too, it stays with that user.
        with suppress(IntegrityError), _rows.atomic():
            _update_same(row, provider, home.q(account_id=None), {"account_id": found})


def _apply(row: Any, provider: Provider, fetched: FetchedGear) -> GearCounts:
    now = row.read_at
    details = _Details(row, provider, fetched.details)
    known = {
        gear.provider_gear_id: gear
        for gear in Gear.objects.filter(user_id=row.user_id, provider=provider.name)
    }
    items = {item.provider_gear_id: item for item in fetched.gear.items}
    created, changed, retired = [], [], 0
    for item in items.values():
        gear = known.get(item.provider_gear_id)
        item = details.of(_with_known(item, gear), gear)
        values = {name: getattr(item, name, None) for name in _COMPARED}
        if gear is None:
            gear = Gear(
                user_id=row.user_id,
                provider=provider.name,
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
    last_seen_at = provider.home.get(row, "synced_at") or now
    asked_for = trail.acting() != trail.SYSTEM  # then the trail notes any outcome
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
        trail.note(row.user_id, provider.name, Event.SYNCED, code)
    return counts


def _with_known(item: GearItem, gear: Gear | None) -> GearItem:
    """Fill missing values from the stored gear, or with the defaults of new gear."""
    unsaid = [name for name in _SAID if getattr(item, name) is None]
    return replace(item, **{n: getattr(gear or _NEW, n) for n in unsaid}) if unsaid else item


@dataclass
class _Details:
    """Brand and model of gear that is new or renamed, at one request for each piece."""

    row: Any
    provider: Provider
    ask: Callable[[GearItem], GearItem]
    has_stopped: bool = False

    def of(self, item: GearItem, gear: Gear | None) -> GearItem:
        if item.brand is not None:
            return item
        stored, known = item, False
        if gear is not None:
            stored = replace(item, brand=gear.brand, model=gear.model)
            known = gear.brand is not None
            if known and gear.name == item.name:
                return stored
        if self.has_stopped or ending.told():  # a request for each piece takes long
            return stored
        try:
            return self.ask(item)
        except exceptions.GearNotFound:
            # If none exist, asking again costs a request.
            return stored if known else replace(item, brand="", model="")
        except exceptions.ProviderError as exc:
            # They are missing until the next sync, which asks again.
            event = {"event": f"{self.provider.name}.gear_details_missing"}
            logger.info("no details of gear: %s", exc.code, extra=event)
            if isinstance(exc, _STOPPING) and exc.provider_status != 500:  # that is over this piece
                # It would hit the other gear, too, and refused requests count.
                self.has_stopped = True
                _rows.note_limit(self.provider.home, self.row.user_id, exc)
            return stored


_STOPPING = (exceptions.RateLimited, exceptions.ProviderUnavailable, exceptions.TokenRejected)


def _note_success(row: Any, provider: Provider, fetched: FetchedGear, now: datetime) -> None:
    values: dict[str, Any] = {
        "synced_at": now,
        "sync_error": "",
        "sync_failures": 0,
        "sync_due_at": now + SYNC_EVERY * random.uniform(0.9, 1.1),  # noqa: S311
        "syncing_until": None,
    }
    said = (("units", fetched.units), ("account_name", fetched.account.name))
    values |= {name: value for name, value in said if value}
    home = provider.home
    if not _update_same(row, provider, home.conditions[LinkStatus.LINKED], values):
        raise provider.not_linked  # disconnected or reconnected meanwhile


def _update_same(row: Any, provider: Provider, condition: Q, values: dict[str, Any]) -> bool:
    """Write to a row, if its link is still the one that was read."""
    home = provider.home
    same = home.q(linked_at=home.get(row, "linked_at")) & condition
    return home.write(row.user_id, same & Q(pk=row.pk), **values)


def _note_failure(
    row: Any, provider: Provider, exc: exceptions.IntegrationsError, asked: bool = True
) -> None:
    home = provider.home
    wait = min(BACKOFF * 2 ** min(home.get(row, "sync_failures"), 10), MAX_BACKOFF)
    wait *= random.uniform(0.75, 1)  # noqa: S311
    retry_after = timedelta(seconds=getattr(exc, "retry_after", None) or 0)
    if isinstance(exc, exceptions.RateLimited):
        wait = retry_after  # the window ends for all at once, however many were refused
    values: dict[str, Any] = {"syncing_until": None}
    # An error of the link itself is noted only on the link: a second copy would remain after it is
    # fixed.
    if not isinstance(exc, provider.relink_required):
        values |= {
            "sync_error": Case(
                When(home.q(error=exc.code), then=Value("")), default=Value(exc.code)
            ),
            "sync_failures": F(home.column("sync_failures")) + 1,
            "sync_due_at": later(min(max(wait, retry_after), MAX_BACKOFF)),
        }
    with _rows.atomic():  # so that no failure counts without a line in the trail
        if not _update_same(row, provider, ~home.conditions[LinkStatus.NOT_LINKED], values):
            return  # disconnected or reconnected meanwhile
        # A sync put off without asking the provider is noted only if somebody requested it.
        if asked or trail.acting() != trail.SYSTEM:
            trail.note(row.user_id, provider.name, Event.SYNC_FAILED, exc.code)
    if asked:
        count_failure(provider.name, "gear_sync", exc.code)
