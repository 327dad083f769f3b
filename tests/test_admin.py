"""What staff see and may do, and that no secret is among it."""

from __future__ import annotations

import html
import re
import time

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_tasks_db.models import DBTaskResult

from integrations import services, tasks
from integrations.fields import EncryptedTextField
from integrations.garminconnect.login import begin_login
from integrations.models import (
    GarminConnectLogin,
    Gear,
    LinkEvent,
    LinkStatus,
    UsersIntegrations,
)
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.strava import ALICE, BJORN
from integrations.sandbox.strava.demo import Athlete
from integrations.services.trail import get_link_events
from integrations.signals import account_unlinked

from .conftest import row_of

LIST = reverse("admin:integrations_usersintegrations_changelist")


@pytest.fixture
def admin(db):
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root", "r@example.com", "pw"))
    return client


@pytest.fixture
def staff(db):
    """Log in as staff with just these permissions on integrations."""

    def staff(*actions):
        user = get_user_model().objects.create_user("staff", "s@example.com", "pw", is_staff=True)
        for action in actions:
            user.user_permissions.add(
                Permission.objects.get(codename=f"{action}_usersintegrations")
            )
        client = Client()
        client.force_login(user)
        return client

    return staff


def act(client, action, *rows, confirmed=True):
    chosen = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(LIST, chosen | ({"confirmed": "yes"} if confirmed else {}), follow=True)


def detail(row):
    return reverse("admin:integrations_usersintegrations_change", args=[row.pk])


def test_every_row_is_found_by_its_user(alice, bob, linked, admin):
    services.create_user_integrations(bob.pk)
    for query in ("alice", "ALICE", "alice@example.com"):
        page = admin.get(LIST, {"q": query})
        assert [row.user for row in page.context["cl"].result_list] == [alice]
    assert len(admin.get(LIST).context["cl"].result_list) == 2


def test_state_and_health_are_seen_at_a_glance(alice, bob, link, linked, admin):
    link(bob, BJORN)
    UsersIntegrations.objects.filter(user=bob).update(
        strava_relink_required_at=timezone.now(), strava_error="relink_required"
    )
    text = admin.get(LIST).content.decode()
    for words in ("Connected", "Needs reconnecting", "Good", "Relink required"):
        assert words in text
    assert "read, profile:read_all" in text
    assert "no longer accepts" not in text
    assert (
        "Strava no longer accepts this connection"
        in admin.get(detail(row_of(bob))).content.decode()
    )


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"strava": "linked"}, ["alice"]),
        ({"strava": "relink_required"}, ["bob"]),
        ({"strava": "not_linked"}, ["carol"]),
        ({"strava_token_age": "fresh"}, ["alice"]),
        ({"strava_token_age": "expired"}, ["bob"]),
        ({"strava_error": "relink_required"}, ["bob"]),
        ({"strava_scope": "read"}, ["bob"]),
        ({"strava": "nonsense"}, ["alice", "bob", "carol"]),
    ],
)
def test_rows_are_filtered(alice, bob, link, linked, admin, query, names):
    link(bob, BJORN, expires_in=-60)
    UsersIntegrations.objects.filter(user=bob).update(
        strava_relink_required_at=timezone.now(),
        strava_error="relink_required",
        strava_scope="read",
    )
    carol = get_user_model().objects.create_user("carol")
    services.create_user_integrations(carol.pk)

    page = admin.get(LIST, query)

    assert sorted(row.user.username for row in page.context["cl"].result_list) == names


def test_what_can_be_filtered_is_looked_up_once_a_minute(linked, admin, monkeypatch):
    UsersIntegrations.objects.update(strava_error="rate_limited")
    with CaptureQueriesContext(connection) as first:
        text = admin.get(LIST).content.decode()
    assert "?strava_error=rate_limited" in text
    assert "?strava_scope=read%2Cprofile%3Aread_all" in text
    with CaptureQueriesContext(connection) as second:
        assert "?strava_error=rate_limited" in admin.get(LIST).content.decode()
    assert distinct(first) == 3
    assert distinct(second) == 0

    def down(*args, **kwargs):
        raise ConnectionError("redis://:s3cret@10.0.0.5")

    monkeypatch.setattr(type(cache._connections["default"]), "get", down)
    assert "?strava_error=rate_limited" in admin.get(LIST).content.decode()


def distinct(queries):
    return sum("DISTINCT" in query["sql"] for query in queries.captured_queries)


def test_a_filter_by_what_has_healed_finds_nobody(linked, admin):
    for query in ({"strava_error": "rate_limited"}, {"garminconnect_error": "account_locked"}):
        assert len(admin.get(LIST, query).context["cl"].result_list) == 0


def test_no_secret_is_anywhere(alice, linked, admin):
    services.set_user_strava_client(alice.pk, "s3cret-client-id", "s3cret-client")
    services.link_garminconnect_account(alice.pk, {"x": "s3cret-1"}, {"y": "s3cret-2"})
    services.set_user_strava_state(alice.pk, "s3cret-state")
    row = row_of(alice)
    delete = reverse("admin:integrations_usersintegrations_delete", args=[row.pk])
    history = reverse("admin:integrations_usersintegrations_history", args=[row.pk])
    for url in (LIST, f"{LIST}?q=alice", detail(row), delete, history):
        page = admin.get(url)
        assert page.status_code == 200
        text = page.content.decode()
        for secret in ("s3cret", linked.strava_token[:8], linked.strava_refresh_token[:8], "gAAAA"):
            assert secret not in text, url


# One secret of each kind says whether there is any. Of an open sign-in, nothing is needed.
SAY_WHETHER = {"strava_client_id", "strava_token", "garminconnect_oauth1", "garminconnect_oauth2"}
SECRETS = {
    field.column
    for field in UsersIntegrations._meta.concrete_fields
    if isinstance(field, EncryptedTextField) or field.name == "strava_state"
}


def loaded_by(queries):
    selected = " ".join(query["sql"].partition(" FROM ")[0] for query in queries)
    return {column for column in SECRETS if connection.ops.quote_name(column) in selected}


@pytest.mark.parametrize("page", ["list", "search", "row"])
def test_what_is_not_shown_is_not_loaded(alice, linked, admin, page):
    services.set_user_strava_client(alice.pk, "app", "secret")
    services.link_garminconnect_account(alice.pk, {"x": "1"}, {"y": "2"})
    url = {"list": LIST, "search": f"{LIST}?q=alice", "row": detail(linked)}[page]
    with CaptureQueriesContext(connection) as queries:
        assert admin.get(url).status_code == 200
    found = loaded_by(queries)
    assert found
    assert found <= SAY_WHETHER


def test_nothing_can_be_edited_or_added(linked, admin):
    assert admin.get(reverse("admin:integrations_usersintegrations_add")).status_code == 403
    assert admin.post(detail(linked), {"strava_token": "x"}).status_code == 403
    assert b'name="strava' not in admin.get(detail(linked)).content


def test_the_list_costs_few_queries_and_no_decryption(
    linked, admin, django_assert_max_num_queries, sealed_for_good
):
    users = get_user_model().objects.bulk_create(
        get_user_model()(username=f"user{n}") for n in range(120)
    )
    UsersIntegrations.objects.bulk_create(
        UsersIntegrations(user=user, strava_token="t", garminconnect_oauth2={}) for user in users
    )
    with django_assert_max_num_queries(8):
        page = admin.get(LIST)
    shown = page.context["cl"].result_list
    assert [row.strava_status for row in shown] == ["linked"] * 100


def test_refresh_now(alice, bob, linked, link, strava, admin):
    strava.expire(ALICE, expires_in=60)
    link(bob, BJORN)
    strava.revoke_grant(BJORN)

    page = act(admin, "refresh_strava", linked, row_of(bob))

    text = page.content.decode()
    assert "1 token refreshed" in text
    assert "Bob: the athlete has to reconnect" in text
    assert row_of(alice).strava_token != linked.strava_token
    assert LogEntry.objects.get().get_change_message() == "Strava token refreshed by hand."


def test_disconnect(alice, linked, strava, admin):
    page = act(admin, "disconnect_strava", linked)

    assert "1 athlete disconnected" in page.content.decode()
    assert strava.calls["revoke"] == 1
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


def test_garmin_sessions_are_refreshed_and_disconnected(alice, garmin, admin):
    row = services.create_user_integrations(alice.pk)
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session(GARMIN_ALICE))
    assert "Connected" in admin.get(LIST, {"garminconnect": "linked"}).content.decode()
    assert not admin.get(LIST, {"garminconnect": "not_linked"}).context["cl"].result_list

    page = act(admin, "refresh_garminconnect", row)
    assert "1 session will be refreshed" in page.content.decode()
    assert garmin.calls["token"] == 1
    assert "1 athlete disconnected" in act(admin, "disconnect_garminconnect", row).content.decode()
    assert row_of(alice).garminconnect_oauth2 is None


@pytest.mark.django_db(transaction=True)
def test_deleting_a_row_in_the_admin_revokes(alice, linked, strava, admin):
    token = linked.strava_token
    url = reverse("admin:integrations_usersintegrations_delete", args=[linked.pk])
    admin.post(url, {"post": "yes"})
    assert not UsersIntegrations.objects.exists()
    assert not strava.is_alive(token)


@pytest.mark.parametrize("action", ["refresh_strava", "disconnect_strava"])
def test_who_may_only_view_may_not_act(alice, linked, strava, staff, action):
    client = staff("view")
    assert client.get(LIST).status_code == 200
    assert b"disconnect_strava" not in client.get(LIST).content

    act(client, action, linked)

    assert not strava.calls
    assert row_of(alice).strava_status == LinkStatus.LINKED


def test_the_change_permission_lets_act(alice, linked, strava, staff):
    act(staff("view", "change"), "disconnect_strava", linked)
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


def test_staff_without_permission_and_athletes_see_nothing(linked, staff, alice_client):
    assert staff().get(LIST).status_code == 403
    assert alice_client.get(LIST).status_code == 302


def test_a_state_that_is_open_cannot_be_asked_for(alice, linked, admin):
    services.set_user_strava_state(alice.pk, "s3cret-state")
    for lookup in ("strava_state", "strava_state__startswith", "strava_state__regex"):
        assert admin.get(LIST, {lookup: "s3cret"}).status_code == 400
    assert admin.get(LIST, {"strava_failures__gt": "0"}).status_code == 200


def _odd_lookups():
    for model in (UsersIntegrations, LinkEvent, Gear):
        for field in model._meta.fields:
            if isinstance(field, EncryptedTextField):
                for comparison in ("", "__exact", "__isnull", "__contains", "__in", "__gt"):
                    yield model, f"{field.name}{comparison}", "1"
    for name in ("strava_error", "strava_scope", "strava_athlete_name"):
        yield UsersIntegrations, name, "\0"
        yield UsersIntegrations, f"{name}__regex", "("
    yield UsersIntegrations, "strava_linked_at__year", "9999999999"
    yield UsersIntegrations, "_to_field", "strava_token"
    yield get_user_model(), "users_integrations__strava_token__isnull", "1"
    for model in (LinkEvent, Gear):
        yield model, "provider", "\0"
        yield model, "provider__iregex", "("
        yield model, "user__users_integrations__strava_token__isnull", "1"
        yield model, "user__users_integrations__strava_state__startswith", "s"
        yield model, "user__password__startswith", "pbkdf2"


def test_a_column_that_cannot_be_looked_up_is_refused_plainly(linked, admin):
    looked_up = list(_odd_lookups())
    assert len(looked_up) > 40
    for model, lookup, value in looked_up:
        url = reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist")
        assert admin.get(url, {lookup: value}).status_code == 400, (lookup, value)
    for order in ("strava_token", "-1.99", "1" * 50, "\0"):
        assert admin.get(LIST, {"o": order}).status_code == 200


def test_what_the_lists_offer_works(alice, linked, strava, admin):
    services.sync_strava_gear(alice.pk)
    for model in (UsersIntegrations, LinkEvent, Gear):
        url = reverse(f"admin:integrations_{model._meta.model_name}_changelist")
        offered = re.findall(r'href="(\?[^"]+)"', admin.get(url).content.decode())
        assert len(offered) > 5
        for query in offered:
            assert admin.get(url + html.unescape(query)).status_code == 200, query


@pytest.mark.django_db(transaction=True)
def test_a_row_that_staff_delete_leaves_what_a_disconnect_leaves(alice, linked, strava, garmin):
    client = Client()
    root = get_user_model().objects.create_superuser("root", "r@example.com", "pw")
    client.force_login(root)
    services.sync_strava_gear(alice.pk)
    begin_login(alice.pk, GARMIN_ALICE, "s3cret")
    heard = []
    receiver = lambda user_id, provider, **kwargs: heard.append((user_id, provider))  # noqa: E731
    account_unlinked.connect(receiver)
    try:
        url = reverse("admin:integrations_usersintegrations_delete", args=[row_of(alice).pk])
        assert client.post(url, {"post": "yes"}).status_code == 302
    finally:
        account_unlinked.disconnect(receiver)

    assert not UsersIntegrations.objects.exists()
    assert not Gear.objects.exists()
    assert not GarminConnectLogin.objects.exists()
    assert strava.counts()["refresh_tokens"] == 0
    assert heard == [(alice.pk, "strava")]
    event = get_link_events(alice.pk)[0]
    assert (event.event, event.code, event.actor, event.actor_user) == (
        "unlinked",
        "deleted",
        "staff",
        root,
    )


@pytest.mark.django_db(transaction=True)
def test_a_user_who_is_deleted_takes_the_trail_along(alice, linked, strava):
    alice.delete()
    assert not LinkEvent.objects.exists()
    assert strava.counts()["refresh_tokens"] == 0


@pytest.mark.parametrize("provider", ["strava", "garminconnect"])
def test_a_disconnect_is_asked_about_first(alice, linked, strava, garmin, admin, provider):
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session(GARMIN_ALICE))
    page = act(admin, f"disconnect_{provider}", linked, confirmed=False)
    text = page.content.decode()
    assert "This is about 1 athlete:" in text
    assert "<li>alice</li>" in text
    assert getattr(row_of(alice), f"{provider}_status") == "linked"

    fields = dict(re.findall(r'type="hidden" name="(?!csrf)(\w+)" value="([^"]*)"', text))
    admin.post(LIST, fields)
    assert getattr(row_of(alice), f"{provider}_status") == "not_linked"


def test_more_than_a_request_has_time_for_is_refused(linked, admin, monkeypatch):
    monkeypatch.setattr("integrations.admin.AT_ONCE", 0)
    for action in ("refresh_strava", "sync_gear", "disconnect_strava"):
        assert "Choose at most 0" in act(admin, action, linked, confirmed=False).content.decode()


def test_only_workers_ask_garmin(alice, bob, garmin, admin, settings):
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    row, other = (services.create_user_integrations(user.pk) for user in (alice, bob))
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session(GARMIN_ALICE))

    text = act(admin, "refresh_garminconnect", row, other).content.decode()

    assert "1 session will be refreshed" in text
    assert "Bob: " in text
    assert not garmin.calls
    (waiting,) = DBTaskResult.objects.all()
    args = waiting.args_kwargs["args"]
    assert tasks.refresh_link.call(*args) == "refreshed"
    assert garmin.calls["token"] == 1
    event = get_link_events(alice.pk)[0]
    assert (event.event, event.actor, event.actor_user.username) == ("refreshed", "staff", "root")
    garmin.fail("token", "reset_before")
    assert tasks.refresh_link.call(*args) == "provider_unavailable"
    assert tasks.refresh_link.call(bob.pk, "garminconnect") == "not_linked"


ASKING = ("refresh_strava", "disconnect_strava")


@pytest.mark.parametrize("action", ASKING)
def test_a_silent_provider_holds_no_action_for_long(strava, link, admin, monkeypatch, action):
    monkeypatch.setattr("integrations.admin.BUDGET", 1)
    users = get_user_model().objects.bulk_create(
        get_user_model()(username=f"user{n}") for n in range(4)
    )
    rows = []
    for athlete_id, user in enumerate(users, 1000):
        strava.athletes[athlete_id] = Athlete(athlete_id, "Some", "Body")
        rows.append(link(user, athlete_id))
    for endpoint in ("token", "revoke"):
        strava.fail(endpoint, "delay", seconds=0.7)

    started = time.monotonic()
    page = act(admin, action, *rows)

    assert time.monotonic() - started < 5
    said = [str(message) for message in page.context["messages"]]
    assert said[0] == (
        "2 were left out, because this took too long. Nothing was changed there: choose them again."
    )
    assert said[1].startswith("2 ")
    assert strava.calls["token" if action == "refresh_strava" else "revoke"] == 2


def test_failures_are_summed_up(admin, monkeypatch):
    monkeypatch.setattr("integrations.admin.NAMED", 1)
    users = get_user_model().objects.bulk_create(
        get_user_model()(username=f"user{n}") for n in range(3)
    )
    UsersIntegrations.objects.bulk_create(UsersIntegrations(user=user) for user in users)
    page = act(admin, "refresh_strava", *UsersIntegrations.objects.all())
    said = [str(message) for message in page.context["messages"]]
    assert len(said) == 2
    assert said[1] == "2 others failed too."


def test_gear_is_deleted_only_with_its_user(alice, linked, strava, admin):
    services.sync_strava_gear(alice.pk)
    url = reverse("admin:integrations_gear_delete", args=[Gear.objects.first().pk])
    assert admin.post(url, {"post": "yes"}).status_code == 403
    assert Gear.objects.count() == 4
    assert admin.post(f"/admin/auth/user/{alice.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Gear.objects.exists()


def test_a_row_is_named_and_leads_to_its_trail_and_gear(alice, linked, strava, admin):
    services.sync_strava_gear(alice.pk)
    text = admin.get(detail(linked)).content.decode()
    assert "integrations of alice" in text
    for name, count in (("linkevent", 2), ("gear", 4)):
        url = f"/admin/integrations/{name}/?user={alice.pk}"
        assert url in text
        assert admin.get(url).context["cl"].result_count == count
