"""The outcome of a sign-in to Garmin, judged by the step at which an answer came.

The library raises one class for most causes: a ticket that could not be exchanged looks like a
wrong password, and a page that asks for a phone number looks like an outage. So this module reads
every answer as it comes. It keeps a status and a verdict, never a body.

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
from urllib.parse import urljoin, urlsplit

import requests

from .. import http
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
from .sessions import bounded

logger = logging.getLogger("integrations.garminconnect")

# The widget is the last way that Garmin's front may let pass. These would only add a minute.
_SKIPPED_WAYS = frozenset({"portal+cffi", "portal+requests"})
# Seconds before the ticket is presented again, and the limit for all tries together.
TICKET_PAUSES: tuple[float, ...] = (1, 4)
_TICKET_PATIENCE = 20
# Seconds, awake, after which a sign-in asks for nothing more. Where all goes well it takes five.
PATIENCE = 60
_HOPS = 3

# By `responseStatus.type`. Any other type means that Garmin wants something of the athlete first.
_ERRORS: dict[str, type[GarminConnectError]] = {
    "INVALID_USERNAME_PASSWORD": InvalidCredentials,
    "ACCOUNT_LOCKED": AccountLocked,
    "CAPTCHA_REQUIRED": CaptchaRequired,
    "SESSION_EXPIRED": LoginExpired,
}
# Statuses of Garmin's front, which keeps sign-ins away without checking a password.
_LIMITS = (403, 427, 429)
_TYPE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")

_TITLE = re.compile(r"<title>\s*(.+?)\s*</title>", re.I | re.S)
_MFA_METHOD = re.compile(r'\bmfaMethod\s*=\s*"[^"]')
# The `responseStatus.type` for a title of the widget.
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
# Titles of pages that are not the widget's, and the status they mean, whatever status they have.
_FOREIGN = {
    re.compile(r"bad gateway|service unavailable|maintenance|\b50[0234]\b"): 503,
    re.compile(r"cloudflare|just a moment|access denied"): 403,
}


class Watch:
    """Watches the answers that a client of the library gets while it signs in or sends a code.

    It tries several ways in, one after the other, and goes on after "locked", "captcha", 429 and
    a token that the API refuses: it may send the same password eleven times, though five wrong ones
    lock an account and each try after a 429 prolongs it. Here a password is not sent again once
    Garmin's sign-in has answered it. Only a 403 is left to the library: Garmin's front sends it
    without checking the password.
    """

    def __init__(self, garminconnect: ModuleType, client: Any) -> None:
        # The only error after which the library tries no other way.
        self._stop = garminconnect.GarminConnectAuthenticationError
        self._give_up = http.watchdog.now + PATIENCE
        self._is_code = False
        self._asked = False
        self._accepted = False
        self._verdict: GarminConnectError | None = None
        # From the newest answer: for the log, and for when there is no verdict.
        self._status: int | None = None
        self._said = "-"

        client.skip_strategies = set(_SKIPPED_WAYS)
        # An issued token is good, even if the API refuses it in its first seconds: then the library
        # would throw it away and start over. Its next user renews it on a 401.
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
            # Not with a web cookie, the library's other way: it can be neither kept nor renewed.
            client._exchange_service_ticket(ticket, service_url=service_url)

        client._complete_mfa, client._establish_session = complete, establish

    def error(self) -> GarminConnectError:
        """The error that the library's failure stands for."""
        if self._accepted:
            error: GarminConnectError = SignInUnfinished(provider_status=self._status)
        elif self._verdict is not None:
            error = self._verdict
        elif self._is_code and not self._asked:  # Garmin was not reached with this state
            error = LoginExpired()
        else:
            error = error_of(self._status)
        step = "code" if self._is_code else "sign_in"
        event = {"event": f"garminconnect.{step}_failed"}
        answer = (f"HTTP {self._status}" if self._status else "no answer", self._said)
        logger.warning("garminconnect: %s (%s, %s)", error.code, *answer, extra=event)
        return error

    def _widget(self, package: ModuleType, client: Any) -> Callable[..., None]:
        """The library's way in by the widget, changed so that its local session is watched."""

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
        """A session whose answers are judged. None is started once Garmin has accepted."""
        if self._accepted:
            raise self._stop("stopped")
        ask = bounded(session).request

        def request(method: str, url: str, **options: Any) -> Any:
            # The library has another address for a code, and many ways in.
            if self._verdict is not None or http.watchdog.now > self._give_up:
                raise self._stop("stopped")
            is_secret = method == "POST" and not self._accepted
            self._asked, self._status, self._said = True, None, "-"
            try:
                answer = ask(method, url, **options)
                for _ in range(_HOPS):
                    if (page := _next_page(method, answer)) is None:
                        break
                    answer = ask("GET", page, headers={"Referer": url})
            except Exception as exc:
                self._said = type(exc).__name__
                if not is_secret or self._is_code:
                    raise
                is_answer = isinstance(exc, http.TooLong)
                self._conclude(
                    (GarminConnectInvalidReply if is_answer else GarminConnectUnavailable)()
                )
            self._status = answer.status_code
            if is_secret:
                self._judge(answer, is_page=options.get("json") is None)
            elif 300 <= self._status < 400:
                # No password is sent without the page before it: there are other ways in.
                raise requests.TooManyRedirects
            return answer

        session.request = request
        return session

    def _judge(self, answer: Any, *, is_page: bool) -> None:
        """Judge the answer to a password or a code."""
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
        # Garmin did not check it: another way in, or the other address for a code, may be open.
        elif self._status != 403 and not self._is_code:
            self._conclude(error_of(self._status))

    def _conclude(self, verdict: GarminConnectError) -> None:
        self._verdict = verdict
        raise self._stop("stopped")

    def _patient(self, post: Callable[..., Any]) -> Callable[..., Any]:
        """Present a ticket again if Garmin may not have checked it: this needs no password.

        The library would go on to the next of its four clients.
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


def _next_page(method: str, answer: Any) -> str | None:
    """The page that a redirect leads to, if nothing that was typed goes there, nor a cookie that
    another host could see."""
    statuses = (301, 302, 303, 307, 308) if method == "GET" else (301, 302, 303)
    where = answer.headers.get("Location")
    if answer.status_code not in statuses or not where:
        return None
    page = urljoin(answer.url, where)
    return page if urlsplit(page)[:2] == urlsplit(answer.url)[:2] else None


def _read_json(answer: Any) -> tuple[int, str]:
    """The status that an answer means, and its `responseStatus.type` ("" if it has none)."""
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
    """The same for a page of the widget, judged by its title."""
    status: int = answer.status_code
    found = _TITLE.search(answer.text)
    title = found[1].lower() if found else ""
    status = next((means for words, means in _FOREIGN.items() if words.search(title)), status)
    if not title or status in _LIMITS or status >= 500:
        return status, ""
    # The page that asks for a code may have the sign-in page's title.
    if "authentication application" in title and _MFA_METHOD.search(answer.text):
        return status, "MFA_REQUIRED"
    kinds = (kind for words, kind in _TITLES.items() if words.search(title))
    return status, next(kinds, "ANOTHER_PAGE")


def error_of(status: int | None, limits: tuple[int, ...] = _LIMITS) -> GarminConnectError:
    """What a status alone means. Only a missing answer is an outage."""
    if status in limits:
        return GarminConnectRateLimited(provider_status=status)
    if status is None or status >= 500:
        return GarminConnectUnavailable(provider_status=status)
    return GarminConnectInvalidReply(provider_status=status)
