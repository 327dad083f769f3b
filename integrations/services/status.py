"""What is linked and how well it works, without showing or decrypting a secret."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from django.db.models import Exists, Q, Value
from django.utils import timezone
from django.utils.module_loading import import_string

from .. import providers
from ..clock import dated
from ..exceptions import RelinkRequired, SecretUnreadable
from ..links import Provider
from ..models import Link, LinkStatus, UsersIntegrations
from ._rows import database_errors
from .gear import count_gear
from .words import health_message


class FoundLink(NamedTuple):
    """A provider, and a user's row there: an unsaved one with nothing linked if there is none."""

    provider: Provider
    row: Any

    @property
    def is_linked(self) -> bool:
        return self.provider.home.is_linked(self.row)


@database_errors
def get_integrations_status(user_id: Any) -> dict[str, dict[str, Any]]:
    """The state of every provider that is shown, as the status URL answers it.

    A user without a row has nothing linked. Times are aware UTC. No secrets.
    """
    gear = count_gear(user_id)
    return {
        link.provider.name: describe_link(link, gear.get(link.provider.name, 0))
        for link in get_links(user_id)
    }


@database_errors
def get_links(user_id: Any) -> list[FoundLink]:
    """A user's links to the providers that are shown: those that this site can link, and those that
    the user has linked before.

    Every user's expired sign-ins are settled first, which erases passwords that no worker took.
    """
    homes: dict[Any, list[Provider]] = {UsersIntegrations: []}
    for provider in providers.known().values():
        homes.setdefault(provider.home.model, []).append(provider)
    found, has_links = [], False
    for model, of_model in homes.items():
        # Most sites offer none of those, and most athletes have none: that saves a query.
        if model is Link and not (has_links or any(each.is_shown() for each in of_model)):
            continue
        rows = _rows_of(model, of_model, user_id)
        has_links |= any(row.has_links for row in rows)
        for provider in of_model:
            where = provider.home.where.items()
            same = (row for row in rows if all(getattr(row, key) == it for key, it in where))
            link = FoundLink(provider, next(same, None) or _unsaved(provider, user_id))
            provider.adopt(link.row)
            if link.is_linked or provider.is_shown():
                found.append(link)
    order = list(providers.known())
    return sorted(found, key=lambda link: order.index(link.provider.name))


def settle_attempts(of: list[Provider] | None = None) -> None:
    """End every attempt to link that will not end by itself, with its secrets."""
    for provider in providers.known().values() if of is None else of:
        if provider.settle:
            import_string(provider.settle)()


def _rows_of(model: Any, of_model: list[Provider], user_id: Any) -> list[Any]:
    related = [path for provider in of_model for path in provider.related]
    rows = dated(model.objects).filter(user_id=user_id)
    rows = rows.select_related(*related) if related else rows
    unsettled = [each for each in of_model if each.unsettled() is not None]
    over = [Q(Exists(provider.unsettled())) for provider in unsettled]
    some: Any = reduce(or_, over) if over else Value(False)
    links = Exists(Link.objects.filter(user_id=user_id))
    rows = rows.annotate(has_links=links if model is UsersIntegrations else Value(False))
    found = list(rows.annotate(some_are_over=some))
    if unsettled and (not found or found[0].some_are_over):
        settle_attempts(unsettled)
        found = found and list(rows)
    return found


def _unsaved(provider: Provider, user_id: Any) -> Any:
    row = provider.home.model(user_id=user_id, **provider.home.where)
    row.read_at = timezone.now()  # nothing of another process is compared with it
    return row


def describe_link(link: FoundLink, gear: int) -> dict[str, Any]:
    """One provider of get_integrations_status; makes no query."""
    provider, row = link
    home = provider.home
    described = {
        "status": provider.status(row).value,
        "token_expires_at": home.get(row, "token_expires_at"),
        "error": _error(provider, row),
        **provider.describe(row),
    }
    if provider.has_gear:
        described["sync_gear"] = home.get(row, "sync_gear")
        described["gear"] = gear
        described["last_synced_at"] = home.get(row, "synced_at")
    return described


def link_error(provider: Provider, row: Any) -> str:
    """The code of a link's error, "" if there is none.

    Whether a secret can be read depends on the current keys, not on an error noted earlier.
    """
    home = provider.home
    code: str = home.get(row, "error")
    if not home.is_linked(row):
        return code
    if home.has_ended(row):
        return code or RelinkRequired.code
    if not home.is_readable(row):
        return SecretUnreadable.code
    return "" if code == SecretUnreadable.code else code


def link_message(provider: Provider, row: Any) -> str:
    """A link's error in words, "" if there is none."""
    code = link_error(provider, row)
    return health_message(provider, row, code) if code else ""


def sync_error(provider: Provider, row: Any) -> str:
    """The code of what went wrong in the last gear sync, "" if nothing did."""
    return str(provider.home.get(row, "sync_error")) if provider.has_gear else ""


def sync_message(provider: Provider, row: Any) -> str:
    """What went wrong in the last gear sync, "" if nothing did."""
    code = sync_error(provider, row)
    retried = provider.has_gear and provider.home.get(row, "sync_gear")
    return health_message(provider, row, code, retried=retried) if code else ""


def _error(provider: Provider, row: Any) -> dict[str, str] | None:
    """The error to show first: of the attempt to link, the link, or its gear."""
    told = [
        (link_error(provider, row), link_message(provider, row)),
        (sync_error(provider, row), sync_message(provider, row)),
    ]
    # A link that works is told of before what has not replaced it.
    works = provider.home.status(row) == LinkStatus.LINKED
    told.insert(len(told) if works else 0, provider.failed_attempt(row))
    return next(({"code": code, "message": words} for code, words in told if words), None)
