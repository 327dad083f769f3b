"""Writing links, and ending them: here, and at their providers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from django.db import IntegrityError
from django.db.models import Case, F, Q, Value, When

from .. import exceptions
from ..links import Account, Provider
from ..metrics import count_failure
from ..models import Gear, LinkStatus
from ..signals import account_linked, account_unlinked
from . import _rows, trail
from ._compiled import update_where
from ._providers import of_provider, reading
from .trail import Event

logger = logging.getLogger("integrations.links")

_ALWAYS = Q()


def write_link(
    provider: Provider,
    user_id: Any,
    values: Callable[[Any], dict[str, Any]],
    account: Account | None = None,
    *,
    exchanging: str = "",
    actor: str | None = None,
    row: Any = None,
) -> Any:
    """Write a new link and its health, then tell host projects; returns the row that it replaced.

    `values` computes what to write from that row, as Link names it. If the account changes, the old
    link's gear and granted scopes are deleted with it. A `row` of the user's is brought up to date.

    Raises IntegrationsNotFound if there is no row, AthleteAlreadyLinked if another user has linked
    the account, InvalidState if the exchange that `exchanging` names was overtaken: the athlete has
    disconnected or started anew meanwhile.
    """
    home = provider.home
    try:
        with _rows.atomic():  # a savepoint where a caller's transaction is open
            replaced = _rows.get_row(home, user_id, lock=True)
            if exchanging and home.get(replaced, "exchanging_state") != exchanging:
                raise exceptions.InvalidState
            columns = _rows.anew_columns(home) | home.columns(**values(replaced))
            if account is not None:
                known = home.get(replaced, "account_id")
                if known is not None and str(known) != account.id:
                    Gear.objects.filter(user_id=user_id, provider=provider.name).delete()
                    forgotten = {"scope": "", "account_name": "", **_rows.UNSYNCED}
                    columns = home.columns(**forgotten) | columns
                columns |= home.columns(account_id=account.id)
                if account.name:
                    columns |= home.columns(account_name=account.name)
            for name in home.secrets:
                if (column := home.column(name)) in columns:
                    columns[column] = home.fields[name].seal(columns[column])
            _rows.update(home, user_id, **columns)
            event = Event.RELINKED if home.is_linked(replaced) else Event.LINKED
            trail.note(user_id, provider.name, event, actor=actor)
    except IntegrityError as exc:
        raise exceptions.AthleteAlreadyLinked from exc
    _rows.send_after_commit(account_linked, user_id, provider.name)
    if row is not None:
        found = {name: value for name, value in replaced.__dict__.items() if name != "_state"}
        found |= {name: row._meta.get_field(name).to_python(columns[name]) for name in columns}
        row.__dict__.update(found)
    return replaced


def unlink(
    provider: Provider,
    user_id: Any,
    code: str = "",
    only_if: Q = _ALWAYS,
    **unchanged: Any,
) -> bool:
    """Clear a link, delete its gear and note this in the trail: all or nothing.

    Returns whether there was a link. Without one, the other columns are cleared and nothing is
    noted. Raises IntegrationsNotFound if the user has no row for which `only_if` is true, and which
    has the columns `unchanged`.
    """
    home = provider.home
    where = {"user": user_id, **home.where, **unchanged}
    unlinked = home.conditions[LinkStatus.NOT_LINKED]
    with _rows.atomic():
        # The second of two calls finds nothing left. A third try, as it may be linked in between.
        for linked in (True, False, True):
            is_so = only_if & (~unlinked if linked else unlinked)
            if update_where(home.model, where, _cleared(provider), is_so):
                break
        else:
            raise exceptions.IntegrationsNotFound
        Gear.objects.filter(user_id=user_id, provider=provider.name).delete()
        if linked:
            trail.note(user_id, provider.name, Event.UNLINKED, code)
            _rows.send_after_commit(account_unlinked, user_id, provider.name)
    return linked


@cache
def _cleared(provider: Provider) -> dict[str, Any]:
    home = provider.home
    kept = {"provider", "created_at"}
    values: dict[str, Any] = {}
    if provider.limits_apps:
        # The site's app is limited as before, whoever has run into it.
        kept |= {"limited_until", "limited_reads"}
        if home.has("client_id"):
            until = F(home.column("limited_until"))
            limit = Case(When(home.q(client_id=None), then=until), default=Value(None))
            values["limited_until"] = limit
    values |= {name: each.get_default() for name, each in home.fields.items() if name not in kept}
    return home.columns(**values)


@of_provider
def disconnect(user_id: Any, provider: Provider) -> bool:
    """Revoke a link at its provider, then clear it here, with any attempt to link under way.

    Returns whether the provider confirmed. If it did not, everything is still cleared here, and the
    athlete has to end the access at the provider.

    Raises UnknownProvider, and NotLinked if there was neither.
    """
    if provider.revokes:
        _rows.require_autocommit()
    home = provider.home
    canceled = revoked = False
    while True:
        try:
            row = _rows.get_row(home, user_id)
        except exceptions.IntegrationsNotFound:
            raise provider.not_linked from None
        guard = provider.guard(row)
        linked = home.is_linked(row) or home.has_secret(row, guard)
        if linked and provider.revokes:
            # Before a provider is asked for what cannot be undone, the database has to show that it
            # will take the outcome: it writes the row as it is, unless that is deleted just now.
            with suppress(exceptions.IntegrationsNotFound):
                _rows.update(home, user_id, user=user_id)
            revoked = revoke_row(provider, row)
        code = "not_revoked" if linked and provider.revokes and not revoked else ""
        # A refresh may have stored new tokens meanwhile, which have to be revoked, too. A later one
        # finds no link and revokes its own.
        sealed = home.sealed(row, guard)
        unchanged = {} if sealed is None else {home.column(guard): sealed}
        only_if = home.q(**{f"{guard}__isnull": sealed is None})
        with suppress(exceptions.IntegrationsNotFound), _rows.atomic():
            # First, in the same order as a sign-in that ends, or the two could deadlock.
            canceled |= provider.cancel(user_id)
            unlink(provider, user_id, code, only_if, **unchanged)
            break
    if not (linked or canceled):
        raise provider.not_linked
    return revoked


def revoke_row(provider: Provider, row: Any) -> bool:
    """Revoke a row's grant at its provider, as the app that it was given to; returns whether the
    provider confirmed, or another link has the grant by now."""
    if stands_elsewhere(provider, row):
        return True
    try:
        with reading(provider):
            provider.revoke(row)
    except exceptions.IntegrationsError as exc:
        # An access token may be refused for its age alone, unless it is all there is.
        home = provider.home
        is_all = home.has_ended(row) or not home.has_secret(row, "refresh_token")
        if isinstance(exc, provider.dead) or (is_all and isinstance(exc, exceptions.TokenRejected)):
            return True  # there is nothing left to revoke
        count_failure(provider.name, "revoke", exc.code)
        event = {"event": f"{provider.name}.not_revoked", "user_id": row.user_id}
        logger.warning("%s link not revoked: %s", provider.label, exc.code, extra=event)
        return False
    return True


def stands_elsewhere(provider: Provider, row: Any) -> bool:
    """Whether the grant of a row is that of another link by now: revoking one ends both.

    A revocation may come late, after a deletion was committed, or with an answer that waited in a
    file. Meanwhile the person may have connected the same account again, as another user.
    """
    home = provider.home
    if not home.has("account_id") or home.get(row, "account_id") is None:
        return False
    others = home.rows().filter(
        home.conditions[LinkStatus.LINKED], home.q(account_id=home.get(row, "account_id"))
    )
    return any(not provider.is_another_grant(row, each) for each in others.exclude(pk=row.pk))
