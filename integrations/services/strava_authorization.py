"""The authorization code grant with Strava (RFC 6749, section 4.1)."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from .. import conf
from ..clock import ahead, dated, later, over
from ..exceptions import (
    AccessDenied,
    AthleteAlreadyLinked,
    ClientRequired,
    IntegrationsError,
    IntegrationsNotFound,
    InvalidClient,
    InvalidGrant,
    InvalidState,
    ProviderUnavailable,
    RateLimited,
    SecretUnreadable,
    SiteClientRejected,
    StravaRelinkRequired,
    error_by_code,
)
from ..metrics import counts_failures
from ..models import LinkStatus, UsersIntegrations
from ..strava.client import StravaClient, StravaTokens
from . import _rows, strava
from ._rows import AUTHORIZATION_LIFETIME, database_errors

# As Strava gives them, and as the page's form takes them.
CLIENT_ID = re.compile(r"[0-9]{1,20}")
# How long a second callback waits for the first, at most: Strava's timeouts included.
EXCHANGE_TAKES = timedelta(seconds=20)

# RFC 6749, section 4.1.2.1
_ERRORS: dict[str, type[IntegrationsError]] = {
    "access_denied": AccessDenied,
    "server_error": ProviderUnavailable,
    "temporarily_unavailable": ProviderUnavailable,
}


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """Where to send the athlete; `expires_in` is in seconds."""

    authorization_url: str = field(repr=False)
    state: str = field(repr=False)
    expires_in: int


@dataclass(frozen=True, slots=True)
class StravaAuthorization:
    """What the athlete granted, and what was requested but not granted."""

    granted: list[str]
    missing: list[str]
    repeated: bool = False  # whether an earlier delivery of the same redirect had made the link


@database_errors
def begin_strava_authorization(
    user_id: int,
    redirect_uri: str,
    client_id: str | None = None,
    client_secret: str | None = None,
) -> AuthorizationRequest:
    """Start connecting Strava: make a state that this user can use once within ten minutes.

    The app is the one given here, else the user's stored one, else the site's. One that is given
    here is kept apart until complete_strava_authorization succeeds, so a working link goes on
    working. A new start replaces an unfinished one.

    Raises ClientRequired if there is no app, half of one, or one that no key opens.
    """
    if bool(client_id) != bool(client_secret):
        raise ClientRequired
    _rows.ensure_row(user_id)
    forget_abandoned_authorizations()  # and the secrets stored with them
    row = _rows.get_row(user_id)
    state = secrets.token_urlsafe(32)  # 256 bits; RFC 6749, section 10.10, asks for 128
    columns = _rows.state_columns(state)
    if client_id and client_secret:
        client = StravaClient(client_id, client_secret)
        columns |= {
            "strava_pending_client_id": client_id,
            "strava_pending_client_secret": client_secret,
        }
    else:
        try:
            own = strava.own_client(row)
        except SecretUnreadable as exc:
            raise ClientRequired from exc  # it has to be entered again
        # It goes into a URL. Whoever can write to the table could have put a token in its place.
        if own is not None and not CLIENT_ID.fullmatch(own.client_id):
            raise ClientRequired
        client = own or strava.site_client()
    _rows.update(user_id, **columns)
    return AuthorizationRequest(
        authorization_url=client.authorization_url(
            redirect_uri,
            conf.strava_scopes(),
            state,
            # An athlete who reconnects a working link wants to change its permissions.
            force=row.strava_status == LinkStatus.LINKED,
        ),
        state=state,
        expires_in=AUTHORIZATION_LIFETIME,
    )


@counts_failures("strava", "authorize")
@database_errors
def complete_strava_authorization(
    user_id: int,
    *,
    state: str,
    code: str | None = None,
    scope: str | None = None,
    error: str | None = None,
) -> StravaAuthorization:
    """Finish connecting Strava with the parameters of its redirect.

    The state is spent first, so only one of two callbacks goes on. Browsers may deliver a redirect
    twice, so the other gets the same outcome. If anything fails, a working link stays exactly as it
    was.

    Raises InvalidState, without asking Strava, if the state is unknown, expired, another user's, or
    spent without making the current link. Raises AccessDenied if the athlete said no,
    AthleteAlreadyLinked, and the errors of StravaClient.exchange_code.
    """
    _rows.require_autocommit()
    try:
        row = _spend_state(user_id, state)
    except InvalidState:
        return _spent_before(user_id, state)
    try:
        return _exchange(user_id, row, state, code, scope, error)
    except IntegrationsError as exc:
        _forget_exchange(user_id, state, exc.code)
        raise
    except BaseException:
        _forget_exchange(user_id, state)
        raise


def _forget_exchange(user_id: int, state: str, code: str = "") -> None:
    """End an exchange that made no link. Its error is kept for the redirect's second delivery."""
    UsersIntegrations.objects.filter(
        user_id=user_id, strava_exchanging_state=_digest(state)
    ).update(strava_exchanging_until=None, strava_exchanging_error=code)


def _exchange(
    user_id: int,
    row: UsersIntegrations,
    state: str,
    code: str | None,
    scope: str | None,
    error: str | None,
) -> StravaAuthorization:
    if error:
        raise _ERRORS.get(error, InvalidGrant)
    if not code:
        raise InvalidGrant

    columns = {}
    if row.has_secret("strava_pending_client_id"):
        client = StravaClient(row.strava_pending_client_id, row.strava_pending_client_secret)
        columns = {
            "strava_client_id": client.client_id,
            "strava_client_secret": row.strava_pending_client_secret,
        }
    else:
        client = strava.own_client(row) or strava.site_client()
    try:
        tokens = client.exchange_code(code)
    except RateLimited as exc:
        own = strava.own_client(row)
        if client.is_site if own is None else client.client_id == own.client_id:
            _rows.note_limit(user_id, "strava", exc)
        raise

    requested = conf.strava_scopes()
    # A redirect without a scope granted what was asked for (RFC 6749, section 5.1).
    granted = requested if scope is None else _granted(scope, requested)
    try:
        replaced = strava.write_link(
            user_id,
            tokens,
            # If Strava does not say who it is, the next sync finds out.
            strava_athlete_id=None,
            strava_scope=",".join(granted) or ",",
            strava_site_client_id=client.client_id if client.is_site else "",
            strava_linked_at=timezone.now(),
            strava_spent_state=_digest(state),
            exchanging=_digest(state),
            **columns,
        )
    except (AthleteAlreadyLinked, InvalidState):
        if not _shares_grant(client, tokens):
            strava.revoke_quietly(client, tokens.refresh_token)
        raise
    except IntegrationsError:
        strava.revoke_quietly(client, tokens.refresh_token)
        raise
    _revoke_replaced(replaced, client, tokens.athlete.id if tokens.athlete else None)
    return _authorization(granted)


def _authorization(granted: list[str]) -> StravaAuthorization:
    missing = [scope for scope in conf.strava_scopes() if scope not in granted]
    return StravaAuthorization(granted=granted, missing=missing)


def _digest(state: str) -> str:
    return salted_hmac("integrations.spent_state", state, algorithm="sha256").hexdigest()


def _spent_before(user_id: int, state: str) -> StravaAuthorization:
    """The outcome for a spent state that has made the current link, or is about to.

    Raises InvalidState for any other state.
    """
    give_up = time.monotonic() + EXCHANGE_TAKES.total_seconds()
    digest = _digest(state)
    while True:
        row = dated(UsersIntegrations.objects).filter(user_id=user_id).first()
        if row is not None and constant_time_compare(row.strava_spent_state, digest):
            if row.strava_status != LinkStatus.LINKED:
                raise StravaRelinkRequired
            scopes = row.strava_scopes if row.strava_scope else conf.strava_scopes()
            return replace(_authorization(scopes), repeated=True)
        if row is None or not constant_time_compare(row.strava_exchanging_state, digest):
            raise InvalidState
        if row.strava_exchanging_error:
            raise _error_again(row)
        until = row.strava_exchanging_until
        if until is None or until < row.read_at or time.monotonic() > give_up:
            raise InvalidState
        time.sleep(0.1)


def _error_again(row: UsersIntegrations) -> IntegrationsError:
    """The error that the first delivery of a redirect was answered with."""
    error = error_by_code(row.strava_exchanging_error, IntegrationsError)
    if error is InvalidClient and not row.has_secret("strava_client_id"):
        return SiteClientRejected()
    if issubclass(error, RateLimited):
        return error(retry_after=strava.limited_for(row) or None)
    return error()


def _spend_state(user_id: int, state: str) -> UsersIntegrations:
    """Spend a state; returns the row as it was just before, including its pending client.

    The row is found by its user, so another user's state is never looked up. The comparison takes
    the same time however close a guess is.
    """
    try:
        row = _rows.get_row(user_id)
    except IntegrationsNotFound:
        raise InvalidState from None
    if not state or not row.strava_state or not constant_time_compare(row.strava_state, state):
        raise InvalidState
    waiting = ahead("strava_state_expires_at", timedelta(seconds=AUTHORIZATION_LIFETIME))
    spent = UsersIntegrations.objects.filter(
        waiting, user_id=user_id, strava_state=row.strava_state
    ).update(
        **_rows.state_columns(None),
        strava_exchanging_state=_digest(state),
        strava_exchanging_until=later(EXCHANGE_TAKES),
        strava_exchanging_error="",
    )
    if not spent:
        # Too late, or spent by another callback a moment ago.
        _abandoned().filter(user_id=user_id).update(**_rows.state_columns(None))
        raise InvalidState
    return row


def _abandoned() -> Any:
    return UsersIntegrations.objects.filter(
        over("strava_state_expires_at", timedelta(seconds=AUTHORIZATION_LIFETIME)),
        strava_state__isnull=False,
        strava_state_expires_at__isnull=False,
    )


@database_errors
def forget_abandoned_authorizations() -> int:
    """Forget expired states and the clients stored with them; returns how many."""
    return int(_abandoned().update(**_rows.state_columns(None)))


def _revoke_replaced(row: UsersIntegrations, client: StravaClient, athlete_id: int | None) -> None:
    """Revoke a link that a new one has replaced, unless the two are the same grant.

    With the same app and the same (or an unknown) athlete, revoking the old pair would end the new
    one, too.
    """
    if not row.has_secret("strava_refresh_token"):
        return
    try:
        same_app = strava.client_for(row).client_id == client.client_id
    except IntegrationsError:
        return
    known = row.strava_athlete_id is not None and athlete_id is not None
    if not same_app or (known and row.strava_athlete_id != athlete_id):
        strava.revoke_row(row)


def _shares_grant(client: StravaClient, tokens: StravaTokens) -> bool:
    """Whether another user has linked this athlete with the same app: revoking one ends both."""
    athlete_id = tokens.athlete.id if tokens.athlete else None
    other = UsersIntegrations.objects.filter(strava_athlete_id=athlete_id).first()
    if other is None:
        return False
    try:
        return strava.client_for(other).client_id == client.client_id
    except IntegrationsError:
        return True  # unknown: their link is worth more than an unused token


def _granted(scope: str, requested: list[str]) -> list[str]:
    """The scopes of a redirect, as far as they can be true: the athlete's browser brings them.

    Of what was requested the athlete may have left out some, or allowed the lesser one alone:
    activity:read of activity:read_all. Strava adds `read` by itself.
    """
    possible = {"read", *requested, *(each.removesuffix("_all") for each in requested)}
    return [each for each in _split(scope) if each in possible]


def _split(scope: str) -> list[str]:
    """Strava separates scopes by commas, RFC 6749 by spaces; no scope has either inside."""
    return list(dict.fromkeys(part for part in scope.replace(",", " ").split() if part))
