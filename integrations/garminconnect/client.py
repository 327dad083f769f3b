"""All talk with Garmin, through the garminconnect library, and its errors made ours.

The library is imported at first use: it is heavy, and most processes never need it.
Source: https://github.com/cyberjunky/python-garminconnect
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..exceptions import (
    AccountLocked,
    CaptchaRequired,
    GarminConnectError,
    GarminConnectInvalidReply,
    GarminConnectRateLimited,
    GarminConnectRelinkRequired,
    GarminConnectUnavailable,
    IntegrationsDatabaseError,
    IntegrationsError,
    InvalidCredentials,
    InvalidMfaCode,
    InvalidSession,
    LoginExpired,
)
from ..http import DeadlineAdapter

if TYPE_CHECKING:
    from garminconnect import Garmin

logger = logging.getLogger("integrations.garminconnect")

# The library's last ways in would send the password again after the widget has sent it.
_SKIPPED_WAYS = frozenset({"portal+cffi", "portal+requests"})
_LOCKED = re.compile(r"(?<!b)locked")  # "Account locked", ACCOUNT_LOCKED, but not "blocked"
_TOKENS = ("di_token", "di_refresh_token", "di_client_id")


@dataclass(frozen=True, slots=True)
class MfaRequired:
    """Garmin wants a code. The state is JSON, and worth a password: it holds session cookies."""

    client_state: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in session: the library's "DI" tokens, good for one of the two domains."""

    tokens: dict[str, Any] = field(repr=False)
    is_cn: bool = False

    @property
    def expires_at(self) -> datetime | None:
        """When the access token expires, aware UTC; None where it does not say."""
        return token_expiry(self.tokens)


def token_expiry(tokens: dict[str, Any] | None) -> datetime | None:
    """The `exp` of a session's access token, a JWT whose signature only Garmin can check."""
    try:
        payload = str((tokens or {})["di_token"]).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return datetime.fromtimestamp(int(claims["exp"]), tz=UTC)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, OSError, RecursionError):
        return None


def library() -> ModuleType:
    import garminconnect

    # The library takes a session from this variable before it looks at a password, and would
    # link every athlete to whoever's it is.
    os.environ.pop("GARMINTOKENS", None)
    return garminconnect


def sign_in(email: str, password: str, is_cn: bool) -> Session | MfaRequired:
    """Sign in with a password, which Garmin's sign-in judges at most once.

    Takes 2 to 5 seconds when all goes well, half a minute when Garmin's front refuses the first
    ways in. Raises InvalidCredentials, AccountLocked, CaptchaRequired, or an error that says
    that Garmin would not or could not look at the password.
    """
    garminconnect = library()
    garmin = garminconnect.Garmin(email=email, password=password, is_cn=is_cn, return_on_mfa=True)
    verdicts: list[Exception] = []
    _send_password_once(garminconnect, garmin, verdicts)
    try:
        outcome, client_state = garmin.login()
    except Exception as exc:
        raise _translate_sign_in(garminconnect, verdicts[0] if verdicts else exc) from None
    finally:
        garmin.password = None
    if outcome == "needs_mfa":
        return MfaRequired(client_state)
    return _session(garmin, is_cn)


def answer_mfa(client_state: dict[str, Any], code: str, is_cn: bool) -> Session:
    """Finish a sign-in with the code that Garmin sent, in whatever process it was begun.

    Raises InvalidMfaCode, after which another code may be tried, LoginExpired if the sign-in is
    over, or an error that says that Garmin could not look at the code.
    """
    garminconnect = library()
    garmin = garminconnect.Garmin(is_cn=is_cn, return_on_mfa=True)
    try:
        garmin.resume_login(client_state, code)
    except Exception as exc:
        # The library loads the profile last, and calls it a failed sign-in if that fails.
        if not getattr(getattr(garmin, "client", None), "di_token", None):
            raise _translate_mfa(garminconnect, exc) from None
    return _session(garmin, is_cn)


def refresh(session: Session) -> Session:
    """Trade a session's refresh token, which is dead at once, for a new session.

    Raises InvalidSession if Garmin no longer accepts it, or an error that says that asking
    again later may help.
    """
    garminconnect = library()
    client = garminconnect.Garmin(is_cn=session.is_cn).client
    _load(garminconnect, client, session)
    # `_refresh_session` swallows its errors, and this tells in text alone what they were.
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

    Where the library would refresh by itself, it calls `renew` with the session it has, and
    goes on with the one that it gets: so a refresh token is never spent by two.
    """
    garminconnect = library()
    garmin: Garmin = garminconnect.Garmin(is_cn=session.is_cn)
    client: Any = garmin.client
    _load(garminconnect, client, session)
    api_session: Any = getattr(client, "_api_session", None)
    if api_session is not None:
        for scheme in ("https://", "http://"):  # the library bounds single reads only
            api_session.mount(scheme, DeadlineAdapter(pool_maxsize=20))

    def refresh_session() -> None:
        with client._token_lock:
            try:
                current = _session_of(client, session.is_cn)
                _load(garminconnect, client, renew(current))
            except GarminConnectRelinkRequired as exc:
                # The error that the library's users know for it.
                raise garminconnect.GarminConnectAuthenticationError(str(exc)) from exc

    client._refresh_session = refresh_session
    return garmin


def _load(garminconnect: ModuleType, client: Any, session: Session) -> None:
    """Put a session into the library's client. Raises InvalidSession if it takes it for none."""
    try:
        client.loads(json.dumps(session.tokens))
    except (
        garminconnect.GarminConnectConnectionError,
        garminconnect.GarminConnectAuthenticationError,
    ) as exc:
        # The type alone: the library's message may hold what it was given.
        event = {"event": "garminconnect.session_unusable"}
        logger.warning("garminconnect session: %s", type(exc).__name__, extra=event)
        raise InvalidSession from None


def translate_use(garminconnect: ModuleType, exc: Exception) -> GarminConnectError:
    """What an error of the library's means while a session is used."""
    cause: BaseException | None = exc
    while cause is not None:  # ours, out of `renew`, wrapped by the library
        if isinstance(cause, IntegrationsDatabaseError):
            raise cause
        if isinstance(cause, GarminConnectError):
            return cause
        if isinstance(cause, GarminConnectRelinkRequired):
            return InvalidSession()
        cause = cause.__cause__
    if isinstance(exc, garminconnect.GarminConnectTooManyRequestsError):
        error: GarminConnectError = GarminConnectRateLimited(provider_status=429, retry_after=3600)
    elif isinstance(exc, garminconnect.GarminConnectAuthenticationError):
        # A 401 although the token endpoint has just renewed the session: so it is not dead.
        error = GarminConnectInvalidReply(provider_status=401)
    elif isinstance(exc, garminconnect.GarminConnectConnectionError):
        error = GarminConnectUnavailable()
    else:
        error = GarminConnectInvalidReply()
    event = {"event": "garminconnect.call_failed"}
    logger.warning("garminconnect: %s (%s)", error.code, type(exc).__name__, extra=event)
    return error


def _send_password_once(garminconnect: ModuleType, garmin: Any, verdicts: list[Exception]) -> None:
    """Keep the library from sending a password again that Garmin's sign-in has answered.

    It tries several ways in, one after the other, and goes on after "locked", "captcha" and
    429 as well: up to eleven times the same password, where five wrong ones lock an account and
    another try after a 429 prolongs it. Only a 403 is left to it, because that is the front
    turning away a client unseen.
    """
    client = getattr(garmin, "client", None)
    post = getattr(client, "_post_credentials", None)
    if client is None or post is None:
        return
    client.skip_strategies = set(_SKIPPED_WAYS)

    def post_once(session: Any, *args: Any, **kwargs: Any) -> Any:
        options = getattr(session, "curl_options", None)
        if options is not None:
            # On a connection that was used before, libcurl itself sends a request again.
            from curl_cffi import CurlOpt

            options[CurlOpt.FRESH_CONNECT] = 1
        try:
            return post(session, *args, **kwargs)
        except (garminconnect.GarminConnectAuthenticationError, garminconnect.client._MFARequired):
            raise
        except Exception as exc:
            if "HTTP 403" in str(exc):
                raise
            verdicts.append(exc)
            # The one error after which the library tries no other way.
            raise garminconnect.GarminConnectAuthenticationError("stopped") from exc

    client._post_credentials = post_once


def _translate_sign_in(garminconnect: ModuleType, exc: Exception) -> GarminConnectError:
    # The library tells these apart in its messages alone.
    text = str(exc).lower()
    if _LOCKED.search(text):
        error: GarminConnectError = AccountLocked()
    elif "captcha" in text:
        error = CaptchaRequired()
    elif isinstance(exc, garminconnect.GarminConnectTooManyRequestsError):
        error = GarminConnectRateLimited(provider_status=429, retry_after=3600)
    elif isinstance(exc, garminconnect.GarminConnectAuthenticationError):
        error = InvalidCredentials()
    else:
        error = GarminConnectUnavailable()
    event = {"event": "garminconnect.sign_in_failed"}
    logger.warning("garminconnect sign-in: %s (%s)", error.code, type(exc).__name__, extra=event)
    return error


def _translate_mfa(garminconnect: ModuleType, exc: Exception) -> GarminConnectError:
    text = str(exc).lower()
    if isinstance(exc, garminconnect.GarminConnectTooManyRequestsError):
        error: GarminConnectError = GarminConnectRateLimited(provider_status=429, retry_after=3600)
    elif not isinstance(exc, garminconnect.GarminConnectAuthenticationError):
        error = GarminConnectUnavailable()
    elif "expired" in text or "client_state" in text:
        error = LoginExpired()
    elif any(each in text for each in ("connection error", "non-json", ": unknown")):
        error = GarminConnectUnavailable()
    else:
        error = InvalidMfaCode()
    event = {"event": "garminconnect.code_failed"}
    logger.warning("garminconnect code: %s (%s)", error.code, type(exc).__name__, extra=event)
    return error


def _translate_refresh(answer: Any, exc: Exception) -> GarminConnectError:
    status = getattr(answer, "status_code", None)
    if status is None or status >= 500:
        error: GarminConnectError = GarminConnectUnavailable(provider_status=status)
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
    """The `error` of RFC 6749, section 5.2, where the answer has one."""
    try:
        return answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return None


def _session(garmin: Any, is_cn: bool) -> Session:
    return _session_of(garmin.client, is_cn)


def _session_of(client: Any, is_cn: bool) -> Session:
    """What the library would store. Raises GarminConnectInvalidReply if that is no session.

    Without DI tokens it falls back to a web cookie, which cannot be stored nor refreshed.
    """
    try:
        tokens = json.loads(client.dumps())
        if not all(isinstance(tokens[name], str) and tokens[name] for name in _TOKENS[:1]):
            raise ValueError
        if not all(isinstance(tokens.get(name), str | None) for name in _TOKENS):
            raise ValueError
    except IntegrationsError:
        raise
    except Exception:
        raise GarminConnectInvalidReply from None
    return Session({name: tokens.get(name) for name in _TOKENS}, is_cn)
