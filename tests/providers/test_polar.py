"""What Polar alone does: registration, consents, tokens of years."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from integrations import services
from integrations.exceptions import ConsentRequired, InvalidProviderReply, ProviderUnavailable
from integrations.models import LinkStatus
from integrations.sandbox.polar import ALICE, BJORN, CHIDI, DANA

from ..conftest import messages_of
from .conftest import MODULES
from .kit import Kit


@pytest.fixture
def kit(polar, settings, http):
    return Kit("polar", polar, MODULES["polar"], http, settings)


def data_of(kit, token, http):
    """What Polar answers to a call for data."""
    url = kit.settings.POLAR_API_URL + "/exercises"
    return http.get(url, headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_person_is_registered_before_the_token_is_stored(kit, alice, polar, http, monkeypatch):
    kit.link(alice)
    ways = [each["endpoint"] for each in polar.requests]
    assert ways.index("register") > ways.index("token")
    assert data_of(kit, kit.ask(alice), http) == 200

    polar.fail("register", "500")
    before = kit.stored(alice, "exchanging_state", "exchanging_error")
    with pytest.raises(ProviderUnavailable):
        kit.link(alice, BJORN)
    assert kit.stored(alice, "exchanging_state", "exchanging_error") == before
    # A grant that could not be used is none to keep.
    assert polar.counts()["connected_athletes"] == 1


def test_a_person_is_named_opaquely_and_anew_for_each_account(kit, alice, bob, polar):
    kit.link(alice)
    kit.link(bob, BJORN)
    first, second = polar.member_id(ALICE), polar.member_id(BJORN)
    assert first != second
    for name in (first, second):
        assert len(name) == 64
        assert "alice" not in name
    kit.link(alice, CHIDI)
    assert polar.member_id(CHIDI) not in (first, second)


def test_who_is_registered_already_is_connected(kit, alice, polar, http):
    kit.link(alice)
    kit.link(alice)  # 409, and the profile says who it is
    assert polar.registrations == 2
    assert [each["status"] for each in polar.requests if each["endpoint"] == "register"] == [
        200,
        409,
    ]
    assert kit.get(alice, "account_name") == "Alice Archer"
    assert data_of(kit, kit.ask(alice), http) == 200


def test_a_name_that_is_anothers_registration_is_no_link(kit, alice, bob, polar, monkeypatch):
    monkeypatch.setattr(
        "integrations.polar.provider.salted_hmac", lambda *args, **kwargs: SameForAll()
    )
    kit.link(alice)
    with pytest.raises(InvalidProviderReply) as caught:
        kit.link(bob, BJORN)
    assert caught.value.provider_status == 409
    assert kit.status(bob) == LinkStatus.NOT_LINKED
    assert polar.is_alive(kit.ask(alice))


class SameForAll:
    def hexdigest(self):
        return "0" * 64


def test_who_has_not_accepted_the_consents_is_told_so(kit, alice, alice_client, polar):
    kit.connect(alice_client, DANA)
    [message] = messages_of(alice_client)
    assert "accept its terms" in message
    assert "Polar" in message
    assert kit.status(alice) == LinkStatus.NOT_LINKED
    assert polar.counts()["access_tokens"] == 0
    polar.athletes[DANA].consents = True
    kit.connect(alice_client, DANA)
    assert kit.status(alice) == LinkStatus.LINKED


def test_consents_that_are_withdrawn_end_no_link(kit, alice, polar):
    kit.link(alice)
    polar.athletes[ALICE].consents = False
    with pytest.raises(ConsentRequired):
        kit.report(alice)
    assert kit.status(alice) == LinkStatus.LINKED
    error = services.get_integrations_status(alice.pk)["polar"]["error"]
    assert error["code"] == "consent_required"
    assert "terms" in error["message"]


def test_disconnecting_deregisters(kit, alice, polar):
    kit.link(alice)
    services.disconnect(alice.pk, "polar")
    assert polar.member_id(ALICE) is None
    assert polar.requests[-1]["method"] == "DELETE"
    assert polar.requests[-1]["path"] == f"/polar/v3/users/{ALICE}"
    kit.link(alice)
    assert polar.member_id(ALICE)


def test_somebody_who_deregistered_elsewhere_is_found_out(kit, alice, polar):
    kit.link(alice)
    polar.revoke_grant(ALICE)
    assert kit.report(alice) is False


@pytest.mark.parametrize("expires_in", [31_535_999, 315_359_999])
def test_a_token_of_years_is_kept_with_its_end_and_never_refreshed(kit, alice, polar, expires_in):
    polar.token_lifetime = expires_in
    kit.link(alice)
    left = kit.get(alice, "token_expires_at") - timezone.now()
    assert abs(left - timedelta(seconds=expires_in)) < timedelta(minutes=1)
    polar.token_lifetime = 60
    kit.link(alice)
    kit.ask(alice)  # it is tried out
    assert polar.refreshes == 0


def test_somebody_without_a_last_name_is_called_by_the_first(kit, alice):
    kit.link(alice, CHIDI)
    assert kit.get(alice, "account_name") == "Chidi"


@pytest.mark.parametrize("odd", [None, True, "", "x", -5, [1], 1.5], ids=str)
def test_an_account_that_is_no_number_is_refused(kit, alice, polar, odd):
    polar.amend("token", lambda said: said | {"x_user_id": odd})
    with pytest.raises(InvalidProviderReply):
        kit.link(alice)
    assert kit.status(alice) == LinkStatus.NOT_LINKED
