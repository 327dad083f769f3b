"""Answers that the database did not take at once: whoever comes next stores them."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest
from django.db import connection

from integrations import conf, services
from integrations.models import LinkStatus
from integrations.services import _rows, _spool
from integrations.services.tokens import keeper_of

from .kit import CALLBACK
from .test_meanwhile import together


@pytest.fixture
def waiting(renewing, alice):
    """Alice's token is refreshed, and the answer lies in a file; returns the new token."""
    renewing.link(alice)
    renewing.lapse(alice)
    row = _rows.get_row(renewing.home, alice.pk)
    refreshed = renewing.provider.refresh(row)
    columns = renewing.home.columns(**refreshed.values)
    _spool.write(_spool.Answer(renewing.name, row, uuid.uuid4(), columns))
    return refreshed.token


def files(settings):
    return list(Path(settings.INTEGRATIONS_SPOOL_DIR).glob("*.sealed"))


def test_an_answer_in_a_file_is_sealed_and_stored_once(renewing, alice, waiting, settings):
    [path] = files(settings)
    assert waiting.encode() not in path.read_bytes()
    keeper = keeper_of(renewing.provider)
    assert keeper.take_up() == 1
    assert renewing.get(alice, "token") == waiting
    assert renewing.stand_in.is_alive(renewing.get(alice, "refresh_token"))
    assert renewing.status(alice) == LinkStatus.LINKED
    assert files(settings) == []
    assert keeper.take_up() == 0


def test_an_answer_for_a_link_that_is_gone_is_revoked(renewing, alice, waiting, settings):
    renewing.stand_in.fail("revoke", "500", times=1)
    services.disconnect(alice.pk, renewing.name)
    assert renewing.stand_in.counts()["refresh_tokens"]
    keeper_of(renewing.provider).take_up()
    assert renewing.status(alice) == LinkStatus.NOT_LINKED
    assert renewing.stand_in.counts()["refresh_tokens"] == 0
    assert files(settings) == []


def test_an_answer_for_another_account_by_now_is_revoked(renewing, alice, waiting):
    renewing.stand_in.fail("revoke", "500", times=1)
    renewing.link(alice, renewing.bjorn)
    token = renewing.get(alice, "token")
    keeper_of(renewing.provider).take_up()
    assert renewing.get(alice, "token") == token
    assert renewing.stand_in.is_alive(token)
    assert renewing.stand_in.counts()["connected_athletes"] == 1


def test_an_answer_for_a_link_that_was_made_anew_is_of_no_use(renewing, alice, waiting):
    renewing.link(alice)
    token = renewing.get(alice, "token")
    keeper_of(renewing.provider).take_up()
    assert renewing.get(alice, "token") == token
    assert renewing.stand_in.is_alive(token)
    assert renewing.stand_in.revocations == 0


def test_an_answer_of_a_provider_that_the_site_has_no_more_waits(
    renewing, alice, waiting, settings
):
    keeper = keeper_of(renewing.provider)
    before = conf.provider_paths()
    settings.INTEGRATIONS_PROVIDERS = ["integrations.garminconnect.provider.GarminConnect"]
    assert keeper.take_up() == 0
    assert len(files(settings)) == 1
    settings.INTEGRATIONS_PROVIDERS = before
    assert keeper.take_up() == 1


@pytest.mark.django_db(transaction=True)
def test_of_callbacks_at_once_one_goes_on_and_the_others_wait_for_it(kit, alice):
    kit.stand_in.fail("token", "delay", seconds=0.3)
    begun = services.begin_authorization(alice.pk, kit.name, CALLBACK.format(kit.name))
    query = kit.consent(begun.authorization_url)

    outcomes = together(
        4, lambda: services.complete_authorization(alice.pk, kit.name, **query).repeated
    )

    assert sorted(outcomes) == [False, True, True, True]
    assert kit.stand_in.exchanges == 1


@pytest.mark.django_db(transaction=True)
def test_two_users_who_link_one_account_at_once_are_told_apart(kit, alice, bob):
    kit.stand_in.fail("token", "delay", seconds=0.2)
    queries = {}
    for user in (alice, bob):
        begun = services.begin_authorization(user.pk, kit.name, CALLBACK.format(kit.name))
        queries[user.pk] = kit.consent(begun.authorization_url)
    outcomes, barrier = [], threading.Barrier(2)

    def complete(user):
        barrier.wait()
        try:
            services.complete_authorization(user.pk, kit.name, **queries[user.pk])
            outcomes.append("linked")
        except Exception as exc:
            outcomes.append(type(exc).__name__)
        finally:
            connection.close()

    threads = [threading.Thread(target=complete, args=[user]) for user in (alice, bob)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["AthleteAlreadyLinked", "linked"]
    [owner] = [user for user in (alice, bob) if kit.status(user) == LinkStatus.LINKED]
    assert kit.stand_in.is_alive(kit.ask(owner))
    assert kit.stand_in.revocations == 0
