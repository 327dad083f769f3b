"""What is linked and how well it works, without showing or decrypting a secret."""

from __future__ import annotations

from typing import Any

from django.db.models import Exists
from django.utils import timezone

from ..clock import dated
from ..exceptions import SecretUnreadable
from ..models import GarminConnectLogin, LinkStatus, UsersIntegrations
from ._rows import database_errors
from ._words import health_message, login_words
from .garminconnect_login import dead_logins, login_status, settle_dead_logins
from .gear import count_gear


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

    Every user's expired sign-ins are settled first, which erases passwords that no worker took.
    """
    over = dead_logins()
    rows = dated(UsersIntegrations.objects)
    rows = rows.select_related("user__integrations_garminconnect_login")
    rows = rows.filter(user_id=user_id)
    row: Any = rows.annotate(some_are_over=Exists(over)).first()
    if row is None or row.some_are_over:
        settle_dead_logins()
        row = row and rows.first()
    if row is None:
        row = UsersIntegrations(user_id=user_id)
        row.read_at = timezone.now()  # nothing of another process is compared with it
        return row, None
    _tell_sign_in_apart(row)
    return row, getattr(row.user, "integrations_garminconnect_login", None)


# Release 0.1.0, which may still be serving, writes these where the health of a link stands.
_SIGN_IN_ERRORS = {
    "account_locked",
    "captcha_required",
    "internal_error",
    "invalid_credentials",
    "invalid_mfa_code",
    "login_expired",
    "login_interrupted",
    "too_many_mfa_codes",
}


def _tell_sign_in_apart(row: UsersIntegrations) -> None:
    """Read a failed sign-in by the last release as one of this release, as migration 0006 does."""
    code = row.garminconnect_error
    if code in _SIGN_IN_ERRORS or (code and not row.is_linked("garminconnect")):
        row.garminconnect_login_error = row.garminconnect_login_error or code
        row.garminconnect_error = ""


def describe_integrations(
    row: UsersIntegrations, login: GarminConnectLogin | None, gear: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """get_integrations_status for loaded rows; makes no query."""
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
    """The code of a link's error, "" if there is none.

    Whether a secret can be read depends on the current keys, not on an error noted earlier.
    """
    code: str = getattr(row, f"{provider}_error")
    if row.is_linked(provider) and not row.has_ended(provider):
        if not row.is_readable(provider):
            return SecretUnreadable.code
        if code == SecretUnreadable.code:
            return ""
    return code


def link_message(row: UsersIntegrations, provider: str) -> str:
    """A link's error in words, "" if there is none."""
    code = link_error(row, provider)
    return health_message(row, provider, code) if code else ""


def sync_message(row: UsersIntegrations, provider: str) -> str:
    """What went wrong in the last gear sync, "" if nothing did."""
    code = getattr(row, f"{provider}_sync_error")
    retried = getattr(row, f"{provider}_sync_gear")
    return health_message(row, provider, code, retried=retried) if code else ""


def login_message(row: UsersIntegrations) -> str:
    """Why the last sign-in to Garmin failed, "" if it did not."""
    code = row.garminconnect_login_error
    return login_words(code) if code else ""


def _error(row: UsersIntegrations, provider: str) -> dict[str, str] | None:
    """The error to show first: of the sign-in, the link, or its gear."""
    told = [
        (link_error(row, provider), link_message(row, provider)),
        (getattr(row, f"{provider}_sync_error"), sync_message(row, provider)),
    ]
    if provider == "garminconnect":
        # A link that works is told of before what has not replaced it.
        works = row.garminconnect_status == LinkStatus.LINKED
        login = (row.garminconnect_login_error, login_message(row))
        told.insert(len(told) if works else 0, login)
    return next(({"code": code, "message": words} for code, words in told if words), None)
