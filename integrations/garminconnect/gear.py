"""Gear of a signed-in athlete, in the newer shape of Garmin's or the older one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from ..exceptions import GarminConnectInvalidReply, IntegrationsError
from ..gear import BIKE, OTHER, SHOES, GearItem, clean_text
from .client import library, translate_use

if TYPE_CHECKING:
    from garminconnect import Garmin


class _GarminGear(BaseModel):
    """Gear in the newer shape, or the older one: `uuid` with dashes or without."""

    model_config = ConfigDict(hide_input_in_errors=True)

    uuid: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{1,64}$")]
    kind: str | None = Field(None, validation_alias=AliasChoices("gearType", "gearTypeName"))
    name: str | None = Field(None, validation_alias=AliasChoices("name", "displayName"))
    brand: str | None = Field(None, validation_alias=AliasChoices("brand", "gearMakeName"))
    model: str | None = Field(None, validation_alias=AliasChoices("model", "gearModelName"))
    status: str | None = Field(
        None, validation_alias=AliasChoices("gearStatus", "status", "gearStatusName")
    )
    distance: float | None = Field(
        None, validation_alias="distanceUsedMeters", ge=0, le=1e12, allow_inf_nan=False
    )

    def item(self) -> GearItem:
        kinds = {"bike": BIKE, "shoes": SHOES}
        return GearItem(
            provider_gear_id=self.uuid.replace("-", "").lower(),
            kind=kinds.get((self.kind or "").lower(), OTHER),
            name=clean_text(self.name),
            distance=round(self.distance or 0),
            retired=(self.status or "").lower() == "retired",
            brand=clean_text(self.brand),
            model=clean_text(self.model),
        )


_PAGE = 20  # the default of Garmin's own page; a larger one might be cut short unseen
_MAX_GEAR = 2000


def fetch_gear(garmin: Garmin) -> list[GearItem]:
    """All gear of a signed-in athlete, retired gear too.

    Raises InvalidSession if Garmin does not accept the session, renewed or not, or an error
    that says that asking again later may help.
    """
    garminconnect = library()
    garmin.retry_attempts = 0  # whoever asks has retries of their own
    try:
        try:
            found = _pages(garmin)
        except garminconnect.GarminConnectNotFoundError:
            # The older endpoint, by the profile's number.
            found = list(garmin.get_gear(str(garmin.get_user_profile()["id"])))
        items = [_GarminGear.model_validate(each) for each in found]
        return [
            replace(item.item(), distance=_distance(garmin, item))
            if item.distance is None
            else item.item()
            for item in items
        ]
    except IntegrationsError:
        raise
    except ValidationError:
        raise GarminConnectInvalidReply from None
    except Exception as exc:
        raise translate_use(garminconnect, exc) from None


def fetch_units(garmin: Garmin) -> str:
    """How the athlete wants distances: "metric" or "imperial"; "" where that cannot be told."""
    try:
        system = garmin.get_user_profile()["userData"]["measurementSystem"]
    except Exception:
        return ""
    return "metric" if system == "metric" else "imperial"


def _pages(garmin: Garmin) -> list[Any]:
    found: list[Any] = []
    while True:
        page = garmin.get_gear_list(len(found), _PAGE)
        if not isinstance(page, list):
            raise GarminConnectInvalidReply
        found += page
        if len(page) < _PAGE or len(found) >= _MAX_GEAR:
            return found


def _distance(garmin: Garmin, gear: _GarminGear) -> int:
    """Metres out of the statistics, which know no dashes; 0 where there are none."""
    stats = garmin.get_gear_stats(gear.uuid.replace("-", "")) or {}
    distance = stats.get("totalDistance")
    return round(distance) if isinstance(distance, int | float) and 0 <= distance <= 1e12 else 0
