"""Leaving: at Strava, here, and no trace."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from integrations import exceptions, services
from integrations.models import LinkStatus, UsersIntegrations
from integrations.sandbox.strava import ALICE
from integrations.signals import account_unlinked
from integrations.strava.push import take_revocation_hint

from .conftest import begin, come_back, messages_of, row_of
from .test_strava_webhook import event

URL = "integrations:strava_disconnect"


def assert_nothing_is_left(user):
    fresh, row = UsersIntegrations(user=user), row_of(user)
    for field in UsersIntegrations._meta.concrete_fields:
        if field.name.startswith("strava"):
            assert getattr(row, field.name) == getattr(fresh, field.name), field.name


def test_disconnecting_revokes_at_strava_and_clears_here(alice, alice_client, linked, strava):
    tokens = linked.strava_token, linked.strava_refresh_token

    response = alice_client.post(reverse(URL))

    assert response.status_code == 302
    assert messages_of(alice_client) == ["Strava is disconnected."]
    assert strava.calls["revoke"] == 1
    assert not any(strava.is_alive(token) for token in tokens)
    assert_nothing_is_left(alice)


@pytest.mark.parametrize(
    "fault", ["500", "502_html", "429", "401_client", "reset_before", "reset_after"]
)
def test_a_strava_that_cannot_be_reached_does_not_stop_it(
    alice, alice_client, linked, strava, fault
):
    strava.fail("revoke", fault)

    alice_client.post(reverse(URL))

    [message] = messages_of(alice_client)
    assert "strava.com/settings/apps" in message
    assert_nothing_is_left(alice)


def test_a_key_that_is_lost_does_not_stop_it(alice, alice_client, linked, strava, settings):
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopq"]

    alice_client.post(reverse(URL))

    assert "strava.com/settings/apps" in messages_of(alice_client)[0]
    assert strava.calls["revoke"] == 0
    assert_nothing_is_left(alice)


def test_a_dead_link_can_be_disconnected(alice, alice_client, expired, strava):
    strava.revoke_grant(ALICE)
    with pytest.raises(exceptions.StravaRelinkRequired):
        services.get_strava_access_token(alice.pk)

    alice_client.post(reverse(URL))

    assert messages_of(alice_client) == ["Strava is disconnected."]
    assert_nothing_is_left(alice)


def test_disconnecting_twice_is_harmless(alice, alice_client, linked, strava):
    alice_client.post(reverse(URL))
    messages_of(alice_client)

    alice_client.post(reverse(URL))

    assert messages_of(alice_client) == ["Strava is not connected."]
    assert strava.calls["revoke"] == 1


def test_without_a_row_there_is_nothing_to_disconnect(alice_client, strava):
    response = alice_client.post(reverse(URL), headers={"accept": "application/json"})
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "not_linked"


def test_it_ends_an_attempt_that_waits_at_the_consent_page(alice, alice_client, linked, strava):
    state = begin(alice_client, client_id="10002", client_secret="secret")["state"]
    alice_client.post(reverse(URL))

    come_back(alice_client, state=state, code=strava.grant(ALICE), scope="read")

    assert strava.calls["token"] == 0
    assert_nothing_is_left(alice)


@pytest.mark.parametrize("name", ["strava_connect", "strava_disconnect"])
def test_only_a_post_with_a_csrf_token_changes_anything(alice, linked, name):
    url = reverse(f"integrations:{name}")
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)

    assert client.get(url).status_code == (405 if name == "strava_connect" else 200)
    assert client.post(url).status_code == 403
    json = client.post(url, headers={"accept": "application/json"})
    assert (json.status_code, json.json()["error"]["code"]) == (403, "csrf_failed")
    assert row_of(alice).strava_status == LinkStatus.LINKED


@pytest.mark.parametrize("name", ["strava_connect", "strava_disconnect"])
def test_a_stranger_is_sent_to_the_login(db, client, name):
    url = reverse(f"integrations:{name}")
    page = reverse("integrations:settings")  # no button's URL, which answers to presses alone
    assert client.post(url)["Location"] == f"{reverse('login')}?next={page}"
    json = client.post(url, headers={"accept": "application/json"})
    assert (json.status_code, json.json()["error"]["code"]) == (401, "login_required")


def test_nobody_disconnects_somebody_else(alice, bob_client, linked, strava):
    bob_client.post(reverse(URL))
    assert row_of(alice).strava_status == LinkStatus.LINKED
    assert strava.calls["revoke"] == 0


@pytest.mark.django_db(transaction=True)
def test_deleting_a_user_revokes_too(alice, linked, strava):
    token = linked.strava_token
    alice.delete()
    assert not strava.is_alive(token)
    assert not UsersIntegrations.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_deleting_a_user_works_while_strava_does_not(alice, linked, strava):
    strava.fail("revoke", "500")
    alice.delete()
    assert not UsersIntegrations.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_deletion_that_is_rolled_back_revokes_nothing(alice, linked, strava):
    from django.db import transaction

    with transaction.atomic():
        alice.delete()
        transaction.set_rollback(True)
    assert strava.is_alive(linked.strava_token)


@pytest.mark.django_db(transaction=True)
def test_host_projects_are_told(alice, linked, strava):
    heard = []

    def receiver(sender, signal, **rest):
        heard.append(rest)

    account_unlinked.connect(receiver)
    try:
        services.disconnect(alice.pk, "strava")
    finally:
        account_unlinked.disconnect(receiver)
    assert heard == [{"user_id": alice.pk, "provider": "strava"}]


def test_nothing_is_left_of_a_push_event_either(alice, linked):
    take_revocation_hint(event())
    services.unlink_strava_account(alice.pk)
    assert_nothing_is_left(alice)
