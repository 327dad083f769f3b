"""Wahoo's Cloud API v1 below /wahoo/: consent, tokens that are rotated lazily, the user.

Imitated as documented at https://cloud-api.wahooligan.com/ and as Doorkeeper, which Wahoo uses,
behaves; invented details are marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path

from .oauth import (
    Athlete,
    AthleteId,
    Code,
    OAuthState,
    Pair,
    RegisteredApp,
    fields,
    oauth_error,
)
from .provider import Refusal

#: The app that a site registers for all its users. The secrets are good nowhere else.
CLIENT_ID = "sandbox-wahoo-client-1"
CLIENT_SECRET = "sandbox-secret-at-wahoo"
OTHER_CLIENT_ID = "sandbox-wahoo-client-2"
OTHER_CLIENT_SECRET = "sandbox-other-secret-at-wahoo"

ALICE = 70001
BJORN = 70002
CHIDI = 70003
#: An id that does not fit 32 bits, a name that is markup.
DANA = 7_000_000_004

#: Unrevoked access tokens of one person for one app.
MOST_TOKENS = 10
#: Seconds after which a token ends that was neither used nor revoked.
UNUSED_LIFETIME = 60 * 24 * 60 * 60

_TOO_MANY = (
    "Too many unrevoked access tokens exist for this app and user. "
    "You can only create a new token if you revoke an old one first."
)
_BAD_CLIENT = (
    "Client authentication failed due to unknown client, no client authentication included, "
    "or unsupported authentication method."
)
_BAD_GRANT = (
    "The provided authorization grant is invalid, expired, revoked, does not match the "
    "redirection URI used in the authorization request, or was issued to another client."
)


@dataclass
class App(RegisteredApp):
    #: Until Wahoo has approved an app, its calls of the API are 422.
    approved: bool = True


class Wahoo(OAuthState[App, Athlete]):
    """Wahoo's stand-in. See OAuthState for what a test can do with it.

    `user_in_answer`: token answers name the scope and the user.
    `bare_invalid_grant`: a dead refresh token is a 400 without a body.
    `revocation_says_so`: 200 with JSON for a revocation, in place of 204.
    """

    name: ClassVar[str] = "wahoo"
    title: ClassVar[str] = "Wahoo"
    endpoints: ClassVar[tuple[str, ...]] = ("authorize", "token", "user", "revoke")
    scopes: ClassVar[Mapping[str, str]] = {
        "email": "See your e-mail address",
        "user_read": "See your profile",
        "user_write": "Change your profile",
        "workouts_read": "See your workouts",
        "workouts_write": "Change your workouts",
        "plans_read": "See your plans",
        "plans_write": "Change your plans",
        "power_zones_read": "See your power zones",
        "power_zones_write": "Change your power zones",
        "routes_read": "See your routes",
        "routes_write": "Change your routes",
        "offline_data": "Be told of new workouts",
    }
    fixed: ClassVar[frozenset[str]] = frozenset(scopes)
    default_scope: ClassVar[str] = "user_read workouts_read offline_data"
    lifetime = 7200
    app_fields: ClassVar[Mapping[str, Any]] = {"redirect_uris": list | tuple, "approved": bool}
    rules: ClassVar[Mapping[str, bool]] = {
        "user_in_answer": False,
        "bare_invalid_grant": False,
        "revocation_says_so": False,
    }
    user_in_answer: bool
    bare_invalid_grant: bool
    revocation_says_so: bool

    def demo_apps(self) -> list[App]:
        return [
            App(CLIENT_ID, CLIENT_SECRET, "Demo site"),
            App(OTHER_CLIENT_ID, OTHER_CLIENT_SECRET, "Someone's own app"),
        ]

    def demo_athletes(self) -> list[Athlete]:
        return [
            Athlete(ALICE, "Alice", "Archer"),
            Athlete(BJORN, "Bjørn", "Ångström 🚴"),
            Athlete(CHIDI, "Chidi", "Okafor"),
            Athlete(DANA, "Dana", "<script>alert(1)</script>"),
        ]

    def urlpatterns(self) -> list[URLPattern]:
        return [
            path("wahoo/oauth/authorize", self.endpoint("authorize", self.authorize)),
            path("wahoo/oauth/token", self.endpoint("token", self._token)),
            path("wahoo/v1/user", self.endpoint("user", self._user)),
            path("wahoo/v1/permissions", self.endpoint("revoke", self._revoke)),
        ]

    # For tests

    def unrevoked(self, athlete_id: AthleteId, client_id: str | None = None) -> int:
        """How many access tokens of one person count against the ten, expired ones included."""
        with self._lock:
            long_ago = self.clock() - UNUSED_LIFETIME
            pairs = self._grants.get((athlete_id, client_id or self.site), set())
            for pair in [each for each in pairs if each.created_at <= long_ago and not each.used]:
                self._kill(pair)
            return len(pairs)

    # Words

    def reply(self, pair: Pair) -> dict[str, Any]:
        answer = {
            "access_token": pair.access_token,
            "token_type": "bearer",
            "expires_in": int(pair.expires_at - pair.created_at),
            "refresh_token": pair.refresh_token,
            "created_at": pair.created_at,
        }
        if self.user_in_answer:
            answer |= {"scope": " ".join(pair.scope), "user": self._details(pair)}
        return answer

    def denied(self, state: dict[str, str]) -> dict[str, str]:
        description = "The resource owner or authorization server denied the request."
        return {"error": "access_denied", "error_description": description} | state

    def bad_token(self) -> Refusal:
        return Refusal(_error(401))

    def canned(self, fault: str) -> HttpResponse:
        match fault:
            case "429":
                response = _error(429)
                response["X-RateLimit-Limit"] = "200, 1000, 5000"
                response["X-RateLimit-Remaining"] = "0, 512, 3400"
                response["X-RateLimit-Reset"] = "120, 2400, 40000"
                response["Retry-After"] = "120"
                return response
            case "401_client":
                return oauth_error(401, "invalid_client", _BAD_CLIENT).response
            case "403_inactive":
                return _error(422)  # an app that is not approved
            case "403_limit":
                return _error(403)
            case _:
                return _error(500)

    # Views

    def _token(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "POST")
        self.refuse_secrets_in_query(request)
        sent = fields(request)
        app = self.apps.get(sent.get("client_id", ""))
        if app is None or sent.get("client_secret") != app.client_secret:
            refusal = oauth_error(401, "invalid_client", _BAD_CLIENT)
            refusal.response["WWW-Authenticate"] = 'Bearer realm="Doorkeeper"'
            raise refusal
        match sent.get("grant_type"):
            case "authorization_code":
                answer = self._exchange(app, sent)
            case "refresh_token":
                answer = self._refresh(app, sent.get("refresh_token", ""))
            case _:
                raise oauth_error(400, "unsupported_grant_type")
        response = JsonResponse(answer)
        response["Cache-Control"] = "no-store"
        return response

    def _exchange(self, app: App, sent: Mapping[str, str]) -> dict[str, Any]:
        redirect_uri = sent.get("redirect_uri")
        if not redirect_uri:
            raise oauth_error(400, "invalid_request", "Missing required parameter: redirect_uri.")
        code, fresh = self.find_code(sent.get("code", ""), app.client_id)
        if code is None or not fresh or code.redirect_uri not in (None, redirect_uri):
            raise oauth_error(400, "invalid_grant", _BAD_GRANT)
        with self._lock:
            return self.reply(self._issue(code))

    def _refresh(self, app: App, refresh_token: str) -> dict[str, Any]:
        """A new pair; the one before lives until the new access token is used.

        So the old refresh token works once more if the answer is lost. Source:
        https://cloud-api.wahooligan.com/#refresh-tokens
        """
        with self._lock:
            before = self._by_refresh.get(refresh_token)
            if before is not None:
                self.unrevoked(before.athlete_id, before.client_id)  # 60 days may be over
                before = self._by_refresh.get(refresh_token)
            if before is None or before.client_id != app.client_id:
                if self.bare_invalid_grant:
                    raise Refusal(HttpResponse(status=400))
                raise oauth_error(400, "invalid_grant", _BAD_GRANT)
            pair = self._issue(before)
            pair.before = before
            return self.reply(pair)

    def _issue(self, source: Code | Pair) -> Pair:
        # Whether an expired token counts is not documented: it is unrevoked, so it does here.
        if self.unrevoked(source.athlete_id, source.client_id) >= MOST_TOKENS:
            raise oauth_error(400, _TOO_MANY)
        return self._mint(source.athlete_id, source.client_id, source.scope)

    def _user(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "GET", "HEAD")
        pair = self._live(request)
        if "user_read" not in pair.scope:
            raise Refusal(_error(403))
        self._use(pair)
        return JsonResponse(self._details(pair))

    def _revoke(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "DELETE")
        pair = self._live(request)
        self.revoke_grant(pair.athlete_id, pair.client_id)
        if self.revocation_says_so:
            return JsonResponse({"success": "Application has been revoked"})
        return HttpResponse(status=204)

    def _live(self, request: HttpRequest) -> Pair:
        pair = self.token_of(request)
        if not self.apps[pair.client_id].approved:
            raise Refusal(_error(422))
        return pair

    def _use(self, pair: Pair) -> None:
        with self._lock:
            pair.used = True
            if pair.before is not None:
                self._kill(pair.before)
                pair.before = None

    def _details(self, pair: Pair) -> dict[str, Any]:
        athlete = self.athletes[pair.athlete_id]
        details = {
            "id": athlete.id,
            "first": athlete.firstname,
            "last": athlete.lastname,
            "height": None,
            "weight": None,
            "birth": None,
            "gender": None,
            "created_at": "2020-02-29T12:00:00.000Z",
            "updated_at": "2026-11-01T12:00:00.000Z",
        }
        if "email" in pair.scope:
            details["email"] = f"athlete-{athlete.id}@example.com"
        return details


def _error(status: int) -> HttpResponse:
    return JsonResponse({"error": HTTPStatus(status).phrase}, status=status)
