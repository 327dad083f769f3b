"""RFC 6749 over HTTP, once for all providers. Clients know no models."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import urlencode

import requests
from django.utils.crypto import salted_hmac
from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints, model_validator
from requests.auth import HTTPBasicAuth

from ..exceptions import (
    InvalidClient,
    InvalidGrant,
    InvalidRefreshToken,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    SiteClientRejected,
    TokenRejected,
)
from ..http import ProviderClient, bearer
from ..numbers import number

# RFC 6749, appendix A.12: tokens are visible ASCII. Anything else is not a token.
Token = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,2048}$", strict=True)]
END_OF_TIME = 253_402_300_800  # the end of 9999, the last year of a datetime


class Reply(BaseModel):
    """A provider's answer, checked."""

    model_config = ConfigDict(hide_input_in_errors=True)


class _Object(RootModel[dict[str, Any]]):
    model_config = ConfigDict(hide_input_in_errors=True)


class Tokens(Reply):
    """What a token endpoint answered (RFC 6749, section 5.1): `expires_in` in seconds, and Strava's
    `expires_at` in epoch seconds. `answer` is the whole of it.

    It is strict only about the tokens. They have replaced the former ones already: refusing them
    for any other reason would lose the link.
    """

    access_token: Token = Field(repr=False)
    refresh_token: Token | None = Field(None, repr=False)
    expires_at: int | None = None
    expires_in: float | None = None
    scope: str | None = None
    answer: dict[str, Any] = Field(default_factory=dict, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _lenient(cls, answer: Any) -> Any:
        if not isinstance(answer, dict):
            return answer
        expires_at, scope = number(answer.get("expires_at")), answer.get("scope")
        return {
            "access_token": answer.get("access_token"),
            "refresh_token": answer.get("refresh_token"),
            "expires_at": None if expires_at is None else int(expires_at),
            "expires_in": number(answer.get("expires_in")),
            "scope": scope if isinstance(scope, str) else None,
            "answer": answer,
        }

    def expires(self, now: datetime) -> datetime | None:
        """When the access token expires, by the clock that says `now` (aware UTC).

        Clocks may differ by hours, so the earlier of two expiries counts. A token that says nothing
        is refreshed before its next use; if nothing could renew it, it lives until it is revoked.
        """
        left = self.expires_in
        moments = (self.expires_at, None if left is None else now.timestamp() + left)
        known = [moment for moment in moments if moment and 1 <= moment < END_OF_TIME]
        if not known:
            return now if self.refresh_token else None
        return datetime.fromtimestamp(int(min(known)), tz=UTC)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """A provider's addresses, and how its token endpoint wants to be asked."""

    authorize_url: str
    token_url: str
    revoke_url: str
    # Whether the client's credentials go by HTTP Basic or in the body (RFC 6749, section 2.3.1).
    basic: bool = False
    pkce: bool = False
    scope_separator: str = " "


@dataclass(eq=False, repr=False)
class OAuthClient(ProviderClient):
    """Speaks to a provider as one app: the site's, or an athlete's own."""

    # Whether the last answer said that the app's limit is used up.
    limit_reached = False

    provider: str
    endpoints: Endpoints
    client_id: str
    client_secret: str
    label: str = ""
    is_site: bool = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def authorization_url(
        self, redirect_uri: str, scopes: list[str], state: str, **extra: str
    ) -> str:
        """Where to send the athlete's browser (RFC 6749, section 4.1.1); makes no request."""
        query = {
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "scope": self.endpoints.scope_separator.join(scopes),
            "state": state,
            **extra,
        }
        if self.endpoints.pkce:
            digest = sha256(_code_verifier(state).encode()).digest()
            challenge = urlsafe_b64encode(digest).rstrip(b"=").decode()
            query |= {"code_challenge": challenge, "code_challenge_method": "S256"}
        return f"{self.endpoints.authorize_url}?{urlencode(query)}"

    def exchange_code(self, code: str, redirect_uri: str = "", state: str = "") -> Tokens:
        """Trade an authorization code, which works once, for tokens.

        Raises InvalidGrant if the code is unknown or spent, and the errors of `error_for`.

        Source: RFC 6749, section 4.1.3.
        """
        grant = {"grant_type": "authorization_code", "code": code}
        if redirect_uri:
            grant["redirect_uri"] = redirect_uri
        if self.endpoints.pkce:
            grant["code_verifier"] = _code_verifier(state)
        return self.ask_for_tokens(grant)

    def refresh_access_token(self, refresh_token: str) -> Tokens:
        """Trade a refresh token for new tokens. A refresh token that is not replaced stays.

        Raises InvalidRefreshToken if the refresh token is dead, and the errors of `error_for`.

        Source: RFC 6749, section 6.
        """
        try:
            tokens = self.ask_for_tokens(
                {"grant_type": "refresh_token", "refresh_token": refresh_token}
            )
        except InvalidRefreshToken:
            raise
        except InvalidGrant as exc:
            raise InvalidRefreshToken(provider_status=exc.provider_status) from exc
        return tokens.model_copy(update={"refresh_token": tokens.refresh_token or refresh_token})

    def revoke_token(self, token: str, token_type_hint: str = "refresh_token") -> None:  # noqa: S107
        """Revoke a token, and with it its grant (RFC 7009). Raises the errors of `error_for`."""
        self._request(
            "POST",
            self.endpoints.revoke_url,
            auth=self._basic(),
            data={"token": token, "token_type_hint": token_type_hint},
        )

    def call(self, method: str, url: str, access_token: str, json: Any = None) -> requests.Response:
        """Ask the API in the athlete's name (RFC 6750). Raises TokenRejected, and the errors of
        `error_for`."""
        return self._request(method, url, headers=bearer(access_token), json=json)

    def fetch(self, url: str, access_token: str) -> dict[str, Any]:
        """The object that the API has at an address. Raises InvalidProviderReply if it is none,
        and what `call` raises."""
        return self.object_of(self.call("GET", url, access_token))

    def object_of(self, response: requests.Response) -> dict[str, Any]:
        """The object in an answer. Raises InvalidProviderReply if there is none."""
        return self._parse(_Object, response).root

    def ask_for_tokens(self, grant: dict[str, str]) -> Tokens:
        auth = self._basic() if self.endpoints.basic else None
        if auth is None:
            grant = self._credentials() | grant
        response = self._request("POST", self.endpoints.token_url, auth=auth, data=grant)
        return self._parse(Tokens, response)

    def _basic(self) -> HTTPBasicAuth:
        return HTTPBasicAuth(self.client_id.encode(), self.client_secret.encode())

    def _credentials(self) -> dict[str, str]:
        return {"client_id": self.client_id, "client_secret": self.client_secret}

    def error_for(self, response: requests.Response) -> ProviderError:
        """The errors of RFC 6749, section 5.2, by their codes and by status, never by text."""
        status = response.status_code
        if status >= 500:
            return ProviderUnavailable(provider_status=status)
        if status == 429:
            wait = number(response.headers.get("Retry-After"))
            return RateLimited(provider_status=status, retry_after=int(wait) if wait else None)
        code = error_code(response)
        if is_call(response):
            if status == 401:  # the token endpoint knows the cause, where there is one to ask
                return TokenRejected(provider_status=status)
        elif code == "invalid_grant":
            return InvalidGrant(provider_status=status)
        elif status == 401 or code in ("invalid_client", "unauthorized_client"):
            return self.invalid_client(status)
        return super().error_for(response)

    def invalid_client(self, status: int) -> ProviderError:
        return (SiteClientRejected if self.is_site else InvalidClient)(provider_status=status)


def is_call(response: requests.Response) -> bool:
    """Whether a token was sent, rather than the client's credentials."""
    return str(response.request.headers.get("Authorization", "")).startswith("Bearer")


def error_code(response: requests.Response) -> str:
    """The answer's `error` (RFC 6749, section 5.2), "" if it has none."""
    try:
        return str(json.loads(response.content)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def _code_verifier(state: str) -> str:
    """PKCE's secret (RFC 7636), which nobody has to store: it follows from the state by a key."""
    return salted_hmac("integrations.code_verifier", state, algorithm="sha256").hexdigest()
