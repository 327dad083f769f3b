"""A token that is good, whoever asks and whatever the provider answers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from integrations import services
from integrations.exceptions import (
    IntegrationsError,
    InvalidProviderReply,
    NotLinked,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    RelinkRequired,
    SecretUnreadable,
    SiteClientChanged,
    SiteClientRejected,
    UnknownProvider,
)
from integrations.models import LinkEvent, LinkStatus

pytestmark = pytest.mark.django_db


def test_a_fresh_token_costs_no_request(kit, alice, linked):
    calls = kit.stand_in.calls
    assert kit.ask(alice) == kit.get(alice, "token")
    assert kit.stand_in.calls == calls


def test_without_a_link_there_is_no_token(kit, alice):
    with pytest.raises(NotLinked) as caught:
        kit.ask(alice)
    assert isinstance(caught.value, kit.provider.not_linked)
    assert caught.value.user_message == f"{kit.provider.label} is not connected."
    assert not kit.report(alice, "a-token")
    assert not kit.stand_in.calls
    with pytest.raises(UnknownProvider):
        services.get_access_token(alice.pk, "nobody")
    with pytest.raises(UnknownProvider):
        services.get_access_token(alice.pk, "garminconnect")


@pytest.mark.parametrize(("left", "asks"), [(301, False), (299, True)])
def test_a_token_is_good_for_five_more_minutes(kit, alice, linked, left, asks):
    kit.stand_in.expire(kit.alice, expires_in=left)
    kit.set(alice, token_expires_at=timezone.now() + timedelta(seconds=left))
    calls = kit.stand_in.calls

    assert kit.stand_in.is_alive(kit.ask(alice))

    # What cannot be refreshed is at least tried out.
    assert (kit.stand_in.calls[kit.asked_at] > calls[kit.asked_at]) == asks


def test_an_expired_token_is_refreshed_and_the_newest_is_stored(renewing, alice):
    renewing.link(alice)
    renewing.lapse(alice)
    before = renewing.stored(alice)

    token = renewing.ask(alice)

    after = renewing.stored(alice)
    assert token == after["token"] != before["token"]
    assert renewing.stand_in.is_alive(token)
    assert renewing.stand_in.is_alive(after["refresh_token"])
    assert after["refresh_token"] != before["refresh_token"]
    assert not renewing.stand_in.is_alive(before["refresh_token"])
    assert after["token_expires_at"] > timezone.now() + timedelta(minutes=30)
    assert timezone.now() - after["refreshed_at"] < timedelta(minutes=1)
    assert after["lease"] is None
    kept = ("account_id", "account_name", "scope", "site_client_id", "linked_at")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert renewing.ask(alice) == token
    assert renewing.stand_in.refreshes == 1


def test_an_expired_token_that_nothing_renews_ends_the_link_and_nobody_is_asked(
    lasting, alice, heard, django_capture_on_commit_callbacks
):
    lasting.link(alice)
    heard.clear()
    lasting.lapse(alice)
    calls = lasting.stand_in.calls
    assert lasting.status(alice) == LinkStatus.RELINK_REQUIRED  # before anybody asks

    for _ in range(2):
        with django_capture_on_commit_callbacks(execute=True), pytest.raises(RelinkRequired):
            lasting.ask(alice)

    assert lasting.stand_in.calls == calls
    assert lasting.get(alice, "error") == "relink_required"
    assert heard == [("relink_required", alice.pk, lasting.name)]
    assert LinkEvent.objects.filter(event="relink_required", provider=lasting.name).count() == 1


def test_a_token_without_an_expiry_never_counts_as_expired(lasting, alice):
    lasting.link(alice)
    lasting.set(alice, token_expires_at=None)
    calls = lasting.stand_in.calls
    for _ in range(2):
        assert lasting.ask(alice) == lasting.get(alice, "token")
    assert lasting.stand_in.calls == calls
    assert lasting.status(alice) == LinkStatus.LINKED
    status = services.get_integrations_status(alice.pk)[lasting.name]
    assert (status["status"], status["token_expires_at"], status["error"]) == ("linked", None, None)


def test_a_token_whose_expiry_was_not_said_is_refreshed_before_it_is_used(renewing, alice):
    renewing.link(alice)
    renewing.set(alice, token_expires_at=None)
    token = renewing.ask(alice)
    assert renewing.stand_in.refreshes == 1
    assert renewing.stand_in.is_alive(token)
    assert renewing.status(alice) == LinkStatus.LINKED


# --- What ends a link, and what does not --------------------------------------------------------


def test_a_grant_that_is_dead_ends_the_link_and_is_never_asked_about_again(
    kit, alice, heard, django_capture_on_commit_callbacks
):
    kit.link(alice)
    heard.clear()
    with django_capture_on_commit_callbacks(execute=True):
        kit.end(alice)
    assert kit.status(alice) == LinkStatus.RELINK_REQUIRED
    assert heard == [("relink_required", alice.pk, kit.name)]
    row = kit.stored(alice)
    assert (row["error"], row["lease"], row["retry_at"]) == ("relink_required", None, None)
    event = LinkEvent.objects.get(event="relink_required")
    assert (event.user, event.provider, event.actor) == (alice, kit.name, "provider")

    calls = kit.stand_in.calls
    with pytest.raises(kit.provider.relink_required) as caught:
        kit.ask(alice)
    assert caught.value.user_message.startswith(kit.provider.label)
    assert not kit.report(alice)
    assert kit.stand_in.calls == calls
    assert services.get_integrations_status(alice.pk)[kit.name]["status"] == "relink_required"


FAULTS = {
    "500": ProviderUnavailable,
    "502_html": ProviderUnavailable,
    "429": RateLimited,
    "reset_before": ProviderUnavailable,
    "redirect": InvalidProviderReply,
}
# What an answer has to hold is looked at where it brings tokens.
GARBLED = {
    "200_html": InvalidProviderReply,
    "empty": InvalidProviderReply,
    "half_json": InvalidProviderReply,
    "wrong_types": InvalidProviderReply,
    "401_client": SiteClientRejected,
    "403_limit": ProviderError,
}


def assert_survives(kit, alice, fault, error):
    before = kit.stored(alice)
    kit.stand_in.fail(kit.asked_at, fault, times=1)

    with pytest.raises(error) as caught:
        services.refresh_link(alice.pk, kit.name)

    assert caught.value.provider == kit.provider.label
    after = kit.stored(alice)
    assert kit.status(alice) == LinkStatus.LINKED
    for name in ("token", "refresh_token", "token_expires_at", "account_id", "scope"):
        assert after[name] == before[name]
    assert after["error"] == caught.value.code
    assert after["failures"] == 1
    assert after["retry_at"] > timezone.now()
    assert after["lease"] is None
    kit.set(alice, limited_until=None)  # a limit's window has turned
    services.refresh_link(alice.pk, kit.name)
    after = kit.stored(alice)
    assert (after["error"], after["failures"], after["retry_at"]) == ("", 0, None)
    assert kit.stand_in.is_alive(kit.ask(alice))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_never_ends_a_link(kit, alice, linked, fault):
    assert_survives(kit, alice, fault, FAULTS[fault])


@pytest.mark.parametrize("fault", GARBLED)
def test_an_answer_without_tokens_never_ends_a_link(renewing, alice, fault):
    renewing.link(alice)
    assert_survives(renewing, alice, fault, GARBLED[fault])


def test_failures_back_off_up_to_a_day(kit, alice, linked):
    kit.stand_in.fail(kit.asked_at, "500")
    waits = []
    for failures in (0, 1, 5, 12, 200):
        kit.set(alice, failures=failures)
        with pytest.raises(ProviderUnavailable):
            services.refresh_link(alice.pk, kit.name)
        waits.append((kit.get(alice, "retry_at") - timezone.now()).total_seconds())
    assert 40 < waits[0] < 80
    assert waits[0] < waits[2] < waits[3]
    assert max(waits) <= 86_400


def test_a_limit_stops_all_links_of_the_app_until_its_window_turns(kit, alice, bob, linked):
    kit.link(bob, kit.bjorn)
    kit.stand_in.fail(kit.asked_at, "429", times=1)
    with pytest.raises(RateLimited) as caught:
        services.refresh_link(alice.pk, kit.name)
    if caught.value.retry_after:
        left = kit.get(alice, "limited_until") - timezone.now()
        assert abs(left.total_seconds() - caught.value.retry_after) < 5
    calls = kit.stand_in.calls

    for user in (alice, bob):
        with pytest.raises(RateLimited) as caught:
            services.refresh_link(user.pk, kit.name)
        assert 0 < caught.value.retry_after <= 86_400
    assert kit.stand_in.calls == calls
    # A fresh token is handed out all the same.
    assert kit.ask(bob) == kit.get(bob, "token")

    kit.set(alice, limited_until=timezone.now())
    services.refresh_link(bob.pk, kit.name)


def test_an_app_that_is_gone_ends_nobodys_link(kit, alice, linked):
    calls = kit.stand_in.calls
    with kit.without_app(), pytest.raises(SiteClientRejected):
        services.refresh_link(alice.pk, kit.name)
    assert kit.stand_in.calls == calls
    assert kit.status(alice) == LinkStatus.LINKED
    services.refresh_link(alice.pk, kit.name)


def test_another_app_of_the_sites_ends_nobodys_link(kit, alice, linked):
    calls = kit.stand_in.calls
    kit.change_app()
    with pytest.raises(SiteClientChanged) as caught:
        services.refresh_link(alice.pk, kit.name)
    assert caught.value.code == "client_changed"
    assert kit.stand_in.calls == calls
    assert kit.status(alice) == LinkStatus.LINKED
    status = services.get_integrations_status(alice.pk)[kit.name]
    assert status["error"]["code"] == "client_changed"
    assert kit.provider.label in status["error"]["message"]


def test_a_secret_of_the_sites_that_is_wrong_ends_nobodys_link(renewing, alice):
    renewing.link(alice)
    setattr(renewing.settings, f"{renewing.name.upper()}_CLIENT_SECRET", "wrong")
    with pytest.raises(SiteClientRejected) as caught:
        services.refresh_link(alice.pk, renewing.name)
    assert "not your fault" in caught.value.user_message
    assert renewing.status(alice) == LinkStatus.LINKED


def test_a_secret_of_the_sites_that_is_wrong_is_the_sites_fault(kit, alice, linked):
    before = kit.stored(alice, "exchanging_state", "exchanging_error")
    setattr(kit.settings, f"{kit.name.upper()}_CLIENT_SECRET", "wrong")
    with pytest.raises(SiteClientRejected) as caught:
        kit.link(alice)
    assert "not your fault" in caught.value.user_message
    assert kit.stored(alice, "exchanging_state", "exchanging_error") == before


def test_a_lost_key_asks_for_a_reconnect_and_touches_nothing(kit, alice, linked, settings):
    keys = settings.FERNET_KEYS
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopq"]
    with pytest.raises(RelinkRequired) as caught:
        kit.ask(alice)
    assert isinstance(caught.value.reason, SecretUnreadable)
    assert kit.status(alice) == LinkStatus.RELINK_REQUIRED
    settings.FERNET_KEYS = keys
    assert kit.stand_in.is_alive(kit.ask(alice))
    assert kit.status(alice) == LinkStatus.LINKED


# --- A host that met a 401 ----------------------------------------------------------------------


def test_a_report_about_a_link_that_lives_is_true(kit, alice, linked):
    calls = kit.stand_in.calls[kit.asked_at]
    assert kit.report(alice) is True
    assert kit.stand_in.calls[kit.asked_at] == calls + 1
    assert kit.status(alice) == LinkStatus.LINKED
    assert kit.stand_in.is_alive(kit.ask(alice))


def test_a_report_about_a_link_that_is_dead_ends_it(kit, alice, linked):
    kit.revoke(alice)
    assert kit.report(alice) is False
    assert kit.status(alice) == LinkStatus.RELINK_REQUIRED


def test_a_report_about_a_token_that_was_replaced_asks_nobody(kit, alice, linked):
    calls = kit.stand_in.calls
    assert kit.report(alice, "the-token-before") is True
    assert kit.stand_in.calls == calls


def test_a_report_while_the_provider_is_down_says_so_and_ends_nothing(kit, alice, linked):
    kit.stand_in.fail(kit.asked_at, "500")
    with pytest.raises(ProviderUnavailable):
        kit.report(alice)
    assert kit.status(alice) == LinkStatus.LINKED


@pytest.mark.parametrize("odd", ["", "é", "\0", "\ud800"], ids=["empty", "accent", "nul", "half"])
def test_a_report_about_what_is_no_token_is_harmless(kit, alice, linked, odd):
    assert kit.report(alice, odd) is True
    with pytest.raises(IntegrationsError):
        services.report_rejected_token(alice.pk, "nobody", odd)
