"""A row that something else holds: presses on it end with a message, and other pages open."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from integrations import services
from integrations.exceptions import DatabaseBusy
from integrations.garminconnect.login import begin_login
from integrations.models import UsersIntegrations
from integrations.services._waits import LOCK_WAIT, short_waits

from .processes import Athlete, Site
from .test_database_faults import busy_elsewhere, held_elsewhere

PREFERENCES = "/integrations/strava/preferences/"


def timed(press):
    start = time.monotonic()
    return press(), time.monotonic() - start


@pytest.mark.django_db(transaction=True)
def test_nine_presses_on_a_locked_row_are_answered_and_other_pages_open(alice, bob, sandbox):
    services.create_user_integrations(alice.pk)
    site = Site()
    try:
        site.web(workers=1, ready="/accounts/login/")
        alices, bobs = Athlete(site, alice), Athlete(site, bob)
        with busy_elsewhere(alice.pk), ThreadPoolExecutor(10) as pool:
            presses = [
                pool.submit(timed, lambda: alices.post(PREFERENCES, sync_gear="on"))
                for _ in range(9)
            ]
            time.sleep(0.5)
            page = bobs.session.get(f"{site.url}/settings/integrations/", timeout=30)
            opened_after = page.elapsed.total_seconds()
            answers = [press.result() for press in presses]
    finally:
        site.stop()
    assert page.status_code == 200
    assert opened_after < LOCK_WAIT + 3
    for answer, took in answers:
        assert answer.json()["error"]["code"] == "database_busy"
        assert took < 2 * LOCK_WAIT + 5  # the ninth waits for a thread, too
    assert not UsersIntegrations.objects.get(user=alice).strava_sync_gear


@pytest.fixture
def no_patience(monkeypatch):
    monkeypatch.setattr("integrations.services._waits.LOCK_WAIT", 1)


WRITERS = {
    "one statement": lambda pk: services.set_user_strava_sync_gear(pk, True),
    "a transaction": lambda pk: services.unlink_strava_account(pk),
    "a row for update": lambda pk: services.link_garminconnect_account(pk, None, {"x": "y"}),
    "a state": lambda pk: services.begin_authorization(pk, "strava", "http://testserver/cb"),
    "a sign-in": lambda pk: begin_login(pk, "a@example.com", "s3cret"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.django_db(transaction=True)
def test_a_web_request_waits_briefly_and_leaves_nothing_set(alice, strava, no_patience, name):
    services.create_user_integrations(alice.pk)
    before = limit()
    with busy_elsewhere(alice.pk):
        with short_waits(), short_waits(), pytest.raises(DatabaseBusy) as caught:
            WRITERS[name](alice.pk)
        assert limit() == before
    assert "Something else is at work" in caught.value.user_message
    WRITERS[name](alice.pk)
    assert limit() == before


def limit():
    """How long this connection waits for a lock."""
    with connection.cursor() as cursor:
        sqlite = connection.vendor == "sqlite"
        cursor.execute("PRAGMA busy_timeout" if sqlite else "SHOW lock_timeout")
        return cursor.fetchone()


REVOKED = {
    "object_type": "athlete",
    "aspect_type": "update",
    "object_id": 7,
    "owner_id": 7,
    "updates": {"authorized": "false"},
}


@pytest.mark.parametrize(
    ("url", "event", "status"),
    [(PREFERENCES, None, 500), ("/integrations/strava/webhook/", REVOKED, 503)],
)
@pytest.mark.django_db(transaction=True)
def test_a_host_project_gets_it_without_the_middleware(
    alice, client, settings, no_patience, url, event, status
):
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "short_waits" not in name]
    services.create_user_integrations(alice.pk)
    UsersIntegrations.objects.update(strava_athlete_id=7)
    client.force_login(alice)
    sent = {"data": event, "content_type": "application/json"} if event else {}
    with busy_elsewhere(alice.pk, seconds=6):
        answer, took = timed(
            lambda: client.post(url, headers={"accept": "application/json"}, **sent)
        )
    assert (answer.status_code, took < 5) == (status, True)


@pytest.mark.django_db(transaction=True)
def test_background_work_waits_for_as_long_as_it_takes(alice, no_patience):
    services.create_user_integrations(alice.pk)
    with short_waits():
        services.set_user_strava_sync_gear(alice.pk, False)
    with busy_elsewhere(alice.pk, seconds=1.5):
        services.set_user_strava_sync_gear(alice.pk, True)
    assert UsersIntegrations.objects.get(user=alice).strava_sync_gear


@pytest.mark.django_db(transaction=True)
def test_no_log_in_waits_for_a_locked_user(alice, no_patience):
    """Django notes the time of a log-in in the user's row."""
    client = Client(raise_request_exception=False)
    form = {"username": "alice", "password": "alice-demo"}
    with held_elsewhere(lambda: get_user_model().objects.update(first_name="A")):
        answer, took = timed(lambda: client.post("/accounts/login/", form))
    assert answer.status_code == 500
    assert took < 5
    assert client.post("/accounts/login/", form).status_code == 302
