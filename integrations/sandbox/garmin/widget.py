"""Signing in with the HTML widget, which works when the app's way in is blocked.

The library reads titles, a CSRF token and a few variables off its pages, so
that is what these pages have; the rest of them is invented.
"""

from __future__ import annotations

import secrets

from django.http import HttpRequest, HttpResponse
from django.utils.html import escape

from . import errors, sso
from .demo import Account
from .state import GarminState, SignIn

_SIGN_IN = "GARMIN Authentication Application"
_MFA = "Enter MFA code for login"
_TITLES = {
    "INVALID_USERNAME_PASSWORD": "Invalid sign in",
    "ACCOUNT_LOCKED": "Account locked",
    # A page with a captcha looks like the one before it.
    "CAPTCHA_REQUIRED": _SIGN_IN,
}


def _title(kind: str) -> str:
    """The title of the page that answers a password or a code.

    "Update Phone Number" was seen (github.com/matin/garth/issues/19); similar titles follow.
    """
    return _TITLES.get(kind) or kind.replace("_", " ").title()


def _page(title: str, body: str = "") -> HttpResponse:
    html = f"<!doctype html><title>{escape(title)}</title><h1>Sandbox</h1>{body}"
    return HttpResponse(html)


def _form(title: str, sign_in: SignIn, body: str = "") -> HttpResponse:
    return _page(title, f'<input type="hidden" name="_csrf" value="{sign_in.csrf}">{body}')


def _success(garmin: GarminState, request: HttpRequest, tld: str, account: Account) -> HttpResponse:
    service = escape(request.GET.get("service") or f"https://sso.garmin.{tld}/sso/embed")
    ticket = garmin.grant_ticket(account)
    return _page("Success", f'<a href="{service}?ticket={ticket}">Go on</a>')


def embed(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    """The frame of the widget, which only sets cookies."""
    return sso.sign_in_page(garmin, request, tld)


def sign_in(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    """Show the form."""
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed()
    found = sso.find_sign_in(garmin, request, tld)
    if found is not None:
        return _form(_SIGN_IN, found)
    cookie, found = garmin.open_sign_in(f"garmin.{tld}")
    response = _form(_SIGN_IN, found)
    sso.set_session(response, request, cookie)
    return response


def _checked(garmin: GarminState, request: HttpRequest, tld: str) -> SignIn | None:
    """The sign-in whose form this is, if its CSRF token says so."""
    if request.method != "POST":
        raise errors.method_not_allowed()
    found = sso.find_sign_in(garmin, request, tld)
    sent = request.POST.get("_csrf", "")
    if found is None or not secrets.compare_digest(sent.encode(), found.csrf.encode()):
        return None
    return found


def submit(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    """Take the password."""
    found = _checked(garmin, request, tld)
    if found is None:
        return _page("Session expired")
    email, password = request.POST.get("username", ""), request.POST.get("password", "")
    kind, account = sso.try_password(garmin, "widget", tld, email, password)
    if account is None or kind not in ("SUCCESSFUL", "MFA_REQUIRED"):
        return _form(_title(kind), found)
    if kind == "MFA_REQUIRED":
        garmin.await_code(found, account)
        return _mfa_page(found, account)
    return _success(garmin, request, tld, account)


def _mfa_page(found: SignIn, account: Account) -> HttpResponse:
    # codeSentTo is empty: no code was sent yet, the page has to ask for one.
    script = (
        f'<script>var customerGuid = "{account.guid}"; '
        f'var mfaMethod = "{escape(account.mfa_method)}"; '
        'var locale = "en_US"; var clientId = ""; var codeSentTo = "";</script>'
    )
    return _form(_MFA, found, script)


def request_code(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    """Send a code. The sandbox sends nothing, the code is the account's."""
    if request.method != "POST":
        raise errors.method_not_allowed()
    found = sso.find_sign_in(garmin, request, tld)
    if found is None or found.account is None:
        return HttpResponse(status=409)
    return HttpResponse("{}", content_type="application/json")


def verify_code(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    found = _checked(garmin, request, tld)
    code = request.POST.get("mfa-code", "")
    kind, account = garmin.judge_code(found, code)
    if kind == "SUCCESSFUL" and account is not None:
        return _success(garmin, request, tld, account)
    if kind == "MFA_CODE_INVALID" and found is not None and account is not None:
        return _mfa_page(found, account)
    return _page(_title(kind))
