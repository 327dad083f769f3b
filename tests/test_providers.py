"""The registry of providers."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from integrations import providers
from integrations.intervals.provider import Intervals
from integrations.strava.provider import Strava
from integrations.wahoo.provider import Wahoo


class Tempo(Intervals):
    """Each test says something else of it."""


@pytest.mark.parametrize(
    "name",
    ["my_tempo", "my-tempo", "Tempo", "10k", "", "t" * 33, "tempo\n"],
    ids=["underscore", "hyphen", "capital", "digit-first", "empty", "too-long", "newline"],
)
def test_a_name_that_settings_and_urls_cannot_carry_is_refused(settings, monkeypatch, name):
    monkeypatch.setattr(Tempo, "name", name)
    settings.INTEGRATIONS_PROVIDERS = [f"{__name__}.Tempo"]

    with pytest.raises(ImproperlyConfigured, match="small letters"):
        providers.known()


@pytest.mark.parametrize("said", ["own_apps", "has_gear"])
def test_what_its_links_have_no_column_for_is_refused(settings, monkeypatch, said):
    monkeypatch.setattr(Tempo, "name", "tempo")
    monkeypatch.setattr(Tempo, said, True)
    settings.INTEGRATIONS_PROVIDERS = [f"{__name__}.Tempo"]

    with pytest.raises(ImproperlyConfigured, match=f"says {said}"):
        providers.known()


def test_two_providers_of_one_name_are_refused(settings):
    settings.INTEGRATIONS_PROVIDERS = [
        f"{__name__}.Tempo",
        "integrations.intervals.provider.Intervals",
    ]

    with pytest.raises(ImproperlyConfigured, match="two providers named 'intervals'"):
        providers.known()


def test_all_known_scopes_are_asked_for_unless_somebody_chooses(settings):
    assert Wahoo().requested_scopes() == ["user_read", "workouts_read", "offline_data"]
    assert Strava().requested_scopes() == ["read", "profile:read_all"]  # of seven

    settings.WAHOO_SCOPES = "user_read"

    assert Wahoo().requested_scopes() == ["user_read"]
