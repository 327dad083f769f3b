"""What stored codes mean, in words for the athlete and in words for the staff.

The exceptions have their own words, which answer the press of a button.
"""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from ..clock import read_at
from ..exceptions import (
    ApplicationInactive,
    AthleteLimitReached,
    GarminConnectError,
    GarminConnectRateLimited,
    IntegrationsError,
    InvalidClient,
    InvalidProviderReply,
    ProviderUnavailable,
    RateLimited,
    ScopeMissing,
    SecretUnreadable,
    SiteClientChanged,
    StravaRelinkRequired,
    SubscriptionRefused,
    TokenRejected,
    error_by_code,
)
from ..models import LinkEvent, UsersIntegrations
from . import _rows

_TRYING_AGAIN = _("We will try again automatically. You do not need to do anything.")
_TRY_AGAIN = _("Press “Sync now” to try again.")
_NAMES = {"strava": "Strava", "garminconnect": "Garmin"}

# What a stored error means for the athlete. The error came up in the background, so these differ
# from the words of the exceptions, which answer the press of a button.
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
# Words for the athlete's own app, and for the site's.
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
    AthleteLimitReached.code: _(
        "This Strava app has as many athletes as Strava allows. Your connection is kept. Whoever "
        "owns the app can ask Strava for more."
    ),
    SecretUnreadable.code: _("We can no longer read your stored connection. Please reconnect."),
    SiteClientChanged.code: _("This site now uses another Strava app. Reconnect to go on."),
    ScopeMissing.code: ScopeMissing.default_message,
}
_TRANSIENT: dict[str, Any] = {
    ProviderUnavailable.code: _("%(provider)s could not be reached the last time."),
    InvalidProviderReply.code: _("%(provider)s sent an answer that we could not use."),
    TokenRejected.code: _("%(provider)s did not let us in the last time."),
}
_LIMITED: dict[str, Any] = {
    "strava": RateLimited.default_message,
    "garminconnect": GarminConnectRateLimited.default_message,
}
_SIGN_INS_LIMITED = _(
    "Garmin is refusing sign-ins from this site for a while. Your e-mail and password may well be "
    "right. Please wait an hour before you try again."
)
# For the history: shorter than the card's words for the last error.
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
    seconds = 0
    if code == RateLimited.code:
        message = str(_LIMITED[provider])
        # It may be another athlete who ran into the limit of an app that they share.
        due_at = getattr(row, f"{provider}_sync_due_at")
        left = round((due_at - read_at(row)).total_seconds()) if due_at else 0
        seconds = _rows.limited_for(row, provider) or max(0, left)
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


def login_words(code: str) -> str:
    if code == RateLimited.code:
        return str(_SIGN_INS_LIMITED)
    return str(error_by_code(code, GarminConnectError).default_message)


def event_reason(event: LinkEvent) -> str:
    """Why a sign-in in the trail failed, "" for any other event."""
    if event.event != LinkEvent.Event.LOGIN_FAILED:
        return ""
    return str(_REASONS.get(event.code, _("Garmin did not let us in")))


# For those who run the site: about an athlete, addressed to nobody.
_STAFF: dict[str, Any] = {
    "not_linked": _("not connected"),
    "relink_required": _("the athlete has to reconnect"),
    "secret_unreadable": _("no encryption key opens the stored tokens"),
    "client_changed": _(
        "connected with another Strava app of this site, so the athlete has to reconnect"
    ),
    "client_required": _(
        "the site has no Strava app: set STRAVA_CLIENT_ID and STRAVA_CLIENT_SECRET"
    ),
    "invalid_client": _(
        "the provider does not accept the Client ID or the Client Secret of the app"
    ),
    "application_inactive": _(
        "the Strava app is inactive: its owner needs a Strava subscription and has to reactivate it"
    ),
    "athlete_limit": _("the Strava app has as many athletes as Strava allows"),
    "scope_missing": _("the athlete has not given the permission for gear"),
    "rate_limited": _("the provider limits how often this app may ask"),
    "provider_unavailable": _("the provider could not be reached"),
    "invalid_provider_reply": _("the provider sent an answer that could not be used"),
    "token_rejected": _("the provider refused the token"),
    "sync_in_progress": _("a sync is running already"),
    "task_queue_unavailable": _("the task backend does not answer"),
    "database_error": _("the database failed; see the log"),
    "database_busy": _("something else holds the row; try again in a minute"),
    "subscription_refused": SubscriptionRefused.default_message,
}


def staff_message(error: IntegrationsError) -> str:
    """What an error means to those who run the site."""
    if error.has_own_words:
        return str(error)
    words = str(_STAFF.get(error.code, error.code.replace("_", " ")))
    seconds = getattr(error, "retry_after", None)
    if error.code != RateLimited.code or not seconds:
        return words
    minutes = -(-seconds // 60)
    when = ngettext("again in %(minutes)d minute", "again in %(minutes)d minutes", minutes)
    return f"{words} ({when % {'minutes': minutes}})"
