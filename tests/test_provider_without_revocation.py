"""A provider that has no way to end a grant from here."""

from __future__ import annotations

import pytest

from integrations.exceptions import ProviderError
from integrations.intervals.provider import Intervals
from integrations.links import Account
from integrations.oauth.provider import OAuthProvider
from integrations.strava.provider import Strava


class Tempo(OAuthProvider):
    name = "tempo"
    label = "Tempo"
    authorize_url = "https://tempo.example/oauth/authorize"
    token_url = "https://tempo.example/oauth/token"

    def identify(self, client, tokens):
        return Account.read(tokens.answer.get("athlete"))


class DeletesInstead(Tempo):
    def revoke_with(self, client, row):
        client.call("DELETE", self.api("/grant"), self.read(row))


def test_who_can_be_told_follows_from_the_address_or_the_way_of_its_own():
    assert Strava().revokes
    assert Intervals().revokes
    assert DeletesInstead().revokes
    assert not Tempo().revokes


def test_a_site_may_name_the_address(settings):
    settings.TEMPO_REVOKE_URL = "http://tempo.example/revoke"

    assert Tempo().revokes
    assert Tempo().addresses()["TEMPO_REVOKE_URL"] == "http://tempo.example/revoke"  # for the check


def test_the_sandbox_lends_no_address_to_what_the_provider_has_not(settings):
    settings.DEBUG = settings.INTEGRATIONS_SANDBOX = True
    settings.INTEGRATIONS_SANDBOX_URL = "http://127.0.0.1:9"

    assert not Tempo().revokes
    assert "TEMPO_REVOKE_URL" not in Tempo().addresses()


def test_to_revoke_all_the_same_is_an_error_with_a_name():
    tempo = Tempo()
    row = tempo.home.model(provider="tempo", token="t", refresh_token="r")

    with pytest.raises(ProviderError):
        tempo.revoke_with(tempo.client("id", "secret"), row)
