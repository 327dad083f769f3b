"""Intervals.icu's API v1 below /intervals/: consent, tokens without an end, the athlete.

Imitated as its maker tells at https://forum.intervals.icu/t/intervals-icu-oauth-support/2759;
invented details are marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path

from .oauth import Athlete, OAuthState, Pair, RegisteredApp, form
from .provider import Refusal, View

#: The app that a site registers for all its users. The secrets are good nowhere else.
CLIENT_ID = "801"
CLIENT_SECRET = "sandbox-secret-at-intervals"
OTHER_CLIENT_ID = "802"
OTHER_CLIENT_SECRET = "sandbox-other-secret-at-intervals"

ALICE = "i80001"
#: An id of the older kind, which is still a text.
BJORN = "2080002"
CHIDI = "i80003"
#: A name that is markup.
DANA = "i80004"

_AREAS = {
    "ACTIVITY": "your activities",
    "WELLNESS": "your wellness data",
    "CALENDAR": "your calendar",
    "CHATS": "your chats",
    "LIBRARY": "your library of workouts",
    "SETTINGS": "your settings",
}
# Cloudflare, in front of the host, turns away what calls itself by a library's name.
_TURNED_AWAY = ("python-", "curl/", "go-http-client", "java/")


class App(RegisteredApp):
    def allows(self, redirect_uri: str, host: str) -> bool:
        # http://localhost/ needs no registration.
        local = redirect_uri.startswith("http://") and host == "localhost"
        return local or super().allows(redirect_uri, host)


class Intervals(OAuthState[App, Athlete]):
    """Intervals.icu's stand-in. See OAuthState for what a test can do with it.

    `state_on_denial`: a refusal at the consent page carries the state.
    """

    name: ClassVar[str] = "intervals"
    title: ClassVar[str] = "Intervals.icu"
    endpoints: ClassVar[tuple[str, ...]] = ("authorize", "token", "user", "revoke")
    scopes: ClassVar[Mapping[str, str]] = {
        f"{area}:{right}": f"{verb} {text}"
        for area, text in _AREAS.items()
        for right, verb in (("READ", "See"), ("WRITE", "See and change"))
    }
    separators: ClassVar[str] = ","
    default_scope: ClassVar[str] = "ACTIVITY:READ"
    response_types: ClassVar[frozenset[str]] = frozenset({"", "code"})
    id_type = str
    code_lifetime: ClassVar[int] = 120
    lifetime = None
    has_refresh_tokens: ClassVar[bool] = False
    rules: ClassVar[Mapping[str, bool]] = {"state_on_denial": False}
    state_on_denial: bool

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
        at: dict[str, View] = {
            "token": self._token,
            "user": self._athlete,
            "revoke": self._revoke,
        }
        behind = {name: self.endpoint(name, _behind_cloudflare(view)) for name, view in at.items()}
        return [
            path("intervals/oauth/authorize", self.endpoint("authorize", self.authorize)),
            path("intervals/api/oauth/token", behind["token"]),
            path("intervals/api/v1/athlete/<str:athlete_id>", behind["user"]),
            path("intervals/api/v1/disconnect-app", behind["revoke"]),
        ]

    # Words

    def parse_scope(self, scope: Any) -> tuple[str, ...]:
        names = super().parse_scope(scope)
        areas = [name.partition(":")[0] for name in names]
        if len(set(areas)) < len(areas):
            raise ValueError("Duplicate scope")
        return names

    def asked(self, scope: str) -> tuple[str, ...]:
        try:
            return super().asked(scope)
        except ValueError as exc:
            raise Refusal(_error(422, str(exc))) from exc

    def code_reply(self, pair: Pair) -> dict[str, Any]:
        # The newest grant's scopes hold for every token of the athlete.
        for each in self._grants[pair.athlete_id, pair.client_id]:
            each.scope = pair.scope
        return {
            "token_type": "Bearer",
            "access_token": pair.access_token,
            "scope": ",".join(pair.scope),
            "athlete": {
                "id": pair.athlete_id,
                "name": self.athletes[pair.athlete_id].full_name,
            },
        }

    def denied(self, state: dict[str, str]) -> dict[str, str]:
        return super().denied(state if self.state_on_denial else {})

    def bad_token(self) -> Refusal:
        return Refusal(_error(401))

    def canned(self, fault: str) -> HttpResponse:
        match fault:
            case "429":
                response = _error(429)
                response["Retry-After"] = "300"
                response["X-RateLimit-Limit"] = "625"
                response["X-RateLimit-Remaining"] = "0"
                return response
            case "401_client":
                return _no_client()
            case "403_inactive" | "403_limit":
                return _error(403)
            case _:
                return _error(500)

    # Views

    def _token(self, request: HttpRequest) -> HttpResponse:
        """Trade a code. The grant type is not looked at: there is one, and no refresh."""
        self.allow(request, "POST")
        self.refuse_secrets_in_query(request)
        sent = form(request)
        if not sent.get("code"):
            text = "Required request parameter 'code' for method parameter type String"
            raise Refusal(_error(422, f"{text} is not present"))
        app = self.apps.get(sent.get("client_id", ""))
        if app is None or sent.get("client_secret") != app.client_secret:
            return _no_client()
        code, fresh = self.find_code(sent["code"], app.client_id)
        if code is None or not fresh:
            raise Refusal(_error(400, "Invalid code"))  # its shape is not known
        response = JsonResponse(self.issue_tokens(code.athlete_id, app.client_id, code.scope))
        response["Cache-Control"] = "no-store"
        return response

    def _athlete(self, request: HttpRequest, athlete_id: str) -> HttpResponse:
        """The token's athlete, who is called 0 as well."""
        self.allow(request, "GET", "HEAD")
        pair = self.token_of(request)
        if not {"SETTINGS:READ", "SETTINGS:WRITE"} & set(pair.scope):
            raise Refusal(_error(403))
        if athlete_id not in ("0", pair.athlete_id):
            raise Refusal(_error(403))
        athlete = self.athletes[pair.athlete_id]
        return JsonResponse({"id": athlete.id, "name": athlete.full_name})

    def _revoke(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "DELETE")
        pair = self.token_of(request)
        self.revoke_grant(pair.athlete_id, pair.client_id)
        return JsonResponse({})


def _behind_cloudflare(view: View) -> View:
    @wraps(view)
    def behind(request: HttpRequest, **kwargs: Any) -> Any:
        name = request.META.get("HTTP_USER_AGENT", "").lower()
        if not name or name.startswith(_TURNED_AWAY):
            return HttpResponse("<!doctype html><title>Access denied</title>", status=403)
        return view(request, **kwargs)

    return behind


def _no_client() -> HttpResponse:
    return HttpResponse("Client and/or secret not found", status=404, content_type="text/plain")


def _error(status: int, text: str = "") -> HttpResponse:
    error = text or HTTPStatus(status).phrase
    return JsonResponse({"status": status, "error": error}, status=status)
