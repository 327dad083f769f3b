"""The seed's schemas (pydantic v2). No secret shows in a repr or in a validation error."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr


def _aware_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


SecretText = Annotated[StrictStr | None, Field(repr=False)]
SecretObject = Annotated[dict[str, Any] | None, Field(repr=False)]
AwareUTC = Annotated[datetime, AfterValidator(_aware_utc)]


class UsersIntegrationsBase(BaseModel):
    """The ten fields of a user's integrations. Times are aware UTC; a naive one counts as UTC."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    strava_client_id: SecretText = None
    strava_client_secret: SecretText = None
    strava_state: SecretText = None
    strava_token: SecretText = None
    strava_refresh_token: SecretText = None
    strava_token_expires_at: AwareUTC | None = None
    strava_sync_gear: StrictBool = False
    garminconnect_oauth1: SecretObject = None
    garminconnect_oauth2: SecretObject = None
    garminconnect_sync_gear: StrictBool = False


class UsersIntegrationsCreate(UsersIntegrationsBase):
    """The fields of a new row."""


class UsersIntegrationsUpdate(UsersIntegrationsBase):
    """A partial update: only the fields that were set are written."""


class UsersIntegrationsRead(UsersIntegrationsBase):
    """A row as it is stored, secrets decrypted."""

    model_config = ConfigDict(from_attributes=True)

    id: StrictInt
    user_id: StrictInt
