"""The seed's API that belongs to no provider."""

from __future__ import annotations

from django.db import IntegrityError

from ..exceptions import IntegrationsAlreadyExist, IntegrationsNotFound
from ..garminconnect.client import token_expiry
from ..models import Gear, UsersIntegrations
from ..schemas import UsersIntegrationsUpdate
from ..signals import account_linked, account_unlinked
from . import _rows, _trail
from ._rows import database_errors
from ._trail import Event


@database_errors
def get_user_integrations_by_user_id(user_id: int) -> UsersIntegrations:
    """The integrations of one user.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    return _rows.get_row(user_id)


@database_errors
def get_user_integrations_by_strava_state(strava_state: str | None) -> UsersIntegrations | None:
    """The row with an authorization in progress under this state, or None.

    `None` and the empty state never match. This does not check the state's expiry or owner;
    complete_strava_authorization does.
    """
    # Databases cannot even compare text with a NUL or half a surrogate pair in it.
    if not strava_state or not str(strava_state).isprintable():
        return None
    return UsersIntegrations.objects.filter(strava_state=strava_state).first()


@database_errors
def create_user_integrations(user_id: int) -> UsersIntegrations:
    """Create a user's row, with defaults only.

    Raises IntegrationsAlreadyExist if the user has one, IntegrationsNotFound if there is no
    such user.
    """
    try:
        with _rows.atomic():
            return UsersIntegrations.objects.create(user_id=user_id)
    except IntegrityError as exc:
        if UsersIntegrations.objects.filter(user_id=user_id).exists():
            raise IntegrationsAlreadyExist from exc
        raise IntegrationsNotFound from exc


@database_errors
def edit_user_integrations(
    user_integrations: UsersIntegrationsUpdate, user_id: int
) -> UsersIntegrations:
    """Write the fields that were set in the update, and no others.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    columns = user_integrations.model_dump(exclude_unset=True)
    if not columns.keys() & _rows.TOKENS:
        if columns:
            _rows.update(user_id, **_rows.seed_columns(columns))
        return _rows.get_row(user_id)
    with _rows.atomic():
        before = _rows.lock_row(user_id)
        if "garminconnect_oauth2" in columns:
            columns["garminconnect_token_expires_at"] = token_expiry(
                columns["garminconnect_oauth2"], before.read_at
            )
        _rows.update(user_id, **_rows.seed_columns(columns))
        row = _rows.get_row(user_id)
        for provider in Gear.Provider.values:
            linked = row.is_linked(provider)
            if linked != before.is_linked(provider):
                _trail.note(user_id, provider, Event.LINKED if linked else Event.UNLINKED)
                signal = account_linked if linked else account_unlinked
                _rows.send_after_commit(signal, user_id, provider)
    return row
