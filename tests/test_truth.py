"""What is told of a link is so, and holds at every door."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from integrations import exceptions, providers, services, tasks
from integrations.exceptions import IntegrationsError, NoLoginInProgress, ProviderError, RateLimited
from integrations.garminconnect.login import begin_login, cancel_login, run_mfa, submit_code
from integrations.models import GarminConnectLogin, LinkEvent, UsersIntegrations
from integrations.models.integrations import STRAVA
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import PASSWORD
from integrations.sandbox.strava import (
    ALICE,
    BJORN,
    CLIENT_ID,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
)
from integrations.schemas import UsersIntegrationsUpdate
from integrations.services import _rows, words
from integrations.services.gear import take_due_gear_syncs
from integrations.services.sweep import sweep_tokens
from integrations.strava.client import StravaClient
from integrations.strava.push import confirm_revocation

from .conftest import a_moment_ago, begin, come_back, messages_of, row_of
from .test_garminconnect_session import link as link_garmin

pytestmark = pytest.mark.usefixtures("in_one_window")

JSON = {"accept": "application/json"}
STATUS = "/integrations/status/"
PAGE = "/settings/integrations/"
FULL = "read,profile:read_all"


# --- What is noted against a link ends with it --------------------------------------------------


def note_all_that_can_be_noted(user, provider):
    """Everything against the link, each column with something other than nothing."""
    later = timezone.now() + timedelta(hours=5)
    columns = {}
    for name in _rows.anew_columns(providers.get(provider).home):
        field = UsersIntegrations._meta.get_field(name)
        match field.get_internal_type():
            case "DateTimeField":
                columns[name] = later
            case "CharField":
                columns[name] = "relink_required"
            case "PositiveIntegerField":
                columns[name] = 7
            case "BooleanField":
                columns[name] = True
    assert (
        len(columns) >= len(_rows.anew_columns(providers.get(provider).home)) - 1
    )  # all but the lease
    UsersIntegrations.objects.filter(user=user).update(**columns)


def by_the_page(user, client, strava, garmin):
    UsersIntegrations.objects.update(strava_limited_until=None)
    state = begin(client)["state"]
    come_back(client, state=state, code=strava.grant(ALICE), scope=FULL)


def by_the_seed(user, client, strava, garmin):
    services.link_strava_account(row_of(user), strava.issue_tokens(ALICE))


def by_an_edit(user, client, strava, garmin):
    tokens = strava.issue_tokens(ALICE)
    update = UsersIntegrationsUpdate(
        strava_token=tokens["access_token"], strava_refresh_token=tokens["refresh_token"]
    )
    services.edit_user_integrations(update, user.pk)


def by_signing_in(user, client, strava, garmin):
    form = {"email": GARMIN_ALICE, "password": PASSWORD}
    assert client.post("/integrations/garminconnect/connect/", form).status_code == 302


def by_the_seed_at_garmin(user, client, strava, garmin):
    services.link_garminconnect_account(user.pk, None, garmin.issue_session(GARMIN_ALICE))


def by_an_edit_at_garmin(user, client, strava, garmin):
    update = UsersIntegrationsUpdate(garminconnect_oauth2=garmin.issue_session(GARMIN_ALICE))
    services.edit_user_integrations(update, user.pk)


def anew(then):
    """What a new link starts with; which state made it is noted for it, not against it."""
    return {name: value for name, value in then.items() if name != "strava_spent_state"}


@pytest.mark.parametrize(
    ("provider", "door"),
    [
        ("strava", by_the_page),
        ("strava", by_the_seed),
        ("strava", by_an_edit),
        ("garminconnect", by_signing_in),
        ("garminconnect", by_the_seed_at_garmin),
        ("garminconnect", by_an_edit_at_garmin),
    ],
)
def test_whatever_makes_a_link_anew_forgets_what_was_noted_against_the_old_one(
    alice, alice_client, linked, strava, garmin, provider, door
):
    link_garmin(garmin, alice)
    note_all_that_can_be_noted(alice, provider)

    door(alice, alice_client, strava, garmin)

    row, expected = row_of(alice), anew(_rows.anew_columns(providers.get(provider).home))
    assert {name: getattr(row, name) for name in expected} == expected
    assert alice_client.get(STATUS).json()[provider]["error"] is None
    UsersIntegrations.objects.update(**{f"{provider}_sync_gear": True})
    assert take_due_gear_syncs(provider)[0] == [alice.pk]


def test_a_revocation_that_gear_has_noticed_ends_with_the_reconnect(
    alice, alice_client, linked, strava
):
    strava.revoke_grant(ALICE)
    alice_client.post("/integrations/strava/gear/sync/")
    assert "no longer accepts" in alice_client.get(PAGE).content.decode()
    services.set_sync_gear(alice.pk, "strava", True)

    by_the_page(alice, alice_client, strava, None)

    assert messages_of(alice_client) == ["Strava is connected."]
    status = alice_client.get(STATUS).json()["strava"]
    assert (status["status"], status["error"]) == ("linked", None)
    assert status["gear"] == 4  # at once, not after the next round
    assert "no longer accepts" not in alice_client.get(PAGE).content.decode()


@pytest.mark.parametrize("fault", ["500", "429", "401_client", "200_html"])
def test_what_is_wrong_with_a_link_is_noted_in_one_place(alice, expired, strava, fault):
    strava.fail("token", fault, times=1)
    with pytest.raises(IntegrationsError):
        services.sync_strava_gear(alice.pk)

    row = row_of(alice)
    assert row.strava_error
    assert row.strava_sync_error == ""
    UsersIntegrations.objects.update(strava_limited_until=None)
    services.get_strava_access_token(alice.pk)
    assert services.get_integrations_status(alice.pk)["strava"]["error"] is None


def test_a_key_that_is_found_again_leaves_nothing_behind(alice, linked, strava, settings):
    key, settings.FERNET_KEYS = settings.FERNET_KEYS, ["another-key-0123456789-abcdefghijklmnopq"]
    with pytest.raises(exceptions.StravaRelinkRequired):
        services.sync_strava_gear(alice.pk)
    settings.FERNET_KEYS = key
    assert services.get_integrations_status(alice.pk)["strava"]["error"] is None


# --- A limit is a limit for every door ----------------------------------------------------------


def own_app(alice, strava):
    services.create_user_integrations(alice.pk)
    services.set_user_strava_client(alice.pk, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)
    services.link_strava_account(row_of(alice), strava.issue_tokens(ALICE, OTHER_CLIENT_ID))


DOORS = {
    "sync now": lambda user, client: client.post("/integrations/strava/gear/sync/"),
    "the switch": lambda user, client: client.post(
        "/integrations/strava/preferences/", {"sync_gear": "on"}
    ),
    "a sync by a worker": lambda user, client: tasks.sync_gear.call(user.pk, "strava"),
    "a sync by a host": lambda user, client: services.sync_strava_gear(user.pk),
    "a token by a host": lambda user, client: services.get_strava_access_token(user.pk),
    "a refresh by staff": lambda user, client: services.refresh_link(user.pk, "strava"),
    "a sweep": lambda user, client: sweep_tokens(),
    "a check": lambda user, client: confirm_revocation(user.pk),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("whose", ["the site's", "their own"])
def test_until_the_window_turns_nobody_asks_in_that_apps_name(
    alice, alice_client, strava, request, whose, door
):
    if whose == "the site's":
        request.getfixturevalue("linked")
    else:
        own_app(alice, strava)
    strava.fail("athlete", "429", times=1)
    alice_client.post("/integrations/strava/gear/sync/")
    before = strava.calls
    assert before["athlete"] == 1
    UsersIntegrations.objects.update(
        strava_token_expires_at=timezone.now(), strava_check_due_at=a_moment_ago()
    )

    with suppress(RateLimited):
        DOORS[door](alice, alice_client)

    assert strava.calls == before


def test_an_app_of_ones_own_may_be_anothers_too(alice, bob, strava):
    own_app(alice, strava)
    services.create_user_integrations(bob.pk)
    services.set_user_strava_client(bob.pk, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)
    services.link_strava_account(row_of(bob), strava.issue_tokens(BJORN, OTHER_CLIENT_ID))
    strava.fail("athlete", "429", times=1)
    with pytest.raises(RateLimited):
        services.sync_strava_gear(alice.pk)
    with pytest.raises(RateLimited):
        services.sync_strava_gear(bob.pk)
    assert strava.calls["athlete"] == 1

    services.set_user_strava_client(bob.pk, CLIENT_ID, "the site's, as it happens")
    with pytest.raises(ProviderError) as caught:
        services.refresh_link(bob.pk, "strava")
    assert not isinstance(caught.value, RateLimited)


@pytest.mark.django_db(transaction=True)
def test_a_sweep_leaves_out_who_shares_a_limited_app(alice, bob, strava):
    own_app(alice, strava)
    services.create_user_integrations(bob.pk)
    services.set_user_strava_client(bob.pk, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)
    services.link_strava_account(row_of(bob), strava.issue_tokens(BJORN, OTHER_CLIENT_ID))
    strava.fail("athlete", "429", times=1)
    with pytest.raises(RateLimited):
        services.sync_strava_gear(alice.pk)
    UsersIntegrations.objects.update(strava_token_expires_at=timezone.now())
    sweep_tokens(workers=1)
    assert strava.calls["token"] == 0


def test_who_disconnects_does_not_take_the_sites_limit_along(alice, bob, linked, link, strava):
    link(bob, BJORN)
    strava.fail("athlete", "429", times=1)
    with pytest.raises(RateLimited):
        services.sync_strava_gear(alice.pk)
    services.disconnect(alice.pk, "strava")
    with pytest.raises(RateLimited):
        services.sync_strava_gear(bob.pk)
    assert strava.calls["athlete"] == 1


def test_a_limit_at_the_exchange_is_one_for_every_door(alice, alice_client, linked, strava):
    state = begin(alice_client)["state"]
    strava.fail("token", "429", times=1)
    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)
    alice_client.post("/integrations/strava/gear/sync/")
    assert strava.calls["athlete"] == 0


def test_a_limit_of_reads_keeps_no_token_from_being_refreshed(alice, expired, strava):
    strava.rate_limits.set(CLIENT_ID, read=(0, 1000))
    services.get_strava_access_token(alice.pk)
    with pytest.raises(RateLimited):
        services.sync_strava_gear(alice.pk)
    assert row_of(alice).strava_limited_reads
    UsersIntegrations.objects.update(strava_token_expires_at=timezone.now())
    assert services.get_strava_access_token(alice.pk)


def test_the_page_says_when_it_goes_on(alice, alice_client, linked, strava):
    strava.fail("athlete", "429", times=1)
    alice_client.post("/integrations/strava/gear/sync/")
    UsersIntegrations.objects.update(strava_limited_until=timezone.now() + timedelta(minutes=7))
    message = alice_client.get(STATUS).json()["strava"]["error"]["message"]
    assert "You can sync again in 7 minutes." in message
    response = alice_client.post("/integrations/strava/gear/sync/", headers=JSON)
    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 7 * 60
    assert "in 7 minutes" in response.json()["error"]["message"]


def test_garmins_limit_is_one_for_every_door_as_well(alice, alice_client, garmin):
    link_garmin(garmin, alice)
    garmin.fail("gear_list", "429")
    alice_client.post("/integrations/garminconnect/gear/sync/")
    before = garmin.calls
    for door in ("gear/sync/", "preferences/"):
        alice_client.post(f"/integrations/garminconnect/{door}", {"sync_gear": "on"})
    tasks.sync_gear.call(alice.pk, "garminconnect")
    assert garmin.calls == before


# --- Words for their reader ---------------------------------------------------------------------


def codes():
    found, classes = set(), [IntegrationsError]
    for cls in classes:
        found.add(cls.code)
        classes.extend(cls.__subclasses__())
    return sorted(found | {"a_code_of_a_later_version"})


ASKED_FOR = ("password", "e-mail", "sign-in")


@pytest.mark.parametrize("retried", [True, False])
@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("provider", [*providers.known()])
@pytest.mark.parametrize("code", codes())
def test_background_work_has_words_of_its_own(code, provider, limited, retried):
    """Nobody was asked for a password, no app of theirs is to blame, and no other provider."""
    until = timezone.now() + timedelta(minutes=5) if limited else None
    found = providers.get(provider)
    row = found.home.model(**found.home.columns(limited_until=until))
    message = words.health_message(found, row, code, retried=retried)
    assert len(message) > 20
    if (provider, code) != ("garminconnect", "relink_required"):
        assert not [word for word in ASKED_FOR if word in message.lower()]
    assert "Client ID" not in message
    others = {each.short_label for each in providers.known().values()} - {found.short_label}
    assert not [other for other in others if other in message]
    assert "%(" not in message
    if code == "rate_limited":
        # A Strava app may be the athlete's own.
        assert ("This site has" in message) == (provider == "garminconnect")


@pytest.mark.parametrize("code", codes())
def test_staff_are_not_talked_to_like_athletes(code):
    error = exceptions.error_by_code(code, IntegrationsError)()
    words = services.staff_message(error).lower()
    assert "please" not in words
    assert "your " not in words
    assert words


def test_a_site_that_has_moved_to_another_app_says_reconnect(
    alice, alice_client, expired, strava, settings
):
    settings.STRAVA_CLIENT_ID, settings.STRAVA_CLIENT_SECRET = "10002", OTHER_CLIENT_SECRET
    with pytest.raises(exceptions.SiteClientChanged):
        services.get_strava_access_token(alice.pk)

    error = alice_client.get(STATUS).json()["strava"]["error"]
    assert "Reconnect" in error["message"]
    assert "Client ID" not in error["message"]
    assert strava.calls["token"] == 0
    page = alice_client.get(PAGE).content.decode()
    assert "Needs attention" in page


@pytest.mark.parametrize("door", [by_the_seed, by_an_edit])
def test_a_host_can_reconnect_to_the_app_that_the_site_has_moved_to(alice, linked, strava, door):
    UsersIntegrations.objects.update(strava_site_client_id="10099")
    door(alice, None, strava, None)
    services.refresh_link(alice.pk, "strava")
    assert services.get_integrations_status(alice.pk)["strava"]["error"] is None


@pytest.mark.parametrize("own", [True, False])
def test_an_app_is_told_of_to_its_owner_alone(own):
    row = UsersIntegrations(strava_client_id="1" if own else None)
    for code in ("invalid_client", "application_inactive"):
        message = words.health_message(providers.get("strava"), row, code)
        assert ("our Strava app" in message) == own
        assert ("Whoever runs this site" in message) == (not own)


# --- Nothing granted is not nothing known -------------------------------------------------------


def test_unticking_everything_is_told_apart_from_not_knowing(alice, alice_client, strava):
    state = begin(alice_client)["state"]
    come_back(alice_client, state=state, code=strava.grant(ALICE, scope="read"), scope="")
    assert row_of(alice).strava_scope == ","
    page = alice_client.get(PAGE)
    assert len(page.context["strava"]["missing"]) == 2
    assert "2 permissions are missing" in page.content.decode()
    response = alice_client.post("/integrations/strava/gear/sync/", headers=JSON)
    assert response.json()["error"]["code"] == "scope_missing"
    assert strava.calls["athlete"] == 0


def test_what_nobody_has_said_is_not_missing(alice, alice_client, strava):
    services.create_user_integrations(alice.pk)
    services.link_strava_account(row_of(alice), strava.issue_tokens(ALICE))
    assert row_of(alice).strava_scope == ""
    page = alice_client.get(PAGE)
    assert page.context["strava"]["missing"] == []
    assert alice_client.get(STATUS).json()["strava"]["scope"] == []


def test_what_another_athlete_granted_goes_with_them(alice, linked, strava):
    services.link_strava_account(row_of(alice), strava.issue_tokens(ALICE))
    assert row_of(alice).strava_scope == FULL
    services.link_strava_account(row_of(alice), strava.issue_tokens(BJORN))
    assert row_of(alice).strava_scope == ""


# --- A redirect that comes twice ----------------------------------------------------------------


def test_a_state_of_the_link_that_stands_is_answered_however_often_it_comes(
    alice, alice_client, strava
):
    state = begin(alice_client)["state"]
    code = strava.grant(ALICE)
    for _time in range(3):
        come_back(alice_client, state=state, code=code, scope=FULL)
        assert messages_of(alice_client) == ["Strava is connected."]
    # A later attempt that came to nothing changes nothing of that.
    denied = begin(alice_client)["state"]
    come_back(alice_client, state=denied, error="access_denied")
    messages_of(alice_client)
    come_back(alice_client, state=state, code=code, scope=FULL)
    assert messages_of(alice_client) == ["Strava is connected."]
    assert strava.calls["token"] == 1


def test_a_state_that_made_no_link_that_stands_is_refused(alice, alice_client, bob_client, strava):
    state = begin(alice_client)["state"]
    code = strava.grant(ALICE)
    come_back(alice_client, state=state, code=code, scope=FULL)

    come_back(bob_client, state=state, code=code, scope=FULL)
    assert "already used" in messages_of(bob_client)[0]
    newer = begin(alice_client)["state"]
    come_back(alice_client, state=newer, code=strava.grant(ALICE), scope=FULL)
    messages_of(alice_client)
    come_back(alice_client, state=state, code=code, scope=FULL)
    assert "already used" in messages_of(alice_client)[0]
    alice_client.post(reverse("integrations:strava_disconnect"))
    messages_of(alice_client)
    come_back(alice_client, state=newer, code=code, scope=FULL)
    assert "already used" in messages_of(alice_client)[0]
    assert strava.calls["token"] == 2


@pytest.mark.parametrize(
    ("query", "fault", "words"),
    [
        ({"error": "access_denied"}, None, "chose not to give access"),
        ({"code": "c"}, "500", "cannot be reached"),
        ({"code": "c"}, "401_client", "not your fault"),
        ({"code": "c"}, "429", "limit for now"),
        ({"code": "c"}, None, "did not accept the confirmation"),
    ],
)
def test_what_failed_fails_with_the_same_words_when_it_comes_again(
    alice_client, strava, query, fault, words
):
    state = begin(alice_client)["state"]
    if fault:
        strava.fail("token", fault)
    for _time in range(2):
        come_back(alice_client, state=state, **query)
        assert words in messages_of(alice_client)[0]
    assert strava.calls["token"] == ("code" in query)


def test_a_disconnect_during_an_exchange_stays_one(
    alice, alice_client, linked, strava, monkeypatch
):
    exchange = StravaClient.exchange_code

    def meanwhile(self, *args):
        tokens = exchange(self, *args)
        services.disconnect(alice.pk, "strava")
        issued.append(tokens.access_token)
        return tokens

    issued = []
    monkeypatch.setattr(StravaClient, "exchange_code", meanwhile)
    state = begin(alice_client)["state"]
    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=FULL)
    assert "already used" in messages_of(alice_client)[0]
    assert not STRAVA.is_linked(row_of(alice))
    assert not strava.is_alive(issued[0])


def test_a_callback_that_comes_again_starts_no_sync(alice, alice_client, strava):
    state = begin(alice_client)["state"]
    services.set_sync_gear(alice.pk, "strava", True)
    code = strava.grant(ALICE)
    for _time in range(3):
        come_back(alice_client, state=state, code=code, scope=FULL)
    assert strava.calls["athlete"] == 1


def test_who_was_exchanging_and_is_gone_holds_nobody_up(alice, alice_client, strava):
    state = begin(alice_client)["state"]
    services.oauth._spend_state(alice.pk, providers.get("strava"), state)
    UsersIntegrations.objects.update(strava_exchanging_until=a_moment_ago())
    come_back(alice_client, state=state, code="c")
    assert "already used" in messages_of(alice_client)[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-purpose": "prefetch"},
        {"sec-purpose": "prefetch;prerender"},
        {"purpose": "prefetch"},
        {"x-moz": "prefetch"},
    ],
)
def test_a_prefetch_touches_nothing(alice, alice_client, strava, headers):
    state = begin(alice_client)["state"]
    url = reverse("integrations:strava_callback")
    query = {"state": state, "code": strava.grant(ALICE), "scope": FULL}
    alice_client.post("/integrations/garminconnect/connect/", {"email": "not-an-email"})

    assert alice_client.get(url, query, headers=headers).status_code == 503
    assert alice_client.get(PAGE, headers=headers).status_code == 503

    assert strava.calls["token"] == 0
    assert "not an e-mail address" in messages_of(alice_client)[0]
    alice_client.get(url, query)
    assert messages_of(alice_client) == ["Strava is connected."]


# --- What nobody comes for ----------------------------------------------------------------------


@pytest.fixture
def forgotten(alice, db):
    """A password of Alice's that its worker did not live to take."""
    begin_login(alice.pk, GARMIN_ALICE, "s3cret")
    GarminConnectLogin.objects.update(step_until=a_moment_ago() - timedelta(seconds=1))


@pytest.mark.parametrize(
    "door",
    [
        lambda bob, client: client.get(PAGE),
        lambda bob, client: client.get(STATUS),
        lambda bob, client: begin_login(bob.pk, "b@example.com", "x"),
        lambda bob, client: submit_code(bob.pk, "123456"),
        lambda bob, client: run_mfa(bob.pk, uuid.uuid4()),
        lambda bob, client: cancel_login(bob.pk),
        lambda bob, client: services.export_integrations(bob.pk),
    ],
    ids=["the page", "the status", "a sign-in", "a code", "a worker", "a cancel", "an export"],
)
@pytest.mark.parametrize("has_row", [True, False])
def test_whoever_looks_at_sign_ins_ends_the_dead_ones(bob, bob_client, forgotten, door, has_row):
    if has_row:
        services.create_user_integrations(bob.pk)
    with suppress(NoLoginInProgress):
        door(bob, bob_client)
    assert not GarminConnectLogin.objects.exclude(user=bob).exists()
    assert LinkEvent.objects.get().code == "login_interrupted"


def test_a_dead_sign_in_without_a_row_stops_nobody(alice, bob, bob_client, forgotten):
    """Staff have deleted the row while the sign-in began."""
    services.create_user_integrations(bob.pk)
    UsersIntegrations.objects.filter(user=alice)._raw_delete("default")
    assert bob_client.get(PAGE).status_code == 200
    assert bob_client.get(STATUS).status_code == 200
    assert not GarminConnectLogin.objects.exists()


def test_whoever_begins_to_connect_forgets_abandoned_secrets(alice, bob, strava):
    services.begin_authorization(alice.pk, "strava", "http://testserver/cb", "10002", "s3cret")
    UsersIntegrations.objects.update(strava_state_expires_at=a_moment_ago())
    services.begin_authorization(bob.pk, "strava", "http://testserver/cb")
    row = row_of(alice)
    assert row.strava_state is None
    assert not row.has_secret("strava_pending_client_secret")


# --- Numbers that are names ---------------------------------------------------------------------


def test_ids_are_never_written_as_quantities(alice, alice_client, client, linked, settings):
    from django.contrib.auth import get_user_model

    settings.USE_THOUSAND_SEPARATOR = True
    page = alice_client.get(PAGE).content.decode()
    assert f"https://www.strava.com/athletes/{ALICE}" in page
    assert f"{ALICE:,}" not in page
    client.force_login(get_user_model().objects.create_superuser("root", password="pw"))
    detail = client.get(f"/admin/integrations/usersintegrations/{row_of(alice).pk}/change/")
    assert str(ALICE) in detail.content.decode()
    assert f"{ALICE:,}" not in detail.content.decode()
