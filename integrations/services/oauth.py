"""The authorization code grant (RFC 6749, section 4.1), for every provider that has it."""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from .. import exceptions, providers
from ..clock import ahead, dated, later, over
from ..gear import clean_text
from ..links import Account, Home, Provider
from ..metrics import count_failure
from ..models import LinkStatus
from ..oauth.client import OAuthClient, Tokens
from ..oauth.provider import OAuthProvider, split_scope
from . import _limits, _rows, links
from ._providers import oauth, of_provider, reading
from ._rows import AUTHORIZATION_LIFETIME, database_errors

# As providers give them, and as the page's form takes them.
CLIENT_ID = re.compile(r"[0-9]{1,20}")
# How long a second callback waits for the first, at most: the provider's timeouts included.
EXCHANGE_TAKES = timedelta(seconds=20)

# RFC 6749, section 4.1.2.1
_ERRORS: dict[str, type[exceptions.IntegrationsError]] = {
    "access_denied": exceptions.AccessDenied,
    "server_error": exceptions.ProviderUnavailable,
    "temporarily_unavailable": exceptions.ProviderUnavailable,
}


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """Where to send the athlete; `expires_in` is in seconds."""

    authorization_url: str = field(repr=False)
    state: str = field(repr=False)
    expires_in: int


@dataclass(frozen=True, slots=True)
class Authorization:
    """What the athlete granted, and what was requested but not granted."""

    granted: list[str]
    missing: list[str]
    repeated: bool = False  # whether an earlier delivery of the same redirect had made the link


@of_provider
def begin_authorization(
    user_id: Any,
    provider: Provider,
    redirect_uri: str,
    client_id: str | None = None,
    client_secret: str | None = None,
) -> AuthorizationRequest:
    """Start connecting a provider: make a state that this user can use once within ten minutes.

    The app is the one given here, else the user's stored one, else the site's. One that is given
    here is kept apart until complete_authorization succeeds, so a working link goes on working. A
    new start replaces an unfinished one.

    Raises UnknownProvider, and ClientRequired if there is no app, half of one, one that no key
    opens, or one of the athlete's own where the provider takes none.
    """
    provider = oauth(provider)
    home = provider.home
    given = bool(client_id)
    if given != bool(client_secret) or (given and not provider.own_apps):
        raise exceptions.ClientRequired
    if not given and not provider.own_apps:
        provider.site_client()  # before a row is made for nothing
    _rows.ensure_row(home, user_id)
    forget_abandoned_authorizations()  # and the secrets stored with them
    row = _rows.get_row(home, user_id)
    state = secrets.token_urlsafe(32)  # 256 bits; RFC 6749, section 10.10, asks for 128
    values = _rows.state_values(state) | {"redirect_uri": redirect_uri}
    if client_id and client_secret:
        client = provider.client(client_id, client_secret)
        values |= {"pending_client_id": client_id, "pending_client_secret": client_secret}
    else:
        try:
            own = provider.own_client(row)
        except exceptions.SecretUnreadable as exc:
            raise exceptions.ClientRequired from exc  # it has to be entered again
        # It goes into a URL. Whoever can write to the table could have put a token in its place.
        if own is not None and not CLIENT_ID.fullmatch(own.client_id):
            raise exceptions.ClientRequired
        client = own or provider.site_client()
    _rows.update(home, user_id, **home.columns(**values))
    # An athlete who reconnects a working link wants to change its permissions.
    extra = provider.authorization_extra(reconnects=home.status(row) == LinkStatus.LINKED)
    url = client.authorization_url(redirect_uri, provider.requested_scopes(), state, **extra)
    return AuthorizationRequest(url, state, AUTHORIZATION_LIFETIME)


@of_provider
def complete_authorization(
    user_id: Any,
    provider: Provider,
    *,
    state: str,
    code: str | None = None,
    scope: str | None = None,
    error: str | None = None,
) -> Authorization:
    """Finish connecting a provider with the parameters of its redirect.

    The state is spent first, so only one of two callbacks goes on. Browsers may deliver a redirect
    twice, so the other gets the same outcome. If anything fails, a working link stays exactly as it
    was.

    Raises InvalidState, without asking the provider, if the state is unknown, expired, another
    user's, or spent without making the current link. Raises AccessDenied if the athlete said no,
    AthleteAlreadyLinked, and the errors of OAuthClient.exchange_code.
    """
    try:
        provider, home = oauth(provider), provider.home
        _rows.require_autocommit()
        if not state and error:
            # A denial without a state may be anybody's, so it changes nothing.
            raise _ERRORS.get(error, exceptions.InvalidGrant)
        try:
            row = _spend_state(user_id, provider, state)
        except exceptions.InvalidState:
            return _spent_before(user_id, provider, state)
        try:
            if error or not code:
                raise _ERRORS.get(error or "", exceptions.InvalidGrant)
            return _exchange(user_id, provider, row, state, code, scope)
        except BaseException as exc:
            # No link was made. The error is kept for the redirect's second delivery.
            kept = exc.code if isinstance(exc, exceptions.IntegrationsError) else ""
            same = home.q(exchanging_state=_digest(state))
            home.write(user_id, same, exchanging_until=None, exchanging_error=kept)
            raise
    except exceptions.IntegrationsError as exc:
        count_failure(provider.name, "authorize", exc.code)
        raise


def _exchange(
    user_id: Any, provider: OAuthProvider, row: Any, state: str, code: str, scope: str | None
) -> Authorization:
    home = provider.home
    app: dict[str, Any] = {}
    if home.has_secret(row, "pending_client_id"):
        app = {
            "client_id": home.get(row, "pending_client_id"),
            "client_secret": home.get(row, "pending_client_secret"),
        }
        client = provider.client(**app)
    else:
        client = provider.own_client(row) or provider.site_client()
    try:
        redirect_uri = home.get(row, "redirect_uri") if home.has("redirect_uri") else ""
        tokens = client.exchange_code(code, redirect_uri, state)
    except exceptions.RateLimited as exc:
        own = provider.own_client(row)
        if client.is_site if own is None else client.client_id == own.client_id:
            _rows.note_limit(home, user_id, exc)
        raise

    granted = _granted(provider, tokens, scope)
    account: Account | None = None
    try:
        with reading(provider):
            said = provider.identify(client, tokens)
        if said is not None:
            # An empty id would be everybody's, and databases take neither a NUL nor half a
            # surrogate pair.
            if not (said.id.isprintable() and 0 < len(said.id) <= 255):
                raise exceptions.InvalidProviderReply
            account = said._replace(name=clean_text(said.name))
            same = home.rows().filter(home.q(account_id=account.id))
            if same.exclude(user_id=user_id).exists():
                raise exceptions.AthleteAlreadyLinked
            with reading(provider):
                account = provider.register(client, tokens, account, user_id)
        replaced = links.write_link(
            provider,
            user_id,
            lambda replaced: {
                **provider.token_values(tokens, replaced.read_at),
                # If the provider does not say who it is, the next sync finds out.
                "account_id": None,
                "scope": ",".join(granted) or ",",
                "site_client_id": client.client_id if client.is_site else "",
                "linked_at": timezone.now(),
                "spent_state": _digest(state),
                **app,
            },
            account,
            exchanging=_digest(state),
        )
    except exceptions.IntegrationsError:
        # Unless that would end a link that stands: with the same app, one account has one grant.
        if not _shares_grant(provider, client, account):
            try:
                with reading(provider):
                    provider.revoke_tokens(client, tokens, account, row.read_at)
            except exceptions.IntegrationsError as exc:
                count_failure(provider.name, "revoke", exc.code)
        raise
    _revoke_replaced(provider, replaced, client, account)
    return _authorization(provider, granted)


def _granted(provider: OAuthProvider, tokens: Tokens, scope: str | None) -> list[str]:
    """What the token answer says was granted, or the redirect.

    Where neither does, it is what was asked for (RFC 6749, section 5.1).
    """
    requested = provider.requested_scopes()
    if tokens.scope is not None:
        return [each for each in split_scope(tokens.scope) if each.isprintable()][:100]
    return requested if scope is None else provider.granted(scope, requested)


def _authorization(provider: OAuthProvider, granted: list[str]) -> Authorization:
    missing = [scope for scope in provider.requested_scopes() if scope not in granted]
    return Authorization(granted=granted, missing=missing)


def _digest(state: str) -> str:
    return salted_hmac("integrations.spent_state", state, algorithm="sha256").hexdigest()


def _spent_before(user_id: Any, provider: OAuthProvider, state: str) -> Authorization:
    """The outcome for a spent state that has made the current link, or is about to.

    Raises InvalidState for any other state.
    """
    home = provider.home
    give_up = time.monotonic() + EXCHANGE_TAKES.total_seconds()
    digest = _digest(state)
    while True:
        row = dated(home.of(user_id)).first()
        if row is not None and constant_time_compare(home.get(row, "spent_state"), digest):
            if home.status(row) != LinkStatus.LINKED:
                raise provider.relink_required
            known = home.scopes(row) if home.get(row, "scope") else provider.requested_scopes()
            return replace(_authorization(provider, known), repeated=True)
        if row is None or not constant_time_compare(home.get(row, "exchanging_state"), digest):
            raise exceptions.InvalidState
        if home.get(row, "exchanging_error"):
            raise _error_again(provider, row)
        until = home.get(row, "exchanging_until")
        if until is None or until < row.read_at or time.monotonic() > give_up:
            raise exceptions.InvalidState
        time.sleep(0.1)


def _error_again(provider: Provider, row: Any) -> exceptions.IntegrationsError:
    """The error that the first delivery of a redirect was answered with."""
    error = exceptions.error_by_code(
        provider.home.get(row, "exchanging_error"), exceptions.IntegrationsError
    )
    if error is exceptions.InvalidClient and not provider.home.has_secret(row, "client_id"):
        return exceptions.SiteClientRejected()
    if issubclass(error, exceptions.RateLimited):
        return error(retry_after=_limits.limited_for(provider, row) or None)
    return error()


def _spend_state(user_id: Any, provider: Provider, state: str) -> Any:
    """Spend a state; returns the row as it was just before, including its pending client.

    The row is found by its user, so another user's state is never looked up. The comparison takes
    the same time however close a guess is.
    """
    home = provider.home
    try:
        row = _rows.get_row(home, user_id)
    except exceptions.IntegrationsNotFound:
        raise exceptions.InvalidState from None
    stored = home.get(row, "state")
    if not state or not stored or not constant_time_compare(stored, state):
        raise exceptions.InvalidState
    lifetime = timedelta(seconds=AUTHORIZATION_LIFETIME)
    waiting = ahead(home.column("state_expires_at"), lifetime) & home.q(state=stored)
    spent = {
        **_rows.state_values(None),
        "exchanging_state": _digest(state),
        "exchanging_until": later(EXCHANGE_TAKES),
        "exchanging_error": "",
    }
    if not home.write(user_id, waiting, **spent):
        # Too late, or spent by another callback a moment ago.
        _forget_abandoned(home, home.of(user_id))
        raise exceptions.InvalidState
    return row


@database_errors
def forget_abandoned_authorizations() -> int:
    """Forget expired states and the clients stored with them; returns how many."""
    found = [each for each in providers.known().values() if isinstance(each, OAuthProvider)]
    # Many providers share a table, and their links its columns.
    homes = {(each.home.model, each.home.prefix): each.home for each in found}
    with _rows.atomic():
        return sum(_forget_abandoned(home, home.model.objects.all()) for home in homes.values())


def _forget_abandoned(home: Home, rows: Any) -> int:
    lifetime = timedelta(seconds=AUTHORIZATION_LIFETIME)
    abandoned = over(home.column("state_expires_at"), lifetime)
    abandoned &= home.q(state__isnull=False, state_expires_at__isnull=False)
    return int(rows.filter(abandoned).update(**home.columns(**_rows.state_values(None))))


def _revoke_replaced(
    provider: OAuthProvider, row: Any, client: OAuthClient, account: Account | None
) -> None:
    """Revoke a link that a new one has replaced, unless the two are the same grant.

    With the same app and the same (or an unknown) account, revoking the old tokens would end the
    new ones, too.
    """
    home = provider.home
    if not home.has_secret(row, provider.guard(row)):
        return
    former = home.get(row, "account_id")
    is_another = former is not None and account is not None and str(former) != account.id
    with suppress(exceptions.IntegrationsError):
        if provider.client_for(row).client_id != client.client_id or is_another:
            links.revoke_row(provider, row)


def _shares_grant(provider: OAuthProvider, client: OAuthClient, account: Account | None) -> bool:
    """Whether a link stands that has the same grant: revoking one ends both.

    An account that is unknown may be that of any link here, this user's or another's.
    """
    home = provider.home
    linked = home.rows().filter(home.conditions[LinkStatus.LINKED])
    if account is None:
        return bool(linked.exists())
    for other in linked.filter(home.q(account_id=account.id)):
        try:
            return bool(provider.client_for(other).client_id == client.client_id)
        except exceptions.IntegrationsError:
            return True  # unknown: that link is worth more than an unused token
    return False
