"""Gear as Strava lists it with the athlete."""

from __future__ import annotations

from typing import Any

from ..exceptions import InvalidProviderReply, ScopeMissing
from ..gear import BIKE, MAX_GEAR, SHOES, GearItem, GearList, flag, gear_id, meters, text
from .client import StravaProfile


def read_gear(profile: StravaProfile) -> GearList:
    """Bikes and shoes, entry by entry.

    Raises ScopeMissing if both lists are missing, InvalidProviderReply if neither is a list.
    """
    if profile.bikes is None and profile.shoes is None:
        raise ScopeMissing
    if not isinstance(profile.bikes, list) and not isinstance(profile.shoes, list):
        raise InvalidProviderReply
    gear = GearList()
    for kind, entries in ((BIKE, profile.bikes), (SHOES, profile.shoes)):
        if not isinstance(entries, list):
            gear.add(None, kind, [kind])
            continue
        for entry in entries[:MAX_GEAR]:
            item = _item(entry, kind)
            gear.add(item, kind, [kind], odd=item is not None and item.distance is None)
        if len(entries) > MAX_GEAR:
            gear.partial.add(kind)
    return gear


def _item(entry: Any, kind: str) -> GearItem | None:
    known_by = gear_id(entry.get("id")) if isinstance(entry, dict) else None
    if known_by is None:
        return None
    return GearItem(
        provider_gear_id=known_by,
        kind=kind,
        name=text(entry.get("name")),
        distance=meters(entry.get("distance")),
        retired=flag(entry.get("retired")),
        primary=flag(entry.get("primary")),
    )
