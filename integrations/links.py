"""What services know of any provider: where its links are stored, and what it can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

from . import exceptions
from .gear import GearItem, GearList, clean_text
from .models import Home, Link, LinkStatus

__all__ = ["HEALTHY", "Account", "FetchedGear", "Home", "Provider", "Refreshed", "healthy"]


class Account(NamedTuple):
    """Whose link it is, as the provider knows them. The name may be empty."""

    id: str
    name: str = ""

    @classmethod
    def read(cls, id: Any, *names: Any) -> Account:  # noqa: A002 - as the field is called
        """Take an account from a provider's answer. Parts of a name that are no text are left out.

        Raises InvalidProviderReply for an id that is neither a number nor a text that fits: one
        that was cut off could be somebody else's.
        """
        text = str(id)
        if isinstance(id, bool) or not isinstance(id, str | int) or not 0 < len(text) <= 255:
            raise exceptions.InvalidProviderReply
        return cls(text, clean_text(" ".join(each for each in names if isinstance(each, str))))


_UNKNOWN = Account("")


@dataclass(frozen=True, slots=True)
class Refreshed[Token]:
    """What a provider answered: the token to hand out, and what to write, as Link names it."""

    token: Token = field(repr=False)
    values: dict[str, Any] = field(repr=False)
    # Whether the provider has said that the app must stop asking for a while.
    limit_reached: bool = False


@dataclass(frozen=True, slots=True)
class FetchedGear:
    """An athlete's gear, and what the provider says of its owner along with it; "" if unknown."""

    gear: GearList
    units: str = ""
    account: Account = _UNKNOWN
    # Looks up brand and model of gear that is new or renamed, at one request for each piece.
    details: Callable[[GearItem], GearItem] = lambda item: item


# What every write of tokens also writes: a healthy link and a free lease.
HEALTHY: dict[str, Any] = {
    "relink_required_at": None,
    "error": "",
    "failures": 0,
    "retry_at": None,
    "lease": None,
    "lease_until": None,
}


def healthy(now: datetime) -> dict[str, Any]:
    return {"refreshed_at": now, **HEALTHY}


class Provider:
    """A service that athletes link. A provider's own module says only what differs.

    Its name is in URLs, settings, columns and the trail; its label is what people read.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    # What sentences about it call it, if not by its label.
    called: ClassVar[str] = ""

    not_linked: ClassVar[type[exceptions.IntegrationsError]] = exceptions.NotLinked
    relink_required: ClassVar[type[exceptions.RelinkRequired]] = exceptions.RelinkRequired
    # The only answer that ends a link, and the provider's branch of the tree of errors.
    dead: ClassVar[type[exceptions.InvalidGrant]] = exceptions.InvalidRefreshToken
    errors: ClassVar[type[exceptions.ProviderError]] = exceptions.ProviderError
    unavailable: ClassVar[type[exceptions.ProviderError]] = exceptions.ProviderUnavailable

    # Seconds. Longer than a refresh with its timeouts, and short enough that a killed refresher
    # blocks others for less than a minute.
    lease: ClassVar[int] = 30
    # How long a token has to be good for when it is handed out.
    fresh_for: ClassVar[timedelta] = timedelta(minutes=5)
    # Whether a sweep keeps its tokens fresh.
    is_swept: ClassVar[bool] = False
    # Whether only workers may ask it: that may take minutes.
    by_workers: ClassVar[bool] = False
    # Whether a rate limit hits everybody who uses the same app, or this athlete alone.
    limits_apps: ClassVar[bool] = False
    # Whether it knows bikes and shoes, and the scope that it wants for them.
    has_gear: ClassVar[bool] = False
    gear_scope: ClassVar[str] = ""

    # The path of a function that gives its URL patterns below `integrations/NAME/`: views know
    # services, and this is below them.
    urls: ClassVar[str]
    # The card on the settings page. Its partial "disconnecting" says what that does.
    card: ClassVar[str] = "integrations/card.html"
    # Where the athlete ends this site's access by themselves.
    account_page: ClassVar[str] = ""
    # Words for the athlete about a stored error, by its code, where the common ones will not do;
    # and short ones about an attempt to link that failed in the background, for the history.
    words: ClassVar[Mapping[str, Any]] = {}
    reasons: ClassVar[Mapping[str, Any]] = {}

    # A library that it cannot do without and that a site may lack, and what pip installs it by.
    library: ClassVar[str] = ""
    package: ClassVar[str] = ""

    # What is loaded with its row, by `select_related`.
    related: ClassVar[tuple[str, ...]] = ()
    # The paths of a function that ends attempts to link which will not end by themselves, of the
    # module with its tasks, and of the clock's jobs: functions, which run in the clock's process,
    # or tasks.
    settle: ClassVar[str] = ""
    tasks: ClassVar[str] = ""
    jobs: ClassVar[Sequence[tuple[str, timedelta]]] = ()

    @cached_property
    def home(self) -> Home:
        """Where its links are stored."""
        return Home(Link, where={"provider": self.name})

    @property
    def revokes(self) -> bool:
        """Whether it can be told that a link has ended."""
        return True

    def is_installed(self) -> bool:
        """Whether its library is there, which is not imported for that."""
        return not self.library or find_spec(self.library) is not None

    def is_shown(self) -> bool:
        """Whether athletes can link it on this site."""
        return self.is_installed()

    def guard(self, row: Any) -> str:
        """The secret that a refresh spends and replaces."""
        return "refresh_token" if self.home.has_secret(row, "refresh_token") else "token"

    def is_fresh(self, row: Any) -> bool:
        """Whether the stored token is good for long enough."""
        raise NotImplementedError

    def read(self, row: Any) -> Any:
        """The stored token. Raises SecretUnreadable if no key opens it."""
        return self.home.get(row, "token")

    def refresh(self, row: Any) -> Refreshed[Any]:
        """Ask the provider, once. Raises `dead`, or another ProviderError."""
        raise NotImplementedError

    def used(self, row: Any, token: Any) -> None:
        """Do what a token that a refresh brought needs once it is stored.

        An error of the provider's here leaves the link as good as it is. It is noted in the
        column `error`, by which the next refresh can tell.
        """

    def unsettled(self) -> Any:
        """The attempts to link for which `settle` has to be called, as a query; None if there are
        never any."""
        return None

    def adopt(self, row: Any) -> None:
        """Read a row of the last release, which may still be serving, as one of this release."""

    def status(self, row: Any) -> LinkStatus:
        """What the athlete sees: the state of the link, or of an attempt to link."""
        return self.home.status(row)

    def failed_attempt(self, row: Any) -> tuple[str, str]:
        """Code and words of an attempt to link that failed in the background; "" if none did."""
        return "", ""

    def describe(self, row: Any) -> dict[str, Any]:
        """What the status URL says of this provider's links alone."""
        return {}

    def page_context(self, row: Any, request: Any, typed: dict[str, str]) -> dict[str, Any]:
        """What its card needs besides what all cards have; `typed` goes back into its form."""
        return {}

    def cancel(self, user_id: Any) -> bool:
        """Drop what is under way to link, in the caller's transaction; returns whether there was
        any."""
        return False

    def revoke(self, row: Any) -> None:
        """End the grant at the provider. Raises an IntegrationsError if it was not confirmed."""
        raise NotImplementedError

    def revoke_refreshed(self, row: Any, columns: Mapping[str, Any]) -> None:
        """Revoke what a refresh of the row brought, because the link is gone by now."""

    def is_another_grant(self, row: Any, current: Any) -> bool:
        """Whether a reconnect made a separate grant: revoking one leaves the other alive."""
        return False

    def fetch_gear(self, row: Any, token: Any, renew: Callable[[Any], Any]) -> FetchedGear:
        """Ask for gear. `renew` gives another token in place of one that is refused."""
        raise NotImplementedError

    @property
    def short_label(self) -> str:
        return self.called or self.label

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the provider's name into the words of errors that are raised within the block."""
        try:
            yield
        except exceptions.IntegrationsError as exc:
            exc.provider = exc.provider or self.short_label
            raise
