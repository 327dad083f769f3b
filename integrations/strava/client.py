"""All HTTP with Strava, but what RFC 6749 says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from urllib.parse import quote

import requests
from pydantic import BeforeValidator, ConfigDict, Field, RootModel, model_validator

from .. import exceptions
from ..gear import clean_text
from ..numbers import number
from ..oauth.client import END_OF_TIME, OAuthClient, Reply, Token, Tokens, is_call

_QUARTER_HOUR = 15 * 60


def _no_flag(value: Any) -> Any:
    return None if isinstance(value, bool) else value  # a flag is no number


# Sometimes the digits come as text.
Id = Annotated[int, BeforeValidator(_no_flag), Field(gt=0, lt=2**63)]


class StravaAthlete(Reply):
    id: Id
    firstname: Any = None
    lastname: Any = None

    @property
    def name(self) -> str:
        """The athlete's name, as far as Strava says."""
        names = (each for each in (self.firstname, self.lastname) if isinstance(each, str))
        return clean_text(" ".join(names))


class StravaGearDetails(Reply):
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


class StravaSubscription(Reply):
    id: Id
    callback_url: str | None = ""


class _Subscriptions(RootModel[list[StravaSubscription]]):
    model_config = ConfigDict(hide_input_in_errors=True)


class StravaTokens(Tokens):
    """A pair as a host project gives it, checked strictly. There is at least one of `expires_at`
    (epoch seconds) and `expires_in` (seconds).
    """

    refresh_token: Token = Field(repr=False)
    expires_at: Annotated[int, Field(gt=0, lt=END_OF_TIME, strict=True)] | None
    athlete: StravaAthlete | None = None

    @model_validator(mode="before")
    @classmethod
    def _lenient(cls, reply: Any) -> Any:
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


def _faults(body: bytes) -> list[tuple[str, ...]]:
    """Strava's `errors`, each as resource, field and code in lower case."""
    try:
        return [
            tuple(str(error.get(key) or "").lower() for key in ("resource", "field", "code"))
            for error in json.loads(body)["errors"]
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


class StravaClient(OAuthClient):
    """Speaks to Strava as one Strava app."""

    api_url: str

    def _request(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super()._request(*args, **kwargs)
        self.limit_reached = any(map(any, _used_up(response.headers)))
        return response

    def ask_for_tokens(self, grant: dict[str, str]) -> Tokens:
        """While more than an hour is left, Strava answers a refresh with the same pair.

        Source: https://developers.strava.com/docs/authentication/
        """
        tokens = super().ask_for_tokens(grant)
        if tokens.refresh_token is None and "refresh_token" not in grant:
            raise exceptions.InvalidProviderReply
        return tokens

    def get_athlete(self, access_token: str) -> StravaProfile:
        """The athlete of a token, with bikes and shoes if the scope allows.

        Raises TokenRejected, ScopeMissing, and the errors of `error_for`.
        """
        answer = self.call("GET", f"{self.api_url}/athlete", access_token)
        return self._parse(StravaProfile, answer)

    def get_gear(self, access_token: str, gear_id: str) -> StravaGearDetails:
        """Brand and model of one piece of gear.

        Raises GearNotFound, TokenRejected, ScopeMissing, and the errors of `error_for`.
        """
        url = f"{self.api_url}/gear/{quote(gear_id, safe='')}"
        answer = self.call("GET", url, access_token)
        return self._parse(StravaGearDetails, answer)

    def create_subscription(self, callback_url: str, verify_token: str) -> int:
        """Subscribe the app to push events; returns the subscription's id.

        Strava calls the callback before it answers.
        Source: https://developers.strava.com/docs/webhooks/
        """
        data = self._credentials() | {"callback_url": callback_url, "verify_token": verify_token}
        answer = self._request("POST", f"{self.api_url}/push_subscriptions", data=data)
        return self._parse(StravaSubscription, answer).id

    def list_subscriptions(self) -> list[StravaSubscription]:
        """The app's subscription; there is at most one.

        Strava takes the client's credentials in the query here, and nowhere else.
        """
        url = f"{self.api_url}/push_subscriptions"
        answer = self._request("GET", url, params=self._credentials())
        return self._parse(_Subscriptions, answer).root

    def delete_subscription(self, subscription_id: int) -> None:
        """End a subscription. Raises the errors of `error_for`."""
        url = f"{self.api_url}/push_subscriptions/{subscription_id}"
        self._request("DELETE", url, params=self._credentials())

    def error_for(self, response: requests.Response) -> exceptions.ProviderError:
        """Strava's errors by status and by resource/field/code, never by their text.

        Source: https://developers.strava.com/docs/#errors
        """
        status = response.status_code
        body = response.content
        faults = _faults(body)
        if status >= 500:
            return exceptions.ProviderUnavailable(provider_status=status)
        if status == 429:
            wait = _retry_after(response.headers)
            limited = exceptions.RateLimited(provider_status=status, retry_after=wait)
            limited.reads_only = _is_of_reads(response.headers)
            return limited
        for fault in faults:
            match fault:
                case "application", "status", "inactive":
                    return exceptions.ApplicationInactive(provider_status=status)
                case "application", ("client_id" | "client_secret" | ""), "invalid":
                    return self.invalid_client(status)
                case "authorizationcode", _, _:
                    return exceptions.InvalidGrant(provider_status=status)
                case "pushsubscription", _, _:
                    return exceptions.SubscriptionRefused(provider_status=status)
                case "refreshtoken", "refresh_token", "invalid":
                    return exceptions.InvalidRefreshToken(provider_status=status)
                case ("accesstoken", _, "missing"):
                    return exceptions.ScopeMissing(provider_status=status)
                case (("athlete" | "accesstoken"), _, _):
                    return exceptions.TokenRejected(provider_status=status)
        if status == 404 and "/gear/" in (response.request.url or ""):
            return exceptions.GearNotFound(provider_status=status)
        if status == 403 and _is_limit(body, faults):
            return exceptions.AthleteLimitReached(provider_status=status)
        if status == 401 and response.request.url and response.request.url.endswith("/revoke"):
            # `{"message":"Authorization Error","errors":[]}`: it means the client.
            return self.invalid_client(status)
        if status == 401 and is_call(response):  # the token endpoint knows the cause
            return exceptions.TokenRejected(provider_status=status)
        return exceptions.InvalidProviderReply(provider_status=status)


def _is_limit(body: bytes, faults: list[tuple[str, ...]]) -> bool:
    """A 403 at OAuth that does not name what is inactive means the app's athlete limit.

    Only an answer in Strava's own form counts: an HTML page with 403 comes from a proxy.
    """
    try:
        is_theirs = isinstance(json.loads(body), dict)
        return is_theirs and not any(code == "inactive" for *_, code in faults)
    except (ValueError, RecursionError):
        return False


def _used_up(headers: Any) -> Iterator[list[bool]]:
    """Which limits are used up, overall and for reads, each as [15 minutes, day]."""
    for kind in ("X-RateLimit", "X-ReadRateLimit"):
        try:
            limit, usage = (
                [int(part) for part in headers[f"{kind}-{name}"].split(",")]
                for name in ("Limit", "Usage")
            )
        except (KeyError, ValueError):
            continue
        if len(limit) == len(usage) == 2:
            yield [used >= most for most, used in zip(limit, usage, strict=True)]


def _is_of_reads(headers: Any) -> bool:
    """Whether only the limit of reads was hit: other requests are still left."""
    overall, *reads = map(any, [*_used_up(headers)] or [[True]])
    return not overall and any(reads)


def _retry_after(headers: Any) -> int:
    """Seconds until the rate-limit window that refused the request ends.

    Windows end at minutes 0, 15, 30 and 45, and at midnight UTC; a used-up day outlasts any
    quarter. Source: https://developers.strava.com/docs/rate-limits/
    """
    try:  # by Strava's own clock
        now = int(parsedate_to_datetime(headers.get("Date")).timestamp())
    except (TypeError, ValueError, OverflowError):
        now = int(time.time())
    if any(day for _quarter, day in _used_up(headers)):
        return 86_400 - now % 86_400
    return _QUARTER_HOUR - now % _QUARTER_HOUR
