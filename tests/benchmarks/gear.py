"""Syncing gear, for many users one after another.

The provider is a stub in this process, below requests: what is measured is our own work and the
database's, not a network.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import requests
import urllib3
from django.db import connection
from django.utils import timezone
from requests.adapters import BaseAdapter

from integrations import http, services
from integrations.models import Gear, UsersIntegrations

from .table import Line

USERS = 1_000
ITEMS = 20


class _Strava(BaseAdapter):
    """`GET /athlete` and `GET /gear/{id}` for one athlete at a time."""

    athlete_id = 0

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        _, is_gear, gear_id = str(request.url).partition("/gear/")
        if is_gear:
            reply: dict[str, Any] = {"id": gear_id, "brand_name": "Canyon", "model_name": "Grail"}
        else:
            items = [
                {"id": f"g{self.athlete_id}x{n}", "name": f"Gear {n}", "distance": 1000.0 * n}
                for n in range(ITEMS)
            ]
            reply = {"id": self.athlete_id, "measurement_preference": "meters"}
            reply |= {"bikes": items[: ITEMS // 2], "shoes": items[ITEMS // 2 :]}
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, str(request.url)
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(json.dumps(reply).encode()), preload_content=False
        )
        return response

    def close(self) -> None:
        pass


def measure() -> Iterator[Line]:
    """Needs twice so many linked users as are synced."""
    strava = _Strava()
    before, http._adapter = http._adapter, strava

    def sync(user_id: int) -> None:
        strava.athlete_id = user_id
        counts.append(services.sync_strava_gear(user_id))

    def create(user_id: int) -> None:
        Gear.objects.bulk_create(_rows(user_id, now))

    def load(user_id: int) -> None:
        list(Gear.objects.filter(user_id=user_id, provider="strava"))

    now = timezone.now()
    counts: list[services.GearCounts] = []
    assert UsersIntegrations.objects.filter(pk__lte=2 * USERS).count() == 2 * USERS
    first, second = range(1, USERS + 1), range(USERS + 1, 2 * USERS + 1)
    try:
        for name, call, users, bare, bare_users, what in (
            ("first sync", sync, first, create, second, "bare bulk_create of the same rows"),
            ("sync without a change", sync, first, load, first, "bare load of the same rows"),
        ):
            counts.clear()
            (seconds, queries), (floor, _) = _in_turns((call, users), (bare, bare_users))
            assert sum(each.created for each in counts) == (
                USERS * ITEMS if name == "first sync" else 0
            )
            rows = USERS * ITEMS
            yield Line(
                f"gear, {name}: {USERS:,} users with {ITEMS} each",
                f"{rows / seconds:,.0f} rows/s, {queries / USERS:.1f} queries a user",
                f"{what} {rows / floor:,.0f} rows/s",
                f"{seconds / floor:.2f}",
            )
    finally:
        http._adapter = before


def _rows(user_id: int, now: datetime) -> list[Gear]:
    return [
        Gear(
            user_id=user_id,
            provider="strava",
            provider_gear_id=f"g{user_id}x{n}",
            kind=Gear.Kind.BIKE if n < ITEMS // 2 else Gear.Kind.SHOES,
            name=f"Gear {n}",
            brand="Canyon",
            model="Grail",
            distance=1000 * n,
            first_seen_at=now,
        )
        for n in range(ITEMS)
    ]


def _in_turns(*works: tuple[Callable[[int], None], range]) -> list[tuple[float, int]]:
    """Seconds and queries of each, user by user, so that a noisy moment falls upon all."""
    seconds, queries = [0.0] * len(works), [0] * len(works)
    current = 0

    def note(execute: Any, sql: str, *arguments: Any) -> Any:
        queries[current] += sql != "BEGIN IMMEDIATE"  # which PostgreSQL is told another way
        return execute(sql, *arguments)

    with connection.execute_wrapper(note):
        for user_ids in zip(*(users for _, users in works), strict=True):
            for current, ((call, _), user_id) in enumerate(zip(works, user_ids, strict=True)):
                started = time.perf_counter()
                call(user_id)
                seconds[current] += time.perf_counter() - started
    return list(zip(seconds, queries, strict=True))
