"""Whose account it is, and what becomes of the link that a new one replaces."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from integrations import services
from integrations.exceptions import AthleteAlreadyLinked, IntegrationsError
from integrations.models import Link, LinkStatus
from integrations.services import _rows

from ..conftest import messages_of
from .kit import CALLBACK


def test_an_account_of_another_users_is_refused_and_keeps_its_grant(
    kit, alice, bob, bob_client, linked
):
    before = kit.stored(alice)

    kit.come_back(bob_client, kit.consent(kit.begin(bob_client)))  # as Alice's account

    [message] = messages_of(bob_client)
    assert "already connected to another account" in message
    assert "alice" not in message.lower()
    assert kit.status(bob) == LinkStatus.NOT_LINKED
    assert kit.stand_in.revocations == 0
    assert kit.stored(alice) == before
    assert kit.stand_in.is_alive(kit.ask(alice))


def test_an_account_of_another_users_leaves_ones_own_link_as_it_was(kit, alice, bob, linked):
    kit.link(bob, kit.bjorn)
    before = kit.stored(bob, "exchanging_state", "exchanging_error")

    with pytest.raises(AthleteAlreadyLinked):
        kit.link(bob)

    assert kit.stored(bob, "exchanging_state", "exchanging_error") == before
    assert kit.stand_in.revocations == 0
    for user in (alice, bob):
        assert kit.stand_in.is_alive(kit.ask(user))


def test_an_account_that_its_user_disconnected_can_go_to_another(kit, alice, bob, linked):
    services.disconnect(alice.pk, kit.name)
    kit.link(bob)
    assert kit.status(bob) == LinkStatus.LINKED
    assert kit.stand_in.is_alive(kit.ask(bob))


def test_the_same_account_at_two_providers_is_no_conflict(kit, alice, bob, linked):
    """Ids of one provider say nothing of another's."""
    Link.objects.create(user=bob, provider="elsewhere", token="t", account_id=str(kit.bjorn))
    kit.link(alice, kit.bjorn)
    assert kit.status(alice) == LinkStatus.LINKED


def test_reconnecting_the_same_account_revokes_nothing(kit, alice, linked):
    old = kit.get(alice, "token")
    kit.link(alice)
    assert kit.stand_in.revocations == 0
    token = kit.ask(alice)
    assert kit.stand_in.is_alive(token)
    assert token != old
    assert kit.get(alice, "token") == token


@pytest.mark.parametrize("state", ["fresh", "lapsed"])
def test_another_account_replaces_the_former_one_and_revokes_it(kit, alice, linked, state):
    if state == "lapsed" and kit.renews:
        kit.lapse(alice)
    before = kit.stored(alice)

    kit.link(alice, kit.bjorn)

    after = kit.stored(alice)
    assert str(after["account_id"]) == str(kit.bjorn)
    assert after["account_name"] == kit.stand_in.athletes[kit.bjorn].full_name
    assert kit.stand_in.is_alive(kit.ask(alice))
    assert kit.stand_in.revocations == 1
    # The former grant has ended as a whole, and with nothing but its own token.
    assert not kit.stand_in.is_alive(before["token"])
    assert not (before["refresh_token"] and kit.stand_in.is_alive(before["refresh_token"]))
    assert kit.stand_in.counts()["connected_athletes"] == 1


@pytest.mark.parametrize("fault", ["500", "reset_before"])
def test_a_former_account_that_cannot_be_revoked_stops_no_new_one(kit, alice, linked, fault):
    kit.stand_in.fail("revoke", fault)
    kit.link(alice, kit.bjorn)
    assert str(kit.get(alice, "account_id")) == str(kit.bjorn)
    assert kit.stand_in.is_alive(kit.ask(alice))


def test_a_new_link_forgets_what_was_noted_of_the_old_one(kit, alice, linked):
    fresh = kit.home.model()
    soon = timezone.now() + timedelta(hours=1)
    odd = {
        "relink_required_at": timezone.now(),
        "error": "rate_limited",
        "failures": 7,
        "retry_at": soon,
        "limited_until": soon,
        "limited_reads": True,
        "lease": uuid.uuid4(),
        "lease_until": soon,
        "spent_state": "x",
        "exchanging_error": "y",
        "sync_error": "z",
        "sync_failures": 3,
        "syncing_until": soon,
    }
    kit.set(alice, **{name: it for name, it in odd.items() if kit.home.has(name)})

    kit.link(alice)

    noted = kit.stored(alice)
    # Every column that is noted on a link and forgotten with it, whatever it is called.
    names = {name for name in _rows._NOTED if kit.home.has(name)}
    assert names >= {"error", "failures", "retry_at", "limited_until", "lease"}
    for name in names - {"spent_state", "exchanging_state", "exchanging_until"}:
        assert noted[name] == getattr(fresh, kit.home.column(name)), name
    assert noted["spent_state"] != "x"
    assert kit.status(alice) == LinkStatus.LINKED


def test_a_link_that_has_ended_is_made_whole(kit, alice, linked):
    kit.end(alice)
    assert kit.status(alice) == LinkStatus.RELINK_REQUIRED
    kit.link(alice)
    assert kit.status(alice) == LinkStatus.LINKED
    assert kit.stand_in.is_alive(kit.ask(alice))
    assert kit.stand_in.revocations == 0


def test_a_disconnect_during_the_exchange_wins_and_the_new_grant_is_revoked(
    kit, alice, linked, monkeypatch
):
    begun = services.begin_authorization(alice.pk, kit.name, CALLBACK.format(kit.name))
    query = kit.consent(begun.authorization_url)
    exchange = type(kit.provider).client_class.exchange_code

    def meanwhile(self, *args):
        tokens = exchange(self, *args)
        services.disconnect(alice.pk, kit.name)
        return tokens

    monkeypatch.setattr(type(kit.provider).client_class, "exchange_code", meanwhile)
    with pytest.raises(IntegrationsError):  # each provider's next step may be the one to notice
        services.complete_authorization(alice.pk, kit.name, **query)

    assert kit.status(alice) == LinkStatus.NOT_LINKED
    assert kit.stand_in.counts()["access_tokens"] == 0


def test_a_refused_account_is_told_again_to_the_redirects_second_delivery(kit, bob, linked):
    begun = services.begin_authorization(bob.pk, kit.name, CALLBACK.format(kit.name))
    query = kit.consent(begun.authorization_url)
    for _ in range(2):
        with pytest.raises(AthleteAlreadyLinked):
            services.complete_authorization(bob.pk, kit.name, **query)
    assert kit.stand_in.exchanges == 2  # Alice's, and this one
