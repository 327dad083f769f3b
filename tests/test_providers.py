"""The registry of providers."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from integrations import providers
from integrations.intervals.provider import Intervals
from integrations.strava.provider import Strava
from integrations.wahoo.provider import Wahoo


class Misnamed(Intervals):
    """Each test gives it a name."""


@pytest.mark.parametrize(
    "name",
    ["my_tempo", "my-tempo", "Tempo", "10k", "", "t" * 33, "tempo\n"],
    ids=["underscore", "hyphen", "capital", "digit-first", "empty", "too-long", "newline"],
)
def test_a_name_that_settings_and_urls_cannot_carry_is_refused(settings, monkeypatch, name):
    monkeypatch.setattr(Misnamed, "name", name)
    settings.INTEGRATIONS_PROVIDERS = [f"{__name__}.Misnamed"]

    with pytest.raises(ImproperlyConfigured, match="small letters"):
        providers.known()


def test_two_providers_of_one_name_are_refused(settings):
    settings.INTEGRATIONS_PROVIDERS = [
        f"{__name__}.Misnamed",
        "integrations.intervals.provider.Intervals",
    ]

    with pytest.raises(ImproperlyConfigured, match="two providers named 'intervals'"):
        providers.known()


def test_all_known_scopes_are_asked_for_unless_somebody_chooses(settings):
    assert Wahoo().requested_scopes() == ["user_read", "workouts_read", "offline_data"]
    assert Strava().requested_scopes() == ["read", "profile:read_all"]  # of seven

    settings.WAHOO_SCOPES = "user_read"

    assert Wahoo().requested_scopes() == ["user_read"]
