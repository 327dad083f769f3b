"""What becomes of a sign-in to Garmin, judged by where in the dance an answer came.

The library raises one class for most causes: a ticket that could not be exchanged looks like a
wrong password there, and a page that asks for a phone number like an outage. So every answer is
looked at here, the moment it comes. A status and a verdict are kept, never a body.

Source: garminconnect/client/sso.py and session.py of the library (0.3.20).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from ..exceptions import (
    AccountLocked,
    ActionRequired,
    CaptchaRequired,
    GarminConnectError,
    GarminConnectInvalidReply,
    GarminConnectRateLimited,
    GarminConnectUnavailable,
    InvalidCredentials,
    InvalidMfaCode,
    LoginExpired,
    SignInUnfinished,
)

logger = logging.getLogger("integrations.garminconnect")

# Past the widget, which is the last that a front may let pass, they take a minute more.
_SKIPPED_WAYS = frozenset({"portal+cffi", "portal+requests"})
# Seconds before the ticket is presented again, and for how long at most.
TICKET_PAUSES: tuple[float, ...] = (1, 4)
_TICKET_PATIENCE = 20

# By `responseStatus.type`. Any other is something that Garmin wants of the athlete first.
_ERRORS: dict[str, type[GarminConnectError]] = {
    "INVALID_USERNAME_PASSWORD": InvalidCredentials,
    "ACCOUNT_LOCKED": AccountLocked,
    "CAPTCHA_REQUIRED": CaptchaRequired,
    "SESSION_EXPIRED": LoginExpired,
}
_TYPE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")

_TITLE = re.compile(r"<title>\s*(.+?)\s*</title>", re.I | re.S)
_MFA_METHOD = re.compile(r'\bmfaMethod\s*=\s*"[^"]')
# What a title of the widget's says, in the words of `responseStatus.type`.
_TITLES = {
    re.compile(r"^success$"): "SUCCESSFUL",
    re.compile(r"\bmfa\b"): "MFA_REQUIRED",
    re.compile(r"(?<!b)locked"): "ACCOUNT_LOCKED",  # but not "blocked"
    re.compile(r"captcha"): "CAPTCHA_REQUIRED",
    re.compile(r"expired"): "SESSION_EXPIRED",
    re.compile(
        r"(invalid|incorrect) (sign|log).?in|(invalid|incorrect).*(password|credentials)"
    ): "INVALID_USERNAME_PASSWORD",
}
# Pages that are not the widget's, whatever status they come with, and the status that they mean.
_FOREIGN = {
    re.compile(r"bad gateway|service unavailable|maintenance|\b50[0234]\b"): 503,
    re.compile(r"cloudflare|just a moment|access denied"): 403,
}


class Watch:
    """Watches what a client of the library's is answered while it signs in, or brings a code.

    It tries several ways in, one after the other, and goes on after "locked", "captcha", 429 and
    a token that the API refuses: up to eleven times the same password, where five wrong ones lock
    an account and another try after a 429 prolongs it. Here a password is sent no more once
    Garmin's sign-in has answered it. Only a 403 is left to the library, because that is the front
    turning away a client unseen.
    """

    def __init__(self, garminconnect: ModuleType, client: Any) -> None:
        # The one error after which the library tries no other way.
        self._stop = garminconnect.GarminConnectAuthenticationError
        self._is_code = False
        self._asked = False
        self._accepted = False
        self._verdict: GarminConnectError | None = None
        # Of the newest answer, for want of a verdict and for the log.
        self._status: int | None = None
        self._said = "-"

        client.skip_strategies = set(_SKIPPED_WAYS)
        # A token that was issued is good, whatever the API says in its first seconds: the library
        # would throw it away and start over. Whoever uses it next renews it on a 401.
        client.verify_login = False
        do_mobile_login, complete_mfa = client._do_mobile_login, client._complete_mfa
        client._do_mobile_login = lambda session, *login: do_mobile_login(
            self._watched(session), *login
        )
        client._widget_web_login = self._widget(garminconnect.client, client)
        client._di_token_post = self._patient(client._di_token_post)

        def complete(code: str) -> None:
            self._is_code = True
            self._watched(client._mfa_session)
            complete_mfa(code)

        def establish(ticket: str, sess: Any = None, service_url: str | None = None) -> None:
            # Not by a web cookie, the library's other way, which can be neither kept nor renewed.
            client._exchange_service_ticket(ticket, service_url=service_url)

        client._complete_mfa, client._establish_session = complete, establish

    def error(self) -> GarminConnectError:
        """What it means that the library has failed."""
        if self._accepted:
            error: GarminConnectError = SignInUnfinished(provider_status=self._status)
        elif self._verdict is not None:
            error = self._verdict
        elif self._is_code and not self._asked:  # the state of the sign-in leads nowhere
            error = LoginExpired()
        else:
            error = _error_of(self._status)
        step = "code" if self._is_code else "sign_in"
        event = {"event": f"garminconnect.{step}_failed"}
        answer = (f"HTTP {self._status}" if self._status else "no answer", self._said)
        logger.warning("garminconnect: %s (%s, %s)", error.code, *answer, extra=event)
        return error

    def _widget(self, package: ModuleType, client: Any) -> Callable[..., None]:
        """The library's way in by the widget, which makes a session where nobody can reach it."""

        def session(**options: Any) -> Any:
            return self._watched(package.cffi_requests.Session(**options))

        seen = SimpleNamespace(
            HAS_CFFI=package.HAS_CFFI, cffi_requests=SimpleNamespace(Session=session)
        )
        login = client._widget_web_login.__func__
        names = {**login.__globals__, "_pkg": lambda: seen}
        watched: Any = FunctionType(login.__code__, names)
        return lambda *arguments: watched(client, *arguments)

    def _watched(self, session: Any) -> Any:
        """A session whose answers are judged. None is begun after Garmin has said yes."""
        if self._accepted:
            raise self._stop("stopped")
        ask = session.request

        def request(method: str, url: str, **options: Any) -> Any:
            if self._verdict is not None:  # the library's other address for a code
                raise self._stop("stopped")
            is_secret = method == "POST" and not self._accepted
            if is_secret and hasattr(session, "curl_options"):
                # On a connection that was used before, libcurl itself sends a request again.
                from curl_cffi import CurlOpt

                session.curl_options[CurlOpt.FRESH_CONNECT] = 1
            self._asked, self._status, self._said = True, None, "-"
            try:
                answer = ask(method, url, **options)
            except Exception as exc:
                self._said = type(exc).__name__
                if not is_secret or self._is_code:
                    raise
                self._conclude(GarminConnectUnavailable())
            self._status = answer.status_code
            if is_secret:
                self._judge(answer, is_page=options.get("json") is None)
            return answer

        session.request = request
        return session

    def _judge(self, answer: Any, *, is_page: bool) -> None:
        """Take the answer to a password or a code for what it says."""
        kind = ""
        with suppress(Exception):  # what cannot be read says nothing
            self._status, kind = (_read_page if is_page else _read_json)(answer)
        self._said = kind or "-"
        if kind == "SUCCESSFUL" or (kind == "MFA_REQUIRED" and not self._is_code):
            self._accepted = True
        elif self._is_code and ("CODE" in kind or kind == "MFA_REQUIRED"):
            self._conclude(InvalidMfaCode())
        elif kind:
            self._conclude(_ERRORS.get(kind, ActionRequired)(provider_status=self._status))
        # Nobody has looked at it: another way in may be open, or the other address for a code.
        elif self._status != 403 and not self._is_code:
            self._conclude(_error_of(self._status))

    def _conclude(self, verdict: GarminConnectError) -> None:
        self._verdict = verdict
        raise self._stop("stopped")

    def _patient(self, post: Callable[..., Any]) -> Callable[..., Any]:
        """Present a ticket again where it may not have been looked at: it needs no password.

        The library would go on to its next client, of which there are four.
        """

        def token_post(*arguments: Any) -> Any:
            give_up = time.monotonic() + _TICKET_PATIENCE
            for pause in (*TICKET_PAUSES, _TICKET_PATIENCE):
                self._status, self._said = None, "for the ticket"
                try:
                    answer = post(*arguments)
                except Exception as exc:
                    self._said = type(exc).__name__
                else:
                    self._status = answer.status_code
                    if self._status < 500 and self._status != 429:
                        return answer
                if time.monotonic() + pause >= give_up:
                    break
                time.sleep(pause)
            raise self._stop("stopped")

        return token_post


def _read_json(answer: Any) -> tuple[int, str]:
    """The status that an answer means, and its `responseStatus.type`, "" without one."""
    body = answer.json()
    status = 429 if _at(body, "error", "status-code") == "429" else int(answer.status_code)
    kind = _at(body, "responseStatus", "type")
    if status in (427, 429) or status >= 500 or not _TYPE.fullmatch(kind):
        return status, ""
    return status, kind


def _at(body: Any, name: str, part: str) -> str:
    try:
        return str(body[name][part])
    except (KeyError, TypeError):
        return ""


def _read_page(answer: Any) -> tuple[int, str]:
    """The same for a page of the widget's, told by its title."""
    status: int = answer.status_code
    found = _TITLE.search(answer.text)
    title = found[1].lower() if found else ""
    status = next((means for words, means in _FOREIGN.items() if words.search(title)), status)
    if not title or status in (403, 427, 429) or status >= 500:
        return status, ""
    # The page that asks for a code may have the title of the sign-in page.
    if "authentication application" in title and _MFA_METHOD.search(answer.text):
        return status, "MFA_REQUIRED"
    kinds = (kind for words, kind in _TITLES.items() if words.search(title))
    return status, next(kinds, "ANOTHER_PAGE")


def _error_of(status: int | None) -> GarminConnectError:
    """What a status alone means. An outage is only what has no answer."""
    if status in (403, 427, 429):
        return GarminConnectRateLimited(provider_status=status, retry_after=3600)
    if status is None or status >= 500:
        return GarminConnectUnavailable(provider_status=status)
    return GarminConnectInvalidReply(provider_status=status)
