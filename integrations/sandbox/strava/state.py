"""What Strava knows beyond any OAuth provider: limits, rotation, subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..oauth import AthleteId, OAuthState, Pair
from ..pages import page
from ..provider import Refusal
from . import demo, errors
from .demo import CLIENT_ID, App, Athlete
from .errors import SCOPES
from .ratelimit import DEFAULT_OVERALL, DEFAULT_READ, Limit, RateLimits

# A refresh with more than this left hands out the same access token again.
REFRESH_WINDOW = 3600


@dataclass
class Subscription:
    id: int
    client_id: str
    callback_url: str


class StravaState(OAuthState[App, Athlete]):
    """Strava's memory. See OAuthState for what a test can do with any provider's."""

    scopes = SCOPES
    separators: ClassVar[str] = ", "
    default_scope: ClassVar[str] = "read,profile:read_all"
    fixed: ClassVar[frozenset[str]] = frozenset({"read"})
    app_fields: ClassVar[Mapping[str, Any]] = {
        "active": bool,
        "athlete_limit": int | None,
        "callback_domain": str,
    }

    def __init__(self, *, token_lifetime: int = 21600, **options: Any) -> None:
        self.lifetime = token_lifetime
        super().__init__(**options)

    def _forget(self) -> None:
        super()._forget()
        self.rate_limits = RateLimits(self.clock)
        self._subscriptions: dict[int, Subscription] = {}
        self._last_subscription = 100

    def demo_apps(self) -> list[App]:
        return demo.apps()

    def demo_athletes(self) -> list[Athlete]:
        return demo.athletes()

    # Strava's words

    def bad_request(self, field: str) -> Refusal:
        return errors.bad_request("Application", field)

    def method_not_allowed(self) -> Refusal:
        return errors.method_not_allowed()

    # Consent

    def check_authorization(self, app: App, query: Callable[[str], str]) -> None:
        if query("approval_prompt") not in ("", "auto", "force"):
            raise self.bad_request("approval_prompt")
        if self.is_full(app):
            raise Refusal(page("limit.html", {"app": app}, status=403))

    def asked(self, scope: str) -> tuple[str, ...]:
        # Strava gives `read` with whatever was asked for.
        return tuple(dict.fromkeys(("read", *super().asked(scope))))

    def redirected(self, answer: dict[str, str], scope: tuple[str, ...]) -> dict[str, str]:
        return answer | {"scope": ",".join(scope)}

    # For tests: apps and limits

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
        limits = {name: changes.pop(name) for name in ("overall", "read") if name in changes}
        app = super().edit_app(client_id, **changes)
        if limits:
            pairs = {name: (int(pair[0]), int(pair[1])) for name, pair in limits.items()}
            self.rate_limits.set(client_id, **pairs)
        return app

    def counts(self) -> dict[str, int]:
        with self._lock:
            return super().counts() | {"subscriptions": len(self._subscriptions)}

    # For the views

    def is_full(self, app: App, but_for: AthleteId | None = None) -> bool:
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
                    self._kill(pair)
                pair = self._mint(pair.athlete_id, client_id, pair.scope)
            return self.reply(pair)

    def reply(self, pair: Pair) -> dict[str, Any]:
        return {
            "token_type": "Bearer",
            "expires_at": pair.expires_at,
            "expires_in": pair.expires_at - int(self.clock()),
            "refresh_token": pair.refresh_token,
            "access_token": pair.access_token,
        }

    def code_reply(self, pair: Pair) -> dict[str, Any]:
        return self.reply(pair) | {"athlete": self.athletes[pair.athlete_id].summary()}

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
