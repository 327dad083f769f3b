"""Garmin's hosts in one: /garmin/sso.garmin.com/…, /garmin/connectapi.garmin.cn/… and so on.

`Garmin` is what a test holds: sessions without a sign-in, passwords counted,
calls made to fail. Garmin has no open API and documents nothing, so this imitates the calls that
the garminconnect library (0.3.20) makes and the answers that it distinguishes. `hook` brings that
library here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, re_path

from ..provider import View
from . import api, di, errors, sso, widget
from .demo import (
    ALICE,
    BJORN,
    BLOCKED,
    CAPTCHA,
    CHIDI,
    CHINA,
    INACTIVE,
    LOCKED,
    MFA,
    MFA_CODE,
    PASSWORD,
    PHONE,
    SLOW,
    THROTTLED,
    WAYS,
    Account,
    Gear,
)
from .state import DI_CLIENT_ID, WRONG_PASSWORDS, GarminState

__all__ = [
    "ALICE",
    "BJORN",
    "BLOCKED",
    "CAPTCHA",
    "CHIDI",
    "CHINA",
    "DI_CLIENT_ID",
    "INACTIVE",
    "LOCKED",
    "MFA",
    "MFA_CODE",
    "PASSWORD",
    "PHONE",
    "SLOW",
    "THROTTLED",
    "WAYS",
    "WRONG_PASSWORDS",
    "Account",
    "Garmin",
    "Gear",
]

_UUID = r"(?P<uuid>[0-9a-fA-F-]{32,36})"

# Endpoint, host (below garmin.com or garmin.cn), path, view.
_ROUTES: tuple[tuple[str, str, str, View], ...] = (
    ("mobile_page", "sso", r"mobile/sso/en_US/sign-in", sso.sign_in_page),
    ("mobile_login", "sso", r"mobile/api/login", sso.mobile_login),
    ("portal_page", "sso", r"portal/sso/en-US/sign-in", sso.sign_in_page),
    ("portal_login", "sso", r"portal/api/login", sso.portal_login),
    ("mfa", "sso", r"(?:mobile|portal)/api/mfa/verifyCode", sso.verify_code),
    ("widget_page", "sso", r"sso/embed", widget.embed),
    ("widget_mfa_request", "sso", r"sso/verifyMFA/mfaCode", widget.request_code),
    ("widget_mfa", "sso", r"sso/verifyMFA/loginEnterMfaCode", widget.verify_code),
    ("token", "diauth", r"di-oauth2-service/oauth/token", di.token),
    ("ticket", "mobile.integration", r"gcm/(?:ios|android)", di.service),
    ("ticket", "connect", r"app", di.service),
    ("profile", "connectapi", r"userprofile-service/socialProfile", api.profile),
    ("settings", "connectapi", r"userprofile-service/userprofile/user-settings", api.settings),
    ("device", "connectapi", r"device-service/deviceservice/mylastused", api.device),
    ("gear", "connectapi", r"gear-service/gear/filterGear", api.gear),
    ("gear_stats", "connectapi", rf"gear-service/gear/stats/{_UUID}", api.gear_stats),
    ("gear_list", "connectapi", r"gear-service/gear/v2/list", api.gear_list),
    ("gear_details", "connectapi", rf"gear-service/gear/v2/{_UUID}", api.gear_details),
)

# Faults whose general names are Strava's words.
_FAULTS = {"403": "403_inactive", "427": "403_limit"}


class Garmin(GarminState):
    """Garmin's stand-in. See GarminState for what a test can do with it."""

    name: ClassVar[str] = "garmin"
    title: ClassVar[str] = "Garmin Connect"
    endpoints: ClassVar[tuple[str, ...]] = (
        *dict.fromkeys(endpoint for endpoint, *_ in _ROUTES),
        "widget_login",
    )

    def urlpatterns(self) -> list[URLPattern]:
        def route(host: str, path: str, view: View) -> URLPattern:
            return re_path(rf"^garmin/{host}\.garmin\.(?P<tld>com|cn)/{path}$", view)

        patterns = [
            route(host.replace(".", r"\."), path, self.endpoint(name, partial(view, self)))
            for name, host, path, view in _ROUTES
        ]
        # One address for the widget's form and for what is typed into it.
        show = self.endpoint("widget_page", partial(widget.sign_in, self))
        submit = self.endpoint("widget_login", partial(widget.submit, self))

        def widget_sign_in(request: HttpRequest, **kwargs: Any) -> Any:
            return (submit if request.method == "POST" else show)(request, **kwargs)

        return [*patterns, route("sso", "sso/signin", widget_sign_in)]

    def fail(
        self, endpoint: str, fault: str, times: int | None = None, seconds: float | None = None
    ) -> None:
        """As for every provider; "403" and "427", by Garmin's front, are faults here, too."""
        super().fail(endpoint, _FAULTS.get(fault, fault), times, seconds)

    def canned(self, fault: str) -> HttpResponse:
        return errors.canned(fault)

    def describe(self, request: HttpRequest) -> dict[str, Any]:
        """Note the account if the call names it, and the grant; never passwords or codes.

        A password is counted here, before a fault can keep it from the view:
        it has left the site, whatever the answer.
        """
        if request.content_type == "application/json":
            fields = sso.json_body(request)
        else:
            fields = request.POST.dict()
        account = sso.text(fields, "username")
        if "password" in fields:
            self.count_attempt(account)
        return {
            "account": account or None,
            "grant_type": fields.get("grant_type"),
            "client_id": fields.get("client_id"),
        }

    def controls(self) -> Mapping[str, Callable[..., object]]:
        def session(email: str, **fields: Any) -> object:
            return self.issue_session(email, **fields)

        def expire(email: str, **fields: Any) -> object:
            return {"expired": self.expire(email, **fields)}

        def revoke(email: str) -> object:
            return {"revoked": self.revoke(email)}

        def account(email: str, **fields: Any) -> object:
            known = email in self.accounts
            return (self.edit_account if known else self.add_account)(email, **fields).public()

        def unlock(email: str) -> object:
            self.unlock(email)
            return {"unlocked": email}

        def end_mfa(email: str) -> object:
            return {"ended": self.end_mfa(email)}

        def alive(token: str) -> object:
            return {"alive": self.is_alive(token)}

        def lifetime(
            seconds: int | None = None,
            refresh_seconds: int | None = None,
            mfa_seconds: int | None = None,
        ) -> object:
            self.token_lifetime = self.token_lifetime if seconds is None else int(seconds)
            if refresh_seconds is not None:
                self.refresh_lifetime = int(refresh_seconds)
            if mfa_seconds is not None:
                self.mfa_lifetime = int(mfa_seconds)
            return {
                "token_lifetime": self.token_lifetime,
                "refresh_lifetime": self.refresh_lifetime,
                "mfa_lifetime": self.mfa_lifetime,
            }

        def attempts() -> object:
            return {"attempts": dict(self.attempts), "mfa_attempts": dict(self.mfa_attempts)}

        return {
            "session": session,
            "expire": expire,
            "revoke": revoke,
            "account": account,
            "unlock": unlock,
            "end_mfa": end_mfa,
            "alive": alive,
            "lifetime": lifetime,
            "attempts": attempts,
        }

    def overview(self) -> dict[str, Any]:
        with self._lock:
            return {
                "accounts": [account.public() for account in list(self.accounts.values())[:50]],
                "counts": self.counts(),
                "attempts": dict(self.attempts),
                "mfa_attempts": dict(self.mfa_attempts),
                "token_lifetime": self.token_lifetime,
                "refresh_lifetime": self.refresh_lifetime,
                "mfa_lifetime": self.mfa_lifetime,
            }
