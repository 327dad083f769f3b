"""Linking and unlinking Strava in our database, and revoking it at Strava."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from django.db import IntegrityError
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce
from django.utils import timezone
from pydantic import ValidationError

from .. import conf
from ..clock import ahead, dated, over
from ..exceptions import (
    AthleteAlreadyLinked,
    ClientRequired,
    IntegrationsError,
    IntegrationsNotFound,
    InvalidProviderReply,
    InvalidState,
    SecretUnreadable,
    SiteClientChanged,
    SiteClientRejected,
    StravaNotLinked,
)
from ..metrics import count_failure
from ..models import Gear, UsersIntegrations
from ..signals import account_linked, account_unlinked
from ..strava.client import StravaClient, StravaTokens
from . import _rows, _trail
from ._rows import database_errors
from ._trail import Event

logger = logging.getLogger("integrations.strava")


@database_errors
def set_user_strava_client(user_id: int, client_id: str | None, client_secret: str | None) -> None:
    """Store the user's own Strava app, which wins over the site's.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(
        user_id,
        # Empty values mean no app: an empty app would hide the site's.
        strava_client_id=client_id or None,
        strava_client_secret=client_secret or None,
    )


@database_errors
def set_user_strava_state(user_id: int, state: str | None) -> None:
    """Store the state of an authorization, good for ten minutes; `None` or "null" clears it.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(user_id, **_rows.state_columns(state))


@database_errors
def set_user_strava_sync_gear(user_id: int, strava_sync_gear: bool) -> None:
    """Switch gear sync with Strava on or off for one user.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _rows.update(user_id, **_rows.sync_columns("strava", strava_sync_gear))


@database_errors
def link_strava_account(
    user_integrations: UsersIntegrations, tokens: Mapping[str, Any] | StravaTokens
) -> None:
    """Store a pair of tokens as Strava's token endpoint answered it, and clear the state.

    `tokens` holds `access_token`, `refresh_token`, `expires_at` (epoch seconds) and perhaps
    `athlete` with its `id`. The instance is brought up to date with what was written.

    Raises IntegrationsNotFound if the row is gone, InvalidProviderReply if the tokens are not
    as described, AthleteAlreadyLinked if another user has linked this athlete.
    """
    if not isinstance(tokens, StravaTokens):
        try:
            tokens = StravaTokens.model_validate(dict(tokens))
        except (ValidationError, TypeError, ValueError):
            raise InvalidProviderReply from None  # the cause would carry the tokens
    write_link(
        user_integrations.user_id,
        tokens,
        strava_linked_at=Coalesce("strava_linked_at", timezone.now()),
        strava_site_client_id="",  # the host does not say
        **_rows.state_columns(None),
    )
    user_integrations.refresh_from_db()


def write_link(
    user_id: int, tokens: StravaTokens, *, exchanging: str = "", **columns: Any
) -> UsersIntegrations:
    """Write a new link and its health, then tell host projects; returns the row that it replaced.

    If the athlete changes, the old link's gear and granted scopes are deleted with it.

    Raises InvalidState if the exchange that `exchanging` names was overtaken: the athlete has
    disconnected or started anew meanwhile.
    """
    athlete_id = tokens.athlete.id if tokens.athlete is not None else None
    if athlete_id is not None:
        columns["strava_athlete_id"] = athlete_id
    if tokens.athlete is not None and tokens.athlete.name:
        columns["strava_athlete_name"] = tokens.athlete.name
    try:
        with _rows.atomic():  # a savepoint where a caller's transaction is open
            replaced = _rows.lock_row(user_id)
            if exchanging and replaced.strava_exchanging_state != exchanging:
                raise InvalidState
            if athlete_id is not None and replaced.strava_athlete_id not in (None, athlete_id):
                Gear.objects.filter(user_id=user_id, provider="strava").delete()
                columns = {"strava_scope": "", "strava_athlete_name": ""} | columns
                columns |= _rows.unsynced_columns("strava")
            columns = (
                token_columns(tokens, replaced.read_at) | _rows.anew_columns("strava") | columns
            )
            _rows.update(user_id, **columns)
            relinked = replaced.is_linked("strava")
            _trail.note(user_id, "strava", Event.RELINKED if relinked else Event.LINKED)
    except IntegrityError as exc:
        raise AthleteAlreadyLinked from exc
    _rows.send_after_commit(account_linked, user_id, "strava")
    return replaced


def token_columns(tokens: StravaTokens, now: datetime) -> dict[str, Any]:
    """The columns of a pair and of a healthy link; `now` by the database's clock, or a bit less."""
    return {
        "strava_token": tokens.access_token,
        "strava_refresh_token": tokens.refresh_token,
        "strava_token_expires_at": tokens.expires(now),
        "strava_refreshed_at": now,
        **_rows.healthy_columns("strava"),
    }


@database_errors
def unlink_strava_account(user_id: int) -> None:
    """Clear every Strava field, the client and an authorization in progress too; sync off.

    The gear that came from Strava goes with it.

    Raises IntegrationsNotFound if the user has no integrations row.
    """
    _unlink(user_id)


def unlink_if_revoked(user_id: int) -> bool:
    """Clear a link that Strava says is dead; leave one that was reconnected meanwhile alone."""
    try:
        return _unlink(
            user_id,
            only_if=Q(strava_relink_required_at__isnull=False, strava_refresh_token__isnull=False),
        )
    except IntegrationsNotFound:
        return False


def _unlink(user_id: int, code: str = "", only_if: Q | None = None) -> bool:
    linked = _trail.unlink(
        user_id,
        "strava",
        code,
        only_if,
        strava_client_id=None,
        strava_client_secret=None,
        strava_token=None,
        strava_refresh_token=None,
        strava_token_expires_at=None,
        strava_sync_gear=False,
        strava_athlete_id=None,
        strava_athlete_name="",
        strava_scope="",
        strava_site_client_id="",
        strava_linked_at=None,
        strava_refreshed_at=None,
        # The site's app is limited as before, whoever has run into it.
        strava_limited_until=Case(
            When(strava_client_id=None, then=F("strava_limited_until")), default=Value(None)
        ),
        strava_limited_reads=F("strava_limited_reads"),
        **_rows.state_columns(None),
    )
    if linked:
        _rows.send_after_commit(account_unlinked, user_id, "strava")
    return linked


@database_errors
def disconnect_strava(user_id: int) -> bool:
    """Revoke the link at Strava, then clear it here.

    Returns whether Strava confirmed. If it did not, everything is still cleared here, and the
    athlete has to end the access in Strava's settings.

    Raises StravaNotLinked if there was no link.
    """
    _rows.require_autocommit()
    while True:
        try:
            row = _rows.get_row(user_id)
        except IntegrationsNotFound:
            raise StravaNotLinked from None
        linked = row.has_secret("strava_token") or row.has_secret("strava_refresh_token")
        if linked:
            with suppress(IntegrationsNotFound):  # deleted at this moment
                _rows.require_writes(user_id)
        revoked = linked and revoke_row(row)
        # A refresh may have stored a new pair meanwhile, which has to be revoked, too. A later one
        # finds no link and revokes its own pair.
        unchanged = Q(strava_refresh_token=row.sealed("strava_refresh_token"))
        with suppress(IntegrationsNotFound):
            _unlink(user_id, "" if revoked or not linked else "not_revoked", unchanged)
            break
    if not linked:
        raise StravaNotLinked
    return revoked


def revoke_row(row: UsersIntegrations) -> bool:
    """Revoke a row's tokens at Strava, as the app that they were issued to."""
    try:
        client = client_for(row)
        # Either token kills both (RFC 7009, section 2.1); the refresh token lives longer.
        if row.has_secret("strava_refresh_token"):
            return revoke_quietly(client, row.strava_refresh_token)
        return revoke_quietly(client, row.strava_token, "access_token")
    except IntegrationsError as exc:  # the client is gone, or a key was lost
        logger.warning(
            "strava link of user %s cannot be revoked: %s",
            row.user_id,
            exc.code,
            extra={"event": "strava.not_revocable", "user_id": row.user_id},
        )
        return False


def revoke_quietly(
    client: StravaClient,
    token: str,
    hint: str = "refresh_token",
) -> bool:
    """Revoke without raising an error; returns whether Strava confirmed."""
    try:
        client.revoke(token, hint)
    except IntegrationsError as exc:
        count_failure("strava", "revoke", exc.code)
        return False
    return True


def note_athlete(row: UsersIntegrations, athlete_id: int) -> None:
    """Note whose link it is, if the token endpoint did not say."""
    # If another user has linked the athlete, too, push events stay with that user.
    with suppress(IntegrityError), _rows.atomic():
        UsersIntegrations.objects.filter(
            pk=row.pk, strava_linked_at=row.strava_linked_at, strava_athlete_id=None
        ).update(strava_athlete_id=athlete_id)


def site_limited_for(*, reading: bool = False) -> int:
    """Seconds until the site's app may ask again; 0 if it has not used up its rate limit.

    A limit of reads stops only `reading`; requests to the token endpoint are not reads.
    """
    return _rows.limited_for(_limited(reading, strava_client_id=None).first(), "strava")


def limited_for(row: UsersIntegrations, *, reading: bool = False) -> int:
    """Seconds until the app of a row may ask Strava again; refused requests count, too.

    Several athletes may use the same app of their own. Comparing apps means opening secrets, but
    only a few apps are limited at a time.
    """
    if not row.has_secret("strava_client_id"):
        return site_limited_for(reading=reading)
    limited = _limited(reading, strava_client_id__isnull=False)[:100]
    same = (each for each in limited if _is_same_app(row, each))
    return _rows.limited_for(next(same, None), "strava")


def own_unlimited() -> Q:
    """The links with their own app that have not run into a limit, except one of reads."""
    unlimited = over("strava_limited_until", _rows.LIMIT_LASTS) | Q(strava_limited_reads=True)
    return Q(strava_client_id__isnull=False) & unlimited


def _limited(reading: bool, **only: Any) -> Any:
    """The links that ran into a limit that is not over, the longest one first."""
    limited = ahead("strava_limited_until", _rows.LIMIT_LASTS)
    rows = dated(UsersIntegrations.objects).filter(limited, **only)
    if not reading:
        rows = rows.filter(strava_limited_reads=False)
    return rows.order_by("-strava_limited_until")


def _is_same_app(row: UsersIntegrations, other: UsersIntegrations) -> bool:
    if row.pk == other.pk:
        return True
    try:
        return bool(row.strava_client_id == other.strava_client_id)
    except SecretUnreadable:
        return False


def own_client(row: UsersIntegrations) -> StravaClient | None:
    """The user's own Strava app, None if the row has none."""
    if not (row.has_secret("strava_client_id") and row.has_secret("strava_client_secret")):
        return None
    return StravaClient(row.strava_client_id, row.strava_client_secret)


def site_client() -> StravaClient:
    """The site's Strava app. Raises ClientRequired if it has none."""
    client = conf.strava_client()
    if client is None:
        raise ClientRequired
    return StravaClient(*client, is_site=True)


def client_for(row: UsersIntegrations) -> StravaClient:
    """The app that the row's tokens belong to.

    Raises SiteClientRejected if that was the site's and is no longer configured, SiteClientChanged
    if the site has another one now: to another app, Strava answers as if the link were dead.
    """
    client = own_client(row)
    if client is not None:
        return client
    try:
        client = site_client()
    except ClientRequired as exc:
        raise SiteClientRejected from exc
    if row.strava_site_client_id not in ("", client.client_id):
        raise SiteClientChanged
    return client
