"""Gear of a signed-in athlete, in Garmin's newer shape or the older one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..exceptions import (
    GarminConnectInvalidReply,
    GarminConnectUnavailable,
    IntegrationsError,
)
from ..gear import BIKE, MAX_GEAR, OTHER, SHOES, GearItem, GearList, gear_id, meters, text
from .client import library, translate_use

if TYPE_CHECKING:
    from garminconnect import Garmin

_PAGE = 20  # the default of Garmin's own page; a larger one might be cut off silently
_KINDS = {"bike": BIKE, "shoes": SHOES}
_STATUSES = {"active": False, "retired": True}


def fetch_gear(garmin: Garmin) -> GearList:
    """All gear of a signed-in athlete, retired gear too.

    Raises InvalidSession if Garmin does not accept the session, renewed or not, or another error if
    asking again later may help.
    """
    garmin.retry_attempts = 0  # callers retry by themselves
    every_kind = (BIKE, SHOES, OTHER)
    gear, statistics = GearList(), _Statistics(garmin)
    try:
        try:
            entries = _pages(garmin)
        except library().GarminConnectNotFoundError:
            # The older endpoint, by the profile's number.
            entries = _list(garmin.get_gear(str(garmin.get_user_profile()["id"])))
        for entry in entries[:MAX_GEAR]:
            said = entry if isinstance(entry, dict) else {}
            item, odd = _item(said), False
            if item is not None and item.distance is None:
                item, odd = statistics.of(item)
            gear.add(item, _kind(said), every_kind, odd)
    except IntegrationsError:
        raise
    except Exception as exc:
        raise translate_use(exc) from None
    if len(entries) >= MAX_GEAR:
        gear.partial.update(every_kind)
    return gear


def fetch_units(garmin: Garmin) -> str:
    """How the athlete wants distances: "metric" or "imperial"; "" if unknown."""
    try:
        system = garmin.get_user_profile()["userData"]["measurementSystem"]
    except Exception:
        return ""
    return ("metric" if system == "metric" else "imperial") if isinstance(system, str) else ""


def fetch_name(garmin: Garmin) -> str:
    """The athlete's name; "" where Garmin does not say."""
    try:
        name = garmin.connectapi("/userprofile-service/socialProfile")["fullName"]
    except Exception:
        return ""
    return text(name) or ""


def _pages(garmin: Garmin) -> list[Any]:
    found: list[Any] = []
    while True:
        page = _list(garmin.get_gear_list(len(found), _PAGE))
        found += page
        if len(page) < _PAGE or len(found) >= MAX_GEAR:
            return found


def _list(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise GarminConnectInvalidReply
    return answer


def _item(entry: dict[str, Any]) -> GearItem | None:
    """An entry in the newer shape, or the older one: `uuid` with dashes or without, or null."""
    uuid = (gear_id(_first(entry, "uuid")) or "").replace("-", "").lower()
    if not uuid:
        return None
    brand, model = _listed(entry, "brand", "gearMakeName"), _listed(entry, "model", "gearModelName")
    name = text(_first(entry, "name", "displayName"))
    if name == "":
        name = text(_first(entry, "customMakeModel"))
        if name and set(name.lower().split()) <= {"other", "unknown", "bike", "shoes"}:
            name = ""  # Garmin's words for an unlisted make and model
        if name == f"{brand} {model}".strip():
            name = ""  # gear without a name is shown by its make and model anyway
    status = text(_first(entry, "gearStatus", "status", "gearStatusName"))
    return GearItem(
        provider_gear_id=uuid,
        kind=_kind(entry),
        name=name,
        distance=meters(_first(entry, "distanceUsedMeters")),
        retired=_STATUSES.get(status.lower()) if status else None,
        brand=brand,
        model=model,
    )


def _first(entry: dict[str, Any], *names: str) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _kind(entry: dict[str, Any]) -> str | None:
    kind = text(_first(entry, "gearType", "gearTypeName"))
    return _KINDS.get(kind.lower(), OTHER) if kind else None


def _listed(entry: dict[str, Any], *names: str) -> str:
    """A make or model; "" for the words with which Garmin marks an unlisted one."""
    found = text(_first(entry, *names)) or ""
    return "" if found.lower() == "other" or found.lower().startswith("unknown") else found


class _Statistics:
    """Ask for distances that a list does not have: one request for each piece."""

    def __init__(self, garmin: Garmin) -> None:
        self._garmin = garmin
        self._silent = False

    def of(self, item: GearItem) -> tuple[GearItem, bool]:
        """A piece with its distance if Garmin has one; and whether asking failed.

        An error over one piece stops no other. If Garmin does not answer, asking stops.
        """
        if self._silent:
            return item, False
        try:
            statistics = self._garmin.get_gear_stats(item.provider_gear_id)
        except Exception as exc:
            error = translate_use(exc)
            if isinstance(error, GarminConnectUnavailable):
                self._silent = error.provider_status != 500
            elif type(error) is not GarminConnectInvalidReply or error.provider_status:
                raise error from None
            return item, True
        if statistics == {}:  # a 404, as for gear that was removed
            return item, False
        said = statistics if isinstance(statistics, dict) else {}
        distance = meters(said.get("totalDistance"))
        return replace(item, distance=distance), distance is None
