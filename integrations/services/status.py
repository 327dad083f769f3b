"""What is linked and how it fares, without a secret and without decrypting one."""

from __future__ import annotations

from typing import Any

from django.db.models import Exists
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from ..exceptions import (
    ApplicationInactive,
    GarminConnectError,
    InvalidClient,
    InvalidProviderReply,
    ProviderUnavailable,
    RateLimited,
    ScopeMissing,
    SecretUnreadable,
    SiteClientChanged,
    StravaRelinkRequired,
    TokenRejected,
    error_by_code,
)
from ..models import GarminConnectLogin, LinkEvent, UsersIntegrations
from . import _rows
from ._rows import database_errors
from .garminconnect_login import login_status, settle_dead_logins
from .gear import count_gear

_TRYING_AGAIN = _("We will try again automatically. You do not need to do anything.")
_TRY_AGAIN = _("Press “Sync now” to try again.")
_NAMES = {"strava": "Strava", "garminconnect": "Garmin"}

# What a stored error means for the athlete. Nobody was looking when it came up, and nothing was
# asked of anybody: so these are not the words of the exceptions, which answer a press.
_RELINK: dict[str, Any] = {
    "strava": _(
        "Strava no longer accepts this connection. You may have removed this site’s access at "
        "Strava. Reconnect to go on."
    ),
    "garminconnect": _(
        "Garmin no longer accepts this connection. This happens, for example, after you change "
        "your password at Garmin. Sign in again to go on. Nothing is lost."
    ),
}
# Words for an app of the athlete's own, and for the site's.
_APP: dict[str, tuple[Any, Any]] = {
    InvalidClient.code: (
        _(
            "Strava no longer accepts your Strava app. Check its Client ID and Client Secret at "
            "Strava, and reconnect with the right ones."
        ),
        _(
            "Strava does not accept this site’s Strava app at the moment. Your connection is kept. "
            "Whoever runs this site has to fix it."
        ),
    ),
    ApplicationInactive.code: (
        _(
            "Your Strava app is inactive. Strava wants its owner to have a subscription and to "
            "reactivate the app in Strava’s API settings. Your connection is kept."
        ),
        _(
            "This site’s Strava app is inactive. Your connection is kept. Whoever runs this site "
            "has to reactivate the app."
        ),
    ),
}
_PLAIN: dict[str, Any] = {
    SecretUnreadable.code: _("We can no longer read your stored connection. Please reconnect."),
    SiteClientChanged.code: _("This site now uses another Strava app. Reconnect to go on."),
    ScopeMissing.code: ScopeMissing.default_message,
}
_TRANSIENT: dict[str, Any] = {
    ProviderUnavailable.code: _("%(provider)s could not be reached the last time."),
    InvalidProviderReply.code: _("%(provider)s sent an answer that we could not use."),
    TokenRejected.code: _("%(provider)s did not let us in the last time."),
    RateLimited.code: _("%(provider)s has too many requests from this site at the moment."),
}
_SIGN_INS_LIMITED = _(
    "Garmin is refusing sign-ins from this site for a while. Your e-mail and password may well be "
    "right. Please wait an hour before you try again."
)
# For the history: shorter than what the card says of the last one.
_REASONS: dict[str, Any] = {
    "invalid_credentials": _("Wrong e-mail or password"),
    "account_locked": _("Account locked by Garmin"),
    "captcha_required": _("Garmin asked for a puzzle to be solved"),
    "action_required": _("Garmin asked for something else first"),
    "sign_in_unfinished": _("Password accepted, but Garmin could not finish"),
    "rate_limited": _("Garmin refused sign-ins for a while"),
    "provider_unavailable": _("No answer from Garmin"),
    "invalid_provider_reply": _("An answer from Garmin that we could not use"),
    "too_many_mfa_codes": _("Wrong code too often"),
    "login_expired": _("No code in time"),
    "login_interrupted": _("Interrupted on our side"),
}
_OTHER = _("Something did not work at %(provider)s the last time.")


def health_message(
    row: UsersIntegrations, provider: str, code: str, *, retried: bool = True
) -> str:
    """What a stored error code means for the athlete, in the language active now.

    `retried` says whether the site itself will try again.
    """
    if code == StravaRelinkRequired.code:
        return str(_RELINK[provider])
    if code in _APP:
        return str(_APP[code][not row.has_secret("strava_client_id")])
    if code in _PLAIN:
        return str(_PLAIN[code])
    message = str(_TRANSIENT.get(code, _OTHER)) % {"provider": _NAMES[provider]}
    seconds = _rows.limited_for(row, provider) if code == RateLimited.code else 0
    if not seconds:
        return f"{message} {_TRYING_AGAIN if retried else _TRY_AGAIN}"
    minutes = -(-seconds // 60)
    when = (
        ngettext(
            "We will try again in %(minutes)d minute.",
            "We will try again in %(minutes)d minutes.",
            minutes,
        )
        if retried
        else ngettext(
            "You can sync again in %(minutes)d minute.",
            "You can sync again in %(minutes)d minutes.",
            minutes,
        )
    )
    return f"{message} {when % {'minutes': minutes}}"


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

    Sign-ins whose time has run out are settled first, whosever they are: with them goes a password
    that nobody has come for.
    """
    over = GarminConnectLogin.objects.filter(step_until__lte=timezone.now())
    rows = UsersIntegrations.objects.select_related("user__integrations_garminconnect_login")
    rows = rows.filter(user_id=user_id)
    row: Any = rows.annotate(some_are_over=Exists(over)).first()
    if row is not None and row.some_are_over:
        settle_dead_logins()
        row = rows.first()
    if row is None:
        return UsersIntegrations(user_id=user_id), None
    return row, getattr(row.user, "integrations_garminconnect_login", None)


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
            return SecretUnreadable.code
        if code == SecretUnreadable.code:
            return ""
    return code


def link_message(row: UsersIntegrations, provider: str) -> str:
    """What is wrong with a link, in words, "" where nothing is."""
    code = link_error(row, provider)
    return health_message(row, provider, code) if code else ""


def sync_message(row: UsersIntegrations, provider: str) -> str:
    """What went wrong with the last synchronization of gear, "" where nothing did."""
    code = getattr(row, f"{provider}_sync_error")
    retried = getattr(row, f"{provider}_sync_gear")
    return health_message(row, provider, code, retried=retried) if code else ""


def login_message(row: UsersIntegrations) -> str:
    """Why the last sign-in to Garmin came to nothing, "" where none did."""
    code = row.garminconnect_login_error
    return _login_message(code) if code else ""


def _login_message(code: str) -> str:
    if code == RateLimited.code:
        return str(_SIGN_INS_LIMITED)
    return str(error_by_code(code, GarminConnectError).default_message)


def event_reason(event: LinkEvent) -> str:
    """Why a sign-in of the trail came to nothing, "" for any other event."""
    if event.event != LinkEvent.Event.LOGIN_FAILED:
        return ""
    return str(_REASONS.get(event.code, _("Garmin did not let us in")))


def _error(row: UsersIntegrations, provider: str) -> dict[str, str] | None:
    """The newest of what is wrong: signing in, the link, its gear."""
    if provider == "garminconnect" and (message := login_message(row)):
        return {"code": row.garminconnect_login_error, "message": message}
    if message := link_message(row, provider):
        return {"code": link_error(row, provider), "message": message}
    if message := sync_message(row, provider):
        return {"code": getattr(row, f"{provider}_sync_error"), "message": message}
    return None
