"""Linking and unlinking Garmin Connect, and its session kept fresh."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db.models.functions import Coalesce
from django.utils import timezone

from ..exceptions import (
    GarminConnectError,
    GarminConnectNotLinked,
    GarminConnectRelinkRequired,
    GarminConnectUnavailable,
    IntegrationsNotFound,
    InvalidSession,
)
from ..garminconnect import client
from ..garminconnect.client import Session
from ..models import GarminConnectLogin, UsersIntegrations
from ..signals import account_linked, account_unlinked
from . import _rows, _trail
from ._rows import database_errors
from ._single_flight import Refreshed, TokenKeeper
from ._trail import Event

if TYPE_CHECKING:
    from garminconnect import Garmin

# Five minutes more than the 15 at which the library refreshes by itself.
FRESH_FOR = timedelta(minutes=20)


class GarminConnectTokenKeeper(TokenKeeper[Session]):
    provider = "garminconnect"
    guard = "garminconnect_oauth2"
    not_linked = GarminConnectNotLinked
    relink_required = GarminConnectRelinkRequired
    dead = InvalidSession
    errors = GarminConnectError
    unavailable = GarminConnectUnavailable

    def is_fresh(self, row: UsersIntegrations) -> bool:
        if not row.has_secret("garminconnect_oauth2"):
            return False
        expires_at = row.garminconnect_token_expires_at
        # A token without an expiry is treated as in the library.
        return expires_at is None or expires_at > row.read_at + FRESH_FOR

    def read(self, row: UsersIntegrations) -> Session:
        tokens: dict[str, Any] = row.garminconnect_oauth2 or {}
        return Session(
            {name: tokens.get(name) for name in ("di_token", "di_refresh_token", "di_client_id")},
            row.garminconnect_is_cn,
            _expires_in(row.garminconnect_token_expires_at, row.read_at),
        )

    def refresh(self, row: UsersIntegrations) -> Refreshed[Session]:
        session = self.read(row)
        if not session.tokens["di_refresh_token"] or not session.tokens["di_client_id"]:
            raise InvalidSession  # made by garth, or without a way to renew it
        session = client.refresh(session)
        columns = session_columns(session.tokens, row.read_at)
        expires_in = _expires_in(columns["garminconnect_token_expires_at"], row.read_at)
        # There is no revocation endpoint, so an unwanted session is just dropped.
        return Refreshed(token=replace(session, expires_in=expires_in), columns=columns)


_keeper = GarminConnectTokenKeeper()


def _expires_in(expires_at: datetime | None, now: datetime) -> float | None:
    return None if expires_at is None else (expires_at - now).total_seconds()


def session_columns(oauth2_token: dict[str, Any] | None, now: datetime) -> dict[str, Any]:
    """The columns of a session and of a healthy link; `now` as for strava.token_columns."""
    return {
        "garminconnect_oauth2": oauth2_token,
        "garminconnect_token_expires_at": client.token_expiry(oauth2_token, now),
        "garminconnect_refreshed_at": now,
        "garminconnect_login_error": "",
        **_rows.healthy_columns("garminconnect"),
    }


@database_errors
def get_garminconnect_client(user_id: int) -> Garmin:
    """A `garminconnect.Garmin` with the stored session, good for at least 20 more minutes.

    Whenever the session is rotated, now or later in its use, the new one is stored. Threads,
    processes and machines that use it at the same time rotate it once. Not inside atomic().

    Raises GarminConnectNotLinked, GarminConnectRelinkRequired if the athlete has to sign in
    again, or a GarminConnectError, which leaves the link as it is.
    """
    session = _keeper.obtain(user_id)
    try:
        return client.open_session(
            session,
            renew=database_errors(lambda current: _keeper.obtain(user_id, replacing=current)),
        )
    except InvalidSession as exc:
        # The stored value is no session of the library: only a new sign-in helps.
        row = _keeper.linked_row(user_id)
        if _keeper.read(row) == session:
            _keeper.declare_dead(row)
        raise GarminConnectRelinkRequired from exc


@database_errors
def refresh_garminconnect_session(user_id: int) -> None:
    """Rotate the session now, however fresh it is. Raises what get_garminconnect_client raises."""
    _keeper.obtain(user_id, replacing=_keeper.stored(user_id))
    _trail.note(user_id, "garminconnect", Event.REFRESHED)


@database_errors
def link_garminconnect_account(
    user_id: int, oauth1_token: dict[str, Any] | None, oauth2_token: dict[str, Any] | None
) -> None:
    """Store a Garmin session: the OAuth1 token of garth's sessions, the "DI" OAuth2 tokens.

    With neither, the link ends, as after unlink_garminconnect_account.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    if oauth1_token is None and oauth2_token is None:
        unlink_garminconnect_account(user_id)
        return
    write_link(
        user_id,
        oauth1_token,
        oauth2_token,
        is_cn=(oauth1_token or {}).get("domain") == "garmin.cn",
        linked_at=Coalesce("garminconnect_linked_at", timezone.now()),
    )


def write_link(
    user_id: int,
    oauth1_token: dict[str, Any] | None,
    oauth2_token: dict[str, Any] | None,
    *,
    is_cn: bool,
    linked_at: Any,
    actor: str | None = None,
) -> None:
    """Write a session and the link's health, then tell host projects."""
    with _rows.atomic():
        replaced = _rows.lock_row(user_id)
        relinked = replaced.is_linked("garminconnect")
        _rows.update(
            user_id,
            **session_columns(oauth2_token, replaced.read_at) | _rows.anew_columns("garminconnect"),
            garminconnect_oauth1=oauth1_token,
            garminconnect_is_cn=is_cn,
            garminconnect_athlete_name="",  # it may be another athlete; a sync asks
            garminconnect_linked_at=linked_at,
        )
        event = Event.RELINKED if relinked else Event.LINKED
        _trail.note(user_id, "garminconnect", event, actor=actor)
        _rows.send_after_commit(account_linked, user_id, "garminconnect")


@database_errors
def unlink_garminconnect_account(user_id: int) -> None:
    """Forget a Garmin session, and switch gear sync off.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    linked = _trail.unlink(
        user_id,
        "garminconnect",
        garminconnect_oauth1=None,
        garminconnect_oauth2=None,
        garminconnect_is_cn=False,
        garminconnect_athlete_name="",
        garminconnect_token_expires_at=None,
        garminconnect_sync_gear=False,
        garminconnect_linked_at=None,
        garminconnect_refreshed_at=None,
    )
    if linked:
        _rows.send_after_commit(account_unlinked, user_id, "garminconnect")


@database_errors
def disconnect_garminconnect(user_id: int) -> None:
    """Forget the session, and any sign-in that is under way.

    Garmin has no revocation endpoint: only the athlete can end the session, at Garmin.

    Raises GarminConnectNotLinked if there was neither.
    """
    with _rows.atomic():
        canceled, _ = GarminConnectLogin.objects.filter(user_id=user_id).delete()
        try:
            row = _rows.get_row(user_id)
        except IntegrationsNotFound:
            raise GarminConnectNotLinked from None
        linked = row.is_linked("garminconnect")
        unlink_garminconnect_account(user_id)
    if not linked and not canceled:
        raise GarminConnectNotLinked


@database_errors
def set_user_garminconnect_sync_gear(user_id: int, garminconnect_sync_gear: bool) -> None:
    """Switch gear sync with Garmin Connect on or off for one user.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(user_id, **_rows.sync_columns("garminconnect", garminconnect_sync_gear))
