from __future__ import annotations

from typing import Any

from ..signals import account_linked, account_unlinked
from . import _rows
from ._rows import database_errors


@database_errors
def link_garminconnect_account(
    user_id: int, oauth1_token: dict[str, Any] | None, oauth2_token: dict[str, Any] | None
) -> None:
    """Store a Garmin session: the OAuth1 token of garth's sessions, the "DI" OAuth2 tokens.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(user_id, garminconnect_oauth1=oauth1_token, garminconnect_oauth2=oauth2_token)
    if oauth1_token is not None or oauth2_token is not None:
        _rows.send_after_commit(account_linked, user_id, "garminconnect")


@database_errors
def unlink_garminconnect_account(user_id: int) -> None:
    """Forget a Garmin session, and switch gear synchronisation off.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(
        user_id,
        garminconnect_oauth1=None,
        garminconnect_oauth2=None,
        garminconnect_sync_gear=False,
    )
    _rows.send_after_commit(account_unlinked, user_id, "garminconnect")


@database_errors
def set_user_garminconnect_sync_gear(user_id: int, garminconnect_sync_gear: bool) -> None:
    """Switch gear synchronisation with Garmin Connect on or off for one user.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(user_id, garminconnect_sync_gear=garminconnect_sync_gear)
