"""Garmin Connect: no OAuth for consumers, so athletes sign in with their password."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.utils.translation import gettext_lazy as _

from ..clock import over
from ..exceptions import (
    GarminConnectError,
    GarminConnectNotLinked,
    GarminConnectRateLimited,
    GarminConnectRelinkRequired,
    GarminConnectUnavailable,
    InvalidSession,
    error_by_code,
)
from ..links import Account, FetchedGear, Provider, Refreshed, healthy
from ..models import GarminConnectLogin, LinkStatus
from ..models.integrations import GARMINCONNECT
from . import client
from .client import Session
from .forms import GarminConnectLoginForm, GarminConnectMfaForm
from .gear import fetch_gear, fetch_name, fetch_units

MFA_LIFETIME = timedelta(minutes=10)
MAX_WRONG_CODES = 4


class GarminConnect(Provider):
    name = "garminconnect"
    label = "Garmin Connect"
    called = "Garmin"
    library = "garminconnect"
    package = "django-athlete-integrations[garmin]"
    home = GARMINCONNECT
    not_linked = GarminConnectNotLinked
    relink_required = GarminConnectRelinkRequired
    dead = InvalidSession
    errors = GarminConnectError
    unavailable = GarminConnectUnavailable
    # Five minutes more than the 15 at which the library refreshes by itself.
    fresh_for = timedelta(minutes=20)
    # Only the athlete can end the session, at Garmin.
    revokes = False
    by_workers = True
    has_gear = True
    urls = "integrations.garminconnect.urls.patterns"
    card = "integrations/garminconnect.html"
    words = {
        "relink_required": _(
            "Garmin no longer accepts this connection. This happens, for example, after you change "
            "your password at Garmin. Sign in again to go on. Nothing is lost."
        ),
        "rate_limited": GarminConnectRateLimited.default_message,
    }

    reasons = {
        "invalid_credentials": _("Wrong e-mail or password"),
        "account_locked": _("Account locked by Garmin"),
        "captcha_required": _("Garmin asked for a puzzle to be solved"),
        "action_required": _("Garmin asked for something else first"),
        "sign_in_unfinished": _("Password accepted, but Garmin could not finish"),
        "rate_limited": _("Garmin refused sign-ins for a while"),
        "provider_unavailable": _("No answer from Garmin"),
        "invalid_provider_reply": _("An answer from Garmin that we could not use"),
        "too_many_mfa_codes": _("Wrong code too often"),
        "login_expired": _("No code in time"),
        "login_interrupted": _("Interrupted on our side"),
    }
    related = ("user__integrations_garminconnect_login",)
    settle = "integrations.garminconnect.login.settle_dead_logins"
    tasks = "integrations.garminconnect.tasks"
    # In the clock's process: erasing an expired password must not wait for a worker.
    jobs = (("integrations.garminconnect.login.forget_dead_logins", timedelta(minutes=1)),)

    def guard(self, row: Any) -> str:
        return "oauth2"

    def is_fresh(self, row: Any) -> bool:
        if not row.has_secret("garminconnect_oauth2"):
            return False
        expires_at = row.garminconnect_token_expires_at
        # A token without an expiry is treated as in the library.
        return expires_at is None or expires_at > row.read_at + self.fresh_for

    def read(self, row: Any) -> Session:
        tokens: dict[str, Any] = row.garminconnect_oauth2 or {}
        return Session(
            {name: tokens.get(name) for name in ("di_token", "di_refresh_token", "di_client_id")},
            row.garminconnect_is_cn,
            _expires_in(row.garminconnect_token_expires_at, row.read_at),
        )

    def refresh(self, row: Any) -> Refreshed[Session]:
        session = self.read(row)
        if not session.tokens["di_refresh_token"] or not session.tokens["di_client_id"]:
            raise InvalidSession  # made by garth, or without a way to renew it
        session = client.refresh(session)
        values = self.session_values(session.tokens, row.read_at)
        expires_in = _expires_in(values["token_expires_at"], row.read_at)
        # There is no revocation endpoint, so an unwanted session is just dropped.
        return Refreshed(replace(session, expires_in=expires_in), values)

    def session_values(self, oauth2_token: dict[str, Any] | None, now: datetime) -> dict[str, Any]:
        """The values of a session and of a healthy link; `now` by the database's clock."""
        return {
            "oauth2": oauth2_token,
            "token_expires_at": client.token_expiry(oauth2_token, now),
            "login_error": "",
            **healthy(now),
        }

    def open(self, session: Session, renew: Callable[[Session], Session]) -> Any:
        """A client of the library's with a session. Raises InvalidSession if it is none."""
        return client.open_session(session, renew=renew)

    # --- Signing in -----------------------------------------------------------------------------

    def unsettled(self) -> Any:
        return dead_logins()

    def status(self, row: Any) -> LinkStatus:
        login = _login_of(row)
        if login is None:
            return super().status(row)
        waits = login.step == GarminConnectLogin.Step.MFA_REQUIRED
        return LinkStatus.MFA_REQUIRED if waits else LinkStatus.LINKING

    def failed_attempt(self, row: Any) -> tuple[str, str]:
        code = row.garminconnect_login_error
        if not code:
            return "", ""
        if code == "rate_limited":
            return code, str(_SIGN_INS_LIMITED)
        return code, str(error_by_code(code, GarminConnectError).default_message)

    def adopt(self, row: Any) -> None:
        code = row.garminconnect_error
        if code in _SIGN_IN_ERRORS or (code and not self.home.is_linked(row)):
            row.garminconnect_login_error = row.garminconnect_login_error or code
            row.garminconnect_error = ""

    def page_context(self, row: Any, request: Any, typed: dict[str, str]) -> dict[str, Any]:
        login = _login_of(row)
        return {
            "is_cn": login.is_cn if login else row.garminconnect_is_cn,
            "was_linked": login is not None and row.garminconnect_status == LinkStatus.LINKED,
            "codes_left": MAX_WRONG_CODES - login.wrong_codes if login else 0,
            "form": GarminConnectLoginForm(
                initial=typed or {"is_cn": row.garminconnect_is_cn}, auto_id="garminconnect-%s"
            ),
            "mfa_form": GarminConnectMfaForm(auto_id="garminconnect-%s"),
        }

    def cancel(self, user_id: Any) -> bool:
        return bool(GarminConnectLogin.objects.filter(user_id=user_id).delete()[0])

    def fetch_gear(
        self, row: Any, token: Session, renew: Callable[[Session], Session]
    ) -> FetchedGear:
        garmin = self.open(token, renew)
        gear = fetch_gear(garmin)
        return FetchedGear(
            gear=gear,
            units=row.garminconnect_units or fetch_units(garmin),
            account=Account("", row.garminconnect_athlete_name or fetch_name(garmin)),
        )


def dead_logins() -> Any:
    """The sign-ins whose time has run out."""
    return GarminConnectLogin.objects.filter(over("step_until", MFA_LIFETIME))


def _login_of(row: Any) -> GarminConnectLogin | None:
    """The sign-in under way, if it was loaded with the row."""
    user = row._state.fields_cache.get("user")
    return getattr(user, "integrations_garminconnect_login", None)


# Release 0.1.0, which may still be serving, writes these where the health of a link stands.
_SIGN_IN_ERRORS = {
    "account_locked",
    "captcha_required",
    "internal_error",
    "invalid_credentials",
    "invalid_mfa_code",
    "login_expired",
    "login_interrupted",
    "too_many_mfa_codes",
}
_SIGN_INS_LIMITED = _(
    "Garmin is refusing sign-ins from this site for a while. Your e-mail and password may well be "
    "right. Please wait an hour before you try again."
)


def _expires_in(expires_at: datetime | None, now: datetime) -> float | None:
    return None if expires_at is None else (expires_at - now).total_seconds()
