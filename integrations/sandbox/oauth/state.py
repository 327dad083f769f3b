"""What any OAuth provider knows: apps, athletes, codes, tokens.

Every method is safe to call from any thread, and holds the lock for a few
dictionary look-ups at most.
"""

from __future__ import annotations

import math
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse

from ..provider import Provider, Refusal
from . import consent, controls
from .params import bearer_token, fields, oauth_error
from .records import App, Athlete, AthleteId, Code, Pair

# Not `state`: its place is the query of the redirect.
_SECRETS = ("client_secret", "code", "refresh_token", "token", "access_token")


class OAuthState[P: App, A: Athlete](Provider):
    """A provider's memory, and the methods with which a test changes it.

    `token_lifetime` (seconds, None is for ever) may be changed at any time,
    and so may the fields of `apps` and `athletes`, which are keyed by id.
    """

    #: Every scope there is, and what the consent page says of it.
    scopes: ClassVar[Mapping[str, str]]
    #: Characters that may stand between two scopes.
    separators: ClassVar[str] = " "
    default_scope: ClassVar[str]
    #: Seconds that an access token lives; None is for ever.
    lifetime: int | None
    #: Scopes that the athlete cannot untick.
    fixed: ClassVar[frozenset[str]] = frozenset()
    response_types: ClassVar[frozenset[str]] = frozenset({"code"})
    id_type: ClassVar[Callable[[Any], AthleteId]] = int
    code_lifetime: ClassVar[int] = 600
    has_refresh_tokens: ClassVar[bool] = True
    #: Fields of an app that `edit_app` may change, and their types.
    app_fields: ClassVar[Mapping[str, Any]] = {"redirect_uris": list | tuple}
    #: Switches: attribute → its default.
    rules: ClassVar[Mapping[str, bool]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._forget()

    def _forget(self) -> None:
        self.token_lifetime = self.lifetime
        self.apps: dict[str, P] = {app.client_id: app for app in self.demo_apps()}
        self.athletes: dict[AthleteId, A] = {each.id: each for each in self.demo_athletes()}
        self._codes: dict[str, Code] = {}
        self._by_access: dict[str, Pair] = {}
        self._by_refresh: dict[str, Pair] = {}
        self._grants: dict[tuple[AthleteId, str], set[Pair]] = {}
        self._grant_types: Counter[str | None] = Counter()
        self._violations: list[str] = []
        for rule, on in self.rules.items():
            setattr(self, rule, on)

    def reset(self) -> None:
        """Back to the start: demo data as delivered, no tokens, no calls, no faults."""
        super().reset()
        with self._lock:
            self._forget()

    # What a provider fills in

    def demo_apps(self) -> list[P]:
        raise NotImplementedError

    def demo_athletes(self) -> list[A]:
        raise NotImplementedError

    def reply(self, pair: Pair) -> dict[str, Any]:
        """The token endpoint's answer."""
        raise NotImplementedError

    def code_reply(self, pair: Pair) -> dict[str, Any]:
        """The answer to the code grant, where it says more."""
        return self.reply(pair)

    def bad_request(self, field: str) -> Refusal:
        """What is refused at the consent page: nobody is sent anywhere."""
        return oauth_error(400, "invalid_request", f"{field} is missing or wrong")

    def bad_token(self) -> Refusal:
        """What the API says to a token that is unknown, expired or revoked."""
        raise NotImplementedError

    def asked(self, scope: str) -> tuple[str, ...]:
        """The scopes that the consent page shows. Raises ValueError for a scope that is refused."""
        names = self.parse_scope(scope)
        if not names:
            raise ValueError("no scope")
        return names

    def check_authorization(self, app: P, query: Callable[[str], str]) -> None:
        """Raise Refusal for what only this provider minds. `query` reads one parameter."""

    def redirected(self, answer: dict[str, str], scope: tuple[str, ...]) -> dict[str, str]:
        """The query with which the athlete comes back after consent."""
        return answer

    def denied(self, state: dict[str, str]) -> dict[str, str]:
        """The query with which the athlete comes back after a refusal."""
        return state | {"error": "access_denied"}

    # For tests: codes and tokens without a browser

    def grant(
        self,
        athlete_id: AthleteId,
        client_id: str | None = None,
        scope: str | Iterable[str] | None = None,
        redirect_uri: str | None = None,
    ) -> str:
        """Consent as the athlete would, and return the code that goes to the callback.

        The default is the site's app and the provider's usual scope. Without `redirect_uri`, the
        exchange may name any that the app allows. Raises LookupError for an unknown athlete or
        app, ValueError for an unknown scope.
        """
        granted = self.parse_scope(self.default_scope if scope is None else scope)
        with self._lock:
            client_id = self._known(athlete_id, client_id)
            code = secrets.token_hex(20)
            expires_at = self.clock() + self.code_lifetime
            self._codes[code] = Code(athlete_id, client_id, granted, redirect_uri, expires_at)
            return code

    def issue_tokens(
        self,
        athlete_id: AthleteId,
        client_id: str | None = None,
        scope: str | Iterable[str] | None = None,
        expires_in: int | None = None,
    ) -> dict[str, Any]:
        """Tokens as the code grant answers.

        `expires_in` (seconds) may be negative for an access token that has expired already; the
        default is `token_lifetime`. Tokens of one athlete live side by side. Raises as `grant`
        does.
        """
        granted = self.parse_scope(self.default_scope if scope is None else scope)
        with self._lock:
            client_id = self._known(athlete_id, client_id)
            return self.code_reply(self._mint(athlete_id, client_id, granted, expires_in))

    def expire(
        self, athlete_id: AthleteId, client_id: str | None = None, expires_in: int = -1
    ) -> int:
        """Let the athlete's access tokens end `expires_in` seconds from now; return how many."""
        with self._lock:
            pairs = self._grants.get((athlete_id, client_id or self.site), set())
            for pair in pairs:
                pair.expires_at = int(self.clock()) + expires_in
            return len(pairs)

    def is_alive(self, token: str) -> bool:
        """Say whether the provider would still take this access or refresh token."""
        with self._lock:
            return token in self._by_refresh or self.find_access_token(token) is not None

    def revoke_grant(self, athlete_id: AthleteId, client_id: str | None = None) -> int:
        """Kill every token and code of an athlete for one app, silently; return how many pairs."""
        client_id = client_id or self.site
        with self._lock:
            pairs = self._grants.get((athlete_id, client_id), set()).copy()
            for pair in pairs:
                self._kill(pair)
            for code, spent in list(self._codes.items()):
                if (spent.athlete_id, spent.client_id) == (athlete_id, client_id):
                    del self._codes[code]
            return len(pairs)

    def revoke(self, athlete_id: AthleteId, client_id: str | None = None) -> object:
        """End the app's access as the athlete would on the provider's own page."""
        return self.revoke_grant(athlete_id, client_id)

    # For tests: apps, athletes, counts

    @property
    def site(self) -> str:
        """The client id of the app that a site registers for all its users."""
        return next(iter(self.apps))

    def edit_app(self, client_id: str, **changes: Any) -> P:
        """Change fields of an app.

        Raises LookupError for an unknown app, TypeError for another field.
        """
        with self._lock:
            app = self.apps[client_id]
            for name, value in changes.items():
                if name not in self.app_fields or not isinstance(value, self.app_fields[name]):
                    raise TypeError(f"an app has no such {name}")
                setattr(app, name, value)
            return app

    def add_athlete(
        self, athlete_id: AthleteId, firstname: str = "Extra", lastname: str = "", **more: Any
    ) -> A:
        """Invent one more athlete; `more` is what only this provider's athletes have."""
        with self._lock:
            kind = type(next(iter(self.demo_athletes())))
            athlete = kind(type(self).id_type(athlete_id), firstname, lastname, **more)
            self.athletes[athlete.id] = athlete
            return athlete

    @property
    def exchanges(self) -> int:
        """How many codes were brought to the token endpoint, refused ones included."""
        return self.calls["token"] - self.refreshes

    @property
    def refreshes(self) -> int:
        """How many refresh tokens were brought to the token endpoint, refused ones included."""
        with self._lock:
            return self._grant_types["refresh_token"]

    @property
    def revocations(self) -> int:
        return self.calls["revoke"]

    @property
    def users_fetched(self) -> int:
        return self.calls["user"]

    @property
    def violations(self) -> list[str]:
        """Requests that broke a rule, whether or not they worked, such as secrets in a query."""
        with self._lock:
            return list(self._violations)

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {
                "codes": len(self._codes),
                "access_tokens": len(self._by_access),
                "refresh_tokens": len(self._by_refresh),
                "connected_athletes": len({athlete_id for athlete_id, _ in self._grants}),
            }

    # For the control pages

    def describe(self, request: HttpRequest) -> dict[str, Any]:
        sent = fields(request)
        grant_type = sent.get("grant_type") or request.GET.get("grant_type")
        with self._lock:
            self._grant_types[grant_type] += 1
        return {
            "grant_type": grant_type,
            "client_id": sent.get("client_id") or request.GET.get("client_id"),
        }

    def controls(self) -> Mapping[str, Callable[..., object]]:
        return controls.actions(self)

    def overview(self) -> dict[str, Any]:
        with self._lock:
            return {
                "apps": [app.public() for app in self.apps.values()],
                "athletes": [
                    {"id": athlete.id, "name": athlete.full_name, "traits": athlete.traits()}
                    for athlete in list(self.athletes.values())[:50]
                ],
                "counts": self.counts(),
                "token_lifetime": self.token_lifetime,
                "violations": self.violations,
                "rules": {rule: getattr(self, rule) for rule in self.rules},
            }

    # For the views

    def authorize(self, request: HttpRequest) -> HttpResponse:
        return consent.authorize(self, request)

    def allow(self, request: HttpRequest, *methods: str) -> None:
        if request.method not in methods:
            raise self.method_not_allowed()

    def method_not_allowed(self) -> Refusal:
        return oauth_error(405, "method_not_allowed")

    def parse_scope(self, scope: str | Iterable[str]) -> tuple[str, ...]:
        """Split a scope and drop duplicates.

        Raises ValueError for a scope that the provider does not have.
        """
        if isinstance(scope, str):
            scope = filter(None, re.split(f"[{self.separators}]", scope))
        names = tuple(dict.fromkeys(scope))
        unknown = [name for name in names if name not in self.scopes]
        if unknown:
            raise ValueError(f"unknown scope: {', '.join(map(repr, unknown))}")
        return names

    def note_violation(self, text: str) -> None:
        with self._lock:
            if len(self._violations) < 1000:
                self._violations.append(text)

    def refuse_secrets_in_query(self, request: HttpRequest) -> None:
        """Raise Refusal (400) for secrets in a URL, which every log on the way would keep."""
        names = [name for name in _SECRETS if name in request.GET]
        if names:
            self.note_violation(
                f"{request.method} {request.path_info}: {', '.join(names)} in the query"
            )
            raise self.bad_request(names[0])

    def token_of(self, request: HttpRequest) -> Pair:
        """The live token in the Authorization header. Raises Refusal for a bad one."""
        pair = self.find_access_token(bearer_token(request))
        if pair is None:
            raise self.bad_token()
        return pair

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

    def _known(self, athlete_id: AthleteId, client_id: str | None) -> str:
        """The app's client id, the site's by default, if it and the athlete exist."""
        client_id = client_id or self.site
        if athlete_id not in self.athletes:
            raise LookupError(f"no such athlete: {athlete_id!r}")
        if client_id not in self.apps:
            raise LookupError(f"no such app: {client_id!r}")
        return client_id

    def _mint(
        self,
        athlete_id: AthleteId,
        client_id: str,
        scope: tuple[str, ...],
        expires_in: int | None = None,
    ) -> Pair:
        lifetime = self.token_lifetime if expires_in is None else int(expires_in)
        now = int(self.clock())
        pair = Pair(
            athlete_id,
            client_id,
            scope,
            secrets.token_hex(20),
            secrets.token_hex(20) if self.has_refresh_tokens else "",
            now,
            math.inf if lifetime is None else now + lifetime,
        )
        self._by_access[pair.access_token] = pair
        if pair.refresh_token:
            self._by_refresh[pair.refresh_token] = pair
        self._grants.setdefault((athlete_id, client_id), set()).add(pair)
        return pair

    def _kill(self, pair: Pair) -> None:
        self._by_access.pop(pair.access_token, None)
        # Where tokens are not rotated, a later pair has the same refresh token.
        if self._by_refresh.get(pair.refresh_token) is pair:
            del self._by_refresh[pair.refresh_token]
        grant = self._grants.get((pair.athlete_id, pair.client_id), set())
        grant.discard(pair)
        if not grant:
            self._grants.pop((pair.athlete_id, pair.client_id), None)
