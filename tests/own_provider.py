"""A provider that the app has never heard of, as a host project would add one, and its stand-in.

Club has what none of the built-in ones has: PKCE, and the revocation of RFC 7009 with a grant that
it ends as a whole. It overrides nothing that it does not have to.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, URLResolver, path
from django.urls.resolvers import RegexPattern

from integrations.exceptions import InvalidProviderReply
from integrations.links import Account
from integrations.oauth.client import Tokens
from integrations.oauth.provider import OAuthProvider
from integrations.sandbox import Sandbox
from integrations.sandbox.oauth import (
    Athlete,
    OAuthState,
    Pair,
    RegisteredApp,
    basic_client,
    form,
    oauth_error,
)
from integrations.sandbox.provider import Refusal

CLIENT_ID = "club-app-1"
CLIENT_SECRET = "sandbox-secret-at-club"
OTHER_CLIENT_ID = "club-app-2"
OTHER_CLIENT_SECRET = "sandbox-other-secret-at-club"
ALICE = 501
BJORN = 502


class OwnClub(OAuthProvider):
    name = "ownclub"
    label = "Own Club"
    authorize_url = "https://club.example/oauth/authorize"
    token_url = "https://club.example/oauth/token"
    revoke_url = "https://club.example/oauth/revoke"
    pkce = True
    scopes = ("rides:read", "rides:write")
    account_page = "https://club.example/apps"

    def identify(self, client: Any, tokens: Tokens) -> Account:
        member = tokens.answer.get("member")
        if not isinstance(member, dict) or not isinstance(member.get("id"), int):
            raise InvalidProviderReply
        return Account(str(member["id"]), str(member.get("name", "")))


class Club(OAuthState[RegisteredApp, Athlete]):
    name: ClassVar[str] = "ownclub"
    title: ClassVar[str] = "Own Club"
    endpoints: ClassVar[tuple[str, ...]] = ("authorize", "token", "revoke")
    scopes: ClassVar[Mapping[str, str]] = {"rides:read": "See rides", "rides:write": "Add rides"}
    default_scope: ClassVar[str] = "rides:read rides:write"
    lifetime = 7200

    def _forget(self) -> None:
        super()._forget()
        self._challenges: dict[str, str] = {}

    def demo_apps(self) -> list[RegisteredApp]:
        return [
            RegisteredApp(CLIENT_ID, CLIENT_SECRET, "Demo site"),
            RegisteredApp(OTHER_CLIENT_ID, OTHER_CLIENT_SECRET, "Another site"),
        ]

    def demo_athletes(self) -> list[Athlete]:
        return [Athlete(ALICE, "Alice", "Archer"), Athlete(BJORN, "Bjørn", "Ångström")]

    def urlpatterns(self) -> list[URLPattern]:
        views = {"authorize": self._authorize, "token": self._token, "revoke": self._revoke}
        return [path(f"oauth/{at}", self.endpoint(at, view)) for at, view in views.items()]

    def reply(self, pair: Pair) -> dict[str, Any]:
        return {
            "access_token": pair.access_token,
            "token_type": "Bearer",
            "refresh_token": pair.refresh_token,
            "expires_in": int(pair.expires_at - pair.created_at),
        }

    def code_reply(self, pair: Pair) -> dict[str, Any]:
        name = self.athletes[pair.athlete_id].full_name
        return self.reply(pair) | {
            "scope": " ".join(pair.scope),
            "member": {"id": pair.athlete_id, "name": name},
        }

    def bad_token(self) -> Refusal:
        return oauth_error(401, "invalid_token")

    def canned(self, fault: str) -> HttpResponse:
        match fault:
            case "429":
                response = JsonResponse({"error": "slow_down"}, status=429)
                response["Retry-After"] = "120"
                return response
            case "401_client":
                return oauth_error(401, "invalid_client").response
            case _:
                return super().canned(fault)

    def _authorize(self, request: HttpRequest) -> HttpResponse:
        if request.GET.get("code_challenge_method") != "S256":
            raise self.bad_request("code_challenge_method")
        response = self.authorize(request)
        query = parse_qs(urlsplit(response.get("Location", "")).query)
        for code in query.get("code", []):
            self._challenges[code] = request.GET["code_challenge"]
        return response

    def _token(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "POST")
        self.refuse_secrets_in_query(request)
        sent = form(request)
        app = self.apps.get(sent.get("client_id", ""))
        if app is None or app.client_secret != sent.get("client_secret"):
            raise oauth_error(401, "invalid_client")
        if sent.get("grant_type") == "refresh_token":
            with self._lock:
                before = self._by_refresh.get(sent.get("refresh_token", ""))
                if before is None or before.client_id != app.client_id:
                    raise oauth_error(400, "invalid_grant")
                self._kill(before)
                pair = self._mint(before.athlete_id, before.client_id, before.scope)
                return JsonResponse(self.reply(pair))
        code, fresh = self.find_code(sent.get("code", ""), app.client_id)
        if code is None or not fresh or code.redirect_uri not in (None, sent.get("redirect_uri")):
            raise oauth_error(400, "invalid_grant")
        digest = hashlib.sha256(sent.get("code_verifier", "").encode()).digest()
        # A code that was had without a browser has no challenge.
        challenge = self._challenges.get(sent["code"])
        if challenge and challenge != urlsafe_b64encode(digest).rstrip(b"=").decode():
            raise oauth_error(400, "invalid_grant")
        return JsonResponse(self.issue_tokens(code.athlete_id, app.client_id, code.scope))

    def _revoke(self, request: HttpRequest) -> HttpResponse:
        self.allow(request, "POST")
        app = basic_client(self.apps, request)
        if app is None:
            raise oauth_error(401, "invalid_client")
        token = form(request).get("token", "")
        pair = self._by_refresh.get(token) or self._by_access.get(token)
        if pair is not None and pair.client_id == app.client_id:
            self.revoke_grant(pair.athlete_id, app.client_id)
        return HttpResponse()


class ClubSandbox(Sandbox):
    """The stand-in alone, on an origin of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.club = Club(sleep=self._stopping.wait)
        self.providers = {"ownclub": self.club}
        self._resolver = URLResolver(RegexPattern(r"^/"), self.club.urlpatterns())
