"""Staying signed in: the stored session, used by many and rotated by one."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from integrations import services
from integrations.exceptions import (
    GarminConnectError,
    GarminConnectNotLinked,
    GarminConnectRelinkRequired,
    GarminConnectUnavailable,
)
from integrations.garminconnect import client as garminconnect_client
from integrations.garminconnect.provider import GarminConnect
from integrations.models import LinkStatus, UsersIntegrations
from integrations.sandbox.garmin import ALICE, CHINA

from .conftest import row_of
from .processes import BASE_DIR, PYTHON, environment
from .test_strava_tokens import call_together

get_client = services.get_garminconnect_client


def link(garmin, user, email=ALICE, **more):
    if not UsersIntegrations.objects.filter(user=user).exists():
        services.create_user_integrations(user.pk)
    services.link_garminconnect_account(user.pk, None, garmin.issue_session(email, **more))
    return row_of(user)


@pytest.fixture
def linked(alice, garmin):
    return link(garmin, alice)


@pytest.fixture
def lapsing(alice, garmin):
    """A session whose access token is good for five minutes only."""
    return link(garmin, alice, expires_in=300)


def test_a_client_works(alice, garmin, linked):
    gear = get_client(alice.pk).get_gear_list()
    assert {item["gearType"] for item in gear} >= {"BIKE", "SHOES"}
    assert garmin.calls["token"] == 0


def test_the_expiry_is_known_without_asking(alice, garmin, linked):
    left = linked.garminconnect_token_expires_at - timezone.now()
    assert timedelta(hours=23) < left <= timedelta(hours=24)


def test_a_session_that_lapses_is_rotated_first_and_written_back(alice, garmin, lapsing):
    before = lapsing.garminconnect_oauth2

    client = get_client(alice.pk)

    stored = row_of(alice).garminconnect_oauth2
    assert stored["di_refresh_token"] != before["di_refresh_token"]
    assert json.loads(client.client.dumps()) == stored
    assert garmin.is_alive(stored["di_token"])
    assert row_of(alice).garminconnect_token_expires_at > timezone.now() + timedelta(hours=20)
    assert garmin.calls["token"] == 1
    client.get_gear_list()
    assert garmin.calls["token"] == 1


def test_what_the_library_rotates_in_use_is_written_back(alice, garmin, linked):
    client = get_client(alice.pk)
    garmin.expire(ALICE)  # Garmin answers the next call with a 401

    assert client.get_gear_list()

    stored = row_of(alice).garminconnect_oauth2
    assert json.loads(client.client.dumps()) == stored
    assert stored["di_token"] != linked.garminconnect_oauth2["di_token"]
    assert garmin.calls["token"] == 1


def test_a_client_takes_over_what_another_has_rotated(alice, garmin, linked):
    first, second = get_client(alice.pk), get_client(alice.pk)
    garmin.expire(ALICE)

    assert first.get_gear_list()
    assert second.get_gear_list()

    assert garmin.calls["token"] == 1
    assert first.client.dumps() == second.client.dumps()


USE = """
import django, json, sys
django.setup()
from integrations import services
client = services.get_garminconnect_client(int(sys.argv[1]))
print(len(client.get_gear_list()))
"""


@pytest.mark.django_db(transaction=True)
def test_use_expire_and_use_again_in_a_new_process(alice, garmin, lapsing, sandbox):
    env = environment(INTEGRATIONS_SANDBOX="on", INTEGRATIONS_SANDBOX_URL=sandbox.url)
    for refreshes in (1, 2, 3):
        output = subprocess.run(
            [PYTHON, "-c", USE, str(alice.pk)],
            env=env,
            cwd=BASE_DIR,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert int(output) >= 3
        assert garmin.calls["token"] == refreshes
        garmin.expire(ALICE)
        UsersIntegrations.objects.update(garminconnect_token_expires_at=timezone.now())


@pytest.mark.django_db(transaction=True)
def test_many_at_once_rotate_once(alice, garmin, lapsing):
    garmin.fail("token", "delay", times=1, seconds=0.4)

    clients = call_together(8, lambda: get_client(alice.pk).client.dumps())

    assert garmin.calls["token"] == 1
    assert {json.loads(tokens)["di_token"] for tokens in clients} == {
        row_of(alice).garminconnect_oauth2["di_token"]
    }


@pytest.mark.django_db(transaction=True)
def test_many_clients_in_use_rotate_once(alice, garmin, linked):
    clients = [get_client(alice.pk) for _ in range(6)]
    garmin.expire(ALICE)
    garmin.fail("token", "delay", times=1, seconds=0.3)

    iterator = iter(clients)
    outcomes = call_together(6, lambda: len(next(iterator).get_gear_list()))

    assert garmin.calls["token"] == 1
    assert set(outcomes) == {outcomes[0]}
    assert isinstance(outcomes[0], int)


def test_a_dead_session_asks_for_a_relink_once(alice, garmin, lapsing):
    garmin.revoke(ALICE)

    for _ in range(2):
        with pytest.raises(GarminConnectRelinkRequired):
            get_client(alice.pk)

    assert row_of(alice).garminconnect_status == LinkStatus.RELINK_REQUIRED
    assert garmin.calls["token"] == 1


def test_a_session_that_dies_in_use_is_the_librarys_own_error(alice, garmin, linked):
    import garminconnect

    client = get_client(alice.pk)
    garmin.revoke(ALICE)

    with pytest.raises(garminconnect.GarminConnectAuthenticationError):
        client.get_gear_list()

    assert row_of(alice).garminconnect_status == LinkStatus.RELINK_REQUIRED


@pytest.mark.parametrize(
    "fault",
    [
        "500",
        "502_html",
        "200_html",
        "empty",
        "half_json",
        "wrong_types",
        "429",
        "403",
        "reset_before",
    ],
)
def test_a_garmin_in_trouble_never_ends_a_link(alice, garmin, lapsing, fault):
    before = lapsing.garminconnect_oauth2
    garmin.fail("token", fault, times=3)

    with pytest.raises(GarminConnectError) as caught:
        get_client(alice.pk)

    row = row_of(alice)
    assert row.garminconnect_status == LinkStatus.LINKED
    assert row.garminconnect_oauth2 == before
    assert row.garminconnect_error == caught.value.code
    assert row.garminconnect_failures == 1
    garmin.recover()
    UsersIntegrations.objects.update(garminconnect_limited_until=None)  # a limit is over
    assert get_client(alice.pk).get_gear_list()
    assert row_of(alice).garminconnect_error == ""


def test_a_session_of_garths_cannot_be_renewed(alice, garmin):
    services.create_user_integrations(alice.pk)
    services.link_garminconnect_account(alice.pk, {"oauth_token": "o", "domain": "garmin.cn"}, None)
    assert row_of(alice).garminconnect_is_cn is True

    with pytest.raises(GarminConnectRelinkRequired):
        get_client(alice.pk)


def test_without_a_link_there_is_no_client(alice, garmin):
    with pytest.raises(GarminConnectNotLinked):
        get_client(alice.pk)


def test_a_session_belongs_to_one_side_of_the_world(alice, garmin):
    link(garmin, alice, CHINA, expires_in=300)
    UsersIntegrations.objects.update(garminconnect_is_cn=True)
    assert get_client(alice.pk).get_gear_list() is not None
    assert {request["path"].split("/")[2] for request in garmin.requests} <= {
        "diauth.garmin.cn",
        "connectapi.garmin.cn",
    }


def test_a_disconnect_while_garmin_is_asked_wins(alice, garmin, lapsing, monkeypatch):
    refresh = garminconnect_client.refresh

    def meanwhile(session):
        answer = refresh(session)
        services.disconnect(alice.pk, "garminconnect")
        return answer

    monkeypatch.setattr(garminconnect_client, "refresh", meanwhile)
    with pytest.raises(GarminConnectNotLinked):
        get_client(alice.pk)
    assert row_of(alice).garminconnect_oauth2 is None


def test_rotating_keeps_what_garth_left(alice, garmin, lapsing):
    UsersIntegrations.objects.update(garminconnect_oauth1={"oauth_token": "o"})
    get_client(alice.pk)
    assert row_of(alice).garminconnect_oauth1 == {"oauth_token": "o"}


def test_a_forced_refresh_rotates_however_fresh_it_is(alice, garmin, linked):
    services.refresh_link(alice.pk, "garminconnect")
    assert garmin.calls["token"] == 1
    assert row_of(alice).garminconnect_oauth2 != linked.garminconnect_oauth2


def test_a_library_that_never_answers_does_not_hold_the_others(alice, garmin, lapsing, monkeypatch):
    monkeypatch.setattr(GarminConnect, "lease", -9.7)
    UsersIntegrations.objects.update(
        garminconnect_lease="0" * 32,
        garminconnect_lease_until=timezone.now() + timedelta(minutes=1),
    )
    started = time.monotonic()
    with pytest.raises(GarminConnectUnavailable):
        get_client(alice.pk)
    assert time.monotonic() - started < 5
