"""A provider without oddities, to build a stand-in of one's own on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path

from ..provider import Refusal, View
from .params import basic_client, form, oauth_error
from .records import Athlete, Pair, RegisteredApp
from .state import OAuthState


class PlainOAuth(OAuthState[RegisteredApp, Athlete]):
    """Does what RFC 6749 and RFC 7009 say: with `name`, `title` and `scopes` it is a stand-in.

    `paths` are those of the provider's real addresses; the stand-in has them below /NAME/. Refresh
    tokens work once, and revoking either token ends the whole grant. With `lifetime = None` and
    `has_refresh_tokens = False`, tokens live until they are revoked.
    """

    endpoints: ClassVar[tuple[str, ...]] = ("authorize", "token", "revoke", "user")
    paths: ClassVar[Mapping[str, str]] = {
        "authorize": "oauth/authorize",
        "token": "oauth/token",
        "revoke": "oauth/revoke",
        "user": "v1/me",
    }
    lifetime: int | None = 7200

    @property
    def default_scope(self) -> str:  # type: ignore[override]
        return " ".join(self.scopes)

    def demo_apps(self) -> list[RegisteredApp]:
        secret = f"sandbox-secret-at-{self.name}"
        return [RegisteredApp(f"sandbox-{self.name}-client", secret, "Demo site")]

    def demo_athletes(self) -> list[Athlete]:
        return [
            Athlete(90001, "Alice", "Archer"),
            Athlete(90002, "Bjørn", "Ångström 🚴"),
            Athlete(90003, "Chidi", "Okafor"),
        ]

    def urlpatterns(self) -> list[URLPattern]:
        views: dict[str, View] = {
            "authorize": self.authorize,
            "token": self.token,
            "revoke": self.revocation,
            "user": self.user,
        }
        return [
            path(f"{self.name}/{self.paths[each]}", self.endpoint(each, view))
            for each, view in views.items()
        ]

    # Words

    def reply(self, pair: Pair) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "access_token": pair.access_token,
            "token_type": "bearer",
            "scope": " ".join(pair.scope),
        }
        if pair.expires_at != math.inf:
            answer["expires_in"] = int(pair.expires_at - pair.created_at)
        if pair.refresh_token:
            answer["refresh_token"] = pair.refresh_token
        return answer

    def profile(self, athlete: Athlete) -> dict[str, Any]:
        """What the API says of a token's athlete."""
        return {"id": athlete.id, "name": athlete.full_name}

    def bad_token(self) -> Refusal:
        return oauth_error(401, "invalid_token")

    def canned(self, fault: str) -> HttpResponse:
        match fault:
            case "401_client":
                return oauth_error(401, "invalid_client").response
            case "429":
                headers = {"Retry-After": "120"}
                return JsonResponse({"error": "too_many_requests"}, status=429, headers=headers)
        status = HTTPStatus.FORBIDDEN if fault.startswith("403") else 500
        return JsonResponse({"error": HTTPStatus(status).phrase}, status=status)

    # Views

    def token(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "POST")
        app, sent = self._client(request), form(request)
        match sent.get("grant_type"):
            case "authorization_code":
                code, fresh = self.find_code(sent.get("code", ""), app.client_id)
                uri = sent.get("redirect_uri")
                if code is None or not fresh or code.redirect_uri not in (None, uri):
                    raise oauth_error(400, "invalid_grant")
                answer = self.issue_tokens(code.athlete_id, app.client_id, code.scope)
            case "refresh_token":
                with self._lock:
                    before = self._by_refresh.get(sent.get("refresh_token", ""))
                    if before is None or before.client_id != app.client_id:
                        raise oauth_error(400, "invalid_grant")
                    self._kill(before)
                    answer = self.issue_tokens(before.athlete_id, app.client_id, before.scope)
            case _:
                raise oauth_error(400, "unsupported_grant_type")
        return JsonResponse(answer, headers={"Cache-Control": "no-store"})

    def revocation(self, request: HttpRequest) -> HttpResponse:
        """RFC 7009: a token that is not known is as good as revoked."""
        self.allow(request, "POST")
        app, token = self._client(request), form(request).get("token", "")
        with self._lock:
            pair = self._by_refresh.get(token) or self._by_access.get(token)
            if pair is not None and pair.client_id == app.client_id:
                self.revoke_grant(pair.athlete_id, app.client_id)
        return HttpResponse()

    def user(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "GET", "HEAD")
        pair = self.token_of(request)
        return JsonResponse(self.profile(self.athletes[pair.athlete_id]))

    def _client(self, request: HttpRequest) -> RegisteredApp:
        """The app of the request, by HTTP Basic or by the form (RFC 6749, section 2.3.1)."""
        self.refuse_secrets_in_query(request)
        app = basic_client(self.apps, request)
        if app is None and "HTTP_AUTHORIZATION" not in request.META:
            sent = form(request)
            app = self.apps.get(sent.get("client_id", ""))
            if app is not None and sent.get("client_secret") != app.client_secret:
                app = None
        if app is None:
            raise oauth_error(401, "invalid_client")
        return app
