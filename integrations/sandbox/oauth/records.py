"""Apps, athletes, codes and tokens, as a provider keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

AthleteId = int | str

#: Hosts that need no registration. "testserver" is the host of Django's test client.
LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "testserver"})


@dataclass
class App:
    """An API application as registered at a provider."""

    client_id: str
    client_secret: str
    name: str

    def allows(self, redirect_uri: str, host: str) -> bool:
        """Say whether people may be sent there. `host` is that of `redirect_uri`."""
        raise NotImplementedError

    def public(self) -> dict[str, Any]:
        """Everything. The secret is invented: people copy it off the index page."""
        return asdict(self)


@dataclass
class RegisteredApp(App):
    """An app whose redirect URIs are registered in full and compared exactly.

    With none registered, any on this machine will do.
    """

    redirect_uris: tuple[str, ...] | list[str] = ()

    def allows(self, redirect_uri: str, host: str) -> bool:
        return redirect_uri in self.redirect_uris if self.redirect_uris else host in LOCAL


@dataclass
class Athlete:
    """A person at a provider."""

    id: Any
    firstname: str
    lastname: str

    @property
    def full_name(self) -> str:
        return f"{self.firstname} {self.lastname}".strip()

    def traits(self) -> list[str]:
        """What is special, for the index page."""
        return []


@dataclass
class Code:
    """`redirect_uri` is None for a code that was had without a browser."""

    athlete_id: AthleteId
    client_id: str
    scope: tuple[str, ...]
    redirect_uri: str | None
    expires_at: float
    used: bool = False


@dataclass(eq=False)
class Pair:
    """An access token and the refresh token that came with it, if the provider has any.

    `before` is a pair that ends when this one is used first, where the provider rotates so late.
    """

    athlete_id: Any
    client_id: str
    scope: tuple[str, ...]
    access_token: str
    refresh_token: str
    created_at: float
    expires_at: float
    used: bool = False
    before: Pair | None = None
