"""The seed's API: the twelve functions of `users_integrations`, and what goes with them.

These are the links whose columns the seed names, in the row of UsersIntegrations.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, router
from django.utils import timezone

from .. import exceptions, providers
from ..models import UsersIntegrations
from ..models.integrations import GARMINCONNECT, STRAVA
from ..schemas import UsersIntegrationsUpdate
from ..signals import account_linked, account_unlinked
from . import _rows, gear, links, tokens, trail
from ._compiled import find, insert, made
from ._rows import database_errors
from .gear import GearCounts
from .trail import Event

if TYPE_CHECKING:
    from garminconnect import Garmin

_HOMES = {"strava": STRAVA, "garminconnect": GARMINCONNECT}
_TOKENS = {
    "strava": {"strava_token", "strava_refresh_token", "strava_token_expires_at"},
    "garminconnect": {"garminconnect_oauth1", "garminconnect_oauth2"},
}


@database_errors
def get_user_integrations_by_user_id(user_id: int) -> UsersIntegrations:
    """The integrations of one user.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    row: UsersIntegrations = _rows.get_row(STRAVA, user_id)
    return row


@database_errors
def get_user_integrations_by_strava_state(strava_state: str | None) -> UsersIntegrations | None:
    """The row with an authorization in progress under this state, or None.

    `None` and the empty state never match. This does not check the state's expiry or owner;
    complete_authorization does.
    """
    # Databases cannot even compare text with a NUL or half a surrogate pair in it.
    if not strava_state or not str(strava_state).isprintable():
        return None
    found: UsersIntegrations | None = find(UsersIntegrations, {"strava_state": strava_state})
    return found


@database_errors
def create_user_integrations(user_id: int) -> UsersIntegrations:
    """Create a user's row, with defaults only.

    Raises IntegrationsAlreadyExist if the user has one, IntegrationsNotFound if there is no
    such user.
    """
    given = {"user_id": user_id, "created_at": timezone.now()}
    defaults, written = _defaults()
    try:
        with _rows.savepoint():
            key = insert(UsersIntegrations, given | written)
    except IntegrityError as exc:
        if UsersIntegrations.objects.filter(user_id=user_id).exists():
            raise exceptions.IntegrationsAlreadyExist from exc
        raise exceptions.IntegrationsNotFound from exc
    alias = router.db_for_write(UsersIntegrations)
    row: UsersIntegrations = made(UsersIntegrations, alias, defaults | given | {"id": key})
    return row


@cache
def _defaults() -> tuple[dict[str, Any], dict[str, Any]]:
    """What a new row holds; and what of it the database would not fill in."""
    fields = UsersIntegrations._meta.concrete_fields
    defaults = {field.attname: field.get_default() for field in fields}
    filled = {field.attname for field in fields if field.has_db_default()}
    written = {
        name: value for name, value in defaults.items() if value is not None and name not in filled
    }
    return defaults, written


@database_errors
def edit_user_integrations(
    user_integrations: UsersIntegrationsUpdate, user_id: int
) -> UsersIntegrations:
    """Write the fields that were set in the update, and no others.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    columns = user_integrations.model_dump(exclude_unset=True)
    changed = [name for name, named in _TOKENS.items() if columns.keys() & named]
    if "strava_state" in columns:
        columns |= STRAVA.columns(**_rows.state_values(columns["strava_state"]))
    for name, home in _HOMES.items():
        if (switch := home.column("sync_gear")) in columns:
            columns |= _rows.sync_columns(home, columns[switch])
        if name in changed:
            columns |= _rows.anew_columns(home)
    if "strava_refresh_token" in columns:
        columns["strava_site_client_id"] = ""  # the host does not say which app this one is of
    if not changed:
        if columns:
            _rows.update(STRAVA, user_id, **columns)
        return get_user_integrations_by_user_id(user_id)
    with _rows.atomic():
        before = _rows.get_row(STRAVA, user_id, lock=True)
        if "garminconnect_oauth2" in columns:
            session = _provider("garminconnect").session_values(
                columns["garminconnect_oauth2"], before.read_at
            )
            columns["garminconnect_token_expires_at"] = session["token_expires_at"]
        _rows.update(STRAVA, user_id, **columns)
        row = get_user_integrations_by_user_id(user_id)
        for name in changed:
            linked = _HOMES[name].is_linked(row)
            if linked != _HOMES[name].is_linked(before):
                trail.note(user_id, name, Event.LINKED if linked else Event.UNLINKED)
                signal = account_linked if linked else account_unlinked
                _rows.send_after_commit(signal, user_id, name)
    return row


# --- Strava -------------------------------------------------------------------------------------


@database_errors
def set_user_strava_client(user_id: int, client_id: str | None, client_secret: str | None) -> None:
    """Store the user's own Strava app, which wins over the site's.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    # Empty values mean no app: an empty app would hide the site's.
    columns = {"client_id": client_id or None, "client_secret": client_secret or None}
    _rows.update(STRAVA, user_id, **STRAVA.columns(**columns))


@database_errors
def set_user_strava_state(user_id: int, state: str | None) -> None:
    """Store the state of an authorization, good for ten minutes; `None` or "null" clears it.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(STRAVA, user_id, **STRAVA.columns(**_rows.state_values(state)))


@database_errors
def set_user_strava_sync_gear(user_id: int, strava_sync_gear: bool) -> None:
    """Switch gear sync with Strava on or off for one user.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(STRAVA, user_id, **_rows.sync_columns(STRAVA, strava_sync_gear))


@database_errors
def link_strava_account(user_integrations: UsersIntegrations, tokens: Mapping[str, Any]) -> None:
    """Store a pair of tokens as Strava's token endpoint answered it, and clear the state.

    `tokens` holds `access_token`, `refresh_token`, `expires_at` (epoch seconds) and perhaps
    `athlete` with its `id`. The instance is brought up to date with what was written.

    Raises IntegrationsNotFound if the row is gone, InvalidProviderReply if the tokens are not
    as described, AthleteAlreadyLinked if another user has linked this athlete.
    """
    strava = _provider("strava")
    with strava.named():
        pair = strava.parse(tokens)
        links.write_link(
            strava,
            user_integrations.user_id,
            lambda replaced: {
                **strava.token_values(pair, replaced.read_at),
                "linked_at": replaced.strava_linked_at or timezone.now(),
                "site_client_id": "",  # the host does not say
                **_rows.state_values(None),
            },
            strava.identify(None, pair),
            row=user_integrations,
        )


@database_errors
def unlink_strava_account(user_id: int) -> None:
    """Clear every Strava field, the client and an authorization in progress too; sync off.

    The gear that came from Strava goes with it.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    links.unlink(_provider("strava"), user_id)


def get_strava_access_token(user_id: int) -> str:
    """get_access_token for Strava.

    Raises StravaNotLinked, StravaRelinkRequired if the athlete has to connect again, or a
    ProviderError, which leaves the link as it is (`retry_after` in seconds where known).
    """
    return tokens.get_access_token(user_id, "strava")


def sync_strava_gear(user_id: int) -> GearCounts:
    """Sync one user's gear with Strava now: one request, and one for each new gear.

    Raises StravaNotLinked, StravaRelinkRequired, ScopeMissing without profile:read_all, or a
    ProviderError; then no gear has changed.
    """
    return gear.sync_gear(user_id, "strava")


# --- Garmin Connect -----------------------------------------------------------------------------


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
    garmin = _provider("garminconnect")
    links.write_link(
        garmin,
        user_id,
        lambda replaced: {
            **garmin.session_values(oauth2_token, replaced.read_at),
            "oauth1": oauth1_token,
            "is_cn": (oauth1_token or {}).get("domain") == "garmin.cn",
            "account_name": "",  # it may be another athlete; a sync asks
            "linked_at": replaced.garminconnect_linked_at or timezone.now(),
        },
    )


@database_errors
def unlink_garminconnect_account(user_id: int) -> None:
    """Forget a Garmin session, and switch gear sync off.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    links.unlink(_provider("garminconnect"), user_id)


@database_errors
def get_garminconnect_client(user_id: int) -> Garmin:
    """A `garminconnect.Garmin` with the stored session, good for at least 20 more minutes.

    Whenever the session is rotated, now or later in its use, the new one is stored. Threads,
    processes and machines that use it at the same time rotate it once. Not inside atomic().

    Raises GarminConnectNotLinked, GarminConnectRelinkRequired if the athlete has to sign in
    again, or a GarminConnectError, which leaves the link as it is.
    """
    garmin = _provider("garminconnect")
    keeper = tokens.keeper_of(garmin)
    with garmin.named():
        session = keeper.obtain(user_id)
        try:
            found: Garmin = garmin.open(
                session, database_errors(lambda used: keeper.obtain(user_id, replacing=used))
            )
        except exceptions.InvalidSession as exc:
            keeper.declare_unusable(user_id, session)
            raise garmin.relink_required(reason=exc) from exc
    return found


@database_errors
def set_user_garminconnect_sync_gear(user_id: int, garminconnect_sync_gear: bool) -> None:
    """Switch gear sync with Garmin Connect on or off for one user.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    columns = _rows.sync_columns(GARMINCONNECT, garminconnect_sync_gear)
    _rows.update(GARMINCONNECT, user_id, **columns)


def sync_garminconnect_gear(user_id: int) -> GearCounts:
    """Sync one user's gear with Garmin Connect now.

    Raises GarminConnectNotLinked, GarminConnectRelinkRequired, or a GarminConnectError; then no
    gear has changed.
    """
    return gear.sync_gear(user_id, "garminconnect")


def _provider(name: str) -> Any:
    return providers.get(name)
