"""All requests to Garmin, through the garminconnect library; its errors become ours.

The library is imported at first use: it is large, and most processes never need it.
Source: https://github.com/cyberjunky/python-garminconnect
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any

from requests.exceptions import InvalidJSONError

from ..exceptions import (
    GarminConnectError,
    GarminConnectInvalidReply,
    GarminConnectRateLimited,
    GarminConnectRelinkRequired,
    GarminConnectUnavailable,
    IntegrationsDatabaseError,
    InvalidSession,
)
from ..http import TooLong
from ..numbers import number
from .sessions import bind
from .watch import Watch

if TYPE_CHECKING:
    from garminconnect import Garmin

logger = logging.getLogger("integrations.garminconnect")

# Seconds, as in the library.
_RENEW_BEFORE = 15 * 60
_TOKENS = ("di_token", "di_refresh_token", "di_client_id")


@dataclass(frozen=True, slots=True)
class MfaRequired:
    """Garmin wants a code. The state is JSON, as secret as a password: it has session cookies."""

    client_state: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in session: the library's "DI" tokens, good for one of the two domains.

    `expires_in` is how many seconds were left when it was read, None if unknown.
    """

    tokens: dict[str, Any] = field(repr=False)
    is_cn: bool = False
    expires_in: float | None = field(default=None, compare=False)


def token_expiry(tokens: dict[str, Any] | None, now: datetime) -> datetime | None:
    """The `exp` of a session's access token, a JWT whose signature only Garmin can check.

    Clocks may differ by hours, so it is at most the token's lifetime (`exp` - `iat`) from `now`.
    """
    try:
        payload = str((tokens or {})["di_token"]).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expires_at, issued_at = number(claims["exp"]), number(claims.get("iat"))
        if expires_at is None:
            return None
        if issued_at is not None and issued_at < expires_at:
            expires_at = min(expires_at, int(now.timestamp()) + expires_at - issued_at)
        return datetime.fromtimestamp(int(expires_at), tz=UTC)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, OSError, RecursionError):
        return None


def library() -> ModuleType:
    """The garminconnect library. Raises GarminConnectUnavailable if the site lacks it.

    That is no ImproperlyConfigured: a worker without the extra must end no link, and no sweep over
    the links of other providers.
    """
    try:
        import garminconnect
    except ImportError as exc:
        raise GarminConnectUnavailable from exc
    # The library prefers a session from this variable to a password, and would link every athlete
    # to its owner.
    os.environ.pop("GARMINTOKENS", None)
    return garminconnect


def _client(garminconnect: ModuleType, is_cn: bool) -> Any:
    garmin = garminconnect.Garmin(is_cn=is_cn)
    bind(garminconnect.client, garmin.client)
    return garmin


def sign_in(email: str, password: str, is_cn: bool) -> Session | MfaRequired:
    """Sign in with a password, which Garmin's sign-in judges at most once.

    Takes 2 to 5 seconds when all goes well, half a minute when Garmin's front refuses the first
    ways in. Raises InvalidCredentials, AccountLocked, CaptchaRequired, ActionRequired,
    SignInUnfinished if Garmin accepted the password and then failed, or another error if Garmin did
    not check the password.
    """
    garminconnect = library()
    client = _client(garminconnect, is_cn).client
    watch = Watch(garminconnect, client)
    try:
        # Not Garmin.login(), which guesses statuses from messages.
        outcome, client_state = client.login(email, password, return_on_mfa=True)
        return MfaRequired(client_state) if outcome == "needs_mfa" else _session_of(client, is_cn)
    except Exception:
        raise watch.error() from None


def answer_mfa(client_state: dict[str, Any], code: str, is_cn: bool) -> Session:
    """Finish a sign-in with Garmin's code, even if another process began it.

    Raises InvalidMfaCode, after which another code may be tried; LoginExpired, ActionRequired or
    SignInUnfinished, after which the sign-in is over; or another error if Garmin did not check the
    code.
    """
    garminconnect = library()
    client = _client(garminconnect, is_cn).client
    watch = Watch(garminconnect, client)
    try:
        client.resume_login(client_state, code)
        return _session_of(client, is_cn)
    except Exception:
        raise watch.error() from None


def refresh(session: Session) -> Session:
    """Trade a session's refresh token for a new session; the old token dies at once.

    Raises InvalidSession if Garmin no longer accepts it, or another error if asking again later may
    help.
    """
    garminconnect = library()
    client = _client(garminconnect, session.is_cn).client
    _load(garminconnect, client, session)
    # `_refresh_session` swallows its errors; only this text says what they were.
    answers: list[Any] = []

    def recording(post: Callable[..., Any]) -> Callable[..., Any]:
        def recording_post(*args: Any, **kwargs: Any) -> Any:
            answers.append(post(*args, **kwargs))
            return answers[-1]

        return recording_post

    try:
        client._di_token_post = recording(client._di_token_post)
        client._refresh_di_token()
    except Exception as exc:
        raise _translate_refresh(answers[-1] if answers else None, exc) from None
    return _session_of(client, session.is_cn)


def open_session(session: Session, renew: Callable[[Session], Session]) -> Garmin:
    """A client of the library's with a session in it.

    Instead of refreshing by itself, the library calls `renew` with its session and goes on with the
    one that it gets. So two callers never spend the same refresh token. It does so when a session
    is about to expire, by how long it has had it: on a machine whose clock is fast, it would ask
    for a new one before every call.
    """
    garminconnect = library()
    garmin: Garmin = _client(garminconnect, session.is_cn)
    client: Any = garmin.client
    renew_at = math.inf

    def load(session: Session) -> None:
        nonlocal renew_at
        _load(garminconnect, client, session)
        left = math.inf if session.expires_in is None else session.expires_in
        renew_at = time.monotonic() + left - _RENEW_BEFORE

    load(session)
    client._token_expires_soon = lambda: time.monotonic() > renew_at

    def refresh_session() -> None:
        with client._token_lock:
            try:
                current = _session_of(client, session.is_cn)
                load(renew(current))
            except GarminConnectRelinkRequired as exc:
                # The error that users of the library expect.
                raise garminconnect.GarminConnectAuthenticationError(str(exc)) from exc

    client._refresh_session = refresh_session
    return garmin


def _load(garminconnect: ModuleType, client: Any, session: Session) -> None:
    """Put a session into the library's client. Raises InvalidSession if the library refuses it."""
    try:
        client.loads(json.dumps(session.tokens))
    except (
        garminconnect.GarminConnectConnectionError,
        garminconnect.GarminConnectAuthenticationError,
    ) as exc:
        # Only the type: the library's message may contain its input.
        event = {"event": "garminconnect.session_unusable"}
        logger.warning("garminconnect session: %s", type(exc).__name__, extra=event)
        raise InvalidSession from None


def translate_use(garminconnect: ModuleType, exc: Exception) -> GarminConnectError:
    """Our error for one that the library raises while a session is used."""
    cause: BaseException | None = exc
    while cause is not None:  # our error from `renew`, wrapped by the library
        if isinstance(cause, IntegrationsDatabaseError):
            raise cause
        if isinstance(cause, GarminConnectError):
            return cause
        if isinstance(cause, GarminConnectRelinkRequired):
            return InvalidSession()
        if isinstance(cause, InvalidJSONError | RecursionError | TooLong):
            exc = cause  # there was an answer
        cause = cause.__cause__
    if isinstance(exc, garminconnect.GarminConnectTooManyRequestsError):
        error: GarminConnectError = GarminConnectRateLimited(provider_status=429, retry_after=3600)
    elif isinstance(exc, garminconnect.GarminConnectAuthenticationError):
        # A 401 right after the token endpoint renewed the session: it is not dead.
        error = GarminConnectInvalidReply(provider_status=401)
    elif isinstance(exc, garminconnect.GarminConnectConnectionError):
        status = _status_of(exc)
        refused = 400 <= (status or 0) < 500  # an answer, so no outage
        error = (GarminConnectInvalidReply if refused else GarminConnectUnavailable)(
            provider_status=status
        )
    else:
        error = GarminConnectInvalidReply()
    event = {"event": "garminconnect.call_failed"}
    logger.warning("garminconnect: %s (%s)", error.code, type(exc).__name__, extra=event)
    return error


def _status_of(exc: Exception) -> int | None:
    """The HTTP status behind the library's error, which may be in its message alone."""
    status: int | None = getattr(getattr(exc, "response", None), "status_code", None)
    found = re.search(r"API Error (\d{3})|client error \((\d{3})\)", str(exc))
    return status or (int(found[1] or found[2]) if found else None)


def _translate_refresh(answer: Any, exc: Exception) -> GarminConnectError:
    status = getattr(answer, "status_code", None)
    if isinstance(exc, TooLong):
        error: GarminConnectError = GarminConnectInvalidReply()
    elif status is None or status >= 500:
        error = GarminConnectUnavailable(provider_status=status)
    elif status == 429:
        error = GarminConnectRateLimited(provider_status=status, retry_after=3600)
    elif status in (400, 401) and _oauth_error(answer) == "invalid_grant":
        error = InvalidSession(provider_status=status)
    else:
        error = GarminConnectInvalidReply(provider_status=status)
    event = {"event": "garminconnect.refresh_failed"}
    logger.warning("garminconnect refresh: %s (%s)", error.code, type(exc).__name__, extra=event)
    return error


def _oauth_error(answer: Any) -> Any:
    """The answer's `error` (RFC 6749, section 5.2), if it has one."""
    try:
        return answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return None


def _session_of(client: Any, is_cn: bool) -> Session:
    """What the library would store. Raises GarminConnectInvalidReply if that is no session.

    Without DI tokens it falls back to a web cookie, which can be neither stored nor refreshed.
    """
    try:
        tokens = json.loads(client.dumps())
        texts = all(isinstance(tokens.get(name), str | None) for name in _TOKENS)
        if not texts or not tokens["di_token"]:
            raise ValueError
    except Exception:
        raise GarminConnectInvalidReply from None
    return Session({name: tokens.get(name) for name in _TOKENS}, is_cn)
