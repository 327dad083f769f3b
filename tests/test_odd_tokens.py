"""Token answers that are odd beside the tokens, or come from another time: no pair is lost."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from integrations import services
from integrations.exceptions import InvalidProviderReply
from integrations.models import LinkStatus, UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.strava import ALICE
from integrations.schemas import UsersIntegrationsUpdate

from .conftest import begin, come_back, row_of
from .test_garminconnect_session import link as link_garmin
from .test_strava_tokens import lapse

get_token = services.get_strava_access_token
SIX_HOURS, DAY = timedelta(hours=6), timedelta(days=1)
MINUTE = timedelta(minutes=1)


# --- Another time -------------------------------------------------------------------------------

# Seconds by which the provider's clock is ahead, and the lifetime that is left of an answer.
CLOCKS = [(0, 0), (7200, 0), (36_000, 0), (-7200, 7200)]


@pytest.mark.parametrize(("ahead", "less"), CLOCKS)
def test_a_refreshed_token_is_good_for_its_lifetime_at_most(alice, linked, strava, ahead, less):
    strava.ahead = ahead
    strava.expire(ALICE)
    lapse()

    get_token(alice.pk)

    left = row_of(alice).strava_token_expires_at - timezone.now()
    assert abs(left - SIX_HOURS + timedelta(seconds=less)) < MINUTE


@pytest.mark.parametrize(("ahead", "less"), CLOCKS)
def test_a_new_link_is_good_for_its_lifetime_at_most(alice, alice_client, strava, ahead, less):
    strava.ahead = ahead
    connect(alice_client, strava)
    left = row_of(alice).strava_token_expires_at - timezone.now()
    assert abs(left - SIX_HOURS + timedelta(seconds=less)) < MINUTE


@pytest.mark.parametrize("stored_by", ["link", "refresh", "edit"])
@pytest.mark.parametrize(("ahead", "less"), CLOCKS)
def test_a_session_is_good_for_its_lifetime_at_most(alice, garmin, stored_by, ahead, less):
    garmin.ahead = ahead
    link_garmin(garmin, alice)
    if stored_by == "refresh":
        services.refresh_link(alice.pk, "garminconnect")
    elif stored_by == "edit":
        UsersIntegrations.objects.update(garminconnect_token_expires_at=None)
        session = garmin.issue_session(GARMIN_ALICE)
        services.edit_user_integrations(
            UsersIntegrationsUpdate(garminconnect_oauth2=session), alice.pk
        )
    left = row_of(alice).garminconnect_token_expires_at - timezone.now()
    assert abs(left - DAY + timedelta(seconds=less)) < MINUTE


@pytest.mark.parametrize("expires_at", [1_900_000_000, "1900000000", 1_900_000_000.9])
def test_what_a_host_says_of_an_expiry_counts_to_the_second(alice, expires_at):
    """Its answer may be of any age: what `expires_in` has counted from is not known."""
    row = services.create_user_integrations(alice.pk)
    tokens = {"access_token": "a", "refresh_token": "r", "expires_at": expires_at}
    for more in ({}, {"expires_in": 21600}):
        services.link_strava_account(row, tokens | more)
        assert row.strava_token_expires_at.timestamp() == 1_900_000_000


# --- Odd beside the tokens ----------------------------------------------------------------------


def changed(**fields):
    """An edit of a token answer: ... leaves a field out."""

    def edit(answer):
        answer |= fields
        return {name: value for name, value in answer.items() if value is not ...}

    return edit


def connect(client, strava):
    return come_back(
        client,
        state=begin(client)["state"],
        code=strava.grant(ALICE),
        scope="read,profile:read_all",
    )


ODD_ATHLETES = [..., None, "somebody", [], 5, {}, {"id": None}, {"id": "me"}, {"id": True}]
ODD_EXPIRIES = [..., None, "soon", [], {}, True, -5, 0.5, 10**30, 10**400, ""]
BESIDE = [
    *({"athlete": each} for each in ODD_ATHLETES),
    *({"expires_at": each} for each in ODD_EXPIRIES),
    *({"expires_in": each} for each in ODD_EXPIRIES if each not in (-5, 0.5)),
    {"expires_at": "1900000000", "expires_in": "21600"},
    {"expires_at": 1_900_000_000.5, "expires_in": 21600.5},
    {"token_type": 7},
    {"scope": ["read"], "more": None},
]


@pytest.mark.parametrize("fields", BESIDE, ids=repr)
def test_nothing_odd_beside_the_tokens_costs_the_pair(alice, expired, strava, fields):
    strava.amend("token", changed(**fields))

    token = get_token(alice.pk)

    row = row_of(alice)
    assert token == row.strava_token
    assert strava.is_alive(token)
    assert strava.is_alive(row.strava_refresh_token)
    assert abs(row.strava_token_expires_at - timezone.now() - SIX_HOURS) < MINUTE


@pytest.mark.parametrize("fields", BESIDE, ids=repr)
def test_nothing_odd_beside_the_tokens_costs_a_new_link(alice, alice_client, strava, fields):
    strava.amend("token", changed(**fields))

    connect(alice_client, strava)

    row = row_of(alice)
    assert row.strava_status == LinkStatus.LINKED
    assert strava.is_alive(row.strava_token)
    assert row.strava_athlete_id == (None if "athlete" in fields else ALICE)
    assert services.sync_strava_gear(alice.pk).created == 4
    assert row_of(alice).strava_athlete_id == ALICE


@pytest.mark.parametrize("said", ODD_EXPIRIES)
def test_a_token_that_tells_of_no_expiry_is_renewed_before_its_next_use(
    alice, expired, strava, said
):
    strava.amend("token", changed(expires_at=said, expires_in=None))
    assert strava.is_alive(get_token(alice.pk))
    assert row_of(alice).strava_refresh_token != expired.strava_refresh_token
    strava.recover()
    assert strava.is_alive(get_token(alice.pk))
    assert strava.calls["token"] == 2
    assert row_of(alice).strava_token_expires_at > timezone.now()


@pytest.mark.parametrize("said", [..., None])
def test_a_refresh_token_that_is_not_replaced_stays(alice, expired, strava, said):
    strava.amend("token", changed(refresh_token=said))

    token = get_token(alice.pk)

    row = row_of(alice)
    assert (row.strava_token, row.strava_status) == (token, LinkStatus.LINKED)
    assert row.strava_refresh_token == expired.strava_refresh_token


NO_TOKENS = [7, [], {}, True, "", "two words", "é"]


@pytest.mark.parametrize("said", [*NO_TOKENS, ..., None])
def test_an_access_token_is_one_to_the_letter(alice, expired, strava, said):
    strava.amend("token", changed(access_token=said))
    with pytest.raises(InvalidProviderReply):
        get_token(alice.pk)
    row = row_of(alice)
    assert row.strava_status == LinkStatus.LINKED
    assert row.strava_refresh_token == expired.strava_refresh_token


@pytest.mark.parametrize("said", [*NO_TOKENS, ..., None])
def test_there_is_no_link_without_a_refresh_token(alice, alice_client, strava, said):
    strava.amend("token", changed(refresh_token=said))
    connect(alice_client, strava)
    assert row_of(alice).strava_status == LinkStatus.NOT_LINKED


def test_an_athletes_id_may_come_as_text(alice, alice_client, strava):
    strava.amend("token", lambda answer: answer | {"athlete": {"id": str(ALICE)}})
    strava.amend("athlete", lambda answer: answer | {"id": str(ALICE)})
    connect(alice_client, strava)
    assert row_of(alice).strava_athlete_id == ALICE
    assert services.sync_strava_gear(alice.pk).created == 4
