"""Intervals.icu, by its API v1.

Source: https://forum.intervals.icu/t/intervals-icu-oauth-support/2759
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.utils.translation import gettext_lazy as _

from ..exceptions import InvalidGrant, InvalidProviderReply, ProviderError, ScopeMissing
from ..oauth.client import OAuthClient, is_call
from ..oauth.provider import Account, OAuthProvider, Scope, Tokens

SCOPES = {
    "ACTIVITY:READ": Scope(_("See your activities")),
    "ACTIVITY:WRITE": Scope(_("See and change your activities")),
    "WELLNESS:READ": Scope(_("See your wellness data")),
    "WELLNESS:WRITE": Scope(_("See and change your wellness data")),
    "CALENDAR:READ": Scope(_("See your calendar")),
    "CALENDAR:WRITE": Scope(_("See and change your calendar")),
    "CHATS:READ": Scope(_("See your chats")),
    "CHATS:WRITE": Scope(_("See and change your chats")),
    "LIBRARY:READ": Scope(_("See your workout library")),
    "LIBRARY:WRITE": Scope(_("See and change your workout library")),
    "SETTINGS:READ": Scope(_("See your settings")),
    "SETTINGS:WRITE": Scope(_("See and change your settings")),
}


class IntervalsClient(OAuthClient):
    def error_for(self, response: Any) -> ProviderError:
        status = response.status_code
        if status == 404 and not is_call(response):  # "Client and/or secret not found"
            return self.invalid_client(status)
        if status == 400 and not is_call(response):  # there is no other grant than a code
            return InvalidGrant(provider_status=status)
        if status == 403 and is_call(response):
            return ScopeMissing(provider_status=status)
        return super().error_for(response)


class Intervals(OAuthProvider):
    """Tokens neither expire nor are they refreshed: only a call tells that one was revoked."""

    name = "intervals"
    label = "Intervals.icu"
    client_class = IntervalsClient
    authorize_url = "https://intervals.icu/oauth/authorize"
    token_url = "https://intervals.icu/api/oauth/token"
    revoke_url = "https://intervals.icu/api/v1/disconnect-app"
    api_url = "https://intervals.icu/api/v1"
    scopes = ("ACTIVITY:READ",)
    scope_separator = ","
    known_scopes = SCOPES
    account_page = "https://intervals.icu/settings"

    def identify(self, client: Any, tokens: Tokens) -> Account:
        said = tokens.answer.get("athlete")
        if not isinstance(said, dict):
            raise InvalidProviderReply
        return Account.read(said.get("id"), said.get("name"))

    def check(self, client: Any, row: Any) -> None:
        with suppress(ScopeMissing):  # it wants SETTINGS:READ, but only of a token that lives
            client.call("GET", self.api("/athlete/0"), self.read(row))

    def revoke_with(self, client: Any, row: Any) -> None:
        client.call("DELETE", client.endpoints.revoke_url, self.read(row))
