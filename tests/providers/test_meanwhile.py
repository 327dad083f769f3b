"""One request at a time for a link, and what comes between a question and its answer."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.utils import timezone

from integrations import services
from integrations.clock import dated
from integrations.exceptions import InvalidProviderReply, NotLinked, ProviderUnavailable
from integrations.models import LinkStatus
from integrations.services import _spool
from integrations.services.tokens import keeper_of

pytestmark = pytest.mark.django_db


def together(count, function):
    """Run a function in that many threads at once; returns what each returned or raised."""
    outcomes, barrier = [], threading.Barrier(count)

    def run():
        barrier.wait()
        try:
            outcomes.append(function())
        except Exception as exc:
            outcomes.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.django_db(transaction=True)
def test_threads_that_ask_at_once_cause_one_request_at_most(kit, alice):
    kit.link(alice)
    if kit.renews:
        kit.lapse(alice)
    exchanges = kit.stand_in.exchanges
    kit.stand_in.fail("token", "delay", seconds=0.3)

    tokens = together(8, lambda: kit.ask(alice))

    assert set(tokens) == {kit.get(alice, "token")}
    assert kit.stand_in.refreshes == kit.renews
    assert kit.stand_in.exchanges == exchanges


@pytest.mark.django_db(transaction=True)
def test_threads_that_report_a_dead_token_end_the_link_once(kit, alice, heard):
    kit.link(alice)
    token = kit.get(alice, "token")
    kit.revoke(alice)
    heard.clear()
    before = kit.stand_in.calls[kit.asked_at]
    kit.stand_in.fail(kit.asked_at, "delay", seconds=0.3)

    assert together(5, lambda: kit.report(alice, token)) == [False] * 5

    assert kit.stand_in.calls[kit.asked_at] == before + 1
    assert heard == [("relink_required", alice.pk, kit.name)]


@pytest.mark.django_db(transaction=True)
def test_waiters_do_not_each_ask_a_provider_in_trouble(renewing, alice):
    renewing.link(alice)
    renewing.lapse(alice)
    renewing.stand_in.fail("token", "delay", seconds=0.3)
    renewing.stand_in.amend("token", lambda said: {"access_token": 7})

    outcomes = together(5, lambda: renewing.ask(alice))

    assert {type(each) for each in outcomes} == {InvalidProviderReply}
    assert renewing.stand_in.refreshes == 1
    assert renewing.get(alice, "failures") == 1


def test_a_refresher_that_died_frees_the_way(kit, alice, linked):
    kit.set(alice, lease=uuid.uuid4(), lease_until=Now() + timedelta(seconds=0.3))
    services.refresh_link(alice.pk, kit.name)
    assert kit.stand_in.is_alive(kit.ask(alice))
    assert kit.get(alice, "lease") is None


def test_a_refusal_amid_doubt_ends_nothing(kit, alice, linked):
    """Whoever let a lease run out may hold the good answer still."""
    kit.set(alice, lease=uuid.uuid4(), lease_until=timezone.now() - timedelta(seconds=1))
    kit.revoke(alice)
    with pytest.raises(ProviderUnavailable):
        services.refresh_link(alice.pk, kit.name)
    assert kit.status(alice) == LinkStatus.LINKED


# --- What happens meanwhile ---------------------------------------------------------------------


@pytest.fixture
def meanwhile(renewing, monkeypatch):
    """Do something at the moment when the provider has answered and nothing is stored yet."""

    def meanwhile(action):
        client = type(renewing.provider).client_class
        ask = client.refresh_access_token

        def asked(self, refresh_token):
            tokens = ask(self, refresh_token)
            monkeypatch.undo()
            action()
            return tokens

        monkeypatch.setattr(client, "refresh_access_token", asked)

    return meanwhile


def test_a_disconnect_meanwhile_wins_and_the_new_pair_is_revoked(renewing, alice, meanwhile):
    renewing.link(alice)
    renewing.lapse(alice)
    meanwhile(lambda: services.disconnect(alice.pk, renewing.name))

    with pytest.raises(NotLinked):
        renewing.ask(alice)

    assert renewing.status(alice) == LinkStatus.NOT_LINKED
    assert renewing.get(alice, "token") is None
    assert renewing.stand_in.counts()["refresh_tokens"] == 0


def test_an_answer_from_a_file_ends_no_link_that_stands(kit, alice, bob):
    """The grant outlived its link, because the provider could not be told; and then its athlete
    connected as another user."""
    kit.link(alice)
    if kit.renews:
        kit.lapse(alice)
    row = dated(kit.home.of(alice.pk)).get()
    values = kit.provider.refresh(row).values
    _spool.write(_spool.Answer(kit.name, row, uuid.uuid4(), kit.home.columns(**values)))
    kit.stand_in.fail("*", "500")
    assert not services.disconnect(alice.pk, kit.name)
    kit.stand_in.recover()
    kit.link(bob)

    keeper_of(kit.provider).take_up()

    assert _spool.is_empty()
    assert kit.stand_in.is_alive(kit.ask(bob))


def test_a_reconnect_meanwhile_wins_and_keeps_its_grant(renewing, alice, meanwhile):
    renewing.link(alice)
    renewing.lapse(alice)
    made = []
    meanwhile(lambda: made.append(renewing.link(alice)))

    token = renewing.ask(alice)

    assert token == renewing.home.get(made[0], "token") == renewing.get(alice, "token")
    assert renewing.stand_in.is_alive(token)
    assert renewing.stand_in.revocations == 0


def test_a_reconnect_to_another_account_meanwhile_wins_and_the_former_grant_is_revoked(
    renewing, alice, meanwhile
):
    renewing.link(alice)
    renewing.lapse(alice)
    meanwhile(lambda: renewing.link(alice, renewing.bjorn))

    token = renewing.ask(alice)

    assert renewing.stand_in.is_alive(token)
    assert str(renewing.get(alice, "account_id")) == str(renewing.bjorn)
    assert renewing.stand_in.counts()["connected_athletes"] == 1


def test_a_rotation_of_keys_meanwhile_loses_nothing(renewing, alice, meanwhile):
    renewing.link(alice)
    renewing.lapse(alice)
    refresh_token = renewing.get(alice, "refresh_token")
    meanwhile(lambda: renewing.set(alice, refresh_token=refresh_token))  # sealed anew

    assert renewing.ask(alice) == renewing.get(alice, "token")
    assert renewing.stand_in.is_alive(renewing.get(alice, "refresh_token"))


@pytest.mark.django_db(transaction=True)
def test_a_database_that_hiccups_loses_nothing(renewing, alice):
    renewing.link(alice)
    renewing.lapse(alice)
    failures = iter([True, True])

    def hiccup(execute, sql, params, many, context):
        if sql.startswith("UPDATE") and renewing.stand_in.refreshes and next(failures, False):
            raise OperationalError("database is locked")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(hiccup):
        token = renewing.ask(alice)

    assert token == renewing.get(alice, "token")
    assert next(failures, None) is None


def test_a_check_answered_after_a_disconnect_brings_nothing_back(lasting, alice, monkeypatch):
    lasting.link(alice)
    check = type(lasting.provider).check

    def meanwhile(self, client, row):
        check(self, client, row)
        monkeypatch.undo()
        services.disconnect(alice.pk, lasting.name)

    monkeypatch.setattr(type(lasting.provider), "check", meanwhile)
    with pytest.raises(NotLinked):
        services.refresh_link(alice.pk, lasting.name)
    assert lasting.status(alice) == LinkStatus.NOT_LINKED
    assert lasting.stand_in.counts()["access_tokens"] == 0


def test_a_check_answered_after_a_reconnect_overwrites_nothing(lasting, alice, monkeypatch):
    lasting.link(alice)
    check = type(lasting.provider).check

    def meanwhile(self, client, row):
        check(self, client, row)
        monkeypatch.undo()
        lasting.link(alice)

    monkeypatch.setattr(type(lasting.provider), "check", meanwhile)
    before = lasting.get(alice, "token")
    services.refresh_link(alice.pk, lasting.name)
    assert lasting.get(alice, "token") != before
    assert lasting.stand_in.is_alive(lasting.ask(alice))
    assert lasting.stand_in.revocations == 0
