"""What Intervals.icu alone does: tokens without an end, and a 404 for a bad app."""

from __future__ import annotations

import pytest

from integrations import services
from integrations.exceptions import InvalidGrant, InvalidProviderReply, SiteClientRejected
from integrations.models import LinkStatus
from integrations.sandbox.intervals import ALICE, BJORN, DANA

from ..conftest import messages_of
from .conftest import MODULES
from .kit import Kit, query_of


@pytest.fixture
def kit(intervals, settings, http):
    return Kit("intervals", intervals, MODULES["intervals"], http, settings)


def test_the_token_has_neither_an_end_nor_a_refresh_token(kit, alice, intervals):
    kit.link(alice)
    row = kit.stored(alice)
    assert row["token_expires_at"] is row["refresh_token"] is None
    assert intervals.users_fetched == 0  # the answer says who it is
    for _ in range(3):
        assert kit.ask(alice) == row["token"]
    assert intervals.calls["token"] == 1


@pytest.mark.parametrize("with_state", [False, True])
def test_a_denial_is_said_plainly_with_or_without_a_state(
    kit, alice, alice_client, intervals, with_state
):
    intervals.state_on_denial = with_state
    address = kit.begin(alice_client)
    query = kit.refuse(address)
    assert ("state" in query) == with_state

    kit.come_back(alice_client, query)

    assert "You chose not to give access" in messages_of(alice_client)[0]
    waiting = kit.get(alice, "state")
    assert waiting == (None if with_state else query_of(address)["state"])


def test_what_was_ticked_is_what_was_granted(kit, alice, alice_client, settings):
    settings.INTERVALS_SCOPES = "ACTIVITY:READ,WELLNESS:READ"
    kit.come_back(alice_client, kit.consent(kit.begin(alice_client), scopes=["WELLNESS:READ"]))
    assert kit.get(alice, "scope") == "WELLNESS:READ"
    page = alice_client.get("/settings/integrations/")
    assert [each.label for each in page.context["intervals"]["missing"]] == ["See your activities"]


@pytest.mark.parametrize("scopes", ["ACTIVITY:READ", "ACTIVITY:READ,SETTINGS:READ"])
def test_a_check_needs_no_scope_to_tell_a_token_that_lives(kit, alice, intervals, scopes, settings):
    settings.INTERVALS_SCOPES = scopes
    kit.link(alice)
    assert kit.report(alice) is True
    intervals.revoke_grant(ALICE)
    assert kit.report(alice) is False
    assert kit.status(alice) == LinkStatus.RELINK_REQUIRED


def test_an_unknown_app_is_the_sites_fault_and_ends_nothing(kit, alice, intervals, settings):
    kit.link(alice)
    before = kit.get(alice, "token")
    settings.INTERVALS_CLIENT_SECRET = "wrong"
    with pytest.raises(SiteClientRejected) as caught:
        kit.link(alice)
    assert caught.value.provider_status == 404
    assert kit.get(alice, "token") == before
    assert kit.report(alice) is True  # a check needs no app


def test_a_code_that_is_too_old_is_refused_plainly(kit, alice, alice_client, intervals):
    query = kit.consent(kit.begin(alice_client))
    intervals.ahead = 121
    kit.come_back(alice_client, query)
    [message] = messages_of(alice_client)
    assert "did not accept the confirmation" in message
    assert kit.status(alice) == LinkStatus.NOT_LINKED
    assert InvalidGrant.code == "invalid_grant"


@pytest.mark.parametrize("who", [ALICE, BJORN])
def test_ids_of_either_kind_are_kept(kit, alice, who):
    kit.link(alice, who)
    assert kit.get(alice, "account_id") == who
    assert services.get_integrations_status(alice.pk)["intervals"]["account_id"] == who


def test_a_name_of_markup_is_kept_as_it_is(kit, alice):
    kit.link(alice, DANA)
    assert kit.get(alice, "account_name") == "Dana <script>alert(1)</script>"


@pytest.mark.parametrize(
    "odd",
    [None, "somebody", [], {}, {"id": None}, {"id": ["x"]}, {"id": True}, {"id": ""}],
    ids=str,
)
def test_an_athlete_without_an_id_is_refused(kit, alice, intervals, odd):
    intervals.amend("token", lambda said: said | {"athlete": odd})
    with pytest.raises(InvalidProviderReply):
        kit.link(alice)
    assert kit.status(alice) == LinkStatus.NOT_LINKED


def test_a_name_that_is_none_is_left_out(kit, alice, intervals):
    intervals.amend("token", lambda said: said | {"athlete": {"id": "i5", "name": ["x"]}})
    kit.link(alice)
    assert (kit.get(alice, "account_id"), kit.get(alice, "account_name")) == ("i5", "")


def test_the_app_is_named_to_cloudflare(kit, alice, intervals):
    kit.link(alice)
    kit.report(alice)
    assert services.disconnect(alice.pk, "intervals") is True
    assert {each["status"] for each in intervals.requests if each["endpoint"] != "user"} <= {
        200,
        302,
    }
