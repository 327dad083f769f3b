"""What a host project's own provider may do, and what may go wrong with it."""

from __future__ import annotations

import pytest
from django.urls import reverse
from django.utils import timezone

from integrations import providers, services
from integrations.exceptions import InvalidGrant, InvalidProviderReply, RateLimited, UnknownProvider
from integrations.models import Link, LinkStatus, UsersIntegrations
from integrations.oauth.client import OAuthClient
from integrations.polar.provider import Polar
from integrations.services.sweep import sweep_tokens
from integrations.wahoo.provider import Wahoo

from .. import own_provider
from ..conftest import messages_of
from .conftest import MODULES, start_anew
from .kit import Kit, query_of

SETTINGS = "/settings/integrations/"


@pytest.fixture
def kit(ownclub, settings, http):
    return Kit("ownclub", ownclub, MODULES["ownclub"], http, settings)


def test_it_stands_beside_the_built_in_ones_and_leaves_with_its_line(kit, alice_client, settings):
    status = alice_client.get(reverse("integrations:status")).json()
    assert list(status)[-1] == "ownclub"  # in the order of the setting
    assert providers.label("ownclub") == "Own Club"
    settings.INTEGRATIONS_PROVIDERS = settings.INTEGRATIONS_PROVIDERS[:-1]
    with pytest.raises(UnknownProvider):
        providers.get("ownclub")
    assert providers.label("ownclub") == "ownclub"


def test_a_code_is_bound_to_who_asked_for_it(kit, alice, bob, alice_client, bob_client):
    """PKCE (RFC 7636): a code that somebody else has caught is worth nothing."""
    address = kit.begin(alice_client)
    query = query_of(address)
    assert query["code_challenge_method"] == "S256"
    caught = kit.consent(address)
    state = query_of(kit.begin(bob_client))["state"]
    with pytest.raises(InvalidGrant):
        services.complete_authorization(bob.pk, "ownclub", state=state, code=caught["code"])
    assert kit.status(bob) == LinkStatus.NOT_LINKED


@pytest.mark.parametrize("client", [OAuthClient])
def test_without_a_client_of_its_own_it_speaks_rfc_6749(client, kit):
    assert type(kit.provider.site_client()) is client


@pytest.mark.parametrize("name", ["form", "model", "media", "actions", "gear", "messages", "cards"])
def test_a_name_that_the_admin_or_the_page_uses_itself_is_no_obstacle(
    kit, alice, alice_client, admin_client, settings, monkeypatch, name
):
    renamed = type(f"Called{name}", (own_provider.OwnClub,), {"name": name})
    monkeypatch.setattr(own_provider, renamed.__name__, renamed, raising=False)
    settings.INTEGRATIONS_PROVIDERS = [f"tests.own_provider.{renamed.__name__}"]
    for what in ("CLIENT_ID", "CLIENT_SECRET"):
        setattr(settings, f"{name.upper()}_{what}", getattr(own_provider, what))
    start_anew()
    services.create_user_integrations(alice.pk)
    Link.objects.create(user=alice, provider=name, token="t", account_id="1")

    page = alice_client.get(SETTINGS)
    assert "Own Club" in page.content.decode()
    assert isinstance(page.context["cards"], list)
    row = UsersIntegrations.objects.get(user=alice)
    listed = admin_client.get(reverse("admin:integrations_usersintegrations_changelist"))
    assert listed.context["cl"].result_count == 1
    url = reverse("admin:integrations_usersintegrations_change", args=[row.pk])
    assert "Own Club" in admin_client.get(url).content.decode()


@pytest.mark.parametrize("odd", ["", "a\0b", "\ud800", "x" * 256], ids=["", "nul", "half", "long"])
def test_an_id_that_no_database_takes_is_refused(kit, alice, ownclub, odd, monkeypatch):
    monkeypatch.setattr(
        own_provider.OwnClub,
        "identify",
        lambda self, client, tokens: own_provider.Account(odd, "Alice"),
    )
    with pytest.raises(InvalidProviderReply):
        kit.link(alice)
    assert kit.status(alice) == LinkStatus.NOT_LINKED
    assert ownclub.counts()["access_tokens"] == 0


def test_attempts_of_several_providers_are_settled_by_whoever_opens_the_page(
    alice, alice_client, polar, wahoo, monkeypatch
):
    """As Garmin's sign-ins are, whose passwords must not stay: here Polar's are over."""
    settled = []
    monkeypatch.setattr(own_provider, "settle", lambda: settled.append(1), raising=False)
    for cls, over in ((Polar, True), (Wahoo, False)):
        found = Link.objects.all() if over else Link.objects.none()
        monkeypatch.setattr(cls, "settle", "tests.own_provider.settle")
        monkeypatch.setattr(cls, "unsettled", lambda self, found=found: found)
    Link.objects.create(user=alice, provider="polar", token="t", account_id="1")
    alice_client.get(SETTINGS)
    assert settled == [1, 1]


@pytest.mark.parametrize(
    ("said", "wait"), [("-5", 900), ("99999999999", 86400), ("1e18", 86400), ("soon", 900)]
)
def test_a_limit_lasts_a_day_at_most_whatever_is_said(kit, alice, ownclub, monkeypatch, said, wait):
    kit.link(alice)
    kit.lapse(alice)
    canned = own_provider.Club.canned

    def odd(self, fault):
        response = canned(self, fault)
        response["Retry-After"] = said
        return response

    monkeypatch.setattr(own_provider.Club, "canned", odd)
    ownclub.fail("token", "429")
    with pytest.raises(RateLimited):
        kit.ask(alice)
    left = kit.get(alice, "limited_until") - timezone.now()
    assert wait - 60 < left.total_seconds() < wait + 60


@pytest.mark.parametrize("hook", ["identify", "register"])
def test_code_that_stumbles_over_an_answer_leaves_no_grant(
    kit, alice, alice_client, ownclub, monkeypatch, caplog, hook
):
    monkeypatch.setattr(
        own_provider.OwnClub, hook, lambda self, client, tokens, *more: tokens.answer["who"]["id"]
    )
    kit.connect(alice_client)
    assert "sent an answer that we could not use" in alice_client.get(SETTINGS).content.decode()
    assert ownclub.counts()["access_tokens"] == 0
    [logged] = [each for each in caplog.records if "KeyError" in each.getMessage()]
    assert "test_own.py:" in logged.getMessage()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("hook", ["refresh", "used"])
def test_code_that_stumbles_at_a_refresh_stops_no_sweep(kit, alice, ownclub, monkeypatch, hook):
    kit.link(alice)
    kit.lapse(alice)
    monkeypatch.setattr(own_provider.OwnClub, hook, lambda *args: {}["who"])

    counts = sweep_tokens()

    assert counts.failed == (hook == "refresh")
    assert kit.get(alice, "error") == "invalid_provider_reply"
    assert kit.status(alice) == LinkStatus.LINKED
    if hook == "refresh":
        assert kit.get(alice, "retry_at") is not None
        assert sweep_tokens().due == 0


def test_code_that_stumbles_at_a_revocation_stops_no_disconnect(
    kit, alice, alice_client, monkeypatch
):
    kit.link(alice)
    monkeypatch.setattr(own_provider.OwnClub, "revoke_with", lambda *args: {}["who"])
    alice_client.post(kit.url("disconnect"))
    assert "could not be told" in messages_of(alice_client)[0]
    assert kit.status(alice) == LinkStatus.NOT_LINKED


@pytest.mark.parametrize("name", ["", "a\0b\ud800", "x" * 2000], ids=["empty", "odd", "long"])
def test_a_name_that_is_odd_stops_nobody(kit, alice, ownclub, name):
    ownclub.amend("token", lambda said: said | {"member": {"id": 501, "name": name}})
    kit.link(alice)
    assert kit.status(alice) == LinkStatus.LINKED
    assert len(kit.get(alice, "account_name")) <= 255


def test_an_account_that_is_never_said_is_no_obstacle(kit, alice, monkeypatch):
    monkeypatch.setattr(own_provider.OwnClub, "identify", lambda *args: None)
    kit.link(alice)
    assert kit.get(alice, "account_id") is None
    kit.link(alice)
    assert kit.stand_in.revocations == 0
    assert kit.stand_in.is_alive(kit.ask(alice))


@pytest.mark.parametrize("said", [{}, {"expires_in": None}, {"expires_in": "soon"}], ids=str)
def test_an_expiry_that_is_not_said_means_a_refresh_before_each_use(kit, alice, ownclub, said):
    def edit(answer):
        return {name: it for name, it in answer.items() if name != "expires_in"} | said

    ownclub.amend("token", edit)
    kit.link(alice)
    assert kit.status(alice) == LinkStatus.LINKED
    first, second = kit.ask(alice), kit.ask(alice)
    assert first != second
    assert ownclub.is_alive(second)


def test_a_refresh_token_that_is_not_replaced_stays(kit, alice, ownclub):
    kit.link(alice)
    kit.lapse(alice)
    before = kit.get(alice, "refresh_token")
    ownclub.amend("token", lambda said: said | {"refresh_token": None})
    kit.ask(alice)
    assert kit.get(alice, "refresh_token") == before


def test_a_provider_that_takes_no_revocation_can_be_left(
    kit, alice, alice_client, monkeypatch, settings
):
    settings.OWNCLUB_REVOKE_URL = ""
    monkeypatch.setattr(own_provider.OwnClub, "revoke_url", "")
    kit.link(alice)

    alice_client.post(kit.url("disconnect"))

    [message] = messages_of(alice_client)
    assert "club.example/apps" in message
    assert "Security" not in message  # that is Garmin's page
    assert kit.status(alice) == LinkStatus.NOT_LINKED
