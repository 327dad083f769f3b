"""Signing in at sso.garmin.com as the app does (mobile) and as the web site does (portal).

Both load a page, post JSON, and are answered with a `responseStatus`; a code
is posted to either. Source: garminconnect/client/sso.py of the library.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

from ..provider import Refusal
from . import errors
from .demo import Account
from .state import GarminState, SignIn

_PAGE = (
    "<!doctype html><title>GARMIN Authentication Application</title>"
    "<h1>Sandbox - this is not Garmin</h1>"
)
_LONGEST = 4096

# Observed for INVALID_USERNAME_PASSWORD; for the others the library reads only the body.
_STATUS = {"INVALID_USERNAME_PASSWORD": 401, "ACCOUNT_LOCKED": 401, "SESSION_EXPIRED": 409}
_MESSAGE = {"INVALID_USERNAME_PASSWORD": "generalLoginInvalidUsernameOrPassword"}


def json_body(request: HttpRequest) -> dict[str, Any]:
    """The JSON object in the body, or an empty one."""
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) and len(value) <= _LONGEST else ""


def set_session(response: HttpResponse, request: HttpRequest, cookie: str) -> None:
    """Set the cookies of the sign-in page.

    Their path keeps the cookies of Garmin's hosts apart, since here they share one host. They are
    not Secure, because there is no TLS on loopback.
    """
    path = "/" + "/".join(request.path_info.split("/")[1:3]) + "/"
    response.set_cookie("SESSION", cookie, path=path, httponly=True)
    response.set_cookie("__cf_bm", "sandbox", path=path, httponly=True)


def sign_in_page(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed()
    cookie, _ = garmin.open_sign_in(f"garmin.{tld}")
    response = HttpResponse(_PAGE)
    set_session(response, request, cookie)
    return response


def find_sign_in(garmin: GarminState, request: HttpRequest, tld: str) -> SignIn | None:
    return garmin.find_sign_in(request.COOKIES.get("SESSION", ""), f"garmin.{tld}")


def try_password(
    garmin: GarminState, way: str, tld: str, email: str, password: str
) -> tuple[str, Account | None]:
    """The `responseStatus.type` for a password, which is checked and not kept.

    Raises Refusal where Garmin's front answers instead.
    """
    account = garmin.find_account(email, f"garmin.{tld}")
    if account is not None:
        if account.throttled:
            raise Refusal(errors.front(429))
        if way in account.blocked:
            raise Refusal(errors.front(403))
        if account.delay:
            garmin.sleep(account.delay)
    return garmin.judge(account, password), account


def _answer(kind: str, **fields: Any) -> HttpResponse:
    body = {
        "serviceURL": "",
        "serviceTicketId": "",
        "responseStatus": {"type": kind, "message": _MESSAGE.get(kind, "")},
        "responseReason": "",
        "customerMfaInfo": "",
        "consentTypeList": "",
        "captchaAlreadyPassed": False,
        "samlResponse": "",
        "authType": "CAS",
    }
    return JsonResponse(body | fields, status=_STATUS.get(kind, 200))


def login(way: str, garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    if request.method != "POST":
        raise errors.method_not_allowed()
    fields = json_body(request)
    sign_in = find_sign_in(garmin, request, tld)
    if sign_in is None or "sign-in" not in request.META.get("HTTP_REFERER", ""):
        # Garmin's front refuses a password if the page was not loaded first.
        return errors.front(429)
    email, password = text(fields, "username"), text(fields, "password")
    kind, account = try_password(garmin, way, tld, email, password)
    if account is None or kind not in ("SUCCESSFUL", "MFA_REQUIRED"):
        return _answer(kind)
    if kind == "MFA_REQUIRED":
        garmin.await_code(sign_in, account)
        info = {"mfaLastMethodUsed": account.mfa_method, "email": "m***@example.com"}
        return _answer(kind, customerMfaInfo=info)
    return _answer(
        kind,
        serviceURL=request.GET.get("service", ""),
        serviceTicketId=garmin.grant_ticket(account),
    )


mobile_login = partial(login, "mobile")
portal_login = partial(login, "portal")


def verify_code(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    """Take the code. After a wrong one, another may follow; the library posts each one twice."""
    if request.method != "POST":
        raise errors.method_not_allowed()
    sign_in = find_sign_in(garmin, request, tld)
    waiting = sign_in.account if sign_in is not None else None
    if waiting is not None and waiting.throttled:
        return errors.front(429)
    code = text(json_body(request), "mfaVerificationCode")
    kind, account = garmin.judge_code(sign_in, code)
    if kind != "SUCCESSFUL" or account is None:
        return _answer(kind)
    return _answer(
        kind,
        serviceURL=request.GET.get("service", ""),
        serviceTicketId=garmin.grant_ticket(account),
    )
