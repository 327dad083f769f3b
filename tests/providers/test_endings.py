"""Leaving: at the provider, here, and no trace."""

from __future__ import annotations

import pytest
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from integrations import services
from integrations.exceptions import InvalidState, NotLinked
from integrations.models import Gear, Link, LinkEvent, LinkStatus, UsersIntegrations
from integrations.services import links

from ..conftest import messages_of
from .kit import CALLBACK, JSON, query_of

transactional = pytest.mark.django_db(transaction=True)


def assert_nothing_is_left(kit, user):
    fresh, stored = kit.home.model(), kit.stored(user)
    for name in stored.keys() - {"provider", "created_at"}:
        assert stored[name] == getattr(fresh, kit.home.column(name)), name


def test_the_page_asks_before_it_disconnects(kit, alice, alice_client, linked):
    page = alice_client.get(kit.url("disconnect"))
    text = page.content.decode()
    assert page.status_code == 200
    assert f"Disconnect {kit.provider.label}?" in text
    assert kit.stand_in.revocations == 0
    assert kit.status(alice) == LinkStatus.LINKED


def test_there_is_nothing_to_ask_without_a_link(kit, alice_client):
    response = alice_client.get(kit.url("disconnect"))
    assert response["Location"] == reverse("integrations:settings")


@pytest.mark.parametrize("state", ["fresh", "lapsed"])
def test_disconnecting_revokes_there_and_clears_here(kit, alice, alice_client, linked, state):
    before = kit.stored(alice)
    if state == "lapsed" and kit.renews:
        kit.lapse(alice)

    response = alice_client.post(kit.url("disconnect"))

    assert response.status_code == 302
    assert messages_of(alice_client) == [f"{kit.provider.label} is disconnected."]
    assert kit.stand_in.revocations == 1
    assert not kit.stand_in.is_alive(before["token"])
    assert kit.stand_in.counts()["access_tokens"] == 0
    assert kit.stand_in.counts()["refresh_tokens"] == 0
    assert_nothing_is_left(kit, alice)
    with pytest.raises(NotLinked):
        kit.ask(alice)


def test_a_program_disconnects_with_a_post(kit, alice, alice_client, linked):
    response = alice_client.post(kit.url("disconnect"), headers=JSON)
    assert response.status_code == 200
    assert response.json().keys() == {"message"}
    again = alice_client.post(kit.url("disconnect"), headers=JSON)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "not_linked")
    assert kit.stand_in.revocations == 1


@pytest.mark.parametrize("fault", ["500", "502_html", "429", "reset_before", "reset_after"])
def test_a_provider_that_cannot_be_told_is_named_and_stops_nothing(
    kit, alice, alice_client, linked, fault
):
    kit.stand_in.fail("revoke", fault)

    alice_client.post(kit.url("disconnect"))

    [message] = messages_of(alice_client)
    assert "could not be told" in message
    page = kit.provider.account_page.removeprefix("https://").removeprefix("www.")
    assert page
    assert page in message
    assert_nothing_is_left(kit, alice)
    event = LinkEvent.objects.get(event="unlinked")
    assert (event.provider, event.code) == (kit.name, "not_revoked")


def test_a_link_that_has_ended_can_be_disconnected(kit, alice, alice_client, linked):
    kit.end(alice)
    alice_client.post(kit.url("disconnect"))
    assert messages_of(alice_client) == [f"{kit.provider.label} is disconnected."]
    assert_nothing_is_left(kit, alice)


def test_a_grant_that_the_person_ended_there_needs_no_warning(kit, alice, alice_client, linked):
    kit.revoke(alice)  # and nobody has noticed
    alice_client.post(kit.url("disconnect"))
    assert messages_of(alice_client) == [f"{kit.provider.label} is disconnected."]
    assert_nothing_is_left(kit, alice)


def test_a_key_that_is_lost_stops_nothing(kit, alice, alice_client, linked, settings):
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopq"]
    alice_client.post(kit.url("disconnect"))
    assert "could not be told" in messages_of(alice_client)[0]
    assert kit.stand_in.revocations == 0
    assert kit.status(alice) == LinkStatus.NOT_LINKED


@pytest.mark.parametrize("what", ["gone", "another"])
def test_an_app_that_is_no_longer_the_sites_stops_nothing(kit, alice, linked, what):
    if what == "another":
        kit.change_app()
        assert services.disconnect(alice.pk, kit.name) is False
    else:
        with kit.without_app():
            assert services.disconnect(alice.pk, kit.name) is False
    assert kit.stand_in.revocations == 0
    assert_nothing_is_left(kit, alice)


def test_it_ends_an_attempt_that_waits_at_the_consent_page(kit, alice, linked):
    begun = services.begin_authorization(alice.pk, kit.name, CALLBACK.format(kit.name))
    query = kit.consent(begun.authorization_url)
    services.disconnect(alice.pk, kit.name)
    with pytest.raises(InvalidState):
        services.complete_authorization(alice.pk, kit.name, **query)
    assert query_of(begun.authorization_url)["state"]
    assert_nothing_is_left(kit, alice)


def test_nobody_disconnects_somebody_else(kit, alice, bob_client, linked):
    bob_client.post(kit.url("disconnect"))
    assert kit.status(alice) == LinkStatus.LINKED
    assert kit.stand_in.revocations == 0


def test_disconnecting_one_provider_leaves_the_others(kit, alice, linked):
    Link.objects.create(user=alice, provider="elsewhere", token="t", account_id="1")
    services.disconnect(alice.pk, kit.name)
    assert Link.objects.get(provider="elsewhere").token == "t"


@transactional
def test_deleting_the_user_revokes(kit, alice, heard):
    kit.link(alice)
    token, user_id = kit.get(alice, "token"), alice.pk
    heard.clear()
    alice.delete()
    assert kit.stand_in.revocations == 1
    assert not kit.stand_in.is_alive(token)
    assert not UsersIntegrations.objects.exists()
    assert not Link.objects.exists()
    assert not LinkEvent.objects.exists()
    assert heard == [("account_unlinked", user_id, kit.name)]


@transactional
def test_a_deletion_that_is_rolled_back_revokes_nothing(kit, alice):
    token = kit.home.get(kit.link(alice), "token")
    with transaction.atomic():
        alice.delete()
        transaction.set_rollback(True)
    assert kit.stand_in.revocations == 0
    assert kit.stand_in.is_alive(token)
    assert kit.home.rows().count() == 1


@transactional
def test_a_deletion_works_while_the_provider_does_not(kit, alice):
    kit.link(alice)
    kit.stand_in.fail("revoke", "500")
    alice.delete()
    assert not UsersIntegrations.objects.exists()
    assert not Link.objects.exists()


@transactional
@pytest.mark.parametrize("which", ["its own", "the one that staff see"])
def test_deleting_the_row_does_what_a_disconnect_does(kit, alice, heard, which):
    kit.link(alice)
    token = kit.get(alice, "token")
    heard.clear()
    rows = kit.home.model if which == "its own" else UsersIntegrations
    with services.acting_as("staff"):
        rows.objects.filter(user=alice).delete()
    assert kit.stand_in.revocations == 1
    assert not kit.stand_in.is_alive(token)
    assert not kit.home.of(alice.pk).exists()
    assert heard == [("account_unlinked", alice.pk, kit.name)]
    event = LinkEvent.objects.get(event="unlinked")
    assert (event.provider, event.code, event.actor) == (kit.name, "deleted", "staff")


@transactional
def test_deleting_the_user_ends_no_link_that_another_has_made_meanwhile(
    kit, alice, bob, monkeypatch
):
    """A provider is told only after the commit."""
    kit.link(alice)
    revoke_row = links.revoke_row

    def later(*args):
        kit.link(bob)
        return revoke_row(*args)

    monkeypatch.setattr(links, "revoke_row", later)
    alice.delete()

    assert kit.stand_in.revocations == 0
    assert kit.stand_in.is_alive(kit.ask(bob))


def test_staff_who_delete_a_users_row_delete_the_links_with_it_wherever_they_are(
    polar, alice, settings
):
    """Also where no provider of the site keeps its links in that row."""
    settings.INTEGRATIONS_PROVIDERS = ["integrations.polar.provider.Polar"]
    services.create_user_integrations(alice.pk)
    for name in ("polar", "gone"):
        Link.objects.create(user=alice, provider=name, token="t", account_id="1")
    Gear.objects.create(user=alice, provider="strava", first_seen_at=timezone.now())

    UsersIntegrations.objects.filter(user=alice).delete()

    assert not Link.objects.exists()
    assert not Gear.objects.exists()


@transactional
def test_a_deletion_of_a_lapsed_link_revokes_too(renewing, alice):
    renewing.link(alice)
    renewing.lapse(alice)
    alice.delete()
    assert renewing.stand_in.counts()["refresh_tokens"] == 0


@transactional
def test_host_projects_and_the_trail_are_told_of_everything(kit, alice, alice_client, heard):
    kit.connect(alice_client)
    kit.connect(alice_client)
    kit.end(alice)
    alice_client.post(kit.url("disconnect"))
    assert heard == [
        (name, alice.pk, kit.name)
        for name in ("account_linked", "account_linked", "relink_required", "account_unlinked")
    ]
    events = LinkEvent.objects.filter(user=alice, provider=kit.name).order_by("pk")
    assert list(events.values_list("event", "actor")) == [
        ("linked", "athlete"),
        ("relinked", "athlete"),
        ("relink_required", "provider"),
        ("unlinked", "athlete"),
    ]
