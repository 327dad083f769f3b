"""The trail: what happened to links, when, and by whom. Codes, never secrets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import NamedTuple

from django.db.models.functions import Now

from .. import conf, ending
from ..clock import later
from ..models import LinkEvent
from ._compiled import insert
from ._rows import database_errors

Actor = LinkEvent.Actor
Event = LinkEvent.Event


class _Acting(NamedTuple):
    actor: str
    user_id: int | None


_acting: ContextVar[_Acting] = ContextVar("integrations_acting")
SYSTEM = _Acting("system", None)
_NOW = Now()  # one, because its hash, by which statements are kept, takes a while


@contextmanager
def acting_as(actor: str, user_id: int | None = None) -> Iterator[None]:
    """Set who acts within the block: "athlete", "staff" or "provider"; otherwise it is "system"."""
    token = _acting.set(_Acting(actor, user_id))
    try:
        yield
    finally:
        _acting.reset(token)


def acting() -> tuple[str, int | None]:
    """The current actor, to be passed to a task and set again there."""
    return _acting.get(SYSTEM)


def note(
    user_id: int | None, provider: str, event: str, code: str = "", actor: str | None = None
) -> None:
    """Write one line of the trail, within the caller's transaction if there is one."""
    acting = _acting.get(SYSTEM)
    if actor is not None:
        acting = _Acting(actor, user_id if actor == Actor.ATHLETE else None)
    line = {
        "user": user_id,
        "provider": provider,
        "event": event,
        "code": code[:64],
        "actor": acting.actor,
        "actor_user": acting.user_id,
        "at": _NOW,
    }
    insert(LinkEvent, line)


@database_errors
def get_link_events(user_id: int, limit: int = 10) -> list[LinkEvent]:
    """The newest events of one user's links."""
    return list(LinkEvent.objects.filter(user_id=user_id).order_by("-at", "-pk")[:limit])


@database_errors
def forget_old_link_events(limit: float = math.inf) -> int:
    """Delete events older than the setting INTEGRATIONS_TRAIL_DAYS; returns how many.

    After `limit` of them, or once the process is told to end, it leaves the rest.
    """
    before = later(-timedelta(days=conf.trail_days()))
    old = LinkEvent.objects.filter(at__lt=before).values_list("pk", flat=True)
    count = 0
    while count < limit and not ending.told() and (ids := list(old[:1000])):
        deleted, _ = LinkEvent.objects.filter(pk__in=ids).delete()
        count += deleted
    return count
