"""Many users, made quickly: one row through the ORM, the others from it in the database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.db.models import Model
from django.db.models.functions import Now
from django.utils import timezone

from integrations import services
from integrations.models import UsersIntegrations

from . import obvious
from .database import CLIENT_ID
from .models import Obvious

USER = get_user_model()


def grow_to(users: int) -> None:
    """Have so many users, all linked to Strava, none of them due.

    They share the ciphertext of one pair of tokens, which nobody will notice: encrypting
    200,000 tokens is no part of what is measured.
    """
    if not USER.objects.exists():
        _first()
    if USER.objects.count() >= users:
        return
    _copy(USER, users, {"id": "number", "username": "'athlete' || number"})
    _copy(
        UsersIntegrations,
        users,
        {"id": "number", "user_id": "number", "strava_athlete_id": "number"},
    )
    for model in (USER, UsersIntegrations):
        _settle(model)


def grow_obvious_to(users: int) -> None:
    """Have as many rows of the obvious model; needs as many users."""
    obvious.link_strava(obvious.create(1), _tokens())
    _copy(Obvious, users, {"id": "number", "user_id": "number"})
    _settle(Obvious)


def forget_all() -> None:
    """Leave no user, so that the next part starts with the rows that it wants."""
    call_command("flush", interactive=False, verbosity=0)


def _first() -> None:
    user = USER.objects.create(pk=1, username="athlete1")
    row = services.create_user_integrations(user.pk)
    services.link_strava_account(row, _tokens() | {"athlete": {"id": 1}})
    UsersIntegrations.objects.update(
        strava_scope="read,profile:read_all", strava_site_client_id=CLIENT_ID
    )


def _tokens() -> dict[str, Any]:
    return {
        "access_token": f"access-{0:033}",
        "refresh_token": f"refresh-{0:032}",
        "expires_at": int((timezone.now() + timedelta(hours=5)).timestamp()),
    }


def _copy(model: type[Model], until: int, own: dict[str, str]) -> None:
    """Copy the row with the lowest key to every key up to `until` that is not there yet."""
    columns = [field.column for field in model._meta.concrete_fields]
    values = [own.get(str(name), f'first."{name}"') for name in columns]
    names = ", ".join(f'"{name}"' for name in columns)
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE numbers (number) AS ("
            f"  SELECT max(id) + 1 FROM {table}"
            f"  UNION ALL SELECT number + 1 FROM numbers WHERE number < {until}) "
            f"INSERT INTO {table} ({names}) SELECT {', '.join(values)} "
            f"FROM numbers CROSS JOIN (SELECT * FROM {table} ORDER BY id LIMIT 1) AS first "
            f"WHERE number <= {until}"
        )
        if connection.vendor == "postgresql":
            cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {until})")


def _settle(model: type[Model]) -> None:
    """What autovacuum does for a database that has grown slowly."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"VACUUM (ANALYZE) {model._meta.db_table}")
        else:
            cursor.execute("ANALYZE")


def make_due(number: int, among: int) -> None:
    """Let so many links expire over the next fifty minutes, and all others in five hours."""
    now, step = timezone.now(), among // number
    UsersIntegrations.objects.exclude(strava_token_expires_at__gt=now + timedelta(hours=2)).update(
        strava_token_expires_at=now + timedelta(hours=5)
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM users_integrations")
        assert cursor.fetchone()[0] == among
    due = list(
        UsersIntegrations.objects.filter(pk__in=range(1, among + 1, step)).only(
            "pk", "strava_token_expires_at"
        )
    )
    for place, row in enumerate(due):
        # In another order than the keys', as it is in life.
        row.strava_token_expires_at = now + timedelta(seconds=(place * 7919) % 3000)
    UsersIntegrations.objects.bulk_update(due, ["strava_token_expires_at"], batch_size=500)
    # Not of a million rows that have none.
    UsersIntegrations.objects.exclude(strava_lease=None).update(
        strava_lease=None, strava_lease_until=None
    )
    assert UsersIntegrations.objects.filter(strava_token_expires_at__lt=Now()).count() < number
    _settle(UsersIntegrations)
