"""Errors of a provider, or of the way to it; the words are for Strava."""

from __future__ import annotations

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .base import IntegrationsError


class ProviderError(IntegrationsError):
    """A provider refused, failed or could not be reached.

    `is_permanent` says that asking again with the same input cannot help. `retry_after` is how many
    seconds to wait before asking again, where known. `provider_status` is the HTTP status of the
    answer, None if there was none.
    """

    status_code = 502
    code = "provider_error"
    is_permanent: ClassVar[bool] = False

    def __init__(
        self,
        user_message: Any = None,
        *,
        provider_status: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(user_message)
        self.provider_status = provider_status
        self.retry_after = retry_after


class ProviderUnavailable(ProviderError):
    """Timed out, unreachable, or a server error."""

    status_code = 503
    code = "provider_unavailable"
    default_message = _(
        "Strava cannot be reached at the moment. Nothing was changed. Please try again later."
    )


class InvalidProviderReply(ProviderError):
    """The answer was not what the provider documents: HTML, half JSON, wrong types."""

    code = "invalid_provider_reply"
    default_message = _(
        "Strava sent an answer that we could not use. Nothing was changed. Please try again later."
    )


class RateLimited(ProviderError):
    """Too many requests of this app (HTTP 429); `retry_after` says when the window ends.

    `reads_only` says that the limit covers only reads from the API.
    """

    status_code = 429
    code = "rate_limited"
    default_message = _("This Strava app has reached Strava’s limit for now.")
    reads_only = False

    @property
    def user_message(self) -> str:
        if not self.retry_after:
            return f"{self._message} {_('Please try again later.')}"
        minutes = max(1, -(-self.retry_after // 60))
        when = ngettext(
            "Please try again in %(minutes)d minute.",
            "Please try again in %(minutes)d minutes.",
            minutes,
        ) % {"minutes": minutes}
        return f"{self._message} {when}"


class InvalidGrant(ProviderError):
    """The authorization code is unknown or spent (RFC 6749, section 5.2)."""

    status_code = 400
    code = "invalid_grant"
    is_permanent = True
    default_message = _(
        "Strava did not accept the confirmation, perhaps because it took too long. "
        "Nothing was changed. Press “Connect with Strava” to start again."
    )


class InvalidRefreshToken(InvalidGrant):
    """The refresh token is dead: Strava's only answer that may end a link."""


class InvalidClient(ProviderError):
    """The client id or secret is not accepted (RFC 6749, section 5.2): the app is at fault, not the
    link."""

    status_code = 400
    code = "invalid_client"
    is_permanent = True
    default_message = _(
        "Strava does not know this Client ID, or the Client Secret is wrong. "
        "Compare both with your Strava app’s settings and try again."
    )


class SubscriptionRefused(ProviderError):
    """Strava refused to create this push subscription."""

    status_code = 400
    code = "subscription_refused"
    is_permanent = True
    default_message = _(
        "Strava did not accept the push subscription. The callback URL has to answer Strava’s "
        "handshake from the internet, with the site’s STRAVA_WEBHOOK_VERIFY_TOKEN, and an app can "
        "have one subscription only: `strava_webhook list` shows it."
    )


class SiteClientRejected(InvalidClient):
    """InvalidClient for the site's own app, which the athlete cannot fix."""

    default_message = _(
        "Strava does not accept this site’s own Strava app at the moment. It is not your fault, "
        "and your connection is kept. Whoever runs this site has to fix it."
    )


class SiteClientChanged(SiteClientRejected):
    """The site has another Strava app now: a link works only with the app that made it."""

    code = "client_changed"
    default_message = _("This site now uses another Strava app. Reconnect Strava to go on.")


class ApplicationInactive(ProviderError):
    """The Strava app is inactive: its owner has no Strava subscription."""

    status_code = 403
    code = "application_inactive"
    is_permanent = True
    default_message = _(
        "This Strava app is inactive. Its owner needs a Strava subscription and has to "
        "reactivate the app in Strava’s API settings. Then try again."
    )


class AthleteLimitReached(ProviderError):
    """The Strava app has reached its limit of athletes."""

    status_code = 403
    code = "athlete_limit"
    is_permanent = True
    default_message = _(
        "This Strava app has as many athletes as Strava allows, so you could not be "
        "added. Nothing was changed. Whoever owns the app can ask Strava for more."
    )


class TokenRejected(ProviderError):
    """The access token or one of its scopes was refused (HTTP 401 at the API)."""

    status_code = 409
    code = "token_rejected"
    is_permanent = True
    default_message = _("Strava did not let us in. Please reconnect Strava.")


class ScopeMissing(ProviderError):
    """The athlete has not granted the scope that this needs."""

    status_code = 409
    code = "scope_missing"
    is_permanent = True
    default_message = _(
        "Strava does not show your bikes and shoes without the permission for your full profile. "
        "Reconnect and leave it checked."
    )


class GearNotFound(ProviderError):
    """The provider does not have this gear, or no longer has it."""

    status_code = 404
    code = "gear_not_found"
    is_permanent = True
    default_message = _("Strava no longer knows this gear.")
