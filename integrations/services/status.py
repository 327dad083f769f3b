"""What is linked and how it fares, without a secret and without decrypting one."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..exceptions import (
    GarminConnectError,
    ScopeMissing,
    SecretUnreadable,
    error_by_code,
)
from ..models import GarminConnectLogin, UsersIntegrations
from ._rows import database_errors
from .garminconnect_login import login_status, settle_garminconnect_login
from .gear import count_gear

_TRYING_AGAIN = _("We will try again by ourselves; there is nothing you need to do.")
_TRY_AGAIN = _("Press “Sync now” to try again.")

# What a stored error means for the athlete: where it came up, nobody was looking.
_STRAVA_MESSAGES: dict[str, Any] = {
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
_GARMINCONNECT_RELINK = _(
    "Garmin no longer accepts this connection. A new password at Garmin does that, for instance. "
    "Sign in again to go on; nothing is lost."
)
_STRAVA_MESSAGES["secret_unreadable"] = SecretUnreadable.default_message
_STRAVA_MESSAGES["scope_missing"] = ScopeMissing.default_message
_OTHER = _("Strava could not be reached the last time.")


def health_message(provider: str, code: str, *, retried: bool = True) -> str:
    """What a stored error code means for the athlete, in the language active now.

    `retried` says whether the site itself will try again.
    """
    if provider == "garminconnect":
        if code == "secret_unreadable":
            return str(SecretUnreadable.default_message)
        if code == "relink_required":
            return str(_GARMINCONNECT_RELINK)
        return str(error_by_code(code, GarminConnectError).default_message)
    message = _STRAVA_MESSAGES.get(code, _OTHER)
    if code in ("rate_limited",) or message is _OTHER:
        return f"{message} {_TRYING_AGAIN if retried else _TRY_AGAIN}"
    return str(message)


@database_errors
def get_integrations_status(user_id: int) -> dict[str, dict[str, Any]]:
    """The state of both providers, as the status URL answers it.

    A user without a row has nothing linked. Times are aware UTC. No secrets.
    """
    row, login = get_links(user_id)
    return describe_integrations(row, login, count_gear(user_id))


@database_errors
def get_links(user_id: int) -> tuple[UsersIntegrations, GarminConnectLogin | None]:
    """The user's row, or an unsaved one with nothing linked, and a Garmin sign-in under way.

    A sign-in whose time has run out is settled first.
    """
    rows = UsersIntegrations.objects.select_related("user__garminconnect_login")
    row = rows.filter(user_id=user_id).first()
    if row is None:
        return UsersIntegrations(user_id=user_id), None
    login = getattr(row.user, "garminconnect_login", None)
    if login is not None and login.step_until <= timezone.now():
        settle_garminconnect_login(user_id)
        return get_links(user_id)
    return row, login


def describe_integrations(
    row: UsersIntegrations, login: GarminConnectLogin | None, gear: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """get_integrations_status of rows that are at hand; asks no database."""
    garminconnect_status = login_status(login) if login else row.garminconnect_status
    return {
        "strava": {
            "status": row.strava_status.value,
            "sync_gear": row.strava_sync_gear,
            "gear": gear["strava"],
            "last_synced_at": row.strava_synced_at,
            "token_expires_at": row.strava_token_expires_at,
            "error": _error(row, "strava"),
            "athlete_id": row.strava_athlete_id,
            "scope": row.strava_scopes,
        },
        "garminconnect": {
            "status": garminconnect_status.value,
            "sync_gear": row.garminconnect_sync_gear,
            "gear": gear["garminconnect"],
            "last_synced_at": row.garminconnect_synced_at,
            "token_expires_at": row.garminconnect_token_expires_at,
            "error": _error(row, "garminconnect"),
        },
    }


def link_error(row: UsersIntegrations, provider: str) -> str:
    """The code of what is wrong with a link, "" where nothing is.

    That a secret cannot be read is told by the keys there are now, not by what was noted when they
    may have been others.
    """
    code: str = getattr(row, f"{provider}_error")
    if row.is_linked(provider) and not row.has_ended(provider):
        if not row.is_readable(provider):
            # With Garmin it may tell how signing in again went, which is news.
            return (provider == "garminconnect" and code) or SecretUnreadable.code
        if code == SecretUnreadable.code:
            return ""
    return code


def sync_message(row: UsersIntegrations, provider: str) -> str:
    """What went wrong with the last synchronisation of gear, "" where nothing did."""
    code = getattr(row, f"{provider}_sync_error")
    retried = getattr(row, f"{provider}_sync_gear")
    return health_message(provider, code, retried=retried) if code else ""


def _error(row: UsersIntegrations, provider: str) -> dict[str, str] | None:
    if code := link_error(row, provider):
        return {"code": code, "message": health_message(provider, code)}
    if message := sync_message(row, provider):
        return {"code": getattr(row, f"{provider}_sync_error"), "message": message}
    return None
