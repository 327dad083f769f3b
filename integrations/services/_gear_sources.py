"""Where gear comes from: ask each provider, and bring its answer into one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..exceptions import (
    GarminConnectRelinkRequired,
    InvalidProviderReply,
    InvalidSession,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    TokenRejected,
)
from ..garminconnect.gear import fetch_gear, fetch_name, fetch_units
from ..gear import GearItem, GearList, clean_text
from ..models import UsersIntegrations
from ..strava.client import StravaClient
from ..strava.gear import read_gear
from . import _rows, strava
from ._single_flight import TokenKeeper
from .garminconnect import GarminConnectTokenKeeper, get_garminconnect_client
from .strava_tokens import StravaTokenKeeper

KEEPERS: dict[str, TokenKeeper[Any]] = {
    "strava": StravaTokenKeeper(),
    "garminconnect": GarminConnectTokenKeeper(),
}


@dataclass(frozen=True, slots=True)
class Fetched:
    gear: GearList
    units: str
    athlete_name: str
    # Looks up brand and model of gear that is new or renamed, at one request for each piece.
    details: Callable[[GearItem], GearItem] = lambda item: item


def fetch_from_strava(row: UsersIntegrations) -> Fetched:
    keeper = KEEPERS["strava"]
    token = keeper.open(row) if keeper.is_fresh(row) else keeper.obtain(row.user_id)
    client = strava.client_for(row)
    try:
        profile = client.get_athlete(token)
    except TokenRejected:
        # Revoked, or rotated by another: the token endpoint knows which.
        token = keeper.obtain(row.user_id, replacing=token)
        profile = client.get_athlete(token)
    if row.strava_athlete_id is None:
        strava.note_athlete(row, profile.id)
    elif profile.id != row.strava_athlete_id:
        raise InvalidProviderReply
    gear = read_gear(profile)
    stopped: list[ProviderError] = []

    def details(item: GearItem) -> GearItem:
        if stopped:
            raise stopped[0]
        try:
            return _strava_details(client, token, item)
        except (RateLimited, ProviderUnavailable, TokenRejected) as exc:
            if exc.provider_status == 500:
                raise  # over this piece
            # It would hit the other gear, too, and refused requests count.
            _rows.note_limit(row.user_id, "strava", exc)
            stopped.append(exc)
            raise

    units = {"meters": "metric", "feet": "imperial"}.get(str(profile.measurement_preference), "")
    return Fetched(gear=gear, units=units, athlete_name=profile.name, details=details)


def _strava_details(client: StravaClient, token: str, item: GearItem) -> GearItem:
    details = client.get_gear(token, item.provider_gear_id)
    return replace(item, brand=clean_text(details.brand_name), model=clean_text(details.model_name))


def fetch_from_garminconnect(row: UsersIntegrations) -> Fetched:
    garmin = get_garminconnect_client(row.user_id)
    try:
        gear = fetch_gear(garmin)
    except InvalidSession as exc:  # from the keeper, which has noted it if it is true
        raise GarminConnectRelinkRequired from exc
    return Fetched(
        gear=gear,
        units=row.garminconnect_units or fetch_units(garmin),
        athlete_name=row.garminconnect_athlete_name or fetch_name(garmin),
    )
