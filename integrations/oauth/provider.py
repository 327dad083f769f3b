"""The base of OAuth 2.0 providers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from .. import conf, exceptions
from ..clock import read_at
from ..links import Account, Provider, Refreshed, healthy
from .client import Endpoints, OAuthClient, Tokens

# With the exceptions, all that a provider needs; a client of its own is made in `client`'s words.
__all__ = ["Account", "OAuthProvider", "Refreshed", "Scope", "Tokens", "split_scope"]


class Scope(NamedTuple):
    """What a scope lets this site do, and what does not work without it, in the athlete's words."""

    label: Any
    cost: Any = ""


class OAuthProvider(Provider):
    """A provider with the authorization code grant (RFC 6749, section 4.1).

    Addresses are those of settings, NAME_AUTHORIZE_URL and so on, or else the ones here.
    """

    authorize_url: ClassVar[str]
    token_url: ClassVar[str]
    revoke_url: ClassVar[str] = ""
    api_url: ClassVar[str] = ""
    # All that can be asked for, in words, if they are known here, and those that are asked for
    # unless the setting names others: all of these.
    known_scopes: ClassVar[Mapping[str, Scope]] = {}
    scopes: ClassVar[tuple[str, ...]] = ()
    scope_separator: ClassVar[str] = " "
    # Whether the client's credentials go by HTTP Basic; whether it knows PKCE (RFC 7636).
    basic: ClassVar[bool] = False
    pkce: ClassVar[bool] = False
    client_class: ClassVar[type[OAuthClient]] = OAuthClient

    # Whether athletes may bring an app of their own.
    own_apps: ClassVar[bool] = False
    is_swept = True
    limits_apps = True
    urls = "integrations.oauth.urls.patterns"

    @property
    def sandbox_prefix(self) -> str:
        """What stands before the paths of its stand-in."""
        return f"/{self.name}"

    @property
    def revokes(self) -> bool:
        has_own_way = type(self).revoke_with is not OAuthProvider.revoke_with
        return has_own_way or bool(self.endpoints().revoke_url)

    def is_shown(self) -> bool:
        return super().is_shown() and (self.own_apps or self.has_site_app())

    # --- The app --------------------------------------------------------------------------------

    def setting(self, what: str, default: str) -> str:
        """An address: the setting's, that of the sandbox if it is used, or the provider's own."""
        given = str(conf.of_provider(self.name, what)).rstrip("/")
        if default and not given and (sandbox := conf.sandbox_url()):
            return f"{sandbox}{self.sandbox_prefix}{urlsplit(default).path}"
        return given or default

    def requested_scopes(self) -> list[str]:
        return conf.scopes_of(self.name, self.scopes or tuple(self.known_scopes))

    def endpoints(self) -> Endpoints:
        return Endpoints(
            self.setting("AUTHORIZE_URL", self.authorize_url),
            self.setting("TOKEN_URL", self.token_url),
            self.setting("REVOKE_URL", self.revoke_url),
            self.basic,
            self.pkce,
            self.scope_separator,
        )

    def api(self, path: str) -> str:
        """An address of the API."""
        return self.setting("API_URL", self.api_url) + path

    def addresses(self) -> dict[str, str]:
        """Every address that gets a secret, by the setting that names it."""
        found = {
            "AUTHORIZE_URL": self.authorize_url,
            "TOKEN_URL": self.token_url,
            "REVOKE_URL": self.revoke_url,
            "API_URL": self.api_url,
        }
        return {
            f"{self.name.upper()}_{what}": url
            for what, default in found.items()
            if (url := self.setting(what, default))
        }

    def client(self, client_id: str, client_secret: str, *, is_site: bool = False) -> Any:
        return self.client_class(
            self.name, self.endpoints(), client_id, client_secret, self.label, is_site
        )

    def has_site_app(self) -> bool:
        return all(self._site_app())

    def _site_app(self) -> list[str]:
        names = ("CLIENT_ID", "CLIENT_SECRET")
        return [str(conf.of_provider(self.name, name) or "") for name in names]

    def site_client(self) -> Any:
        """The site's app. Raises ClientRequired if it has none."""
        if not self.has_site_app():
            raise exceptions.ClientRequired if self.own_apps else exceptions.SiteClientMissing
        return self.client(*self._site_app(), is_site=True)

    def own_client(self, row: Any) -> Any:
        """The user's own app, None if the row has none."""
        has = self.home.has_secret
        if not (has(row, "client_id") and has(row, "client_secret")):
            return None
        return self.client(self.home.get(row, "client_id"), self.home.get(row, "client_secret"))

    def client_for(self, row: Any) -> Any:
        """The app that the row's tokens belong to.

        Raises SiteClientRejected if that was the site's and is no longer configured,
        SiteClientChanged if the site has another one now: to another app, a provider answers as if
        the link were dead.
        """
        own = self.own_client(row)
        if own is not None:
            return own
        try:
            client = self.site_client()
        except exceptions.ClientRequired as exc:
            raise exceptions.SiteClientRejected from exc
        if self.home.get(row, "site_client_id") not in ("", client.client_id):
            raise exceptions.SiteClientChanged
        return client

    def scope(self, name: str) -> Scope:
        """A scope in words; its name, if it is not known here."""
        return self.known_scopes.get(name, Scope(name))

    # --- What a provider may do otherwise -------------------------------------------------------

    def authorization_extra(self, *, reconnects: bool) -> dict[str, str]:
        """Further parameters of the authorization request."""
        return {}

    def identify(self, client: Any, tokens: Tokens) -> Account | None:
        """Whose tokens these are; None if the provider does not say.

        It may ask the provider. The account is still free here when `register` is called.
        """
        raise NotImplementedError

    def register(self, client: Any, tokens: Tokens, account: Account, user_id: Any) -> Account:
        """Do what a new grant needs before it is stored; an error stops the link."""
        return account

    def check(self, client: Any, row: Any) -> None:
        """Ask with a token that cannot be refreshed whether it lives: here, whose it is.

        Raises TokenRejected if it does not, or another ProviderError.
        """
        if self.identify(client, Tokens(access_token=self.read(row))) is None:
            raise exceptions.TokenRejected

    def revoke_with(self, client: Any, row: Any) -> None:
        """End a link's grant. Raises an IntegrationsError if that was not confirmed.

        Either token kills both (RFC 7009, section 2.1); the refresh token lives longer.
        """
        if not client.endpoints.revoke_url:
            raise exceptions.ProviderError
        if self.home.has_secret(row, "refresh_token"):
            client.revoke_token(self.home.get(row, "refresh_token"))
        else:
            client.revoke_token(self.home.get(row, "token"), "access_token")

    def granted(self, scope: str, requested: list[str]) -> list[str]:
        """The scopes of a redirect, as far as they can be true: the athlete's browser brings
        them."""
        return [each for each in split_scope(scope) if each in requested]

    # --- What is shown --------------------------------------------------------------------------

    def describe(self, row: Any) -> dict[str, Any]:
        account_id = self.home.get(row, "account_id")
        return {
            "account_id": None if account_id is None else str(account_id),
            "scope": self.home.scopes(row),
        }

    def page_context(self, row: Any, request: Any, typed: dict[str, str]) -> dict[str, Any]:
        granted = self.home.scopes(row)
        return {
            "permissions": [self.scope(scope).label for scope in granted],
            "missing": [
                self.scope(scope)
                for scope in self.requested_scopes()
                if self.home.get(row, "scope") and scope not in granted
            ],
        }

    # --- The life of a token --------------------------------------------------------------------

    def is_fresh(self, row: Any) -> bool:
        expires_at = self.home.get(row, "token_expires_at")
        if expires_at is None:  # not known, or never, if nothing could renew it
            return not self.home.has_secret(row, "refresh_token")
        return bool(expires_at > row.read_at + self.fresh_for)

    def refresh(self, row: Any) -> Refreshed[str]:
        if not self.home.has_secret(row, "refresh_token"):
            return self._checked(row)
        client = self.client_for(row)
        tokens = client.refresh_access_token(self.home.get(row, "refresh_token"))
        return Refreshed(
            tokens.access_token, self.token_values(tokens, row.read_at), client.limit_reached
        )

    def _checked(self, row: Any) -> Refreshed[str]:
        """Nothing renews this token: it is the same, if the provider takes it."""
        if self.home.get(row, "token_expires_at") is not None and self.home.has_ended(row):
            raise exceptions.InvalidRefreshToken
        client = self.client_for(row)
        token = self.read(row)
        try:
            self.check(client, row)
        except exceptions.TokenRejected as exc:
            raise exceptions.InvalidRefreshToken(provider_status=exc.provider_status) from exc
        values = healthy(row.read_at) | {"token": token}
        return Refreshed(token, values, client.limit_reached)

    def token_values(self, tokens: Tokens, now: Any) -> dict[str, Any]:
        """The values of tokens and of a healthy link; `now` by the database's clock, or a bit
        less."""
        return {
            "token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "token_expires_at": tokens.expires(now),
            **healthy(now),
        }

    def revoke(self, row: Any) -> None:
        self.revoke_with(self.client_for(row), row)

    def revoke_refreshed(self, row: Any, columns: Mapping[str, Any]) -> None:
        # A disconnect meanwhile revoked only the old tokens.
        copied = copy(row)
        copied.read_at = read_at(row)
        for column, value in columns.items():
            setattr(copied, column, value)
        self.revoke(copied)

    def revoke_tokens(self, client: Any, tokens: Tokens, account: Account | None, now: Any) -> None:
        """End a grant that was never stored."""
        account_id = None if account is None else account.id
        columns = self.home.columns(account_id=account_id, **self.token_values(tokens, now))
        row = self.home.model(**columns)
        row.read_at = now
        self.revoke_with(client, row)

    def is_another_grant(self, row: Any, current: Any) -> bool:
        # With the same account and the same app, revoking one would end the other, too.
        accounts = {self.home.get(each, "account_id") for each in (row, current)}
        if None not in accounts and len(accounts) == 2:
            return True
        try:
            ours, theirs = self.client_for(row), self.client_for(current)
        except exceptions.IntegrationsError:
            return False
        return bool(ours.client_id != theirs.client_id)


def split_scope(scope: str) -> list[str]:
    """Scopes of a redirect or an answer: RFC 6749 separates them by spaces, some by commas. No
    scope has either inside."""
    return list(dict.fromkeys(scope.replace(",", " ").split()))
