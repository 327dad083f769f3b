"""Each service of the seed against the obvious Django, and against its floor.

The obvious is `get()` and `save()` on a row of the seed's columns, without encryption, trail or
health (`obvious.py`). The floor is what no implementation can do without: the same statements,
ready-made, through a bare cursor, and as many operations of bare `cryptography.fernet` on the same
values. How many statements those are is part of the table, because a needless one would raise the
floor too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from statistics import geometric_mean, median
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from fernet_fields import hkdf

from integrations import services
from integrations.models import UsersIntegrations
from integrations.schemas import UsersIntegrationsUpdate

from . import obvious
from .models import Obvious
from .sealing import counted
from .table import Line

ROWS = 10_000
CALLS = 400
# The first one's is a number that stands for nothing else among the parameters.
USERS = range(ROWS - 2 * CALLS, ROWS + 1)

OAUTH1 = {"oauth_token": "x" * 36, "oauth_token_secret": "y" * 36, "domain": "garmin.com"}
OAUTH2 = {"di_token": "x" * 1200, "di_refresh_token": "y" * 400, "di_client_id": "z" * 40}
EDIT = UsersIntegrationsUpdate(strava_client_id="1" * 6, strava_client_secret="s" * 40)


def _state(user_id: int) -> str:
    return f"benchmark-state-{user_id:027}"


def _tokens() -> dict[str, Any]:
    expires_at = int((timezone.now() + timedelta(hours=5)).timestamp())
    return {"access_token": "a" * 40, "refresh_token": "r" * 40, "expires_at": expires_at}


Call = Callable[[int], Any]


@dataclass(frozen=True)
class _Operation:
    """What a user's row goes through in ours, in the obvious, and untimed before both."""

    name: str
    bound: float
    ours: Call
    obvious: Call
    before: Call = lambda user_id: None


def _operations() -> Iterator[_Operation]:
    rows: dict[int, tuple[UsersIntegrations, Obvious]] = {}
    tokens = _tokens()
    client = {"strava_client_id": "1" * 6, "strava_client_secret": "s" * 40}

    def have_rows(user_id: int) -> None:
        rows[user_id] = (
            services.get_user_integrations_by_user_id(user_id),
            obvious.by_user(user_id),
        )

    def have_none(user_id: int) -> None:
        UsersIntegrations.objects.filter(user_id=user_id).delete()
        Obvious.objects.filter(user_id=user_id).delete()

    yield _Operation(
        "get_strava_access_token (fresh)",
        0.6,
        services.get_strava_access_token,
        obvious.access_token,
    )
    yield _Operation(
        "get_user_integrations_by_user_id",
        0.8,
        services.get_user_integrations_by_user_id,
        obvious.by_user,
    )
    yield _Operation(
        "set_user_strava_state",
        1.0,
        lambda user_id: services.set_user_strava_state(user_id, _state(user_id)),
        lambda user_id: obvious.save(user_id, strava_state=_state(user_id)),
    )
    yield _Operation(
        "get_user_integrations_by_strava_state",
        0.8,
        lambda user_id: services.get_user_integrations_by_strava_state(_state(user_id)),
        lambda user_id: obvious.by_state(_state(user_id)),
    )
    yield _Operation(
        "set_user_strava_client",
        1.0,
        lambda user_id: services.set_user_strava_client(user_id, *client.values()),
        lambda user_id: obvious.save(user_id, **client),
    )
    yield _Operation(
        "edit_user_integrations",
        1.0,
        lambda user_id: services.edit_user_integrations(EDIT, user_id),
        lambda user_id: obvious.edit(EDIT, user_id),
    )
    yield _Operation(
        "set_user_strava_sync_gear",
        1.0,
        lambda user_id: services.set_user_strava_sync_gear(user_id, True),
        lambda user_id: obvious.save(user_id, strava_sync_gear=True),
    )
    yield _Operation(
        "set_user_garminconnect_sync_gear",
        1.0,
        lambda user_id: services.set_user_garminconnect_sync_gear(user_id, True),
        lambda user_id: obvious.save(user_id, garminconnect_sync_gear=True),
    )
    yield _Operation(
        "link_strava_account",
        1.5,
        lambda user_id: services.link_strava_account(rows[user_id][0], tokens),
        lambda user_id: obvious.link_strava(rows[user_id][1], tokens),
        have_rows,
    )
    yield _Operation(
        "link_garminconnect_account",
        1.5,
        lambda user_id: services.link_garminconnect_account(user_id, OAUTH1, OAUTH2),
        lambda user_id: obvious.save(
            user_id, garminconnect_oauth1=OAUTH1, garminconnect_oauth2=OAUTH2
        ),
    )
    # Each user has by now what is taken from them here.
    yield _Operation(
        "unlink_garminconnect_account",
        1.5,
        services.unlink_garminconnect_account,
        obvious.unlink_garminconnect,
    )
    yield _Operation(
        "unlink_strava_account", 1.5, services.unlink_strava_account, obvious.unlink_strava
    )
    yield _Operation(
        "create_user_integrations",
        1.0,
        services.create_user_integrations,
        obvious.create,
        have_none,
    )


class _Floor:
    """One call's statements and secrets, to be repeated without the service."""

    def __init__(self, service: Call, user_id: int) -> None:
        self.user_id = user_id
        self.statements: list[tuple[str, Any]] = []

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if not sql.startswith(("BEGIN", "SAVEPOINT", "RELEASE")):
                self.statements.append((sql, params))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(note), counted() as secrets:
            service(user_id)
        self.sealed, self.opened = secrets.sealed, secrets.opened
        self.fernet = Fernet(hkdf.derive_fernet_key(settings.FERNET_KEYS[0]))

    def __call__(self, user_id: int) -> None:
        for plaintext in self.sealed:
            self.fernet.encrypt(plaintext)
        if sum(not sql.startswith("SELECT") for sql, _ in self.statements) > 1:
            with transaction.atomic():  # both or neither
                self.execute(user_id)
        else:
            self.execute(user_id)
        for ciphertext in self.opened:
            self.fernet.decrypt(ciphertext)

    def execute(self, user_id: int) -> None:
        others = {self.user_id: user_id, _state(self.user_id): _state(user_id)}
        with connection.cursor() as cursor:
            for sql, params in self.statements:
                cursor.execute(
                    sql, [others.get(p, p) if isinstance(p, int | str) else p for p in params or ()]
                )
                if cursor.description:
                    cursor.fetchone()

    def describe(self) -> str:
        parts = [f"{len(self.statements)} SQL"]
        if self.sealed:
            parts.append(f"{len(self.sealed)} sealed")
        if self.opened:
            parts.append(f"{len(self.opened)} opened")
        return ", ".join(parts)


def measure() -> Iterator[Line]:
    """Needs so many linked users, and leaves some of them without a link."""
    ratios = []
    for operation in _operations():
        line, ratio = _line(operation)
        ratios.append(ratio)
        yield line
    yield Line("all of these, geometric mean", ratio=f"{geometric_mean(ratios):.2f}")


def _line(operation: _Operation) -> tuple[Line, float]:
    first, *users = USERS
    operation.before(first)
    operation.obvious(first)  # warm
    floor = _Floor(operation.ours, first)
    ours, peer, bare = [], [], []
    # In turns, so that whatever else the machine does falls upon all.
    for user_id, other in zip(users[:CALLS], users[CALLS:], strict=True):
        operation.before(user_id)
        ours.append(_seconds(operation.ours, user_id))
        peer.append(_seconds(operation.obvious, user_id))
        operation.before(other)
        bare.append(_seconds(floor, other))
    ratio = median(ours) / median(peer)
    line = Line(
        operation.name,
        f"{median(ours) * 1e6:,.0f} µs",
        f"obvious {median(peer) * 1e6:,.0f} µs, floor {median(bare) * 1e6:,.0f} µs "
        f"({floor.describe()})",
        f"{ratio:.2f}",
        f"≤ {operation.bound}",
        ratio <= operation.bound,
    )
    return line, ratio


def _seconds(call: Call, user_id: int) -> float:
    started = time.perf_counter()
    call(user_id)
    return time.perf_counter() - started
