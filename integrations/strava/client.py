"""All HTTP with Strava. It knows no models, and returns checked replies or raises an error."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import requests
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
    model_validator,
)
from requests.auth import HTTPBasicAuth

from .. import conf
from ..exceptions import (
    ApplicationInactive,
    AthleteLimitReached,
    GearNotFound,
    InvalidClient,
    InvalidGrant,
    InvalidProviderReply,
    InvalidRefreshToken,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    ScopeMissing,
    SiteClientRejected,
    SubscriptionRefused,
    TokenRejected,
)
from ..gear import clean_text
from ..http import ProviderClient, bearer
from ..numbers import number

# RFC 6749, appendix A.12: tokens are visible ASCII. Anything else is not a token.
Token = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,2048}$", strict=True)]
_QUARTER_HOUR = 15 * 60
_END_OF_TIME = 253_402_300_800  # the end of 9999, the last year of a datetime


class _Reply(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a flag is no number")
    return value


# Sometimes the digits come as text.
Id = Annotated[int, BeforeValidator(_no_flag), Field(gt=0, lt=2**63)]


class StravaAthlete(_Reply):
    id: Id
    firstname: Any = None
    lastname: Any = None

    @property
    def name(self) -> str:
        """The athlete's name, as far as Strava says."""
        names = (each for each in (self.firstname, self.lastname) if isinstance(each, str))
        return clean_text(" ".join(names))


class StravaGearDetails(_Reply):
    """The details that `GET /gear/{id}` adds."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str
    brand_name: str | None = None
    model_name: str | None = None


class StravaProfile(StravaAthlete):
    """The athlete of a token. Gear is None without the scope profile:read_all.

    The caller reads the gear, entry by entry.

    Source: https://developers.strava.com/docs/reference/#api-Athletes-getLoggedInAthlete
    """

    bikes: Any = None
    shoes: Any = None
    measurement_preference: Any = None


class StravaSubscription(_Reply):
    id: Id
    callback_url: str | None = ""


class _Subscriptions(RootModel[list[StravaSubscription]]):
    model_config = ConfigDict(hide_input_in_errors=True)


class StravaTokens(_Reply):
    """A pair from the token endpoint. `expires_at` is in epoch seconds, as Strava sends it, and
    `expires_in` in seconds; there is at least one of them.

    Source: https://developers.strava.com/docs/authentication/#token-exchange
    """

    access_token: Token = Field(repr=False)
    refresh_token: Token = Field(repr=False)
    expires_at: Annotated[int, Field(gt=0, lt=_END_OF_TIME, strict=True)] | None
    expires_in: float | None = None
    athlete: StravaAthlete | None = None

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, reply: Any) -> Any:
        """Accept numbers as text and with a fraction, and the standard's `expires_in` in place of
        `expires_at` (RFC 6749, section 5.1); beside it, nobody knows since when it counts."""
        if not isinstance(reply, dict):
            return reply
        expires_at, left = number(reply.get("expires_at")), number(reply.get("expires_in"))
        if expires_at is not None:
            return reply | {"expires_at": int(expires_at), "expires_in": None}
        if left is None and reply.get("expires_at") is None:
            return {name: value for name, value in reply.items() if name != "expires_at"}
        return {"expires_at": None} | reply | {"expires_in": left}

    def expires(self, now: datetime) -> datetime:
        """When the access token expires, by the clock that says `now` (aware UTC).

        Clocks may differ by hours, so the earlier of two expiries counts; a token without one is
        refreshed before its next use.
        """
        left = self.expires_in
        moments = (self.expires_at, None if left is None else now.timestamp() + left)
        known = [moment for moment in moments if moment and 1 <= moment < _END_OF_TIME]
        return datetime.fromtimestamp(int(min(known)), tz=UTC) if known else now


class _TokenAnswer(_Reply):
    """The token endpoint's answer, strict only about the tokens.

    They have replaced the former pair already: refusing them for any other reason would lose the
    link.
    """

    access_token: Token = Field(repr=False)
    refresh_token: Token | None = Field(None, repr=False)
    expires_at: Any = None
    expires_in: Any = None
    athlete: Any = None

    def pair(self, refresh_token: str) -> StravaTokens:
        """The pair. If the athlete is unknown, the next sync finds out."""
        expires_at = number(self.expires_at)
        try:
            athlete = StravaAthlete.model_validate(self.athlete)
        except ValidationError:
            athlete = None
        return StravaTokens.model_construct(
            access_token=self.access_token,
            refresh_token=refresh_token,
            expires_at=None if expires_at is None else int(expires_at),
            expires_in=number(self.expires_in),
            athlete=athlete,
        )


@dataclass(frozen=True, slots=True)
class _Fault:
    """One entry of Strava's `errors`: {"resource", "field", "code"}, compared in lower case."""

    resource: str
    field: str
    code: str


def _faults(body: bytes) -> list[_Fault]:
    try:
        errors = json.loads(body)["errors"]
        return [
            _Fault(*(str(error.get(key) or "").lower() for key in ("resource", "field", "code")))
            for error in errors
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


class StravaClient(ProviderClient):
    """Speaks to Strava as one Strava app."""

    provider = "strava"

    def __init__(self, client_id: str, client_secret: str, *, is_site: bool = False) -> None:
        self.client_id = client_id
        self.is_site = is_site
        # Whether the last answer said that the app's limit is used up.
        self.limit_reached = False
        self._client_secret = client_secret

    def __repr__(self) -> str:
        return "<StravaClient>"

    def _request(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super()._request(*args, **kwargs)
        self.limit_reached = _is_used_up(response.headers)
        return response

    def authorization_url(
        self, redirect_uri: str, scopes: list[str], state: str, *, force: bool = False
    ) -> str:
        """Where to send the athlete's browser; makes no request.

        With `force` Strava asks again for permissions that were granted before.

        Source: https://developers.strava.com/docs/authentication/#requesting-access
        """
        query = {
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "approval_prompt": "force" if force else "auto",
            "scope": ",".join(scopes),
            "state": state,
        }
        return f"{conf.strava_oauth_url()}/authorize?{urlencode(query)}"

    def exchange_code(self, code: str) -> StravaTokens:
        """Trade an authorization code, which works once, for a pair of tokens.

        Raises InvalidGrant if the code is unknown or spent, and the errors of `error_for`.

        Source: RFC 6749, section 4.1.3.
        """
        return self._token({"grant_type": "authorization_code", "code": code})

    def refresh_access_token(self, refresh_token: str) -> StravaTokens:
        """Trade a refresh token for a new pair, which replaces the old one at once.

        While more than an hour is left Strava answers with the same pair.

        Raises InvalidRefreshToken if the refresh token is dead, and the errors of `error_for`.

        Source: RFC 6749, section 6; https://developers.strava.com/docs/authentication/
        """
        return self._token({"grant_type": "refresh_token", "refresh_token": refresh_token})

    def revoke(self, token: str, token_type_hint: str = "refresh_token") -> None:  # noqa: S107
        """Revoke a token and its pair. Strava answers 200 for an unknown token, too.

        Raises InvalidClient if the app is not accepted, and the errors of `error_for`.

        Source: RFC 7009; https://github.com/stravalib/stravalib/issues/738
        """
        self._request(
            "POST",
            f"{conf.strava_oauth_url()}/revoke",
            auth=HTTPBasicAuth(self.client_id.encode(), self._client_secret.encode()),
            data={"token": token, "token_type_hint": token_type_hint},
        )

    def get_athlete(self, access_token: str) -> StravaProfile:
        """The athlete of a token, with bikes and shoes if the scope allows.

        Raises TokenRejected, ScopeMissing, and the errors of `error_for`.
        """
        url = f"{conf.strava_api_url()}/athlete"
        return self._parse(StravaProfile, self._request("GET", url, headers=bearer(access_token)))

    def get_gear(self, access_token: str, gear_id: str) -> StravaGearDetails:
        """Brand and model of one piece of gear.

        Raises GearNotFound, TokenRejected, ScopeMissing, and the errors of `error_for`.
        """
        url = f"{conf.strava_api_url()}/gear/{quote(gear_id, safe='')}"
        answer = self._request("GET", url, headers=bearer(access_token))
        return self._parse(StravaGearDetails, answer)

    def create_subscription(self, callback_url: str, verify_token: str) -> int:
        """Subscribe the app to push events; returns the subscription's id.

        Strava calls the callback before it answers.
        Source: https://developers.strava.com/docs/webhooks/
        """
        data = self._credentials() | {"callback_url": callback_url, "verify_token": verify_token}
        answer = self._request("POST", f"{conf.strava_api_url()}/push_subscriptions", data=data)
        return self._parse(StravaSubscription, answer).id

    def list_subscriptions(self) -> list[StravaSubscription]:
        """The app's subscription; there is at most one.

        Strava takes the client's credentials in the query here, and nowhere else.
        """
        url = f"{conf.strava_api_url()}/push_subscriptions"
        answer = self._request("GET", url, params=self._credentials())
        return self._parse(_Subscriptions, answer).root

    def delete_subscription(self, subscription_id: int) -> None:
        """End a subscription. Raises the errors of `error_for`."""
        url = f"{conf.strava_api_url()}/push_subscriptions/{subscription_id}"
        self._request("DELETE", url, params=self._credentials())

    def _credentials(self) -> dict[str, str]:
        return {"client_id": self.client_id, "client_secret": self._client_secret}

    def _token(self, grant: dict[str, str]) -> StravaTokens:
        response = self._request(
            "POST",
            f"{conf.strava_oauth_url()}/token",
            data=self._credentials() | grant,
        )
        answer = self._parse(_TokenAnswer, response)
        # A refresh token that is not replaced stays (RFC 6749, section 6).
        refresh_token = answer.refresh_token or grant.get("refresh_token")
        if refresh_token is None:
            raise InvalidProviderReply(provider_status=response.status_code)
        return answer.pair(refresh_token)

    def error_for(self, response: requests.Response) -> ProviderError:
        """Strava's errors by status and by resource/field/code, never by their text.

        Source: https://developers.strava.com/docs/#errors
        """
        status = response.status_code
        body = response.content
        faults = _faults(body)
        if status >= 500:
            return ProviderUnavailable(provider_status=status)
        if status == 429:
            limited = RateLimited(
                provider_status=status, retry_after=_retry_after(response.headers)
            )
            limited.reads_only = _is_of_reads(response.headers)
            return limited
        for fault in faults:
            match fault.resource, fault.field, fault.code:
                case "application", "status", "inactive":
                    return ApplicationInactive(provider_status=status)
                case "application", ("client_id" | "client_secret" | ""), "invalid":
                    return self._invalid_client(status)
                case "authorizationcode", _, _:
                    return InvalidGrant(provider_status=status)
                case "pushsubscription", _, _:
                    return SubscriptionRefused(provider_status=status)
                case "refreshtoken", "refresh_token", "invalid":
                    return InvalidRefreshToken(provider_status=status)
                case ("accesstoken", _, "missing"):
                    return ScopeMissing(provider_status=status)
                case (("athlete" | "accesstoken"), _, _):
                    return TokenRejected(provider_status=status)
        if status == 404 and "/gear/" in (response.request.url or ""):
            return GearNotFound(provider_status=status)
        if status == 403 and _is_limit(body, faults):
            return AthleteLimitReached(provider_status=status)
        if status == 401 and response.request.url and response.request.url.endswith("/revoke"):
            # `{"message":"Authorization Error","errors":[]}`: it means the client.
            return self._invalid_client(status)
        if status == 401 and response.request.headers.get("Authorization", "").startswith("Bearer"):
            return TokenRejected(provider_status=status)  # the token endpoint knows the cause
        return InvalidProviderReply(provider_status=status)

    def _invalid_client(self, status: int) -> ProviderError:
        return (SiteClientRejected if self.is_site else InvalidClient)(provider_status=status)


def _is_limit(body: bytes, faults: list[_Fault]) -> bool:
    """A 403 at OAuth that does not name what is inactive means the app's athlete limit.

    Only an answer in Strava's own form counts: an HTML page with 403 comes from a proxy.
    """
    try:
        return isinstance(json.loads(body), dict) and not any(f.code == "inactive" for f in faults)
    except (ValueError, RecursionError):
        return False


def _usage(headers: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Limit and usage, overall and for reads, each as [15 minutes, day]."""
    for kind in ("X-RateLimit", "X-ReadRateLimit"):
        try:
            limit, usage = (
                [int(part) for part in headers[f"{kind}-{name}"].split(",")]
                for name in ("Limit", "Usage")
            )
        except (KeyError, ValueError):
            continue
        if len(limit) == len(usage) == 2:
            yield limit, usage


def _is_of_reads(headers: Any) -> bool:
    """Whether only the limit of reads was hit: other requests are still left."""
    overall, *reads = [
        any(used >= most for most, used in zip(limit, usage, strict=True))
        for limit, usage in _usage(headers)
    ] or [True]
    return not overall and any(reads)


def _is_used_up(headers: Any) -> bool:
    return any(
        used >= most
        for limit, usage in _usage(headers)
        for most, used in zip(limit, usage, strict=True)
    )


def _retry_after(headers: Any) -> int:
    """Seconds until the rate-limit window that refused the request ends.

    Windows end at minutes 0, 15, 30 and 45, and at midnight UTC; a used-up day outlasts any
    quarter. Source: https://developers.strava.com/docs/rate-limits/
    """
    try:  # by Strava's own clock
        now = int(parsedate_to_datetime(headers.get("Date")).timestamp())
    except (TypeError, ValueError, OverflowError):
        now = int(time.time())
    if any(usage[1] >= limit[1] for limit, usage in _usage(headers)):
        return 86_400 - now % 86_400
    return _QUARTER_HOUR - now % _QUARTER_HOUR
