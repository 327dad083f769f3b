"""Polar, by AccessLink v3.

Source: https://www.polar.com/accesslink-api/
"""

from __future__ import annotations

from typing import Any

from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _

from ..exceptions import ConsentRequired, InvalidProviderReply, ProviderError
from ..oauth.client import OAuthClient
from ..oauth.provider import Account, OAuthProvider, Scope, Tokens


class PolarClient(OAuthClient):
    def error_for(self, response: Any) -> ProviderError:
        if response.status_code == 403:  # the person has not accepted what Polar asks of everybody
            return ConsentRequired(provider_status=403)
        return super().error_for(response)


class Polar(OAuthProvider):
    """Tokens live for years and are not refreshed. People have to be registered, and deregistering
    them ends every token of theirs for this app."""

    name = "polar"
    label = "Polar"
    client_class = PolarClient
    authorize_url = "https://flow.polar.com/oauth2/authorization"
    token_url = "https://polarremote.com/v2/oauth2/token"
    revoke_url = "https://www.polaraccesslink.com/v3/users"
    api_url = "https://www.polaraccesslink.com/v3"
    basic = True
    known_scopes = {"accesslink.read_all": Scope(_("See your training data"))}
    account_page = "https://account.polar.com"

    def identify(self, client: Any, tokens: Tokens) -> Account:
        account = Account.read(tokens.answer.get("x_user_id"))
        if not account.id.isdecimal():  # it goes into addresses
            raise InvalidProviderReply
        return account

    def register(self, client: Any, tokens: Tokens, account: Account, user_id: Any) -> Account:
        # Of its own for each account: Polar refuses one that another person has.
        member = salted_hmac("integrations.polar", f"{user_id} {account.id}", algorithm="sha256")
        body = {"member-id": member.hexdigest()}
        try:
            answer = client.call("POST", self.api("/users"), tokens.access_token, json=body)
        except ProviderError as exc:
            if exc.provider_status != 409:
                raise
            # Registered already, or the id is another's. Only for the former is there a profile.
            answer = self._profile(client, account.id, tokens.access_token)
            if answer.status_code != 200:
                raise InvalidProviderReply(provider_status=409) from exc
        said = client.object_of(answer)
        return Account.read(account.id, said.get("first-name"), said.get("last-name"))

    def check(self, client: Any, row: Any) -> None:
        self._profile(client, self.home.get(row, "account_id"), self.read(row))

    def revoke_with(self, client: Any, row: Any) -> None:
        account_id = self.home.get(row, "account_id")
        url = f"{client.endpoints.revoke_url}/{account_id}"
        client.call("DELETE", url, self.read(row))

    def _profile(self, client: Any, account_id: str, token: str) -> Any:
        return client.call("GET", self.api(f"/users/{account_id}"), token)
