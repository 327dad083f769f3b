"""Every error a caller of this app can meet, in one tree under IntegrationsError.

`status_code` is what an HTTP answer should carry, `code` is stable and meant for programs,
`user_message` is meant for people: translatable, and without a secret or an internal in it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext


class IntegrationsError(Exception):
    """Base of everything this app raises on purpose."""

    status_code: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    default_message: ClassVar[Any] = _(
        "Something went wrong on our side. Nothing was lost; please try again."
    )

    def __init__(self, user_message: Any = None) -> None:
        self._message = self.default_message if user_message is None else user_message
        super().__init__(self._message)

    @property
    def user_message(self) -> str:
        """What to tell the athlete, in the language active now."""
        return str(self._message)

    def __str__(self) -> str:
        return self.user_message


class IntegrationsNotFound(IntegrationsError):
    """The user has no integrations row."""

    status_code = 404
    code = "not_found"
    default_message = _("There are no integrations for this account yet.")


class IntegrationsAlreadyExist(IntegrationsError):
    """The user has an integrations row already."""

    status_code = 409
    code = "already_exists"
    default_message = _("This account has its integrations already.")


class IntegrationsDatabaseError(IntegrationsError):
    """The database failed; nothing is half written."""

    code = "database_error"


class SecretUnreadable(IntegrationsError):
    """No key of FERNET_KEYS opens a stored secret: a key was lost or is wrong."""

    code = "secret_unreadable"
    default_message = _(
        "The stored connection cannot be read any more. Please connect the account again."
    )


class InvalidInput(IntegrationsError):
    """A form or a redirect came with fields that are missing, doubled or malformed."""

    status_code = 400
    code = "invalid_input"
    default_message = _("Something in this request was missing or malformed. Please try again.")


class ClientRequired(IntegrationsError):
    """Neither the user nor the site has a Strava app to connect with."""

    status_code = 400
    code = "client_required"
    default_message = _(
        "To connect, enter both the Client ID and the Client Secret of your Strava app."
    )


class InvalidState(IntegrationsError):
    """The OAuth state is unknown, spent, expired or another user's."""

    status_code = 400
    code = "invalid_state"
    default_message = _(
        "This attempt to connect Strava has expired or was already used. "
        "Nothing was changed. Press “Connect with Strava” to start again."
    )


class AccessDenied(IntegrationsError):
    """The athlete said no at the provider's consent page (RFC 6749, section 4.1.2.1)."""

    status_code = 403
    code = "access_denied"
    default_message = _(
        "You chose not to give access at Strava, so nothing was changed. "
        "You can connect at any time."
    )


class AthleteAlreadyLinked(IntegrationsError):
    """The athlete is linked to another local user, about whom nothing more is said."""

    status_code = 409
    code = "athlete_already_linked"
    default_message = _(
        "This Strava athlete is already connected to another account here. "
        "Disconnect it there first, or log in to Strava as someone else."
    )


class StravaNotLinked(IntegrationsError):
    """The user has no link to Strava."""

    status_code = 409
    code = "not_linked"
    default_message = _("Strava is not connected.")


class StravaRelinkRequired(IntegrationsError):
    """The link to Strava is dead until the athlete connects again."""

    status_code = 409
    code = "relink_required"
    default_message = _("Strava no longer accepts this connection. Please connect Strava again.")


class ProviderError(IntegrationsError):
    """A provider refused, failed or could not be reached.

    `is_permanent` says that asking again with the same input cannot help, `retry_after` how
    many seconds to wait before asking again, where that is known. `provider_status` is the
    HTTP status that was answered, None where there was no answer.
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
        "Strava cannot be reached at the moment. Nothing was changed; please try again later."
    )


class InvalidProviderReply(ProviderError):
    """The answer was not what the provider documents: HTML, half JSON, wrong types."""

    code = "invalid_provider_reply"
    default_message = _(
        "Strava gave an answer that makes no sense. Nothing was changed; please try again later."
    )


class RateLimited(ProviderError):
    """Too many requests of this app (HTTP 429); `retry_after` tells when its window turns."""

    status_code = 429
    code = "rate_limited"
    default_message = _(
        "Strava is limiting how often it may be asked. Please try again in a quarter of an hour."
    )


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
    """The refresh token is dead: the one answer of Strava's that may end a link."""


class InvalidClient(ProviderError):
    """The client id or secret is not accepted (RFC 6749, section 5.2): the app's fault,
    never the athlete's link's."""

    status_code = 400
    code = "invalid_client"
    is_permanent = True
    default_message = _(
        "Strava does not know this Client ID, or the Client Secret is wrong. "
        "Compare both with your Strava app’s settings and try again."
    )


class ApplicationInactive(ProviderError):
    """The Strava app is inactive: its owner has no Strava subscription."""

    status_code = 403
    code = "application_inactive"
    is_permanent = True
    default_message = _(
        "This Strava app is inactive. Its owner needs a Strava subscription and has to "
        "reactivate the app in Strava’s API settings; then try again."
    )


class AthleteLimitReached(ProviderError):
    """The Strava app may not take any more athletes."""

    status_code = 403
    code = "athlete_limit"
    is_permanent = True
    default_message = _(
        "This Strava app has as many athletes as Strava lets it have, so yours could not be "
        "added. Nothing was changed. Whoever owns the app can ask Strava for more."
    )


class TokenRejected(ProviderError):
    """The access token or one of its scopes was refused (HTTP 401 at the API)."""

    status_code = 409
    code = "token_rejected"
    is_permanent = True
    default_message = _("Strava did not accept our access. Please connect Strava again.")


class ScopeMissing(ProviderError):
    """The athlete has not granted the scope that this needs."""

    status_code = 409
    code = "scope_missing"
    is_permanent = True
    default_message = _(
        "Strava does not show your bikes and shoes without the permission for your full profile. "
        "Connect again and leave it ticked."
    )


class GearNotFound(ProviderError):
    """The provider has no such gear (any more)."""

    status_code = 404
    code = "gear_not_found"
    is_permanent = True
    default_message = _("Strava does not know this gear any more.")


class SyncInProgress(IntegrationsError):
    """A gear synchronisation of this link is under way."""

    status_code = 409
    code = "sync_in_progress"
    default_message = _("Your gear is being synchronised already.")


class TaskQueueUnavailable(IntegrationsError):
    """The work could not be handed to a worker: the task backend does not answer."""

    status_code = 503
    code = "task_queue_unavailable"
    default_message = _(
        "This cannot be done at the moment, for a reason on our side. Nothing was changed; please "
        "try again in a few minutes."
    )


# --- Garmin Connect -----------------------------------------------------------------------------


class GarminConnectNotLinked(IntegrationsError):
    """The user has no link to Garmin Connect."""

    status_code = 409
    code = "not_linked"
    default_message = _("Garmin Connect is not connected.")


class GarminConnectRelinkRequired(IntegrationsError):
    """The session is dead until the athlete signs in again."""

    status_code = 409
    code = "relink_required"
    default_message = _("Garmin no longer accepts this connection. Please sign in again.")


class LoginInProgress(IntegrationsError):
    """A sign-in of this user is running, or its code is being checked."""

    status_code = 409
    code = "login_in_progress"
    default_message = _(
        "A sign-in to Garmin is running already. Wait for it to end, or cancel it first."
    )


class NoLoginInProgress(IntegrationsError):
    """There is no sign-in to answer or to cancel: it has ended, expired or was replaced."""

    status_code = 409
    code = "no_login_in_progress"
    default_message = _("There is no sign-in to Garmin in progress any more. Please start again.")


class TooManyAttempts(IntegrationsError):
    """Our own limit of sign-ins, which comes before Garmin's. `retry_after` is in seconds."""

    status_code = 429
    code = "too_many_attempts"

    def __init__(self, user_message: Any = None, *, retry_after: int = 3600) -> None:
        self.retry_after = retry_after
        super().__init__(user_message)

    @property
    def user_message(self) -> str:
        minutes = max(1, -(-self.retry_after // 60))
        return ngettext(
            "Five sign-ins within an hour are the most, because Garmin locks accounts after too "
            "many. Please try again in %(minutes)d minute.",
            "Five sign-ins within an hour are the most, because Garmin locks accounts after too "
            "many. Please try again in %(minutes)d minutes.",
            minutes,
        ) % {"minutes": minutes}


class GarminConnectError(ProviderError):
    """What Garmin, or the way to it, may answer."""

    default_message = _("Signing in to Garmin failed. Please try again later.")


class GarminConnectUnavailable(GarminConnectError, ProviderUnavailable):
    default_message = _("Garmin cannot be reached at the moment. Please try again later.")


class GarminConnectInvalidReply(GarminConnectError, InvalidProviderReply):
    default_message = _("Garmin gave an answer that makes no sense. Please try again later.")


class GarminConnectRateLimited(GarminConnectError, RateLimited):
    default_message = _(
        "Garmin is refusing sign-ins from here for a while. Your e-mail and password may well be "
        "right. Please wait an hour before you try again."
    )


class InvalidCredentials(GarminConnectError):
    """Garmin does not know the e-mail, or the password is wrong."""

    status_code = 400
    code = "invalid_credentials"
    is_permanent = True
    default_message = _(
        "Garmin did not accept this e-mail and password. Check both; for an account in China, "
        "tick the box for garmin.cn."
    )


class InvalidMfaCode(GarminConnectError):
    """The code was wrong."""

    status_code = 400
    code = "invalid_mfa_code"
    is_permanent = True
    default_message = _("Garmin did not accept this code. Please check it, or take a newer one.")


class TooManyMfaCodes(GarminConnectError):
    """The code was wrong for the last time."""

    status_code = 400
    code = "too_many_mfa_codes"
    is_permanent = True
    default_message = _("The code was wrong too often. Please sign in again to get a new one.")


class LoginExpired(GarminConnectError):
    """The sign-in waited too long for its code."""

    status_code = 409
    code = "login_expired"
    is_permanent = True
    default_message = _("The sign-in to Garmin took too long and was ended. Please start again.")


class LoginInterrupted(GarminConnectError):
    """The worker that was signing in is gone."""

    status_code = 503
    code = "login_interrupted"
    default_message = _("The sign-in to Garmin was interrupted on our side. Please start again.")


class AccountLocked(GarminConnectError):
    """Garmin has locked the account."""

    status_code = 403
    code = "account_locked"
    is_permanent = True
    default_message = _(
        "Garmin has locked this account. Open Garmin Connect, reset your password there, and "
        "then sign in here again."
    )


class CaptchaRequired(GarminConnectError):
    """Garmin wants a person to solve a puzzle, which no site can pass on."""

    status_code = 403
    code = "captcha_required"
    default_message = _(
        "Garmin wants to see that you are a person. Sign in once in the Garmin Connect app or at "
        "connect.garmin.com, and then try again here."
    )


class InvalidSession(GarminConnectError, InvalidGrant):
    """The session's refresh token is dead: the one answer of Garmin's that ends a link."""

    default_message = GarminConnectRelinkRequired.default_message


def error_by_code[Error: IntegrationsError](code: str, base: type[Error]) -> type[Error]:
    """The class under `base` that stands for a stored error code; `base` for one that is gone."""
    classes = [base]
    for cls in classes:  # grows while it is walked
        if cls.code == code:
            return cls
        classes.extend(cls.__subclasses__())
    return base
