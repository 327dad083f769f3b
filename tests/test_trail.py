"""The trail: who did what to which link, and what the athlete can take home."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.tasks import default_task_backend
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from integrations import services, tasks
from integrations.exceptions import IntegrationsError
from integrations.garminconnect.login import begin_login
from integrations.models import LinkEvent, UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import PASSWORD
from integrations.sandbox.strava import ALICE, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET
from integrations.services.keys import rotate_fernet_keys

from .conftest import begin, come_back, row_of

ADMIN = "/admin/integrations/linkevent/"


def trail(user=None):
    events = LinkEvent.objects.order_by("pk")
    if user is not None:
        events = events.filter(user=user)
    return [(each.provider, each.event, each.code, each.actor) for each in events]


@pytest.fixture
def admin(db):
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root", password="pw"))
    return client


def test_an_athletes_own_doings(alice, alice_client, strava):
    for _ in range(2):
        state = begin(alice_client)["state"]
        come_back(alice_client, state=state, code=strava.grant(ALICE), scope="read")
    alice_client.post("/integrations/strava/disconnect/")

    assert trail(alice) == [
        ("strava", "linked", "", "athlete"),
        ("strava", "relinked", "", "athlete"),
        ("strava", "unlinked", "", "athlete"),
    ]
    assert set(LinkEvent.objects.values_list("actor_user", flat=True)) == {alice.pk}


def test_a_disconnect_that_strava_did_not_hear_of(alice, alice_client, linked, strava):
    strava.fail("revoke", "500")
    alice_client.post("/integrations/strava/disconnect/")
    assert trail(alice)[-1] == ("strava", "unlinked", "not_revoked", "athlete")


def test_staffs_doings(alice, linked, strava, admin):
    url = "/admin/integrations/usersintegrations/"
    for action in ("refresh_strava", "disconnect_strava"):
        chosen = {"action": action, "_selected_action": [linked.pk], "confirmed": "yes"}
        admin.post(url, chosen)
    assert trail(alice)[1:] == [
        ("strava", "refreshed", "", "staff"),
        ("strava", "unlinked", "", "staff"),
    ]
    root = get_user_model().objects.get(username="root")
    assert set(LinkEvent.objects.filter(actor="staff").values_list("actor_user", flat=True)) == {
        root.pk
    }


@pytest.mark.parametrize("who", ["athlete", "staff"])
def test_a_synchronisation_is_theirs_who_asked_for_it(
    who, alice, alice_client, linked, strava, admin, settings
):
    """Also where a worker does it, later and elsewhere, and where it changes nothing."""
    services.sync_strava_gear(alice.pk)
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    if who == "athlete":
        asked_by = alice
        alice_client.post("/integrations/strava/gear/sync/")
    else:
        asked_by = get_user_model().objects.get(username="root")
        asked = {"action": "sync_gear", "_selected_action": [linked.pk]}
        admin.post("/admin/integrations/usersintegrations/", asked)
    waiting = default_task_backend.results[0]

    waiting.task.call(*waiting.args)

    assert trail(alice)[2:] == [("strava", "synced", "created=0 updated=0 retired=0", who)]
    assert LinkEvent.objects.last().actor_user == asked_by


def test_what_staff_force_in_vain_is_theirs_too(alice, expired, strava, admin):
    strava.fail("token", "500")
    chosen = {"action": "refresh_strava", "_selected_action": [expired.pk]}
    admin.post("/admin/integrations/usersintegrations/", chosen)
    assert trail(alice)[1:] == [("strava", "refresh_failed", "provider_unavailable", "staff")]


def test_who_asks_while_the_app_is_limited_is_told_of(alice, linked, strava):
    UsersIntegrations.objects.update(strava_limited_until=timezone.now() + timedelta(minutes=5))
    for actor in ("system", "athlete"):
        user_id = alice.pk if actor == "athlete" else None
        assert tasks.sync_gear.call(alice.pk, "strava", actor, user_id) == "rate_limited"
    assert trail(alice)[1:] == [("strava", "sync_failed", "rate_limited", "athlete")]


def test_the_athlete_is_you_to_the_athlete_and_to_nobody_else(alice_client, linked, admin):
    LinkEvent.objects.update(actor="athlete")
    assert "You, " in alice_client.get("/settings/integrations/").content.decode()
    assert ">The athlete<" in admin.get(ADMIN).content.decode()


def test_what_happens_by_itself(alice, expired, strava):
    strava.fail("token", "500", times=1)
    with pytest.raises(IntegrationsError):
        services.get_strava_access_token(alice.pk)
    services.get_strava_access_token(alice.pk)
    assert trail(alice)[1:] == [("strava", "refresh_failed", "provider_unavailable", "system")]

    services.sync_strava_gear(alice.pk)
    services.sync_strava_gear(alice.pk)  # nothing changed: nothing to tell
    assert trail(alice)[2:] == [("strava", "synced", "created=4 updated=0 retired=0", "system")]


def test_what_the_provider_does(alice, expired, strava, client):
    strava.revoke_grant(ALICE)
    with pytest.raises(IntegrationsError):
        services.get_strava_access_token(alice.pk)
    assert trail(alice)[-1] == ("strava", "relink_required", "relink_required", "provider")


def test_garmins_trail(alice, alice_client, garmin):
    url = "/integrations/garminconnect/connect/"
    alice_client.post(url, {"email": GARMIN_ALICE, "password": "wrong"})
    for _ in range(2):
        alice_client.post(url, {"email": GARMIN_ALICE, "password": PASSWORD})
    alice_client.post("/integrations/garminconnect/disconnect/")
    assert trail(alice) == [
        ("garminconnect", "login_failed", "invalid_credentials", "athlete"),
        ("garminconnect", "linked", "", "athlete"),
        ("garminconnect", "relinked", "", "athlete"),
        ("garminconnect", "unlinked", "", "athlete"),
    ]
    assert set(LinkEvent.objects.values_list("actor_user", flat=True)) == {alice.pk}


def test_a_turn_of_the_keys(db):
    rotate_fernet_keys()
    [(provider, event, code, actor)] = trail()
    assert (provider, event, actor) == ("", "keys_rotated", "system")
    assert "unreadable=0" in code


def test_a_link_that_is_not_written_leaves_no_trail(alice, bob, linked, strava):
    row = services.create_user_integrations(bob.pk)
    with pytest.raises(IntegrationsError):
        services.link_strava_account(row, strava.issue_tokens(ALICE))
    assert trail(bob) == []


def test_the_athlete_sees_what_happened(alice, alice_client, linked):
    text = alice_client.get("/settings/integrations/").context["events"]
    assert [event.event for event in text] == ["linked"]


def test_others_do_not(alice, linked, bob_client):
    assert bob_client.get("/settings/integrations/").context["events"] == []


def test_the_trail_is_searched_and_read_only(alice, linked, admin):
    page = admin.get(ADMIN, {"q": "alice"})
    assert [event.user for event in page.context["cl"].result_list] == [alice]
    assert not admin.get(ADMIN, {"q": "bob"}).context["cl"].result_list
    assert admin.get(f"{ADMIN}add/").status_code == 403
    event = LinkEvent.objects.get()
    assert admin.post(f"{ADMIN}{event.pk}/change/", {"event": "unlinked"}).status_code == 403
    assert admin.post(f"{ADMIN}{event.pk}/delete/", {"post": "yes"}).status_code == 403
    assert LinkEvent.objects.get() == event


def test_a_user_whom_staff_deletes_takes_the_trail_along(alice, linked, strava, admin):
    response = admin.post(f"/admin/auth/user/{alice.pk}/delete/", {"post": "yes"})
    assert response.status_code == 302
    assert not LinkEvent.objects.filter(user=alice.pk).exists()


def test_the_trail_is_pruned(alice, linked, settings):
    settings.INTEGRATIONS_TRAIL_DAYS = 30
    old = LinkEvent.objects.get()
    old.at = timezone.now() - timedelta(days=31)
    old.save()
    LinkEvent.objects.create(event="linked", actor="system", user=alice, at=timezone.now())

    assert tasks.forget_old_link_events.enqueue().return_value == 1
    assert LinkEvent.objects.count() == 1


def test_the_trail_goes_with_its_user(alice, linked, strava):
    alice.delete()
    assert not LinkEvent.objects.exists()


def test_everything_can_be_taken_home_but_the_secrets(alice, alice_client, linked, strava):
    services.set_user_strava_client(alice.pk, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)
    UsersIntegrations.objects.update(strava_client_id=None, strava_client_secret=None)
    services.sync_strava_gear(alice.pk)
    begin_login(alice.pk, GARMIN_ALICE, PASSWORD)
    state = services.begin_authorization(alice.pk, "strava", "http://x/").state

    response = alice_client.get(reverse("integrations:export"))

    assert 'filename="integrations.json"' in response["Content-Disposition"]
    text = response.content.decode()
    data = json.loads(text)
    [row] = data["integrations"]
    assert row["strava_athlete_id"] == ALICE
    assert row["strava_token"] == "stored, encrypted"
    assert row["garminconnect_oauth1"] == "not stored"
    assert len(data["gear"]) == 4
    assert data["activity"][0]["event"] == "linked"
    assert data["garmin_sign_in"][0]["step"] == "queued"
    fresh = row_of(alice)
    for secret in (fresh.strava_token, fresh.strava_refresh_token, state, PASSWORD, "gAAAA"):
        assert secret not in text


def test_nobody_takes_home_somebody_elses(linked, bob_client, client):
    data = bob_client.get(reverse("integrations:export")).json()
    assert set(map(len, data.values())) == {0}
    assert client.get(reverse("integrations:export")).status_code == 302
