"""From the button to the link, and everything that must not make one."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from integrations import services
from integrations.exceptions import ClientRequired, InvalidState, ProviderError
from integrations.models import Link, LinkStatus, UsersIntegrations
from integrations.services.oauth import forget_abandoned_authorizations

from ..conftest import messages_of
from .kit import CALLBACK, JSON, query_of

SEPARATORS = {"strava": ",", "polar": " ", "wahoo": " ", "intervals": ",", "ownclub": " "}
WHOSE = {"x_user_id", "athlete", "member", "id"}


@pytest.fixture
def address(kit, alice_client):
    """Where Alice is at the moment: the consent page."""
    return kit.begin(alice_client)


def test_the_button_leads_to_the_consent_page_with_a_state(kit, alice, address):
    query = query_of(address)
    assert address.startswith(kit.provider.endpoints().authorize_url + "?")
    assert len(query["state"]) >= 22  # 128 bits in base64
    assert kit.get(alice, "state") == query["state"]
    left = kit.get(alice, "state_expires_at") - timezone.now()
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    assert query["client_id"] == kit.module.CLIENT_ID
    assert query["redirect_uri"] == CALLBACK.format(kit.name)
    assert query["response_type"] == "code"
    assert "secret" not in address


def test_scopes_are_asked_for_as_the_provider_separates_them(kit, alice_client, settings):
    wanted = sorted(kit.stand_in.scopes)
    if kit.name == "intervals":  # which takes one right for each area
        wanted = [each for each in wanted if each.endswith(":READ")]
    setattr(settings, f"{kit.name.upper()}_SCOPES", ", ".join(wanted))

    assert query_of(kit.begin(alice_client))["scope"] == SEPARATORS[kit.name].join(wanted)


def test_a_program_gets_json(kit, alice_client):
    response = alice_client.post(kit.url("connect"), headers=JSON)
    body = response.json()
    assert response.status_code == 200
    assert set(body) == {"authorization_url", "state", "expires_in"}
    assert query_of(body["authorization_url"])["state"] == body["state"]
    assert body["expires_in"] == 600


def test_only_a_post_with_a_csrf_token_and_a_session_connects(kit, alice):
    client = Client(enforce_csrf_checks=True)
    assert client.post(kit.url("connect"), headers=JSON).status_code == 403
    client.force_login(alice)
    assert client.post(kit.url("connect")).status_code == 403
    assert client.get(kit.url("connect")).status_code == 405
    assert Client().post(kit.url("connect"), headers=JSON).status_code == 401
    assert kit.status(alice) == LinkStatus.NOT_LINKED
    assert not kit.home.of(alice.pk).exists()


def test_consent_makes_a_link_and_spends_the_state(kit, alice, alice_client, address):
    before = timezone.now()
    response = kit.come_back(alice_client, kit.consent(address))

    assert response.status_code == 302
    assert response["Location"] == reverse("integrations:settings")
    assert messages_of(alice_client) == [f"{kit.provider.label} is connected."]
    assert kit.stand_in.exchanges == 1
    assert kit.status(alice) == LinkStatus.LINKED
    stored = kit.stored(alice)
    assert stored["state"] is stored["state_expires_at"] is None
    assert kit.stand_in.is_alive(stored["token"])
    assert (stored["refresh_token"] is not None) == kit.renews
    assert str(stored["account_id"]) == str(kit.alice)
    assert stored["scope"].split(",") == kit.provider.requested_scopes()
    assert stored["linked_at"] >= before
    assert stored["site_client_id"] == kit.module.CLIENT_ID
    lifetime = kit.stand_in.token_lifetime
    if lifetime is None:
        assert stored["token_expires_at"] is None
    else:
        left = stored["token_expires_at"] - before
        assert abs(left - timedelta(seconds=lifetime)) < timedelta(minutes=1)
    assert kit.ask(alice) == stored["token"]
    assert not kit.stand_in.violations


def test_the_name_is_kept(kit, alice):
    kit.link(alice, kit.bjorn)
    assert kit.get(alice, "account_name") == kit.stand_in.athletes[kit.bjorn].full_name


def test_whoever_has_any_link_has_the_row_that_staff_find(kit, alice, alice_client, address):
    kit.come_back(alice_client, kit.consent(address))
    assert UsersIntegrations.objects.filter(user=alice).count() == 1
    here = Link.objects.filter(user=alice).values_list("provider", flat=True)
    assert list(here) == ([] if kit.home.model is UsersIntegrations else [kit.name])


def test_a_redirect_delivered_twice_is_answered_alike_and_exchanged_once(
    kit, alice, alice_client, address
):
    query = kit.consent(address)
    kit.come_back(alice_client, query)
    messages_of(alice_client)
    before = kit.stored(alice)

    kit.come_back(alice_client, query)

    assert messages_of(alice_client) == [f"{kit.provider.label} is connected."]
    assert kit.stand_in.exchanges == 1
    assert kit.stored(alice) == before


def test_a_redirect_that_failed_is_answered_alike_twice(kit, alice, alice_client, address):
    query = kit.consent(address)
    kit.stand_in.fail("token", "500")
    told = []
    for _ in range(2):
        kit.come_back(alice_client, query)
        told.append(messages_of(alice_client))
    assert told[0] == told[1]
    assert "cannot be reached" in told[0][0]
    assert kit.stand_in.exchanges == 1
    assert kit.status(alice) == LinkStatus.NOT_LINKED


@pytest.mark.parametrize("header", ["Sec-Purpose", "Purpose", "X-Moz"])
def test_a_prefetch_spends_nothing(kit, alice, alice_client, address, header):
    query = kit.consent(address)
    response = kit.come_back(alice_client, query, headers={header: "prefetch"})
    assert response.status_code == 503
    assert kit.stand_in.exchanges == 0

    kit.come_back(alice_client, query)
    assert kit.status(alice) == LinkStatus.LINKED


def test_a_state_counts_for_its_user_alone(kit, alice, bob, alice_client, bob_client, address):
    query = kit.consent(address)
    kit.begin(bob_client)

    kit.come_back(bob_client, query)
    assert kit.stand_in.exchanges == 0
    assert kit.status(bob) == LinkStatus.NOT_LINKED

    kit.come_back(alice_client, query)  # whose attempt is not harmed by it
    assert kit.status(alice) == LinkStatus.LINKED


def test_a_state_counts_for_its_provider_alone(kit, alice, alice_client, address, ownclub, strava):
    other = "strava" if kit.name != "strava" else "ownclub"
    services.begin_authorization(alice.pk, other, CALLBACK.format(other))
    with pytest.raises(InvalidState):
        services.complete_authorization(alice.pk, other, state=query_of(address)["state"], code="c")
    assert ownclub.exchanges == strava.exchanges == 0


@pytest.mark.parametrize("state", ["", "unknown", "x" * 400, "é"])
def test_an_unknown_state_is_refused_and_nobody_is_asked(kit, alice, alice_client, address, state):
    response = kit.come_back(alice_client, kit.consent(address) | {"state": state}, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_state"
    assert kit.stand_in.exchanges == 0
    assert kit.get(alice, "state") == query_of(address)["state"]


def test_a_missing_state_is_refused_and_nobody_is_asked(kit, alice, alice_client, address):
    query = kit.consent(address)
    del query["state"]
    assert kit.come_back(alice_client, query, headers=JSON).status_code == 400
    assert kit.stand_in.exchanges == 0
    assert kit.status(alice) == LinkStatus.NOT_LINKED


def test_an_expired_state_is_refused_and_nobody_is_asked(kit, alice, alice_client, address):
    kit.set(alice, state_expires_at=timezone.now())
    kit.come_back(alice_client, kit.consent(address))
    assert "expired" in messages_of(alice_client)[0]
    assert kit.stand_in.exchanges == 0
    assert kit.get(alice, "state") is None


def test_what_nobody_came_back_to_is_forgotten(kit, alice, bob, alice_client, bob_client, linked):
    before = kit.get(alice, "token")
    kit.begin(alice_client)
    waiting = query_of(kit.begin(bob_client))["state"]
    kit.set(alice, state_expires_at=timezone.now())
    assert forget_abandoned_authorizations() == 1
    assert kit.get(alice, "state") is None
    assert kit.get(alice, "token") == before
    assert kit.get(bob, "state") == waiting


def test_a_denial_is_said_plainly_and_spends_the_state(kit, alice, alice_client, address):
    query = kit.refuse(address) | {"state": query_of(address)["state"]}
    kit.come_back(alice_client, query)
    [message] = messages_of(alice_client)
    assert message.startswith(f"You chose not to give access at {kit.provider.label}")
    assert kit.stand_in.exchanges == 0
    assert kit.get(alice, "state") is None


def test_a_denial_without_a_state_is_told_and_changes_nothing(kit, alice, alice_client, linked):
    address = kit.begin(alice_client)
    before = kit.stored(alice)

    kit.come_back(alice_client, {"error": "access_denied"})

    assert "You chose not to give access" in messages_of(alice_client)[0]
    assert kit.stored(alice) == before
    kit.come_back(alice_client, kit.consent(address))
    assert messages_of(alice_client) == [f"{kit.provider.label} is connected."]


def test_a_code_that_is_brought_again_makes_no_link(kit, alice, alice_client, bob, bob_client):
    query = kit.consent(kit.begin(alice_client))
    kit.come_back(alice_client, query)
    before = kit.stored(alice)

    state = query_of(kit.begin(bob_client))["state"]
    response = kit.come_back(bob_client, query | {"state": state}, headers=JSON)

    assert response.status_code >= 400
    assert kit.status(bob) == LinkStatus.NOT_LINKED
    assert kit.stored(alice) == before
    assert kit.stand_in.is_alive(before["token"])


FAULTS = {
    "500": "cannot be reached",
    "502_html": "cannot be reached",
    "200_html": "could not use",
    "empty": "could not use",
    "half_json": "could not use",
    "wrong_types": "could not use",
    "429": "limit for now",
    "401_client": "not your fault",
    "reset_before": "cannot be reached",
    "reset_after": "cannot be reached",
    "redirect": "could not use",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_exchange_that_fails_is_said_plainly_and_leaves_the_link(
    kit, alice, alice_client, linked, fault
):
    health = {"exchanging_state", "exchanging_error", "limited_until"}
    before = kit.stored(alice, *health)
    query = kit.consent(kit.begin(alice_client))
    kit.stand_in.fail("token", fault)

    kit.come_back(alice_client, query)

    [message] = messages_of(alice_client)
    assert FAULTS[fault] in message
    assert kit.provider.label in message
    assert kit.stored(alice, *health) == before
    assert kit.stand_in.is_alive(before["token"])
    assert kit.ask(alice) == before["token"]
    assert kit.stand_in.calls["elsewhere"] == 0


def test_without_the_sites_app_nobody_can_connect(kit, alice, alice_client):
    with kit.without_app():
        response = alice_client.post(kit.url("connect"), headers=JSON)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "client_required"
        with pytest.raises(ClientRequired):
            services.begin_authorization(alice.pk, kit.name, CALLBACK.format(kit.name))
        page = alice_client.get(reverse("integrations:settings")).content.decode()
        shown = f'data-provider="{kit.name}"' in page
        status = kit.name in alice_client.get(reverse("integrations:status")).json()
    # At Strava, athletes may bring an app of their own.
    assert shown is status is kit.provider.own_apps
    assert not kit.stand_in.calls


def test_an_app_of_the_athletes_own_is_taken_by_strava_alone(kit, alice_client):
    fields = {"client_id": "10002", "client_secret": "s"}
    response = alice_client.post(kit.url("connect"), fields, headers=JSON)
    assert response.status_code == (200 if kit.name == "strava" else 400)


def test_a_link_whose_app_is_gone_is_still_shown(kit, alice, alice_client, linked):
    with kit.without_app():
        page = alice_client.get(reverse("integrations:settings")).content.decode()
    page = " ".join(page.split())  # attributes may stand on lines of their own
    assert f'data-provider="{kit.name}" data-status="linked"' in page


@pytest.mark.django_db(transaction=True)
def test_nobody_is_asked_inside_a_transaction(kit, alice):
    kit.link(alice)
    calls = kit.stand_in.calls
    for ask in (
        lambda: kit.ask(alice),
        lambda: services.disconnect(alice.pk, kit.name),
        lambda: services.complete_authorization(alice.pk, kit.name, state="s", code="c"),
    ):
        with transaction.atomic(), pytest.raises(RuntimeError):
            ask()
    assert kit.stand_in.calls == calls


def test_whoever_cannot_be_told_from_another_is_refused_and_nobodys_grant_ends(kit, alice, bob):
    """The code is taken, and then the provider says nonsense of whose it is."""
    kit.link(alice)
    before = kit.stored(alice)
    kit.stand_in.amend(
        "user" if kit.name == "wahoo" else "token",
        lambda said: {name: it for name, it in said.items() if name not in WHOSE},
    )

    with suppress(ProviderError):  # Strava's account is learned at the next sync
        kit.link(bob)  # who has agreed as Alice's account

    assert (kit.status(bob) == LinkStatus.LINKED) == (kit.name == "strava")
    assert kit.stored(alice) == before
    assert kit.stand_in.is_alive(before["token"])
    assert kit.stand_in.revocations == 0
