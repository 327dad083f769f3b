"""Gear that stays in step with both providers."""

from __future__ import annotations

import threading
from datetime import UTC, timedelta

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.tasks import default_task_backend
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.html import strip_tags

from integrations import exceptions, services, tasks
from integrations.exceptions import (
    GarminConnectRelinkRequired,
    IntegrationsError,
    InvalidProviderReply,
    ProviderError,
    ScopeMissing,
    StravaNotLinked,
    StravaRelinkRequired,
)
from integrations.models import Gear, LinkStatus, UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import BJORN as GARMIN_BJORN
from integrations.sandbox.garmin import CHIDI as GARMIN_CHIDI
from integrations.sandbox.strava import (
    ALICE,
    BJORN,
    CHIDI,
    DANA,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
)
from integrations.services.gear import take_due_gear_syncs
from integrations.signals import gear_synced
from integrations.strava.client import StravaClient
from integrations.strava.provider import Strava
from integrations.strava.push import take_due_checks

from .conftest import a_moment_ago, row_of
from .test_garminconnect_session import link as link_garmin
from .test_strava_tokens import call_together

pytestmark = pytest.mark.usefixtures("in_one_window")

sync = services.sync_strava_gear


def gear_of(user, provider="strava"):
    return {gear.name: gear for gear in Gear.objects.filter(user=user, provider=provider)}


def statements(queries):
    return [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]


# --- Strava -------------------------------------------------------------------------------------


def test_gear_appears(alice, linked, strava):
    assert sync(alice.pk) == (4, 0, 0)

    gear = gear_of(alice)
    assert set(gear) == {"Road bike", "Gravel", "Trainers", ""}
    bike = gear["Road bike"]
    assert (bike.kind, bike.brand, bike.model) == ("bike", "Canyonesque", "Endura 7")
    assert (bike.distance, bike.primary, bike.retired) == (4_217_300, True, False)
    assert gear["Trainers"].kind == "shoes"
    assert str(gear[""]) == "Nikko Pegase 41"
    row = row_of(alice)
    assert timezone.now() - row.strava_synced_at < timedelta(minutes=1)
    assert row.strava_sync_due_at > timezone.now() + timedelta(hours=5)
    assert strava.calls == {"athlete": 1, "gear": 4}


def test_an_unchanged_user_costs_one_call_and_few_queries(alice, linked, strava):
    sync(alice.pk)
    before = strava.calls

    with CaptureQueriesContext(connection) as queries:
        assert sync(alice.pk) == (0, 0, 0)

    assert strava.calls - before == {"athlete": 1}
    sql = statements(queries)
    assert len(sql) <= 4
    [write] = [statement for statement in sql if not statement.startswith("SELECT")]
    assert write.startswith('UPDATE "users_integrations" SET "strava_synced_at"')


def test_a_change_is_written_in_few_statements(alice, linked, strava):
    sync(alice.pk)
    for bike in strava.athletes[ALICE].bikes:
        bike["distance"] += 1000
    strava.athletes[ALICE].shoes.pop()

    with CaptureQueriesContext(connection) as queries:
        assert sync(alice.pk) == (0, 2, 1)

    assert len(statements(queries)) <= 7
    assert gear_of(alice)["Gravel"].distance == 813_440


def test_details_are_asked_for_only_where_gear_is_new_or_renamed(alice, linked, strava):
    sync(alice.pk)
    bikes = strava.athletes[ALICE].bikes
    bikes[0] |= {"name": "Old road bike", "brand_name": "Other"}
    bikes[1]["brand_name"] = "Unseen"
    before = strava.calls["gear"]

    assert sync(alice.pk) == (0, 1, 0)

    assert strava.calls["gear"] == before + 1
    assert gear_of(alice)["Old road bike"].brand == "Other"
    assert gear_of(alice)["Gravel"].brand == "Tresk"


def test_details_that_could_not_be_had_are_asked_for_again(alice, linked, strava):
    strava.fail("gear", "500")
    assert sync(alice.pk).created == 4
    assert gear_of(alice)["Gravel"].brand is None
    strava.recover()

    sync(alice.pk)

    assert gear_of(alice)["Gravel"].brand == "Tresk"
    before = strava.calls["gear"]
    sync(alice.pk)
    assert strava.calls["gear"] == before


def test_gear_that_is_gone_is_retired_and_may_come_back(alice, linked, strava):
    sync(alice.pk)
    seen = row_of(alice).strava_synced_at
    gone = strava.athletes[ALICE].bikes.pop()

    assert sync(alice.pk) == (0, 0, 1)
    bike = gear_of(alice)["Gravel"]
    assert (bike.retired, bike.last_seen_at) == (True, seen)
    assert sync(alice.pk) == (0, 0, 0)

    strava.athletes[ALICE].bikes.append(gone)
    assert sync(alice.pk) == (0, 1, 0)
    bike = gear_of(alice)["Gravel"]
    assert (bike.retired, bike.last_seen_at) == (False, None)


def test_gear_retired_at_strava_is_retired_here(alice, linked, strava):
    sync(alice.pk)
    strava.athletes[ALICE].bikes[1]["retired"] = True
    assert sync(alice.pk) == (0, 0, 1)
    assert gear_of(alice)["Gravel"].retired is True


@pytest.mark.parametrize("athlete_id", [BJORN, DANA, CHIDI])
def test_names_may_hold_anything(alice, alice_client, link, strava, athlete_id):
    link(alice, athlete_id)
    sync(alice.pk)
    page = alice_client.get("/settings/integrations/").content.decode()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert len(gear_of(alice)) == (0 if athlete_id == CHIDI else len(gear_of(alice)) or 1)


NONSENSE = [
    "200_html",
    "empty",
    "half_json",
    "wrong_types",
    "500",
    "429",
    "403_inactive",
    "reset_before",
]


@pytest.mark.parametrize("fault", NONSENSE)
def test_nonsense_changes_nothing(alice, linked, strava, fault):
    sync(alice.pk)
    before = list(Gear.objects.values())
    synced_at = row_of(alice).strava_synced_at
    strava.fail("athlete", fault)

    with pytest.raises(ProviderError) as caught:
        sync(alice.pk)

    row = row_of(alice)
    assert list(Gear.objects.values()) == before
    assert row.strava_synced_at == synced_at
    assert row.strava_sync_error == caught.value.code
    assert row.strava_status == LinkStatus.LINKED
    assert row.strava_sync_due_at > timezone.now()
    strava.recover()
    UsersIntegrations.objects.update(strava_limited_until=None)  # a limit's window has turned
    sync(alice.pk)
    assert row_of(alice).strava_sync_error == ""


def test_somebody_elses_gear_is_nonsense(alice, linked, strava):
    UsersIntegrations.objects.update(strava_athlete_id=BJORN)
    with pytest.raises(InvalidProviderReply):
        sync(alice.pk)
    assert not Gear.objects.exists()


def test_without_the_permission_nothing_is_retired(alice, linked, strava):
    sync(alice.pk)
    strava.revoke_grant(ALICE)
    services.link_strava_account(row_of(alice), strava.issue_tokens(ALICE, scope="read"))

    with pytest.raises(ScopeMissing):
        sync(alice.pk)

    assert not Gear.objects.filter(retired=True).exists()
    assert row_of(alice).strava_sync_error == "scope_missing"


def test_a_token_revoked_at_strava_ends_the_link_not_the_gear(alice, linked, strava):
    sync(alice.pk)
    strava.revoke_grant(ALICE)

    with pytest.raises(StravaRelinkRequired):
        sync(alice.pk)

    assert row_of(alice).strava_status == LinkStatus.RELINK_REQUIRED
    assert Gear.objects.filter(retired=False).count() == 4


def test_without_a_link_there_is_nothing_to_synchronise(alice, strava):
    with pytest.raises(StravaNotLinked):
        sync(alice.pk)


def test_units_are_the_athletes(alice, alice_client, linked, strava):
    sync(alice.pk)
    UsersIntegrations.objects.update(strava_units="imperial")
    [bike, *_] = alice_client.get("/settings/integrations/").context["strava"]["gear_in_use"]
    assert (bike["distance"], bike["units"]) == (2621, "imperial")


@pytest.mark.django_db(transaction=True)
def test_two_at_once_end_in_the_same_rows(alice, linked, strava):
    strava.fail("athlete", "delay", seconds=0.2)
    outcomes = call_together(3, lambda: sync(alice.pk))
    assert all(isinstance(outcome, tuple) for outcome in outcomes), outcomes
    assert Gear.objects.count() == 4


@pytest.mark.django_db(transaction=True)
def test_one_that_dies_midway_leaves_whole_gear(alice, linked, strava):
    sync(alice.pk)
    before = list(Gear.objects.order_by("pk").values())
    for bike in strava.athletes[ALICE].bikes:
        bike["distance"] += 1000
    strava.athletes[ALICE].shoes.pop()

    def die(execute, sql, params, many, context):
        if sql.startswith('UPDATE "integrations_gear"'):
            raise OperationalError("server closed the connection")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(die), pytest.raises(IntegrationsError) as caught:
        sync(alice.pk)

    assert caught.value.status_code == 500
    assert list(Gear.objects.order_by("pk").values()) == before
    assert sync(alice.pk) == (0, 2, 1)


def test_a_disconnect_meanwhile_wins(alice, linked, strava, monkeypatch):
    fetch = Strava.fetch_gear

    def meanwhile(self, *args):
        fetched = fetch(self, *args)
        services.disconnect(alice.pk, "strava")
        return fetched

    monkeypatch.setattr(Strava, "fetch_gear", meanwhile)
    with pytest.raises(StravaNotLinked):
        sync(alice.pk)
    assert not Gear.objects.exists()


def test_disconnecting_deletes_that_gear_and_nothing_else(alice, bob, linked, link, strava, garmin):
    link(bob, BJORN)
    sync(alice.pk)
    sync(bob.pk)
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session(GARMIN_ALICE))
    services.sync_garminconnect_gear(alice.pk)

    services.disconnect(alice.pk, "strava")

    assert not gear_of(alice)
    assert gear_of(alice, "garminconnect")
    assert gear_of(bob)


@pytest.mark.django_db(transaction=True)
def test_host_projects_are_told(alice, linked, strava):
    heard = []

    def receiver(sender, signal, **rest):
        heard.append(rest)

    gear_synced.connect(receiver)
    try:
        sync(alice.pk)
    finally:
        gear_synced.disconnect(receiver)
    assert heard == [{"user_id": alice.pk, "provider": "strava"}]


# --- Garmin -------------------------------------------------------------------------------------


def test_garmins_gear_appears(alice, garmin):
    link_garmin(garmin, alice)

    counts = services.sync_garminconnect_gear(alice.pk)

    kinds = [gear.kind for gear in Gear.objects.filter(provider="garminconnect")]
    assert counts.created == len(kinds) == 4
    assert sorted(kinds) == ["bike", "bike", "other", "shoes"]  # skis are not shoes
    assert not Gear.objects.filter(brand=None).exists()
    assert row_of(alice).garminconnect_units == "metric"
    assert services.sync_garminconnect_gear(alice.pk) == (0, 0, 0)


def test_garmins_nasty_gear(alice, garmin):
    link_garmin(garmin, alice, GARMIN_BJORN)
    services.sync_garminconnect_gear(alice.pk)
    assert Gear.objects.filter(retired=True).exists()
    assert Gear.objects.count() == 7


def test_no_gear_is_no_error(alice, garmin):
    link_garmin(garmin, alice, GARMIN_CHIDI)
    assert services.sync_garminconnect_gear(alice.pk) == (0, 0, 0)
    assert row_of(alice).garminconnect_synced_at is not None


def test_more_gear_than_one_page(alice, garmin):
    account = garmin.accounts[GARMIN_ALICE]
    first = account.gear[0]
    account.gear[:] = [
        type(first)(pk=number, type="Bike", name=f"Bike {number}") for number in range(45)
    ]
    link_garmin(garmin, alice)
    assert services.sync_garminconnect_gear(alice.pk).created == 45


def without_the_newer_list(monkeypatch):
    import garminconnect

    def gone(self, *args, **kwargs):
        raise garminconnect.GarminConnectNotFoundError("404")

    monkeypatch.setattr(garminconnect.Garmin, "get_gear_list", gone)


def test_the_older_endpoint_serves_as_well(alice, garmin, monkeypatch):
    link_garmin(garmin, alice)
    services.sync_garminconnect_gear(alice.pk)
    without_the_newer_list(monkeypatch)
    assert services.sync_garminconnect_gear(alice.pk).created == 0
    assert not Gear.objects.filter(last_seen_at__isnull=False).exists()
    assert Gear.objects.filter(distance__gt=0).exists()


CUSTOM = "Marin Headlands 1"


@pytest.mark.parametrize(
    ("nickname", "custom", "make", "model", "shown"),
    [
        ("Commuter", CUSTOM, "Other", "Unknown Bike", "Commuter"),
        ("Other", CUSTOM, "Other", "Other", "Other"),  # called so by its owner
        (None, CUSTOM, "Other", "Unknown Bike", CUSTOM),
        ("", CUSTOM, "OTHER", "unknown bike", CUSTOM),
        ("", CUSTOM, "Marin", "Headlands", CUSTOM),
        (None, "Marin Headlands", "Marin", "Headlands", "Marin Headlands"),
        (None, None, "Marin", "Headlands", "Marin Headlands"),
        (None, "", "Marin", "Unknown Bike", "Marin"),
        (None, "", "Other", "Headlands", "Headlands"),
        (None, "", "Another", "Mother", "Another Mother"),
    ],
)
@pytest.mark.parametrize("shape", ["older", "newer"])
def test_gear_is_called_by_its_owners_words_before_garmins(
    alice, alice_client, garmin, monkeypatch, shape, nickname, custom, make, model, shown
):
    names = {
        "older": ("displayName", "gearMakeName", "gearModelName"),
        "newer": ("name", "brand", "model"),
    }[shape]
    said = dict(zip(names, (nickname, make, model), strict=True)) | {"customMakeModel": custom}
    if shape == "older":
        without_the_newer_list(monkeypatch)
    endpoint = {"older": "gear", "newer": "gear_list"}[shape]
    garmin.amend(endpoint, lambda answer: [answer[0] | said])
    link_garmin(garmin, alice)

    services.sync_garminconnect_gear(alice.pk)

    gear = Gear.objects.get()
    assert str(gear) == shown
    assert {"other", "unknown bike"}.isdisjoint({gear.brand.lower(), gear.model.lower()})
    page = strip_tags(alice_client.get("/settings/integrations/").content.decode())
    assert "Unknown Bike" not in page
    assert page.count(shown) == 1 or shown == "Other"  # which is a kind of gear as well


@pytest.mark.parametrize("kind", ["Bike", "Shoes", "Other"])
@pytest.mark.parametrize("custom", [{}, {"customMakeModel": ""}])
def test_gear_that_nobody_has_named_is_no_other(alice, garmin, monkeypatch, kind, custom):
    account = garmin.accounts[GARMIN_ALICE]
    account.gear[:] = [type(account.gear[0])(pk=1, type=kind, listed=False)]
    garmin.amend("gear", lambda answer: [answer[0] | custom])
    without_the_newer_list(monkeypatch)
    link_garmin(garmin, alice)
    services.sync_garminconnect_gear(alice.pk)
    gear = Gear.objects.get()
    assert (gear.name, gear.brand, gear.model) == ("", "", "")


@pytest.mark.parametrize(
    "fault", ["500", "502_html", "200_html", "half_json", "wrong_types", "429"]
)
def test_garmins_nonsense_changes_nothing(alice, garmin, fault):
    link_garmin(garmin, alice)
    services.sync_garminconnect_gear(alice.pk)
    before = list(Gear.objects.values())
    garmin.fail("gear_list", fault)

    with pytest.raises(ProviderError):
        services.sync_garminconnect_gear(alice.pk)

    assert list(Gear.objects.values()) == before
    assert row_of(alice).garminconnect_status == LinkStatus.LINKED
    assert row_of(alice).garminconnect_sync_error


def test_a_dead_session_asks_for_a_relink(alice, garmin):
    link_garmin(garmin, alice)
    garmin.revoke(GARMIN_ALICE)
    with pytest.raises(GarminConnectRelinkRequired):
        services.sync_garminconnect_gear(alice.pk)
    assert row_of(alice).garminconnect_status == LinkStatus.RELINK_REQUIRED


# --- Pages, tasks and commands ------------------------------------------------------------------

JSON = {"accept": "application/json"}


def test_switching_it_on_synchronises_at_once(alice, alice_client, linked, strava):
    response = alice_client.post("/integrations/strava/preferences/", {"sync_gear": "on"})

    assert response.status_code == 302
    assert row_of(alice).strava_sync_gear is True
    status = alice_client.get("/integrations/status/").json()["strava"]
    assert (status["sync_gear"], status["gear"], status["error"]) == (True, 4, None)
    assert status["last_synced_at"]

    alice_client.post("/integrations/strava/preferences/", {})
    assert row_of(alice).strava_sync_gear is False
    assert Gear.objects.count() == 4


def test_sync_now(alice, alice_client, linked, strava):
    response = alice_client.post("/integrations/strava/gear/sync/", headers=JSON)
    assert response.status_code == 202
    assert Gear.objects.count() == 4


def test_sync_now_while_one_is_under_way(alice, alice_client, linked, strava, settings):
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    assert alice_client.post("/integrations/strava/gear/sync/", headers=JSON).status_code == 202
    assert alice_client.get("/settings/integrations/").context["strava"]["syncing"] is True
    second = alice_client.post("/integrations/strava/gear/sync/", headers=JSON)
    assert (second.status_code, second.json()["error"]["code"]) == (409, "sync_in_progress")
    # whoever was to do it is gone: a minute later it can be asked for again
    UsersIntegrations.objects.update(strava_syncing_until=a_moment_ago())
    assert alice_client.post("/integrations/strava/gear/sync/", headers=JSON).status_code == 202


@pytest.mark.parametrize("provider", ["strava", "garminconnect"])
def test_sync_now_without_a_link(alice_client, provider):
    response = alice_client.post(f"/integrations/{provider}/gear/sync/", headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "not_linked")


def test_the_page_says_why_it_failed(alice_client, linked, strava):
    strava.fail("athlete", "500")
    alice_client.post("/integrations/strava/gear/sync/")
    page = alice_client.get("/settings/integrations/")
    assert "could not be reached" in page.content.decode()
    assert 'data-status="linked"' in page.content.decode()


@pytest.mark.parametrize("wanted", [True, False])
def test_a_failure_says_who_tries_again(alice, alice_client, linked, strava, wanted):
    UsersIntegrations.objects.update(strava_sync_gear=wanted)
    strava.fail("athlete", "500")
    alice_client.post("/integrations/strava/gear/sync/")
    error = alice_client.get("/integrations/status/").json()["strava"]["error"]
    assert ("try again automatically" in error["message"]) == wanted
    assert ("Press “Sync now”" in error["message"]) == (not wanted)
    page = alice_client.get("/settings/integrations/").content.decode()
    assert page.count("could not be reached the last time") == 1


def test_without_the_permission_nothing_is_promised(alice, alice_client, linked, strava):
    UsersIntegrations.objects.update(strava_scope="read")
    response = alice_client.post("/integrations/strava/gear/sync/", headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "scope_missing")
    assert 'role="switch"' not in alice_client.get("/settings/integrations/").content.decode()

    response = alice_client.post("/integrations/strava/preferences/", {"sync_gear": "on"})
    page = alice_client.get("/settings/integrations/")
    assert ["permission" in str(each) for each in page.context["messages"]] == [True]
    assert "Starts once the permission is there." in page.content.decode()
    assert not strava.calls["athlete"]


def test_the_page_costs_few_queries_with_gear(
    alice, alice_client, linked, strava, django_assert_max_num_queries, request
):
    sync(alice.pk)
    request.getfixturevalue("sealed_for_good")
    with django_assert_max_num_queries(5):
        alice_client.get("/settings/integrations/")


def wants(user, provider="strava", due=True):
    services.set_sync_gear(user.pk, provider, True)
    if not due:
        due_at = timezone.now() + timedelta(hours=1)
        UsersIntegrations.objects.filter(user=user).update(**{f"{provider}_sync_due_at": due_at})


def test_due_gear_is_synchronised_by_itself(alice, bob, linked, link, strava):
    wants(alice)
    link(bob, BJORN)
    wants(bob, due=False)

    result = tasks.sync_due_gear.enqueue()

    assert result.return_value == 1
    assert gear_of(alice)
    assert not gear_of(bob)
    assert tasks.sync_due_gear.enqueue().return_value == 0


def test_due_gear_is_given_out_once(alice, linked, strava):
    wants(alice)
    assert take_due_gear_syncs("strava")[0] == [alice.pk]
    assert take_due_gear_syncs("strava")[0] == []


@pytest.fixture
def stopped_clock(monkeypatch):
    """The database's clock stands still, as it does for whoever asks within its resolution."""
    now = f"{timezone.now().astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"
    monkeypatch.setattr(Now, "as_sqlite", lambda *args, **more: (f"'{now}'", ()))
    monkeypatch.setattr(Now, "as_postgresql", lambda *args, **more: (f"'{now}Z'::timestamptz", ()))


DUE = {
    "strava": lambda: take_due_gear_syncs("strava")[0],
    "garminconnect": lambda: take_due_gear_syncs("garminconnect")[0],
    "checks": take_due_checks,
}


@pytest.mark.parametrize("kind", DUE)
def test_two_who_take_what_is_due_at_the_same_moment_share_nothing(
    alice, linked, strava, garmin, stopped_clock, kind
):
    link_garmin(garmin, alice)
    past = timezone.now() - timedelta(minutes=1)
    columns = ("strava_sync_due_at", "garminconnect_sync_due_at", "strava_check_due_at")
    UsersIntegrations.objects.update(
        strava_sync_gear=True, garminconnect_sync_gear=True, **dict.fromkeys(columns, past)
    )
    taken = []

    def meanwhile(execute, sql, params, many, context):
        if sql.startswith("UPDATE") and not taken:
            taken.append([])
            taken[0] = DUE[kind]()  # another has seen the same rows as due, and is faster
        return execute(sql, params, many, context)

    with connection.execute_wrapper(meanwhile):
        taken.append(DUE[kind]())

    assert taken == [[alice.pk], []]


def test_workers_that_come_back_after_hours_synchronise_once(alice, linked, strava, settings):
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    wants(alice)
    for _ in range(5):  # hours without a worker
        UsersIntegrations.objects.update(strava_sync_due_at=a_moment_ago())
        tasks.sync_due_gear.call()
    queued = default_task_backend.results
    assert len(queued) == 5

    done = [each.task.call(*each.args) for each in queued]

    assert done[:4] == ["superseded"] * 4
    assert done[4]["created"] == 4
    assert strava.calls["athlete"] == 1
    assert queued[4].task.call(*queued[4].args) == "superseded"  # handed out twice by its broker


def test_a_dead_link_is_not_due(alice, linked, strava):
    wants(alice)
    UsersIntegrations.objects.update(strava_relink_required_at=timezone.now())
    assert take_due_gear_syncs("strava")[0] == []


@pytest.mark.django_db(transaction=True)
def test_the_command_synchronises_all_who_want_it(alice, bob, linked, link, strava, garmin, capsys):
    wants(alice, due=False)
    link(bob, BJORN)

    call_command("sync_gear", workers=1)

    out = capsys.readouterr().out
    assert "strava  synced: 1  failed: 0  created: 4" in out
    assert "garminconnect  synced: 0" in out
    assert not gear_of(bob)
    call_command("sync_gear", provider="strava", user=bob.pk)
    assert "strava  synced: 0" in capsys.readouterr().out


@pytest.mark.django_db(transaction=True)
def test_the_command_goes_on_past_a_failure(alice, bob, linked, link, strava, capsys):
    wants(alice)
    link(bob, BJORN)
    wants(bob)
    strava.revoke_grant(ALICE)

    call_command("sync_gear", provider="strava")

    assert "synced: 1  failed: 1" in capsys.readouterr().out
    assert gear_of(bob)


def test_a_used_up_limit_puts_off_the_others_without_asking(alice, bob, linked, link, strava):
    link(bob, BJORN)
    wants(alice)
    wants(bob)
    strava.fail("athlete", "429", times=1)

    tasks.sync_due_gear.enqueue()

    assert strava.calls["athlete"] == 1
    assert not Gear.objects.exists()
    for row in UsersIntegrations.objects.all():
        assert row.strava_sync_error == "rate_limited"
        assert row.strava_sync_due_at - timezone.now() <= timedelta(days=1)
    UsersIntegrations.objects.update(
        strava_sync_due_at=a_moment_ago(), strava_limited_until=timezone.now()
    )
    tasks.sync_due_gear.enqueue()
    assert Gear.objects.filter(user=alice).exists()
    assert Gear.objects.filter(user=bob).exists()


@pytest.mark.parametrize("failures", [0, 9])
def test_after_a_limit_gear_is_due_when_the_window_ends(alice, bob, linked, link, strava, failures):
    """However often it was refused: the window ends for all at once."""
    link(bob, BJORN)
    for user in (alice, bob):
        wants(user)
    UsersIntegrations.objects.update(strava_sync_failures=failures)
    strava.fail("athlete", "429", times=1)

    tasks.sync_due_gear.enqueue()

    assert strava.calls["athlete"] == 1  # the other was put off without asking
    for row in UsersIntegrations.objects.all():
        wait = row.strava_sync_due_at - timezone.now()
        assert timedelta(minutes=9) < wait <= timedelta(minutes=10)


def test_after_a_limit_of_garmins_gear_is_due_in_an_hour(alice, garmin):
    link_garmin(garmin, alice)
    garmin.fail("gear_list", "429")
    for _ in range(2):  # the second does not ask
        with pytest.raises(exceptions.RateLimited):
            services.sync_garminconnect_gear(alice.pk)
        wait = row_of(alice).garminconnect_sync_due_at - timezone.now()
        assert timedelta(minutes=59) < wait <= timedelta(minutes=60)
    assert garmin.calls["gear_list"] == 1


def test_no_limit_puts_gear_off_for_longer_than_a_day(alice, linked, strava, monkeypatch):
    monkeypatch.setattr("integrations.strava.client._retry_after", lambda headers: 7 * 86400)
    strava.fail("athlete", "429", times=1)
    with pytest.raises(exceptions.RateLimited):
        sync(alice.pk)
    wait = row_of(alice).strava_sync_due_at - timezone.now()
    assert timedelta(hours=23) < wait <= timedelta(days=1)


def test_other_failures_wait_longer_each_time(alice, linked, strava):
    strava.fail("athlete", "500")
    for least in (7, 14, 29, 59):
        with pytest.raises(ProviderError):
            sync(alice.pk)
        wait = row_of(alice).strava_sync_due_at - timezone.now()
        assert timedelta(minutes=least) < wait <= timedelta(minutes=least * 1.5)


def test_a_limit_of_the_sites_app_is_not_an_own_apps(alice, bob, linked, link, strava):
    wants(alice)
    strava.fail("athlete", "429", times=1)
    tasks.sync_gear.enqueue(alice.pk, "strava")
    services.create_user_integrations(bob.pk)
    services.set_user_strava_client(bob.pk, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)
    services.link_strava_account(row_of(bob), strava.issue_tokens(BJORN, OTHER_CLIENT_ID))

    assert tasks.sync_gear.enqueue(bob.pk, "strava").return_value["created"] > 0


def test_a_task_that_fails_tells_its_code(alice, linked, strava):
    strava.fail("athlete", "500")
    result = tasks.sync_gear.enqueue(alice.pk, "strava")
    assert result.return_value == "provider_unavailable"
    assert result.status == "SUCCESSFUL"


def test_admin_lists_gear(alice, linked, strava, client):
    from django.contrib.auth import get_user_model

    sync(alice.pk)
    client.force_login(get_user_model().objects.create_superuser("root", password="pw"))
    page = client.get("/admin/integrations/gear/?q=Canyon")
    assert [str(gear) for gear in page.context["cl"].result_list] == ["Road bike"]
    assert b"4,217" in page.content
    rows = client.get("/admin/integrations/usersintegrations/").context["cl"].result_list
    assert [row.gear_count for row in rows] == [4]
    assert client.get("/admin/integrations/gear/add/").status_code == 403


def test_threads_are_all_gone(alice, linked, strava, capsys):
    before = threading.active_count()
    call_command("sync_gear", workers=4)
    assert threading.active_count() <= before


def test_details_that_do_not_exist_are_not_asked_for_again(alice, linked, strava, monkeypatch):
    def gone(self, access_token, gear_id):
        asked.append(gear_id)
        raise exceptions.GearNotFound(provider_status=404)

    asked = []
    monkeypatch.setattr(StravaClient, "get_gear", gone)
    services.sync_strava_gear(alice.pk)
    assert len(asked) == 4
    services.sync_strava_gear(alice.pk)
    assert len(asked) == 4
    assert set(Gear.objects.values_list("brand", flat=True)) == {""}

    Gear.objects.update(brand="Canyonesque", name="Renamed since")
    services.sync_strava_gear(alice.pk)
    assert set(Gear.objects.values_list("brand", flat=True)) == {"Canyonesque"}


def test_a_bare_401_renews_the_token_once(alice, linked, strava, monkeypatch):
    def bare(self, response):
        if response.status_code == 401:
            response._content = b"<html>Unauthorized</html>"
        return error_for(self, response)

    error_for = StravaClient.error_for
    monkeypatch.setattr(StravaClient, "error_for", bare)
    strava.expire(ALICE)  # only Strava knows
    assert services.sync_strava_gear(alice.pk).created == 4
    assert strava.calls["token"] == 1
