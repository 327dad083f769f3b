"""Tokens that nothing refreshes: the API alone knows whether they live."""

from __future__ import annotations

import pytest

from integrations import services
from integrations.exceptions import InvalidProviderReply
from integrations.models import Link
from integrations.oauth.provider import Account, OAuthProvider
from integrations.sandbox import Sandbox
from integrations.sandbox.oauth import PlainOAuth

ALICE = 90001
CALLBACK = "http://testserver/callback/"


class Asks(OAuthProvider):
    """It learns from the API whose a token is."""

    name = "tempo"
    label = "Tempo"
    authorize_url = "https://tempo.example/oauth/authorize"
    token_url = "https://tempo.example/oauth/token"
    api_url = "https://tempo.example/v1"

    def identify(self, client, tokens):
        return Account.read(client.fetch(self.api("/me"), tokens.access_token).get("id"))


class IsTold(Asks):
    """It is told in the token answer, and has no call to ask with."""

    def identify(self, client, tokens):
        return Account.read(tokens.answer.get("user"))


class Tempo(PlainOAuth):
    name = "tempo"
    title = "Tempo"
    scopes = {"activities": "See your activities"}
    lifetime = None
    has_refresh_tokens = False

    def reply(self, pair):
        return super().reply(pair) | {"user": pair.athlete_id}


@pytest.fixture(params=[Asks, IsTold], ids=["asks", "is-told"])
def kind(request):
    return request.param


@pytest.fixture
def tempo(settings, kind):
    with Sandbox(extra=[Tempo]) as sandbox:
        settings.INTEGRATIONS_PROVIDERS = [f"{__name__}.{kind.__name__}"]
        settings.DEBUG = settings.INTEGRATIONS_SANDBOX = True
        settings.INTEGRATIONS_SANDBOX_URL = sandbox.url
        settings.TEMPO_CLIENT_ID = "sandbox-tempo-client"
        settings.TEMPO_CLIENT_SECRET = "sandbox-secret-at-tempo"
        settings.TEMPO_SCOPES = "activities"
        yield sandbox.providers["tempo"]


@pytest.fixture
def token(alice, tempo):
    begun = services.begin_authorization(alice.pk, "tempo", CALLBACK)
    code = tempo.grant(ALICE, redirect_uri=CALLBACK)
    services.complete_authorization(alice.pk, "tempo", state=begun.state, code=code)
    return services.get_access_token(alice.pk, "tempo")


def status_of(user):
    return services.get_integrations_status(user.pk)["tempo"]["status"]


def test_a_token_that_nobody_has_rejected_stays(alice, tempo, token):
    assert Link.objects.get().token_expires_at is None
    assert services.get_access_token(alice.pk, "tempo") == token
    assert tempo.exchanges == 1
    assert tempo.refreshes == 0


@pytest.mark.parametrize("kind", [Asks], ids=["asks"])
def test_a_rejected_token_is_tried_where_its_owner_is_known(alice, tempo, token):
    assert services.report_rejected_token(alice.pk, "tempo", token)
    services.refresh_link(alice.pk, "tempo")
    assert status_of(alice) == "linked"

    tempo.revoke(ALICE)

    assert not services.report_rejected_token(alice.pk, "tempo", token)
    assert status_of(alice) == "relink_required"


@pytest.mark.parametrize("kind", [IsTold], ids=["is-told"])
def test_a_token_that_cannot_be_tried_ends_no_link(alice, tempo, token):
    for ask in (services.refresh_link, services.report_rejected_token):
        given = (token,) if ask is services.report_rejected_token else ()
        with pytest.raises(InvalidProviderReply):
            ask(alice.pk, "tempo", *given)

    assert status_of(alice) == "linked"
