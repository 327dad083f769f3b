"""Polar AccessLink v3 below /polar/: consent, tokens, registration.

Imitated as documented at https://www.polar.com/accesslink-api/; the statuses and words of
errors are invented where neither that page nor the official example tells them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path

from .oauth import (
    Athlete,
    AthleteId,
    OAuthState,
    Pair,
    RegisteredApp,
    basic_client,
    form,
    oauth_error,
)
from .provider import Refusal

#: The client that a site registers for all its users. The secrets are good nowhere else.
CLIENT_ID = "5d1b7c0e-polar-0001"
CLIENT_SECRET = "sandbox-secret-at-polar"
OTHER_CLIENT_ID = "5d1b7c0e-polar-0002"
OTHER_CLIENT_SECRET = "sandbox-other-secret-at-polar"

ALICE = 60001
BJORN = 60002
#: No last name.
CHIDI = 60003
#: Has not accepted Polar's mandatory consents.
DANA = 60004


@dataclass
class Person(Athlete):
    consents: bool = True

    def traits(self) -> list[str]:
        return [] if self.consents else ["has not accepted the mandatory consents"]


class Polar(OAuthState[RegisteredApp, Person]):
    """Polar's stand-in. See OAuthState for what a test can do with it.

    `athletes[…].consents` may be changed at any time.
    """

    name: ClassVar[str] = "polar"
    title: ClassVar[str] = "Polar"
    endpoints: ClassVar[tuple[str, ...]] = (
        "authorize",
        "token",
        "register",
        "user",
        "revoke",
        "exercises",
    )
    scopes: ClassVar[Mapping[str, str]] = {"accesslink.read_all": "Read everything"}
    fixed: ClassVar[frozenset[str]] = frozenset(scopes)
    default_scope: ClassVar[str] = "accesslink.read_all"
    lifetime = 31535999
    has_refresh_tokens: ClassVar[bool] = False

    def _forget(self) -> None:
        super()._forget()
        # (person, client) → member-id
        self._members: dict[tuple[AthleteId, str], str] = {}
        # Access tokens that a registration, new or old, has opened the data for.
        self._opened: set[str] = set()

    def demo_apps(self) -> list[RegisteredApp]:
        return [
            RegisteredApp(CLIENT_ID, CLIENT_SECRET, "Demo site"),
            RegisteredApp(OTHER_CLIENT_ID, OTHER_CLIENT_SECRET, "Someone's own app"),
        ]

    def demo_athletes(self) -> list[Person]:
        return [
            Person(ALICE, "Alice", "Archer"),
            Person(BJORN, "Bjørn", "Ångström 🚴"),
            Person(CHIDI, "Chidi", ""),
            Person(DANA, "Dana", "Délaissée", consents=False),
        ]

    def urlpatterns(self) -> list[URLPattern]:
        user = self.endpoint("user", self._user)
        revoke = self.endpoint("revoke", self._revoke)

        def person(request: HttpRequest, **kwargs: Any) -> Any:
            return (revoke if request.method == "DELETE" else user)(request, **kwargs)

        return [
            path("polar/oauth2/authorization", self.endpoint("authorize", self.authorize)),
            path("polar/v2/oauth2/token", self.endpoint("token", self._token)),
            path("polar/v3/users", self.endpoint("register", self._register)),
            path("polar/v3/users/<str:user_id>", person),
            path("polar/v3/exercises", self.endpoint("exercises", self._exercises)),
        ]

    # For tests

    @property
    def registrations(self) -> int:
        """How many registrations were asked for, refused ones included."""
        return self.calls["register"]

    def member_id(self, athlete_id: int, client_id: str | None = None) -> str | None:
        """What the person is registered as, or None."""
        with self._lock:
            return self._members.get((athlete_id, client_id or self.site))

    def register(self, athlete_id: int, member_id: str, client_id: str | None = None) -> bool:
        """Register a person and open the data to every token there is; False for a 409."""
        with self._lock:
            client_id = self._known(athlete_id, client_id)
            known = (athlete_id, client_id) in self._members
            if not known and any(
                (client, member) == (client_id, member_id)
                for (_, client), member in self._members.items()
            ):
                return False
            self._members.setdefault((athlete_id, client_id), member_id)
            pairs = self._grants.get((athlete_id, client_id), set())
            self._opened.update(pair.access_token for pair in pairs)
            return not known

    def revoke_grant(self, athlete_id: AthleteId, client_id: str | None = None) -> int:
        """As everywhere; deregisters the person, too."""
        with self._lock:
            self._members.pop((athlete_id, client_id or self.site), None)
            return super().revoke_grant(athlete_id, client_id)

    # Words

    def asked(self, scope: str) -> tuple[str, ...]:
        return self.parse_scope(scope)  # may be left out

    def reply(self, pair: Pair) -> dict[str, Any]:
        return {
            "access_token": pair.access_token,
            "token_type": "bearer",
            "expires_in": int(pair.expires_at - pair.created_at),
            "x_user_id": pair.athlete_id,
        }

    def bad_token(self) -> Refusal:
        return Refusal(_error(401))

    def canned(self, fault: str) -> HttpResponse:
        match fault:
            case "429":
                response = _error(429)
                response["RateLimit-Usage"] = "521, 1500"
                response["RateLimit-Limit"] = "520, 5100"
                response["RateLimit-Reset"] = "420, 36000"
                return response
            case "401_client":
                return oauth_error(401, "invalid_client").response
            case "403_inactive" | "403_limit":
                return _error(403)
            case _:
                return _error(500)

    # Views

    def _token(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "POST")
        self.refuse_secrets_in_query(request)
        app = basic_client(self.apps, request)
        if app is None:
            refusal = oauth_error(401, "invalid_client")
            refusal.response["WWW-Authenticate"] = 'Basic realm="polar"'
            raise refusal
        sent = form(request)
        if "client_secret" in sent:
            raise oauth_error(400, "invalid_request")
        if sent.get("grant_type") != "authorization_code":
            raise oauth_error(400, "unsupported_grant_type")
        code, fresh = self.find_code(sent.get("code", ""), app.client_id)
        if code is None or not fresh or code.redirect_uri not in (None, sent.get("redirect_uri")):
            raise oauth_error(400, "invalid_grant")
        response = JsonResponse(self.issue_tokens(code.athlete_id, app.client_id, code.scope))
        response["Cache-Control"] = "no-store"
        return response

    def _person(self, pair: Pair) -> Person:
        person = self.athletes[pair.athlete_id]
        if not person.consents:
            raise Refusal(_error(403))
        return person

    def _register(self, request: HttpRequest) -> HttpResponse:
        """Register the token's person. A 409 has two meanings, and one opens the data.

        Source: https://github.com/api-evangelist/polar/blob/main/openapi/polar-users-api-openapi.yml
        """
        self.allow(request, "POST")
        pair = self.token_of(request)
        person = self._person(pair)
        try:
            member_id = json.loads(request.body)["member-id"]
        except (ValueError, LookupError, TypeError, RecursionError):
            member_id = None
        if not isinstance(member_id, str) or not member_id:
            raise Refusal(_error(400))
        if not self.register(person.id, member_id, pair.client_id):
            raise Refusal(_error(409))
        return JsonResponse(self._details(person, member_id))

    def _user(self, request: HttpRequest, user_id: str) -> HttpResponse:
        self.allow(request, "GET", "HEAD")
        pair = self._owner(request, user_id)
        person = self._person(pair)
        member_id = self.member_id(person.id, pair.client_id)
        if member_id is None:
            return HttpResponse(status=204)
        return JsonResponse(self._details(person, member_id))

    def _revoke(self, request: HttpRequest, user_id: str) -> HttpResponse:
        pair = self._owner(request, user_id)
        self.revoke_grant(pair.athlete_id, pair.client_id)
        return HttpResponse(status=204)

    def _exercises(self, request: HttpRequest) -> HttpResponse:
        """A call for data: it needs a registration after the grant that the token is from."""
        self.allow(request, "GET", "HEAD")
        pair = self.token_of(request)
        self._person(pair)
        if pair.access_token not in self._opened:
            raise Refusal(_error(403))
        return JsonResponse([], safe=False)

    def _owner(self, request: HttpRequest, user_id: str) -> Pair:
        pair = self.token_of(request)
        if user_id != str(pair.athlete_id):
            raise Refusal(_error(403))
        return pair

    def _details(self, person: Person, member_id: str) -> dict[str, Any]:
        details = {
            "polar-user-id": person.id,
            "member-id": member_id,
            "registration-date": datetime.fromtimestamp(self.clock(), UTC).isoformat(
                timespec="milliseconds"
            ),
            "first-name": person.firstname,
            "last-name": person.lastname,
            "extra-info": [],
        }
        return {name: value for name, value in details.items() if value != ""}


def _error(status: int) -> HttpResponse:
    return JsonResponse({"status": status, "error": HTTPStatus(status).phrase}, status=status)
