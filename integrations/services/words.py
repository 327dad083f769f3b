"""What stored codes mean, in words for the athlete and in words for the staff.

The exceptions have their own words, which answer the press of a button.
"""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .. import providers
from ..clock import read_at
from ..exceptions import IntegrationsError, RateLimited, ScopeMissing, SubscriptionRefused
from ..links import Provider
from ..models import LinkEvent
from . import _limits

_TRYING_AGAIN = _("We will try again automatically. You do not need to do anything.")
_TRY_AGAIN = _("Press “Sync now” to try again.")

# What a stored error means for the athlete. The error came up in the background, so these differ
# from the words of the exceptions, which answer the press of a button.
_PLAIN: dict[str, Any] = {
    "relink_required": _(
        "%(provider)s no longer accepts this connection. You may have removed this site’s access "
        "at %(provider)s. Reconnect to go on."
    ),
    "athlete_limit": _(
        "This %(provider)s app has as many athletes as %(provider)s allows. Your connection is "
        "kept. Whoever owns the app can ask %(provider)s for more."
    ),
    "secret_unreadable": _("We can no longer read your stored connection. Please reconnect."),
    "client_changed": _("This site now uses another %(provider)s app. Reconnect to go on."),
    "scope_missing": ScopeMissing.default_message,
    "consent_required": _(
        "%(provider)s wants you to accept its terms. Your connection is kept. Sign in to your "
        "%(provider)s account and accept what it asks there."
    ),
}
# Words for the athlete's own app, and for the site's.
_APP: dict[str, tuple[Any, Any]] = {
    "invalid_client": (
        _(
            "%(provider)s no longer accepts your %(provider)s app. Check its Client ID and Client "
            "Secret at %(provider)s, and reconnect with the right ones."
        ),
        _(
            "%(provider)s does not accept this site’s %(provider)s app at the moment. Your "
            "connection is kept. Whoever runs this site has to fix it."
        ),
    ),
    "application_inactive": (
        _(
            "Your %(provider)s app is inactive. %(provider)s wants its owner to have a "
            "subscription and to reactivate the app in %(provider)s’s API settings. Your "
            "connection is kept."
        ),
        _(
            "This site’s %(provider)s app is inactive. Your connection is kept. Whoever runs this "
            "site has to reactivate the app."
        ),
    ),
}
_TRANSIENT: dict[str, Any] = {
    "provider_unavailable": _("%(provider)s could not be reached the last time."),
    "invalid_provider_reply": _("%(provider)s sent an answer that we could not use."),
    "token_rejected": _("%(provider)s did not let us in the last time."),
    "rate_limited": RateLimited.default_message,
}
_OTHER = _("Something did not work at %(provider)s the last time.")
_NOT_LET_IN = _("%(provider)s did not let us in")


def health_message(provider: Provider, row: Any, code: str, *, retried: bool = True) -> str:
    """What a stored error code means for the athlete, in the language active now.

    `retried` says whether the site itself will try again.
    """
    name = {"provider": provider.short_label}
    words = provider.words.get(code) or _PLAIN.get(code)
    if code in _APP:
        words = _APP[code][not provider.home.has_secret(row, "client_id")]
    if words and code not in _TRANSIENT:
        return str(words) % name
    message = str(words or _TRANSIENT.get(code, _OTHER)) % name
    seconds = 0
    if code == "rate_limited":
        # It may be another athlete who ran into the limit of an app that they share.
        home = provider.home
        due_at = home.get(row, "sync_due_at") if home.has("sync_due_at") else None
        left = round((due_at - read_at(row)).total_seconds()) if due_at else 0
        seconds = _limits.noted_for(home, row) or max(0, left)
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


def event_reason(event: LinkEvent) -> str:
    """Why an attempt in the trail failed, "" for any other event."""
    if event.event != LinkEvent.Event.LOGIN_FAILED or event.provider not in providers.known():
        return ""
    provider = providers.get(event.provider)
    return str(provider.reasons.get(event.code, _NOT_LET_IN)) % {"provider": provider.short_label}


# For those who run the site: about an athlete, addressed to nobody.
_STAFF: dict[str, Any] = {
    "not_linked": _("not connected"),
    "relink_required": _("the athlete has to reconnect"),
    "secret_unreadable": _("no encryption key opens the stored tokens"),
    "client_changed": _(
        "connected with another %(provider)s app of this site, so the athlete has to reconnect"
    ),
    "client_required": _(
        "the site has no %(provider)s app: set its CLIENT_ID and its CLIENT_SECRET"
    ),
    "invalid_client": _(
        "the provider does not accept the Client ID or the Client Secret of the app"
    ),
    "application_inactive": _(
        "the %(provider)s app is inactive: its owner needs a %(provider)s subscription and has to "
        "reactivate it"
    ),
    "athlete_limit": _("the %(provider)s app has as many athletes as %(provider)s allows"),
    "consent_required": _("the athlete has to accept %(provider)s terms first"),
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
    words %= {"provider": error.provider or _("provider’s")}
    seconds = getattr(error, "retry_after", None)
    if error.code != "rate_limited" or not seconds:
        return words
    minutes = -(-seconds // 60)
    when = ngettext("again in %(minutes)d minute", "again in %(minutes)d minutes", minutes)
    return f"{words} ({when % {'minutes': minutes}})"
