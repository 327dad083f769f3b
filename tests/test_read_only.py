"""A database that answers and takes no write, such as a standby after a failover."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager

import pytest
from django.db import connection

from integrations import exceptions, services
from integrations.models.integrations import STRAVA
from integrations.sandbox.strava import ALICE

from .conftest import begin, come_back, row_of
from .test_operations import failed_checks

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def read_only():
    on, off = {
        "sqlite": ("PRAGMA query_only = on", "PRAGMA query_only = off"),
        "postgresql": (
            "SET default_transaction_read_only = on",
            "SET default_transaction_read_only = off",
        ),
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(on)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(off)


def test_it_is_not_healthy(client, settings):
    settings.TASKS_BACKEND = "database"
    assert failed_checks(client) == set()
    with read_only():
        assert failed_checks(client) == {"database"}
    assert failed_checks(client) == set()


def test_nor_is_one_that_another_has_locked_and_the_probe_does_not_hang(client):
    if connection.vendor != "sqlite":
        pytest.skip("SQLite's lock")
    assert failed_checks(client) == set()
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert failed_checks(client) == {"database"}
        assert time.monotonic() - started < 6
    finally:
        other.close()
    assert failed_checks(client) == set()
    with connection.cursor() as cursor:  # the usual patience is back
        assert cursor.execute("PRAGMA busy_timeout").fetchone() == (20_000,)


def test_what_cannot_be_cleared_here_is_not_revoked(alice, alice_client, linked, strava):
    with read_only():
        response = alice_client.post(
            "/integrations/strava/disconnect/", headers={"accept": "application/json"}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (500, "database_error")
    assert strava.calls["revoke"] == 0
    row = row_of(alice)
    assert row.strava_refresh_token == linked.strava_refresh_token
    assert strava.is_alive(row.strava_refresh_token)

    services.disconnect(alice.pk, "strava")
    assert not strava.is_alive(linked.strava_refresh_token)


def refresh(user_id):
    services.refresh_link(user_id, "strava")
    return True


@pytest.mark.parametrize("service", [refresh, services.get_strava_access_token])
def test_what_cannot_be_stored_is_not_rotated(alice, expired, strava, service):
    with read_only(), pytest.raises(exceptions.IntegrationsDatabaseError):
        service(alice.pk)
    assert strava.calls["token"] == 0
    assert service(alice.pk)


def test_nor_is_a_code_spent(alice, alice_client, strava):
    state, code = begin(alice_client)["state"], strava.grant(ALICE)
    with read_only(), pytest.raises(exceptions.IntegrationsDatabaseError):
        services.complete_authorization(alice.pk, "strava", state=state, code=code)
    assert strava.calls["token"] == 0
    come_back(alice_client, state=state, code=code)
    assert STRAVA.is_linked(row_of(alice))
