"""Wahoo, by its Cloud API v1.

Source: https://cloud-api.wahooligan.com
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.utils.translation import gettext_lazy as _

from ..exceptions import InvalidRefreshToken, ProviderError, ProviderUnavailable, TokenRejected
from ..oauth.client import OAuthClient, error_code, is_call
from ..oauth.provider import Account, OAuthProvider, Refreshed, Scope, Tokens


class TooManyTokens(ProviderUnavailable):
    """Ten tokens of this person are unrevoked, perhaps by reconnects: the grant may be good."""

    code = "too_many_tokens"
    default_message = _(
        "%(provider)s gives us no more access. Disconnect %(provider)s here, and connect it again."
    )


class WahooClient(OAuthClient):
    def error_for(self, response: Any) -> ProviderError:
        status, code = response.status_code, error_code(response)
        if status == 400 and not is_call(response):
            if code.startswith("Too many unrevoked"):
                return TooManyTokens(provider_status=status)
            is_page = response.content.lstrip().startswith(b"<")
            if not code and not is_page and "refresh_token=" in str(response.request.body):
                # Dead refresh tokens may be answered without a word.
                return InvalidRefreshToken(provider_status=status)
        return super().error_for(response)


class Wahoo(OAuthProvider):
    """Refreshed tokens end the former ones only at their first use, and a person may have ten at
    most. So each is used once, after it was stored."""

    name = "wahoo"
    label = "Wahoo"
    client_class = WahooClient
    authorize_url = "https://api.wahooligan.com/oauth/authorize"
    token_url = "https://api.wahooligan.com/oauth/token"
    revoke_url = "https://api.wahooligan.com/v1/permissions"
    api_url = "https://api.wahooligan.com/v1"
    known_scopes = {
        "user_read": Scope(_("See who you are"), _("this site cannot tell whose account it is")),
        "workouts_read": Scope(_("See your workouts"), _("your workouts cannot be read")),
        "offline_data": Scope(_("Read while you are away"), _("the connection ends after hours")),
    }
    account_page = "https://www.wahooligan.com"
    words = {TooManyTokens.code: TooManyTokens.default_message}

    def identify(self, client: Any, tokens: Tokens) -> Account:
        said = client.fetch(self.api("/user"), tokens.access_token)
        return Account.read(said.get("id"), said.get("first"), said.get("last"))

    def refresh(self, row: Any) -> Refreshed[str]:
        if self.home.get(row, "error"):
            # Its use may have failed. It is made up for, or the refresh has to wait.
            with suppress(TokenRejected):  # too old for that
                self.used(row, self.read(row))
        return super().refresh(row)

    def used(self, row: Any, token: str) -> None:
        self.client_for(row).fetch(self.api("/user"), token)

    def revoke_with(self, client: Any, row: Any) -> None:
        # Only a live token can. Whether the grant lives, the refresh token alone can tell.
        if self.is_fresh(row):
            with suppress(TokenRejected):
                client.call("DELETE", client.endpoints.revoke_url, self.read(row))
                return
        tokens = client.refresh_access_token(self.home.get(row, "refresh_token"))
        client.call("DELETE", client.endpoints.revoke_url, tokens.access_token)
