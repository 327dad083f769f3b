"""The seed's operations as anybody would write them first: `get()`, attributes, `save()`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from integrations.schemas import UsersIntegrationsUpdate

from .models import Obvious

_STRAVA = {
    "strava_client_id": None,
    "strava_client_secret": None,
    "strava_state": None,
    "strava_token": None,
    "strava_refresh_token": None,
    "strava_token_expires_at": None,
    "strava_sync_gear": False,
}
_GARMINCONNECT = {
    "garminconnect_oauth1": None,
    "garminconnect_oauth2": None,
    "garminconnect_sync_gear": False,
}


def by_user(user_id: int) -> Obvious:
    return Obvious.objects.get(user_id=user_id)


def by_state(state: str) -> Obvious:
    return Obvious.objects.get(strava_state=state)


def access_token(user_id: int) -> str | None:
    return by_user(user_id).strava_token


def create(user_id: int) -> Obvious:
    return Obvious.objects.create(user_id=user_id)


def save(user_id: int, **columns: Any) -> Obvious:
    return _save(by_user(user_id), columns)


def edit(update: UsersIntegrationsUpdate, user_id: int) -> Obvious:
    return save(user_id, **update.model_dump(exclude_unset=True))


def link_strava(row: Obvious, tokens: dict[str, Any]) -> None:
    columns = {
        "strava_token": tokens["access_token"],
        "strava_refresh_token": tokens["refresh_token"],
        "strava_token_expires_at": datetime.fromtimestamp(tokens["expires_at"], tz=UTC),
        "strava_state": None,
    }
    _save(row, columns)


def unlink_strava(user_id: int) -> None:
    save(user_id, **_STRAVA)


def unlink_garminconnect(user_id: int) -> None:
    save(user_id, **_GARMINCONNECT)


def _save(row: Obvious, columns: dict[str, Any]) -> Obvious:
    for name, value in columns.items():
        setattr(row, name, value)
    row.save()
    return row
