"""What Strava knows: apps, athletes, codes, tokens, subscriptions.

Every method is safe to call from any thread, and holds the lock for a few
dictionary look-ups at most.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..provider import Provider
from . import demo
from .demo import CLIENT_ID, App, Athlete, Gear
from .errors import SCOPES
from .ratelimit import DEFAULT_OVERALL, DEFAULT_READ, Limit, RateLimits

CODE_LIFETIME = 600
# A refresh with more than this left hands out the same access token again.
REFRESH_WINDOW = 3600

_APP_FIELDS: dict[str, Any] = {
    "active": bool,
    "athlete_limit": int | None,
    "callback_domain": str,
}


@dataclass
class Code:
    athlete_id: int
    client_id: str
    scope: tuple[str, ...]
    expires_at: float
    used: bool = False


@dataclass(eq=False)
class Pair:
    """An access token and the refresh token that came with it."""

    athlete_id: int
    client_id: str
    scope: tuple[str, ...]
    access_token: str
    refresh_token: str
    expires_at: int


@dataclass
class Subscription:
    id: int
    client_id: str
    callback_url: str


def parse_scope(scope: str | Iterable[str]) -> tuple[str, ...]:
    """Split a scope at commas or spaces, and drop duplicates.

    Raises ValueError for a scope that Strava does not have.
    """
    names = scope.replace(",", " ").split() if isinstance(scope, str) else list(scope)
    unknown = [name for name in names if name not in SCOPES]
    if unknown:
        raise ValueError(f"unknown scope: {', '.join(map(repr, unknown))}")
    return tuple(dict.fromkeys(names))


class StravaState(Provider):
    """Strava's memory, and the methods with which a test changes it.

    `token_lifetime` (seconds) may be changed at any time, and so may the
    fields of `apps` and `athletes`, which are keyed by id.
    """

    def __init__(
        self,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
        token_lifetime: int = 21600,
    ) -> None:
        super().__init__(sleep=sleep, clock=clock)
        self._default_lifetime = token_lifetime
        self.rate_limits = RateLimits(self.clock)
        self._forget()

    def _forget(self) -> None:
        self.token_lifetime = self._default_lifetime
        self.apps: dict[str, App] = {app.client_id: app for app in demo.apps()}
        self.athletes: dict[int, Athlete] = {each.id: each for each in demo.athletes()}
        self._codes: dict[str, Code] = {}
        self._by_access: dict[str, Pair] = {}
        self._by_refresh: dict[str, Pair] = {}
        self._grants: dict[tuple[int, str], set[Pair]] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._last_subscription = 100
        self._violations: list[str] = []

    def reset(self) -> None:
        """Back to the start: demo data as delivered, no tokens, no calls, no faults."""
        super().reset()
        self.rate_limits.clear()
        with self._lock:
            self._forget()

    # For tests: codes and tokens without a browser

    def grant(
        self,
        athlete_id: int,
        client_id: str = CLIENT_ID,
        scope: str = "read,profile:read_all",
    ) -> str:
        """Consent as the athlete would, and return the code that goes to the callback.

        Raises LookupError for an unknown athlete or app, ValueError for an unknown scope.
        """
        granted = parse_scope(scope)
        with self._lock:
            self._known(athlete_id, client_id)
            code = secrets.token_hex(20)
            self._codes[code] = Code(athlete_id, client_id, granted, self.clock() + CODE_LIFETIME)
            return code

    def issue_tokens(
        self,
        athlete_id: int,
        client_id: str = CLIENT_ID,
        scope: str = "read,profile:read_all",
        expires_in: int | None = None,
    ) -> dict[str, Any]:
        """A pair of tokens as the code grant answers, `athlete` included.

        `expires_in` (seconds) may be negative for an access token that has expired already; the
        default is `token_lifetime`. Pairs of one athlete live side by side. Raises as `grant` does.
        """
        granted = parse_scope(scope)
        with self._lock:
            self._known(athlete_id, client_id)
            pair = self._mint(athlete_id, client_id, granted, expires_in)
            return self.reply(pair) | {"athlete": self.athletes[athlete_id].summary()}

    def expire(self, athlete_id: int, client_id: str = CLIENT_ID, expires_in: int = -1) -> int:
        """Let the athlete's access tokens end `expires_in` seconds from now; return how many."""
        with self._lock:
            pairs = self._grants.get((athlete_id, client_id), set())
            for pair in pairs:
                pair.expires_at = int(self.clock()) + expires_in
            return len(pairs)

    def is_alive(self, token: str) -> bool:
        """Say whether Strava would still take this access or refresh token."""
        with self._lock:
            return token in self._by_refresh or self.find_access_token(token) is not None

    def revoke_grant(self, athlete_id: int, client_id: str = CLIENT_ID) -> int:
        """Kill every token and code of an athlete for one app, silently; return how many pairs."""
        with self._lock:
            pairs = self._grants.pop((athlete_id, client_id), set())
            for pair in pairs:
                self._by_access.pop(pair.access_token, None)
                if self._by_refresh.get(pair.refresh_token) is pair:
                    del self._by_refresh[pair.refresh_token]
            for code, spent in list(self._codes.items()):
                if (spent.athlete_id, spent.client_id) == (athlete_id, client_id):
                    del self._codes[code]
            return len(pairs)

    # For tests: apps, athletes, limits

    def deactivate(self, client_id: str = CLIENT_ID) -> None:
        """Make an app inactive: 403 everywhere, except that refreshing goes on working."""
        self.edit_app(client_id, active=False)

    def activate(self, client_id: str = CLIENT_ID) -> None:
        self.edit_app(client_id, active=True)

    def limit_athletes(self, athlete_limit: int | None, client_id: str = CLIENT_ID) -> None:
        """Limit how many athletes an app may connect; 0 refuses everybody, None nobody."""
        self.apps[client_id].athlete_limit = athlete_limit

    def limit_rate(
        self,
        overall: Limit = DEFAULT_OVERALL,
        read: Limit = DEFAULT_READ,
        client_id: str = CLIENT_ID,
    ) -> None:
        """Set an app's limits, each as (calls in 15 minutes, calls in a day)."""
        self.rate_limits.set(client_id, overall, read)

    def edit_app(self, client_id: str, **changes: Any) -> App:
        """Change an app: `active`, `athlete_limit`, `callback_domain`, `overall`, `read`.

        Raises LookupError for an unknown app, TypeError for another field.
        """
        with self._lock:
            app = self.apps[client_id]
            limits = {name: changes.pop(name) for name in ("overall", "read") if name in changes}
            for name, value in changes.items():
                if name not in _APP_FIELDS or not isinstance(value, _APP_FIELDS[name]):
                    raise TypeError(f"an app has no such {name}")
                setattr(app, name, value)
            if limits:
                pairs = {name: (int(pair[0]), int(pair[1])) for name, pair in limits.items()}
                self.rate_limits.set(client_id, **pairs)
            return app

    def add_athlete(
        self,
        athlete_id: int,
        firstname: str = "Extra",
        lastname: str = "",
        bikes: Sequence[Gear] = (),
        shoes: Sequence[Gear] = (),
    ) -> Athlete:
        """Invent one more athlete; see `demo.gear` for the shape of bikes and shoes."""
        with self._lock:
            athlete = Athlete(int(athlete_id), firstname, lastname, list(bikes), list(shoes))
            self.athletes[athlete.id] = athlete
            return athlete

    @property
    def violations(self) -> list[str]:
        """Requests that worked but broke a rule, such as secrets in a query."""
        with self._lock:
            return list(self._violations)

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {
                "codes": len(self._codes),
                "access_tokens": len(self._by_access),
                "refresh_tokens": len(self._by_refresh),
                "connected_athletes": len({athlete_id for athlete_id, _ in self._grants}),
                "subscriptions": len(self._subscriptions),
            }

    # For the views

    def note_violation(self, text: str) -> None:
        with self._lock:
            if len(self._violations) < 1000:
                self._violations.append(text)

    def is_full(self, app: App, but_for: int | None = None) -> bool:
        """Say whether the app has reached its limit of connected athletes.

        `but_for` is an athlete who does not count as a new one if connected already.
        """
        if app.athlete_limit is None:
            return False
        with self._lock:
            if (but_for, app.client_id) in self._grants:
                return False
            connected = sum(1 for _, client_id in self._grants if client_id == app.client_id)
        return connected >= app.athlete_limit

    def find_code(self, code: str, client_id: str) -> tuple[Code | None, bool]:
        """Spend a code. The flag says whether it was valid: in time and used for the first time."""
        with self._lock:
            found = self._codes.get(code)
            if found is None or found.client_id != client_id:
                return None, False
            fresh = not found.used and found.expires_at > self.clock()
            found.used = True
            return found, fresh

    def find_access_token(self, token: str) -> Pair | None:
        with self._lock:
            pair = self._by_access.get(token)
            return pair if pair is not None and pair.expires_at > self.clock() else None

    def find_any_token(self, token: str) -> Pair | None:
        """The pair of an access or refresh token, expired or not."""
        with self._lock:
            return self._by_refresh.get(token) or self._by_access.get(token)

    def refresh(self, refresh_token: str, client_id: str) -> dict[str, Any] | None:
        """Answer the refresh grant, or None for a dead token.

        A rotated access token works until it expires; a rotated refresh token is dead. Source:
        https://developers.strava.com/docs/authentication/
        """
        with self._lock:
            pair = self._by_refresh.get(refresh_token)
            if pair is None or pair.client_id != client_id:
                return None
            if pair.expires_at - self.clock() <= REFRESH_WINDOW:
                del self._by_refresh[refresh_token]
                if pair.expires_at <= self.clock():
                    self._by_access.pop(pair.access_token, None)
                    self._grants[pair.athlete_id, client_id].discard(pair)
                pair = self._mint(pair.athlete_id, client_id, pair.scope, None)
            return self.reply(pair)

    def reply(self, pair: Pair) -> dict[str, Any]:
        return {
            "token_type": "Bearer",
            "expires_at": pair.expires_at,
            "expires_in": pair.expires_at - int(self.clock()),
            "refresh_token": pair.refresh_token,
            "access_token": pair.access_token,
        }

    def subscriptions_of(self, client_id: str) -> list[Subscription]:
        with self._lock:
            return [each for each in self._subscriptions.values() if each.client_id == client_id]

    def subscribe(self, client_id: str, callback_url: str) -> Subscription | None:
        """Store the app's one subscription, or return None if it has one."""
        with self._lock:
            if self.subscriptions_of(client_id):
                return None
            self._last_subscription += 1
            subscription = Subscription(self._last_subscription, client_id, callback_url)
            self._subscriptions[subscription.id] = subscription
            return subscription

    def unsubscribe(self, subscription_id: int, client_id: str) -> bool:
        with self._lock:
            subscription = self._subscriptions.get(subscription_id)
            if subscription is None or subscription.client_id != client_id:
                return False
            del self._subscriptions[subscription_id]
            return True

    def _known(self, athlete_id: int, client_id: str) -> None:
        if athlete_id not in self.athletes:
            raise LookupError(f"no such athlete: {athlete_id!r}")
        if client_id not in self.apps:
            raise LookupError(f"no such app: {client_id!r}")

    def _mint(
        self, athlete_id: int, client_id: str, scope: tuple[str, ...], expires_in: int | None
    ) -> Pair:
        lifetime = self.token_lifetime if expires_in is None else int(expires_in)
        pair = Pair(
            athlete_id,
            client_id,
            scope,
            secrets.token_hex(20),
            secrets.token_hex(20),
            int(self.clock()) + lifetime,
        )
        self._by_access[pair.access_token] = pair
        self._by_refresh[pair.refresh_token] = pair
        self._grants.setdefault((athlete_id, client_id), set()).add(pair)
        return pair
