"""What is linked and how it fares, without a secret and without decrypting one."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

from ..exceptions import IntegrationsNotFound
from ..models import LinkStatus, UsersIntegrations
from . import _rows
from ._rows import database_errors

_TRYING_AGAIN = _("We will try again by ourselves; there is nothing you need to do.")

# What a stored error means for the athlete: where it came up, nobody was looking.
HEALTH_MESSAGES: dict[str, Any] = {
    "relink_required": _(
        "Strava no longer accepts this connection. You may have removed the access at Strava. "
        "Connect again to go on."
    ),
    "rate_limited": _("Strava is limiting how often it may be asked."),
    "invalid_client": _(
        "Strava no longer accepts the Strava app of this connection. If the app is your own, "
        "check its Client ID and Client Secret and connect again with the right ones."
    ),
    "application_inactive": _(
        "The Strava app of this connection is inactive. Its owner needs a Strava subscription "
        "and has to reactivate the app in Strava’s API settings. Your connection is kept."
    ),
}
_OTHER = _("Strava could not be reached the last time.")


def health_message(code: str) -> str:
    """What a stored error code means for the athlete, in the language active now."""
    message = HEALTH_MESSAGES.get(code, _OTHER)
    if code in ("rate_limited",) or message is _OTHER:
        return f"{message} {_TRYING_AGAIN}"
    return str(message)


@database_errors
def get_integrations_status(user_id: int) -> dict[str, dict[str, Any]]:
    """The state of both providers, as the status URL answers it.

    A user without a row has nothing linked. Times are aware UTC. No secrets.
    """
    return describe_integrations(get_integrations_or_default(user_id))


@database_errors
def get_integrations_or_default(user_id: int) -> UsersIntegrations:
    """The user's row, or an unsaved one with nothing linked."""
    try:
        return _rows.get_row(user_id)
    except IntegrationsNotFound:
        return UsersIntegrations(user_id=user_id)


def describe_integrations(row: UsersIntegrations) -> dict[str, dict[str, Any]]:
    """get_integrations_status of a row that is at hand; asks no database."""
    linked = row.strava_status != LinkStatus.NOT_LINKED
    code = row.strava_error if linked else ""
    return {
        "strava": {
            "status": row.strava_status.value,
            "sync_gear": row.strava_sync_gear,
            "gear": 0,
            "last_synced_at": None,
            "token_expires_at": row.strava_token_expires_at,
            "error": {"code": code, "message": health_message(code)} if code else None,
            "athlete_id": row.strava_athlete_id,
            "scope": row.strava_scopes,
        },
        "garminconnect": {
            "status": row.garminconnect_status.value,
            "sync_gear": row.garminconnect_sync_gear,
            "gear": 0,
            "last_synced_at": None,
            "token_expires_at": None,
            "error": None,
        },
    }
