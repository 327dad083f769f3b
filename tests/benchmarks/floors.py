"""Each service of the seed against its floor.

The floor is what no implementation can do without: the same statements, ready-made, through a
bare cursor, and as many operations of bare `cryptography.fernet` on the same values. How many
statements those are is part of the table, because a needless one would raise the floor too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from statistics import median
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from fernet_fields import hkdf

from integrations import services
from integrations.models import UsersIntegrations
from integrations.schemas import UsersIntegrationsUpdate

from . import data
from .sealing import counted
from .table import Line

CALLS = 300
# Out of the way of all the others. A number that stands for nothing else among the parameters.
_user_ids = count(7_000_001)

STATE = "benchmark-state-" + "x" * 27
OAUTH1 = {"oauth_token": "x" * 36, "oauth_token_secret": "y" * 36, "domain": "garmin.com"}
OAUTH2 = {"di_token": "x" * 1200, "di_refresh_token": "y" * 400, "di_client_id": "z" * 40}


def _new_user() -> int:
    user_id = next(_user_ids)
    data.USER.objects.create(pk=user_id, username=f"floor{user_id}")
    return user_id


def _linked_user() -> int:
    user_id = _new_user()
    row = services.create_user_integrations(user_id)
    services.link_strava_account(row, _tokens())
    services.set_user_strava_state(user_id, f"{STATE}{user_id}")
    return user_id


def _tokens() -> dict[str, Any]:
    expires_at = int((timezone.now() + timedelta(hours=5)).timestamp())
    return {"access_token": "a" * 40, "refresh_token": "r" * 40, "expires_at": expires_at}


def _services(user_id: int) -> dict[str, Callable[[int], object]]:
    row, tokens = UsersIntegrations.objects.get(user_id=user_id), _tokens()
    edit = UsersIntegrationsUpdate(strava_client_id="1" * 6, strava_client_secret="s" * 40)
    return {
        "get_user_integrations_by_user_id": services.get_user_integrations_by_user_id,
        "get_user_integrations_by_strava_state": lambda user_id: (
            services.get_user_integrations_by_strava_state(f"{STATE}{user_id}")
        ),
        "get_strava_access_token (fresh)": services.get_strava_access_token,
        "edit_user_integrations": lambda user_id: services.edit_user_integrations(edit, user_id),
        "set_user_strava_client": lambda user_id: services.set_user_strava_client(
            user_id, "1" * 6, "s" * 40
        ),
        "set_user_strava_state": lambda user_id: services.set_user_strava_state(
            user_id, f"{STATE}{user_id}"
        ),
        "set_user_strava_sync_gear": lambda user_id: services.set_user_strava_sync_gear(
            user_id, True
        ),
        "set_user_garminconnect_sync_gear": lambda user_id: (
            services.set_user_garminconnect_sync_gear(user_id, True)
        ),
        "link_strava_account": lambda _: services.link_strava_account(row, tokens),
        "unlink_strava_account": services.unlink_strava_account,
        "link_garminconnect_account": lambda user_id: services.link_garminconnect_account(
            user_id, OAUTH1, OAUTH2
        ),
        "unlink_garminconnect_account": services.unlink_garminconnect_account,
    }


class _Floor:
    """One call's statements and secrets, to be repeated without the service."""

    def __init__(self, service: Callable[[int], object], user_id: int) -> None:
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
        with connection.cursor() as cursor:
            for sql, params in self.statements:
                cursor.execute(sql, [user_id if p == self.user_id else p for p in params or ()])
                if sql.startswith("SELECT") or " RETURNING " in sql:
                    cursor.fetchone()

    def describe(self) -> str:
        parts = [f"{len(self.statements)} SQL"]
        if self.sealed:
            parts.append(f"{len(self.sealed)} sealed")
        if self.opened:
            parts.append(f"{len(self.opened)} opened")
        return ", ".join(parts)


def measure() -> Iterator[Line]:
    user_id = _linked_user()
    for name, service in _services(user_id).items():
        service(user_id)  # warm
        yield _line(name, service, _Floor(service, user_id), lambda: user_id)
    # Each row can be made once: a user for every call.
    floor = _Floor(services.create_user_integrations, _new_user())
    yield _line("create_user_integrations", services.create_user_integrations, floor, _new_user)


def _line(
    name: str, service: Callable[[int], object], floor: _Floor, user: Callable[[], int]
) -> Line:
    # In turns, so that whatever else the machine does falls upon both.
    ours, bare = [], []
    for _ in range(CALLS):
        ours.append(_seconds(service, user()))
        bare.append(_seconds(floor, user()))
    return Line(
        name,
        f"{median(ours) * 1e6:,.0f} µs",
        f"floor {median(bare) * 1e6:,.0f} µs ({floor.describe()})",
        f"{median(ours) / median(bare):.2f}",
    )


def _seconds(call: Callable[[int], object], user_id: int) -> float:
    started = time.perf_counter()
    call(user_id)
    return time.perf_counter() - started
