"""Errors of a provider, or of the way to it. Most are RFC 6749's, section 5.2."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .base import IntegrationsError

A_DAY = 24 * 60 * 60  # seconds


class ProviderError(IntegrationsError):
    """A provider refused, failed or could not be reached.

    `retry_after` is how many seconds to wait before asking again, where known. `provider_status` is
    the HTTP status of the answer, None if there was none.
    """

    status_code = 502
    code = "provider_error"

    def __init__(
        self,
        user_message: Any = None,
        *,
        provider_status: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(user_message)
        self.provider_status = provider_status
        # No limit lasts for longer, and no clock could add what some providers may send.
        self.retry_after = None if retry_after is None else min(max(retry_after, 0), A_DAY)


class ProviderUnavailable(ProviderError):
    """Timed out, unreachable, or a server error."""

    status_code = 503
    code = "provider_unavailable"
    default_message = _(
        "%(provider)s cannot be reached at the moment. Nothing was changed. Please try again later."
    )


class InvalidProviderReply(ProviderError):
    """The answer was not what the provider documents: HTML, half JSON, wrong types."""

    code = "invalid_provider_reply"
    default_message = _(
        "%(provider)s sent an answer that we could not use. Nothing was changed. Please try again "
        "later."
    )


class RateLimited(ProviderError):
    """Too many requests of this app (HTTP 429); `retry_after` says when the window ends.

    `reads_only` says that the limit covers only reads from the API.
    """

    status_code = 429
    code = "rate_limited"
    default_message = _("This %(provider)s app has reached %(provider)s’s limit for now.")
    reads_only = False

    @property
    def user_message(self) -> str:
        if not self.retry_after:
            return f"{super().user_message} {_('Please try again later.')}"
        minutes = max(1, -(-self.retry_after // 60))
        when = ngettext(
            "Please try again in %(minutes)d minute.",
            "Please try again in %(minutes)d minutes.",
            minutes,
        ) % {"minutes": minutes}
        return f"{super().user_message} {when}"


class InvalidGrant(ProviderError):
    """The authorization code is unknown or spent (RFC 6749, section 5.2)."""

    status_code = 400
    code = "invalid_grant"
    default_message = _(
        "%(provider)s did not accept the confirmation, perhaps because it took too long. "
        "Nothing was changed. Press “Connect with %(provider)s” to start again."
    )


class InvalidRefreshToken(InvalidGrant):
    """The refresh token is dead: the only answer that ends a link."""


class InvalidClient(ProviderError):
    """The client id or secret is not accepted (RFC 6749, section 5.2): the app is at fault, not the
    link."""

    status_code = 400
    code = "invalid_client"
    default_message = _(
        "%(provider)s does not know this Client ID, or the Client Secret is wrong. "
        "Compare both with your %(provider)s app’s settings and try again."
    )


class SubscriptionRefused(ProviderError):
    """The provider refused to create this push subscription."""

    status_code = 400
    code = "subscription_refused"
    default_message = _(
        "%(provider)s did not accept the push subscription. The callback URL has to answer "
        "%(provider)s’s handshake from the internet, with the site’s STRAVA_WEBHOOK_VERIFY_TOKEN, "
        "and an app can have one subscription only: `strava_webhook list` shows it."
    )


class SiteClientRejected(InvalidClient):
    """InvalidClient for the site's own app, which the athlete cannot fix."""

    default_message = _(
        "%(provider)s does not accept this site’s own %(provider)s app at the moment. It is not "
        "your fault, and your connection is kept. Whoever runs this site has to fix it."
    )


class SiteClientChanged(SiteClientRejected):
    """The site has another app now: a link works only with the app that made it."""

    code = "client_changed"
    default_message = _(
        "This site now uses another %(provider)s app. Reconnect %(provider)s to go on."
    )


class ApplicationInactive(ProviderError):
    """The app is inactive: its owner has no subscription."""

    status_code = 403
    code = "application_inactive"
    default_message = _(
        "This %(provider)s app is inactive. Its owner needs a %(provider)s subscription and has to "
        "reactivate the app in %(provider)s’s API settings. Then try again."
    )


class AthleteLimitReached(ProviderError):
    """The app has reached its limit of athletes."""

    status_code = 403
    code = "athlete_limit"
    default_message = _(
        "This %(provider)s app has as many athletes as %(provider)s allows, so you could not be "
        "added. Nothing was changed. Whoever owns the app can ask %(provider)s for more."
    )


class TokenRejected(ProviderError):
    """The access token or one of its scopes was refused (HTTP 401 at the API)."""

    status_code = 409
    code = "token_rejected"
    default_message = _("%(provider)s did not let us in. Please reconnect %(provider)s.")


class ConsentRequired(ProviderError):
    """The provider wants the person to accept its own terms first."""

    status_code = 403
    code = "consent_required"
    default_message = _(
        "%(provider)s wants you to accept its terms first. Sign in to your %(provider)s account, "
        "accept what it asks there, and connect again."
    )


class ScopeMissing(ProviderError):
    """The athlete has not granted the scope that this needs."""

    status_code = 409
    code = "scope_missing"
    default_message = _(
        "%(provider)s does not show your bikes and shoes without the permission for your full "
        "profile. Reconnect and leave it checked."
    )


class GearNotFound(ProviderError):
    """The provider does not have this gear, or no longer has it."""

    status_code = 404
    code = "gear_not_found"
    default_message = _("%(provider)s no longer knows this gear.")
