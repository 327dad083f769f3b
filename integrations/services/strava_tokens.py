"""A fresh Strava token on demand."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from ..exceptions import (
    IntegrationsError,
    InvalidRefreshToken,
    StravaNotLinked,
    StravaRelinkRequired,
)
from ..models import UsersIntegrations
from . import _trail, strava
from ._rows import database_errors
from ._single_flight import Refreshed, TokenKeeper
from ._trail import Event

FRESH_FOR = timedelta(minutes=5)


class StravaTokenKeeper(TokenKeeper[str]):
    provider = "strava"
    guard = "strava_refresh_token"
    not_linked = StravaNotLinked
    relink_required = StravaRelinkRequired
    dead = InvalidRefreshToken

    def is_fresh(self, row: UsersIntegrations) -> bool:
        expires_at = row.strava_token_expires_at
        return expires_at is not None and expires_at > row.read_at + FRESH_FOR

    def read(self, row: UsersIntegrations) -> str:
        return row.strava_token

    def refresh(self, row: UsersIntegrations) -> Refreshed[str]:
        if not row.has_secret("strava_refresh_token"):
            raise InvalidRefreshToken
        client = strava.client_for(row)
        tokens = client.refresh_access_token(row.strava_refresh_token)
        return Refreshed(
            token=tokens.access_token,
            columns=strava.token_columns(tokens, row.read_at),
            limit_reached=client.limit_reached,
        )

    def discard(self, row: UsersIntegrations, columns: dict[str, Any]) -> None:
        # A disconnect meanwhile revoked only the old pair.
        with suppress(IntegrationsError):  # the app is another by now
            strava.revoke_quietly(strava.client_for(row), columns["strava_refresh_token"])

    def limited_for(self, row: UsersIntegrations, *, reading: bool) -> int:
        return strava.limited_for(row, reading=reading)

    def is_another_grant(self, row: UsersIntegrations, current: UsersIntegrations) -> bool:
        # With the same athlete and the same app, revoking one pair would end the other, too.
        athletes = {row.strava_athlete_id, current.strava_athlete_id}
        if None not in athletes and len(athletes) == 2:
            return True
        try:
            return strava.client_for(row).client_id != strava.client_for(current).client_id
        except IntegrationsError:
            return False


_keeper = StravaTokenKeeper()


@database_errors
def get_strava_access_token(user_id: int) -> str:
    """An access token for Strava that is good for at least five more minutes.

    Refreshes it if needed. Threads, processes and machines that ask at the same time cause one
    request to Strava and get the same token. Not inside atomic(): a rollback would lose the rotated
    token.

    Raises StravaNotLinked, StravaRelinkRequired if the athlete has to connect again, or a
    ProviderError, which leaves the link as it is (`retry_after` in seconds where known).
    """
    return _keeper.obtain(user_id)


@database_errors
def refresh_strava_access_token(user_id: int) -> str:
    """Ask Strava for a fresh token now, however fresh the stored one is.

    While more than an hour is left, Strava answers with the same token. Raises what
    get_strava_access_token raises.
    """
    token = ask_strava(user_id)
    _trail.note(user_id, "strava", Event.REFRESHED)
    return token


def ask_strava(user_id: int) -> str:
    """refresh_strava_access_token, without a line in the trail."""
    return _keeper.obtain(user_id, asking=True)
