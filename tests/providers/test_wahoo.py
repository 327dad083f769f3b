"""What Wahoo alone does: it rotates late, allows ten tokens, and revokes with a live one."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from django.utils import timezone

from integrations import services
from integrations.exceptions import (
    IntegrationsError,
    InvalidProviderReply,
    ProviderUnavailable,
    RelinkRequired,
)
from integrations.models import LinkStatus
from integrations.sandbox.wahoo import ALICE, BJORN, DANA, MOST_TOKENS
from integrations.services.sweep import sweep_tokens
from integrations.wahoo.provider import TooManyTokens

from .conftest import MODULES
from .kit import CALLBACK, Kit


@pytest.fixture
def kit(wahoo, settings, http):
    return Kit("wahoo", wahoo, MODULES["wahoo"], http, settings)


def sweep(kit, user):
    kit.stand_in.expire(ALICE, expires_in=600)
    kit.set(user, retry_at=None, token_expires_at=timezone.now() + timedelta(minutes=10))
    return sweep_tokens(workers=1, names=["wahoo"])


def used(wahoo, token):
    return wahoo._by_access[token].used


def test_each_token_is_used_once_after_it_was_stored(kit, alice, wahoo, monkeypatch):
    kit.link(alice)
    assert used(wahoo, kit.get(alice, "token"))
    seen = []
    provider = type(kit.provider)
    use = provider.used

    def watched(self, row, token):
        seen.append(token == kit.get(alice, "token"))
        use(self, row, token)

    monkeypatch.setattr(provider, "used", watched)
    for _ in range(3):
        kit.lapse(alice)
        assert used(wahoo, kit.ask(alice))
    assert seen == [True, True, True]


def test_the_former_pair_ends_with_that_and_not_before(kit, alice, wahoo):
    kit.link(alice)
    kit.lapse(alice)
    former = kit.get(alice, "refresh_token")
    wahoo.fail("user", "reset_before", times=1)
    kit.ask(alice)
    assert wahoo.is_alive(former)
    kit.lapse(alice)
    kit.ask(alice)
    assert wahoo.unrevoked(ALICE) <= 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("trouble", [0, 0.5, 1])
def test_thirty_sweeps_never_meet_the_limit_of_ten(kit, alice, wahoo, trouble):
    """Even where the use that would end the former token often fails."""
    kit.link(alice)
    draw = random.Random(13)
    for _ in range(30):
        wahoo.recover()
        if draw.random() < trouble:
            wahoo.fail("user", "500", times=1)
        sweep(kit, alice)
        assert wahoo.unrevoked(ALICE) <= MOST_TOKENS
        assert kit.status(alice) == LinkStatus.LINKED
    wahoo.recover()
    assert sweep(kit, alice).refreshed == 1
    assert wahoo.unrevoked(ALICE) <= 2
    asked = [each["status"] for each in wahoo.requests if each["endpoint"] == "token"]
    assert set(asked) == {200}
    assert len(asked) > 10 or trouble == 1
    assert wahoo.is_alive(kit.ask(alice))


@pytest.mark.django_db(transaction=True)
def test_a_token_that_cannot_be_used_is_good_all_the_same(kit, alice, wahoo):
    kit.link(alice)
    kit.lapse(alice)
    wahoo.fail("user", "500")
    token = kit.ask(alice)
    assert wahoo.is_alive(token)
    row = kit.stored(alice)
    assert (row["token"], row["failures"], row["lease"]) == (token, 0, None)
    assert row["error"] == "provider_unavailable"  # for the next refresh
    wahoo.recover()
    sweep(kit, alice)
    assert (kit.get(alice, "error"), wahoo.unrevoked(ALICE)) == ("", 1)


@pytest.mark.django_db(transaction=True)
def test_a_limit_of_calls_stops_a_sweep_before_it_leaves_tokens_unused(kit, alice, bob, wahoo):
    kit.link(alice)
    kit.link(bob, BJORN)
    wahoo.expire(BJORN, expires_in=900)
    kit.set(bob, token_expires_at=timezone.now() + timedelta(minutes=15))
    wahoo.fail("user", "429", times=1)
    sweep_once = sweep(kit, alice)
    assert (sweep_once.refreshed, sweep_once.skipped) == (1, 1)
    assert wahoo.refreshes == 1
    assert 0 < (kit.get(alice, "limited_until") - timezone.now()).total_seconds() <= 120


def fill(wahoo):
    while wahoo.unrevoked(ALICE) < MOST_TOKENS:
        wahoo.issue_tokens(ALICE)


def test_too_many_tokens_end_no_link(kit, alice, wahoo):
    kit.link(alice)
    fill(wahoo)
    kit.lapse(alice)
    before = kit.stored(alice)
    with pytest.raises(TooManyTokens):
        kit.ask(alice)
    after = kit.stored(alice)
    assert kit.status(alice) == LinkStatus.LINKED
    assert (after["token"], after["refresh_token"]) == (before["token"], before["refresh_token"])
    status = services.get_integrations_status(alice.pk)["wahoo"]
    assert (status["status"], status["error"]["code"]) == ("linked", "too_many_tokens")
    assert "Disconnect Wahoo here" in status["error"]["message"]


def test_too_many_tokens_at_a_reconnect_leave_the_link(kit, alice, wahoo):
    kit.link(alice)
    fill(wahoo)
    before = kit.stored(alice, "exchanging_state", "exchanging_error")
    with pytest.raises(TooManyTokens) as caught:
        kit.link(alice)
    assert kit.stored(alice, "exchanging_state", "exchanging_error") == before
    assert wahoo.is_alive(kit.ask(alice))
    assert wahoo.revocations == 0
    # What the athlete is told to do works.
    assert "Disconnect Wahoo here, and connect it again" in caught.value.user_message
    services.disconnect(alice.pk, "wahoo")
    kit.link(alice)
    assert wahoo.is_alive(kit.ask(alice))


def test_a_lost_answer_is_no_lost_link(kit, alice, wahoo):
    kit.link(alice)
    kit.lapse(alice)
    wahoo.fail("token", "reset_after", times=1)
    with pytest.raises(ProviderUnavailable):
        kit.ask(alice)
    assert wahoo.is_alive(kit.ask(alice))


@pytest.mark.parametrize("bare", [False, True])
def test_a_dead_refresh_token_ends_the_link_however_it_is_said(kit, alice, wahoo, bare):
    kit.link(alice)
    wahoo.bare_invalid_grant = bare
    wahoo.revoke_grant(ALICE)
    kit.lapse(alice)
    with pytest.raises(RelinkRequired):
        kit.ask(alice)
    assert kit.status(alice) == LinkStatus.RELINK_REQUIRED


@pytest.mark.parametrize("says_so", [False, True])
def test_either_answer_to_a_revocation_is_a_yes(kit, alice, wahoo, says_so):
    kit.link(alice)
    wahoo.revocation_says_so = says_so
    assert services.disconnect(alice.pk, "wahoo") is True


def test_an_expired_link_is_refreshed_to_be_revoked(kit, alice, wahoo):
    kit.link(alice)
    kit.lapse(alice)
    assert services.disconnect(alice.pk, "wahoo") is True
    assert wahoo.refreshes == 1
    assert wahoo.counts()["access_tokens"] == 0


def test_scopes_in_the_answer_count(kit, alice, wahoo):
    wahoo.user_in_answer = True
    kit.link(alice)
    assert kit.get(alice, "scope") == "user_read,workouts_read,offline_data"


def test_an_app_that_is_not_approved_yet_links_nobody_and_ends_nothing(kit, alice, wahoo):
    wahoo.edit_app(wahoo.site, approved=False)
    with pytest.raises(IntegrationsError):
        kit.link(alice)
    assert kit.status(alice) == LinkStatus.NOT_LINKED
    wahoo.edit_app(wahoo.site, approved=True)
    kit.link(alice)
    wahoo.edit_app(wahoo.site, approved=False)
    kit.lapse(alice)
    assert kit.ask(alice)
    assert kit.status(alice) == LinkStatus.LINKED


def test_a_large_id_and_a_name_of_markup_are_kept(kit, alice):
    kit.link(alice, DANA)
    assert kit.get(alice, "account_id") == str(DANA)
    assert kit.get(alice, "account_name") == "Dana <script>alert(1)</script>"


@pytest.mark.parametrize("odd", [None, True, "", [1], {}], ids=str)
def test_an_account_without_an_id_is_refused(kit, alice, wahoo, odd):
    wahoo.amend("user", lambda said: said | {"id": odd})
    begun = services.begin_authorization(alice.pk, "wahoo", CALLBACK.format("wahoo"))
    query = kit.consent(begun.authorization_url)
    with pytest.raises(InvalidProviderReply):
        services.complete_authorization(alice.pk, "wahoo", **query)
    assert kit.status(alice) == LinkStatus.NOT_LINKED
    # Nobody here can have that account, so its grant is ended.
    assert wahoo.counts()["access_tokens"] == 0
