"""What the settings page and the admin's list cost: queries, and secrets opened."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from integrations import services
from integrations.models import Gear

from . import data
from .sealing import counted
from .table import Line

ROWS = 100


def measure() -> Iterator[Line]:
    """Needs a hundred linked users."""
    athlete = data.USER.objects.get(pk=1)
    services.link_garminconnect_account(athlete.pk, None, {"di_token": "x", "di_client_id": "y"})
    Gear.objects.bulk_create(
        Gear(
            user=athlete,
            provider=provider,
            provider_gear_id=f"page{number}",
            kind=Gear.Kind.BIKE,
            first_seen_at=timezone.now(),
        )
        for provider in ("strava", "garminconnect")
        for number in range(10)
    )
    settings = reverse("integrations:settings")
    cards = _get(_client(athlete), settings).content.count(b'data-provider="')
    yield from _page(
        f"settings page of {cards} cards", _client(athlete), settings, 5 if cards == 2 else 6
    )
    root = data.USER.objects.create(pk=9_000_001, username="root", is_staff=True, is_superuser=True)
    admin = reverse("admin:integrations_usersintegrations_changelist")
    yield from _page(f"admin list of {ROWS} rows", _client(root), admin, 4)


def _client(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def _get(client: Client, url: str) -> Any:
    with warnings.catch_warnings(action="ignore"):  # nobody has run collectstatic
        return client.get(url, secure=True)


def _page(name: str, client: Client, url: str, bound: int) -> Iterator[Line]:
    _get(client, url)  # templates are compiled once
    with CaptureQueriesContext(connection) as queries, counted() as secrets:
        started = time.perf_counter()
        page = _get(client, url)
        seconds = time.perf_counter() - started
    assert page.status_code == 200
    if "cl" in (page.context or {}):
        assert len(page.context["cl"].result_list) == ROWS
    in_database = sum(float(query["time"]) for query in queries.captured_queries)
    yield Line(
        f"{name}: queries, session and user included",
        f"{len(queries)}",
        f"{in_database * 1e3:.0f} of {seconds * 1e3:.0f} ms in the database",
        bound=f"≤ {bound}",
        kept=len(queries) <= bound,
    )
    opened = len(secrets.opened)
    yield Line(f"{name}: secrets opened", f"{opened}", bound="0", kept=opened == 0)
