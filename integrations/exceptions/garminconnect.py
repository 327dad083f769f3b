"""Garmin's own errors."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from .base import IntegrationsError, NotLinked, RelinkRequired, TooManyRequests
from .oauth import (
    InvalidGrant,
    InvalidProviderReply,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)


class GarminConnectNotLinked(NotLinked):
    """The user has no link to Garmin Connect."""

    provider = "Garmin Connect"


class GarminConnectRelinkRequired(RelinkRequired):
    """The session is dead until the athlete signs in again."""

    default_message = _("Garmin no longer accepts this connection. Please sign in to Garmin again.")


class LoginInProgress(IntegrationsError):
    """A sign-in of this user is running, or its code is being checked."""

    status_code = 409
    code = "login_in_progress"
    default_message = _(
        "You are signing in to Garmin already. Wait until that ends, or cancel it first."
    )


class NoLoginInProgress(IntegrationsError):
    """There is no sign-in to answer or to cancel: it has ended, expired or was replaced."""

    status_code = 409
    code = "no_login_in_progress"
    default_message = _("This sign-in to Garmin has ended. Please start again.")


class TooManyAttempts(TooManyRequests):
    """Our own limit of sign-ins, reached before Garmin's."""

    code = "too_many_attempts"
    retry_after = 3600
    default_message = ngettext_lazy(
        "You have tried five times within an hour. To keep Garmin from locking your account, "
        "please wait %(minutes)d minute.",
        "You have tried five times within an hour. To keep Garmin from locking your account, "
        "please wait %(minutes)d minutes.",
        "minutes",
    )


class GarminConnectError(ProviderError):
    """Garmin failed, or could not be reached."""

    default_message = _("Signing in to Garmin failed. Please try again later.")


class GarminConnectUnavailable(GarminConnectError, ProviderUnavailable):
    default_message = _("Garmin cannot be reached at the moment. Please try again later.")


class GarminConnectInvalidReply(GarminConnectError, InvalidProviderReply):
    default_message = _("Garmin sent an answer that we could not use. Please try again later.")


class GarminConnectRateLimited(GarminConnectError, RateLimited):
    retry_after = 3600
    default_message = _("This site has reached Garmin’s limit for now.")


class InvalidCredentials(GarminConnectError):
    """Garmin does not know the e-mail, or the password is wrong."""

    status_code = 400
    code = "invalid_credentials"
    default_message = _(
        "Garmin did not accept this e-mail and password. Check both. For an account in China, "
        "check the box for garmin.cn."
    )


class InvalidMfaCode(GarminConnectError):
    """The code was wrong."""

    status_code = 400
    code = "invalid_mfa_code"
    default_message = _("Garmin did not accept this code. Check it, or use a newer one.")


class TooManyMfaCodes(GarminConnectError):
    """The code was wrong too many times."""

    status_code = 400
    code = "too_many_mfa_codes"
    default_message = _("The code was wrong too many times. Please sign in again to get a new one.")


class LoginExpired(GarminConnectError):
    """The sign-in waited too long for its code."""

    status_code = 409
    code = "login_expired"
    default_message = _(
        "Signing in to Garmin took too long, so it was stopped. Please start again."
    )


class LoginInterrupted(GarminConnectError):
    """The worker that was signing in is gone."""

    status_code = 503
    code = "login_interrupted"
    default_message = _("Signing in to Garmin was interrupted on our side. Please start again.")


class AccountLocked(GarminConnectError):
    """Garmin has locked the account."""

    status_code = 403
    code = "account_locked"
    default_message = _(
        "Garmin has locked this account. Reset your password in Garmin Connect, and then sign in "
        "here again."
    )


class CaptchaRequired(GarminConnectError):
    """Garmin wants a person to solve a puzzle, which no site can pass on."""

    status_code = 403
    code = "captcha_required"
    default_message = _(
        "Garmin wants to see that you are a person. Sign in once in the Garmin Connect app or at "
        "connect.garmin.com, and then try again here."
    )


class ActionRequired(GarminConnectError):
    """Garmin wants something first: a new password, a consent, a phone number, a parent."""

    status_code = 403
    code = "action_required"
    default_message = _(
        "Garmin wants something from you before it lets you in. Sign in once at "
        "connect.garmin.com and answer what Garmin asks there. Then try again here."
    )


class SignInUnfinished(GarminConnectError):
    """Garmin has accepted the password, and the code if it wanted one, and then failed."""

    status_code = 503
    code = "sign_in_unfinished"
    default_message = _(
        "Garmin accepted your password, but could not finish the sign-in. Please wait a few "
        "minutes and try again. Your password is right."
    )


class InvalidSession(GarminConnectError, InvalidGrant):
    """The session's refresh token is dead: Garmin's only answer that ends a link."""

    default_message = GarminConnectRelinkRequired.default_message
