"""Errors that do not come from a provider's answer."""

from __future__ import annotations

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy


class IntegrationsError(Exception):
    """Base of everything this app raises on purpose."""

    status_code: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    # The provider's name, for the words. Whoever knows it sets it, at the latest the service.
    provider: str = ""
    # Seconds to wait before asking again, where known; plural words count them as `minutes`.
    retry_after: int | None = None
    default_message: ClassVar[Any] = _(
        "Something went wrong on our side. Nothing was lost. Please try again."
    )

    def __init__(self, user_message: Any = None, *, retry_after: int | None = None) -> None:
        self._message = self.default_message if user_message is None else user_message
        super().__init__(self._message)
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def has_own_words(self) -> bool:
        """Whether it was raised with words of its own instead of its class's."""
        return self._message is not self.default_message

    @property
    def user_message(self) -> str:
        """What to tell the athlete, in the language active now."""
        if self.has_own_words:
            return str(self._message)
        provider = self.provider or _("The provider")
        return str(self._message % {"provider": provider, "minutes": self._minutes})

    @property
    def _minutes(self) -> int:
        return max(1, -(-(self.retry_after or 0) // 60))

    def __str__(self) -> str:
        return self.user_message


class IntegrationsNotFound(IntegrationsError):
    """The user has no integrations row."""

    status_code = 404
    code = "not_found"
    default_message = _("There are no connections for this account yet.")


class IntegrationsAlreadyExist(IntegrationsError):
    """The user has an integrations row already."""

    status_code = 409
    code = "already_exists"
    default_message = _("This account has its connections already.")


class IntegrationsDatabaseError(IntegrationsError):
    """The database failed; nothing is half written."""

    code = "database_error"


class DatabaseBusy(IntegrationsDatabaseError):
    """Something else holds the rows for too long; nothing is half written."""

    code = "database_busy"
    default_message = _(
        "Something else is at work on your connections and takes longer than usual. "
        "Nothing was changed. Please try again in a minute."
    )


class SecretUnreadable(IntegrationsError):
    """No key of FERNET_KEYS opens a stored secret: a key was lost or is wrong."""

    code = "secret_unreadable"
    default_message = _("We can no longer read your stored connection. Please reconnect.")


class InvalidInput(IntegrationsError):
    """A form or a redirect came with fields that are missing, doubled or malformed."""

    status_code = 400
    code = "invalid_input"
    default_message = _(
        "Something in this request was missing or not in the right form. Please try again."
    )


class ClientRequired(IntegrationsError):
    """Neither the user nor the site has an app to connect with."""

    status_code = 400
    code = "client_required"
    default_message = _(
        "To connect, enter both the Client ID and the Client Secret of your %(provider)s app."
    )


class SiteClientMissing(ClientRequired):
    """The site has no app at a provider that takes no app of an athlete's."""

    default_message = _(
        "This site is not set up for %(provider)s. Whoever runs this site has to do that."
    )


class InvalidState(IntegrationsError):
    """The OAuth state is unknown, spent, expired or another user's."""

    status_code = 400
    code = "invalid_state"
    default_message = _(
        "This attempt to connect %(provider)s has expired or was already used. "
        "Nothing was changed. Press “Connect with %(provider)s” to start again."
    )


class AccessDenied(IntegrationsError):
    """The athlete said no at the provider's consent page (RFC 6749, section 4.1.2.1)."""

    status_code = 403
    code = "access_denied"
    default_message = _(
        "You chose not to give access at %(provider)s, so nothing was changed. "
        "You can connect at any time."
    )


class AthleteAlreadyLinked(IntegrationsError):
    """The athlete is linked to another local user, whom the error does not identify."""

    status_code = 409
    code = "athlete_already_linked"
    default_message = _(
        "This %(provider)s athlete is already connected to another account here. "
        "Disconnect it there first, or sign in to %(provider)s as someone else."
    )


class UnknownProvider(IntegrationsError):
    """No provider of INTEGRATIONS_PROVIDERS has this name, or it cannot do what was asked."""

    status_code = 404
    code = "unknown_provider"
    default_message = _("This site does not connect to this service.")


class NotLinked(IntegrationsError):
    """The user has no link to the provider."""

    status_code = 409
    code = "not_linked"
    default_message = _("%(provider)s is not connected.")


class RelinkRequired(IntegrationsError):
    """The link is dead until the athlete connects again."""

    status_code = 409
    code = "relink_required"
    default_message = _(
        "%(provider)s no longer accepts this connection. Please reconnect %(provider)s."
    )

    def __init__(
        self, user_message: Any = None, *, reason: IntegrationsError | None = None
    ) -> None:
        super().__init__(user_message)
        # What has just shown it: the provider's refusal, or SecretUnreadable.
        self.reason = reason


class StravaNotLinked(NotLinked):
    """The user has no link to Strava."""

    provider = "Strava"


class StravaRelinkRequired(RelinkRequired):
    """The link to Strava is dead until the athlete connects again."""

    provider = "Strava"


class SyncInProgress(IntegrationsError):
    """A gear sync of this link is under way."""

    status_code = 409
    code = "sync_in_progress"
    default_message = _("Your gear is syncing already.")


class TooManyRequests(IntegrationsError):
    """One user makes too many requests."""

    status_code = 429
    code = "too_many_requests"
    retry_after = 60
    default_message = ngettext_lazy(
        "You pressed this too often. Please wait %(minutes)d minute and try again.",
        "You pressed this too often. Please wait %(minutes)d minutes and try again.",
        "minutes",
    )


class TaskQueueUnavailable(IntegrationsError):
    """The work could not be handed to a worker: the task backend does not answer."""

    status_code = 503
    code = "task_queue_unavailable"
    default_message = _(
        "This does not work at the moment, for a reason on our side. Nothing was changed. Please "
        "try again in a few minutes."
    )


def error_by_code[Error: IntegrationsError](code: str, base: type[Error]) -> type[Error]:
    """The class under `base` for a stored error code; `base` if no class has that code now."""
    classes = [base]
    for cls in classes:  # the loop adds to it
        if cls.code == code:
            return cls
        classes.extend(cls.__subclasses__())
    return base
