"""Gear of which a provider says something odd: that costs nothing but itself."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from integrations import services
from integrations.exceptions import (
    GarminConnectRateLimited,
    InvalidProviderReply,
    ScopeMissing,
)
from integrations.models import Gear
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin.errors import api
from integrations.sandbox.strava import ALICE

from .conftest import row_of
from .test_garminconnect_session import link as link_garmin
from .test_gear import without_the_newer_list


@pytest.fixture(params=["strava", "garmin", "garmin older"])
def source(request, alice, monkeypatch):
    """A list of gear that has been synced once, in each shape that there is.

    `edit` changes the entries of its next answers; the first is "Road bike".
    """
    if request.param == "strava":
        request.getfixturevalue("linked")
        provider = request.getfixturevalue("strava")

        def edit(change):
            provider.amend("athlete", lambda answer: answer | {"bikes": change(answer["bikes"])})

        names = {"id": "id", "name": "name", "distance": "distance"}
        sync = services.sync_strava_gear
    else:
        provider = request.getfixturevalue("garmin")
        link_garmin(provider, alice)
        endpoint, names = "gear_list", {"distance": "distanceUsedMeters"}
        if request.param == "garmin older":
            without_the_newer_list(monkeypatch)
            endpoint, names = "gear", {"name": "displayName"}
        names = {"id": "uuid", "name": "name"} | names

        def edit(change):
            provider.amend(endpoint, change)

        sync = services.sync_garminconnect_gear
    found = SimpleNamespace(
        name=request.param,
        provider="strava" if request.param == "strava" else "garminconnect",
        fields=names,
        edit=edit,
        sync=lambda: sync(alice.pk),
    )
    found.sync()
    assert Gear.objects.count() == 4
    return found


def first(change):
    """Change the first entry of a list."""
    return lambda entries: [change(copy.deepcopy(entries[0])), *entries[1:]]


def in_use():
    return Gear.objects.filter(retired=False, last_seen_at=None)


def everything():
    return list(Gear.objects.order_by("pk").values())


ODD_NAMES = [
    (7, "7"),
    (7.5, "7.5"),
    (None, ""),
    ([], "Road bike"),
    ({"a": {"b": [None]}}, "Road bike"),
    (True, "Road bike"),
    ("half \ud83d a pair", "half  a pair"),
    ("nul\0", "nul"),
]
ODD_DISTANCES = [-1, -0.001, 1e300, 10**400, None, "", "far", "nan", [], {}, True]


@pytest.mark.parametrize(("said", "kept"), ODD_NAMES)
def test_of_an_odd_name_what_can_be_used_is_kept(source, said, kept):
    source.edit(first(lambda entry: entry | {source.fields["name"]: said}))
    assert source.sync().retired == 0
    assert in_use().get(distance=4_217_300).name == kept
    assert in_use().count() == 4


@pytest.mark.parametrize("source", ["strava", "garmin"], indirect=True)
@pytest.mark.parametrize("said", ODD_DISTANCES)
def test_an_odd_distance_takes_nothing_from_a_good_one(source, said):
    source.edit(first(lambda entry: entry | {source.fields["distance"]: said}))
    before = everything()
    assert source.sync() == (0, 0, 0)
    assert everything() == before


@pytest.mark.parametrize("said", ["4300000.4", 4_300_000.4, "4.3e6"])
def test_a_number_that_comes_as_text_is_a_number(source, garmin, said):
    if source.name == "garmin older":
        garmin.amend("gear_stats", lambda answer: answer | {"totalDistance": said})
    else:
        source.edit(first(lambda entry: entry | {source.fields["distance"]: said}))
    source.sync()
    assert Gear.objects.get(name="Road bike").distance == 4_300_000


@pytest.mark.parametrize("said", ODD_DISTANCES)
def test_new_gear_with_an_odd_distance_has_none(alice, linked, strava, said):
    strava.athletes[ALICE].bikes[0]["distance"] = said
    assert services.sync_strava_gear(alice.pk).created == 4
    assert Gear.objects.get(name="Road bike").distance == 0


@pytest.mark.parametrize(
    ("said", "known", "kept"),
    [("true", False, True), ("False", True, False), (1, False, True), (0, True, False)]
    + [(None, True, False)]  # as where it is not there: Strava says it of some gear only
    + [(odd, known, known) for odd in ("soon", [], {}, 7) for known in (True, False)],
)
@pytest.mark.parametrize("field", ["primary", "retired"])
def test_a_flag_may_come_in_other_words(alice, linked, strava, field, said, known, kept):
    bike = strava.athletes[ALICE].bikes[0]
    bike[field] = known
    services.sync_strava_gear(alice.pk)
    bike[field] = said
    services.sync_strava_gear(alice.pk)
    assert getattr(Gear.objects.get(name="Road bike"), field) is kept


@pytest.mark.parametrize("field", ["gearType", "status"])
@pytest.mark.parametrize("said", [None, [], {"a": 1}, True, ""])
def test_what_garmin_does_not_say_stays_as_it_was(alice, garmin, field, said):
    link_garmin(garmin, alice)
    garmin.accounts[GARMIN_ALICE].gear[0].retired_on = "2026-01-01"
    services.sync_garminconnect_gear(alice.pk)
    before = everything()
    garmin.amend("gear_list", first(lambda entry: entry | {field: said}))
    assert services.sync_garminconnect_gear(alice.pk) == (0, 0, 0)
    assert everything() == before


WITHOUT_AN_ID = [None, 5, "text", [], {}, True]
ODD_IDS = [None, "", " ", "b.1", "..", "a/b", "é", "b1\n", "x" * 65, [], {"id": "b1"}, True, 1.5]


@pytest.mark.parametrize("entry", WITHOUT_AN_ID, ids=repr)
def test_what_is_no_entry_is_left_out_and_retires_nothing(source, entry):
    source.edit(first(lambda _: entry))
    before = everything()
    assert source.sync() == (0, 0, 0)
    assert everything() == before


@pytest.mark.parametrize("said", ODD_IDS, ids=repr)
def test_gear_without_a_usable_id_is_left_out_and_retires_nothing(source, said):
    source.edit(first(lambda entry: entry | {source.fields["id"]: said}))
    before = everything()
    assert source.sync() == (0, 0, 0)
    assert everything() == before
    # The rest of the list goes on being read.
    source.edit(
        lambda entries: [
            entries[0] | {source.fields["id"]: said},
            *(entry | {source.fields["name"]: f"New {n}"} for n, entry in enumerate(entries[1:])),
        ]
    )
    assert source.sync().updated > 0
    assert in_use().filter(name="New 0").exists()


def test_an_id_that_is_a_number_is_its_text(source):
    said = 12345678
    source.edit(first(lambda entry: entry | {source.fields["id"]: said}))
    assert source.sync() == (1, 0, 1)
    assert in_use().get(provider_gear_id=str(said)).name == "Road bike"


def test_once_the_list_is_whole_again_what_is_missing_is_retired(source):
    source.edit(lambda entries: [None, *entries[1:]])
    source.sync()
    source.edit(lambda entries: entries[1:])
    assert source.sync() == (0, 0, 1)
    assert Gear.objects.get(name="Road bike").retired


def test_of_bikes_that_are_odd_shoes_know_nothing(alice, linked, strava):
    services.sync_strava_gear(alice.pk)
    strava.athletes[ALICE].shoes.pop()
    strava.amend("athlete", lambda answer: answer | {"bikes": [None]})
    assert services.sync_strava_gear(alice.pk) == (0, 0, 1)
    assert in_use().filter(kind="bike").count() == 2


# --- A list of Strava's that is none ------------------------------------------------------------

NO_LIST = [None, "missing", {}, "b1", 7, {"b": True}]


@pytest.mark.parametrize("said", NO_LIST, ids=repr)
@pytest.mark.parametrize("lacking", ["bikes", "shoes"])
def test_one_list_goes_on_without_the_other(alice, linked, strava, lacking, said):
    services.sync_strava_gear(alice.pk)
    athlete = strava.athletes[ALICE]
    for gear in (*athlete.bikes, *athlete.shoes):
        gear["distance"] += 1000

    def edit(answer):
        answer.pop(lacking)
        return answer if said == "missing" else answer | {lacking: said}

    strava.amend("athlete", edit)

    assert services.sync_strava_gear(alice.pk) == (0, 2, 0)

    assert in_use().count() == 4


@pytest.mark.parametrize("how", ["null", "missing"])
def test_without_either_list_the_permission_is_missing(alice, linked, strava, how):
    lists = {"bikes": None, "shoes": None}

    def edit(answer):
        rest = {name: value for name, value in answer.items() if name not in lists}
        return rest | (lists if how == "null" else {})

    strava.amend("athlete", edit)
    with pytest.raises(ScopeMissing):
        services.sync_strava_gear(alice.pk)


@pytest.mark.parametrize("said", [{}, "none", 7])
def test_with_both_lists_odd_nothing_can_be_used(alice, linked, strava, said):
    services.sync_strava_gear(alice.pk)
    before = everything()
    strava.amend("athlete", lambda answer: answer | {"bikes": said, "shoes": None})
    with pytest.raises(InvalidProviderReply):
        services.sync_strava_gear(alice.pk)
    assert everything() == before


@pytest.mark.parametrize("said", [5, None, [], {}, True, "furlongs"])
def test_no_preference_spoils_the_gear(alice, linked, strava, said):
    strava.amend("athlete", lambda answer: answer | {"measurement_preference": said})
    assert services.sync_strava_gear(alice.pk).created == 4
    assert row_of(alice).strava_units == ""


@pytest.mark.parametrize("source", ["garmin", "garmin older"], indirect=True)
@pytest.mark.parametrize("said", [None, {}, "gear", 7])
def test_garmins_answer_that_is_no_list_cannot_be_used(source, said):
    before = everything()
    source.edit(lambda entries: said)
    with pytest.raises(InvalidProviderReply):
        source.sync()
    assert everything() == before


# --- More than there should be ------------------------------------------------------------------


def test_what_is_listed_twice_is_there_once(source):
    source.edit(lambda entries: entries * 2)
    assert source.sync() == (0, 0, 0)
    assert in_use().count() == 4


def test_beyond_the_most_that_is_read_nothing_is_retired(source, monkeypatch):
    for module in ("strava", "garminconnect"):
        monkeypatch.setattr(f"integrations.{module}.gear.MAX_GEAR", 1)
    before = everything()
    assert source.sync() == (0, 0, 0)
    assert everything() == before


# --- What is told -------------------------------------------------------------------------------


def test_one_line_is_logged_with_kinds_and_counts_and_no_values(source, caplog):
    caplog.set_level(logging.WARNING, "integrations.gear")
    source.sync()
    assert not caplog.records
    source.edit(
        lambda entries: [
            entries[0] | {source.fields["name"]: ["s3cret"]},
            entries[1] | {source.fields["id"]: "s3cret.1"},
            *entries[2:],
            None,
        ]
    )

    source.sync()

    [record] = [each for each in caplog.records if each.name == "integrations.gear"]
    assert record.event == f"{source.provider}.gear_odd"
    counts = "bike 3" if source.provider == "strava" else "bike 2, other 1"
    assert record.getMessage() == f"{source.provider} lists odd gear: {counts}"
    assert "s3cret" not in caplog.text


def test_odd_gear_costs_no_query_more(source):
    def counted():
        with CaptureQueriesContext(connection) as queries:
            assert source.sync() == (0, 0, 0)
        return len(queries)

    whole = counted()
    source.edit(lambda entries: [None, *entries[1:], entries[1] | {source.fields["name"]: []}])
    assert counted() == whole


@pytest.mark.parametrize("provider", ["strava", "garmin"])
def test_what_cannot_be_used_is_told_as_such(alice, alice_client, request, provider):
    if provider == "strava":
        request.getfixturevalue("linked")
        request.getfixturevalue("strava").fail("athlete", "200_html")
        name = "strava"
    else:
        garmin = request.getfixturevalue("garmin")
        link_garmin(garmin, alice)
        garmin.fail("gear_list", "200_html")
        name = "garminconnect"
    alice_client.post(f"/integrations/{name}/gear/sync/")
    error = alice_client.get("/integrations/status/").json()[name]["error"]
    assert error["code"] == "invalid_provider_reply"
    assert "sent an answer that we could not use" in error["message"]
    assert "reached" not in error["message"]


@pytest.mark.parametrize("status", [400, 403, 410, 451])
def test_what_garmins_api_refuses_is_no_outage(alice, garmin, monkeypatch, status):
    link_garmin(garmin, alice)
    answer = api(status, "No", "Refused").response
    monkeypatch.setattr("integrations.sandbox.garmin.errors.front", lambda status: answer)
    garmin.fail("gear_list", "403")
    with pytest.raises(InvalidProviderReply) as caught:
        services.sync_garminconnect_gear(alice.pk)
    assert (caught.value.code, caught.value.provider_status) == ("invalid_provider_reply", status)


# --- One request for each -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "200_html", "wrong_types", "empty", "half_json"])
def test_details_that_are_broken_for_one_are_there_for_the_others(alice, linked, strava, fault):
    strava.fail("gear", fault, times=1)
    services.sync_strava_gear(alice.pk)
    assert Gear.objects.filter(brand=None).count() == 1
    services.sync_strava_gear(alice.pk)
    assert not Gear.objects.filter(brand=None).exists()


@pytest.mark.parametrize("said", [[], {}, True])
def test_a_brand_that_is_none_takes_nothing_from_a_good_one(alice, linked, strava, said):
    services.sync_strava_gear(alice.pk)
    bike = strava.athletes[ALICE].bikes[0]
    bike |= {"name": "Renamed", "brand_name": said}
    services.sync_strava_gear(alice.pk)
    assert Gear.objects.get(name="Renamed").brand == "Canyonesque"
    bike |= {"name": "Renamed again", "brand_name": 7}
    services.sync_strava_gear(alice.pk)
    assert Gear.objects.get(name="Renamed again").brand == "7"


@pytest.fixture
def statistics(alice, garmin, monkeypatch):
    """Garmin, whose list has no distances: each is asked for, in the order of the list."""
    without_the_newer_list(monkeypatch)
    link_garmin(garmin, alice)
    services.sync_garminconnect_gear(alice.pk)
    for gear in garmin.accounts[GARMIN_ALICE].gear:
        gear.distance += 1000
    return garmin


def distances():
    return dict(Gear.objects.values_list("name", "distance"))


WHOLE = {"Gravel": 813_440, "Trainers": 312_020, "Touring skis": 97_500}


@pytest.mark.parametrize("fault", ["500", "200_html", "wrong_types", "empty", "half_json"])
def test_statistics_that_are_broken_for_one_are_read_for_the_others(alice, statistics, fault):
    statistics.fail("gear_stats", fault, times=1)
    assert services.sync_garminconnect_gear(alice.pk) == (0, 3, 0)
    assert distances() == WHOLE | {"Road bike": 4_217_300}
    assert services.sync_garminconnect_gear(alice.pk) == (0, 1, 0)
    assert distances()["Road bike"] == 4_218_300


@pytest.mark.parametrize(
    "said", [None, [], "far", 7, {}, *({"totalDistance": each} for each in ODD_DISTANCES)]
)
def test_statistics_that_say_nothing_leave_the_last_known_distance(alice, statistics, said):
    def edit(answer):
        return said if answer["gearPk"] == 41001 else answer

    statistics.amend("gear_stats", edit)
    services.sync_garminconnect_gear(alice.pk)
    assert distances() == WHOLE | {"Road bike": 4_217_300}


def test_removed_gear_keeps_its_last_known_distance(alice, statistics, caplog):
    caplog.set_level(logging.WARNING, "integrations.gear")
    statistics.accounts[GARMIN_ALICE].gear[0].removed = True
    services.sync_garminconnect_gear(alice.pk)
    assert distances() == WHOLE | {"Road bike": 4_217_300}
    assert not [each for each in caplog.records if each.name == "integrations.gear"]  # it happens


def test_a_uuid_that_the_library_refuses_is_odd_and_no_more(alice, statistics):
    statistics.amend("gear", first(lambda entry: entry | {"uuid": "g-1"}))
    services.sync_garminconnect_gear(alice.pk)
    assert Gear.objects.get(provider_gear_id="g1").distance == 0
    assert distances().items() >= WHOLE.items()


@pytest.mark.parametrize("fault", ["502_html", "reset_before"])
def test_where_nobody_answers_no_more_statistics_are_asked_for(alice, statistics, fault):
    before = everything()
    statistics.fail("gear_stats", fault)
    asked = statistics.calls["gear_stats"]
    assert services.sync_garminconnect_gear(alice.pk) == (0, 0, 0)
    assert statistics.calls["gear_stats"] == asked + 1
    assert everything() == before


def test_a_limit_on_statistics_puts_the_synchronisation_off(alice, statistics):
    statistics.fail("gear_stats", "429", times=1)
    with pytest.raises(GarminConnectRateLimited):
        services.sync_garminconnect_gear(alice.pk)
    assert row_of(alice).garminconnect_sync_error == "rate_limited"
