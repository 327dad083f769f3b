"""A site without the libraries that only an extra of the package brings."""

from __future__ import annotations

import sys

import pytest
from django.core.checks import run_checks

from integrations import services, tasks
from integrations.exceptions import GarminConnectUnavailable
from integrations.models import GarminConnectLogin, Gear
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import hook

from .conftest import row_of

PAGE = "/settings/integrations/"


@pytest.fixture
def without_garminconnect(monkeypatch):
    """As Python has it, a None here is a library that is not there."""
    monkeypatch.setitem(sys.modules, "garminconnect", None)


def told():
    return [(each.id, each.hint) for each in run_checks() if each.id == "integrations.W004"]


@pytest.fixture
def garmin_linked(alice, garmin):
    services.create_user_integrations(alice.pk)
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session(GARMIN_ALICE))


@pytest.mark.usefixtures("without_garminconnect")
def test_a_provider_says_what_to_install():
    assert told() == [
        (
            "integrations.W004",
            'Run `pip install "django-athlete-integrations[garmin]"`, or leave it out of '
            "INTEGRATIONS_PROVIDERS.",
        )
    ]


@pytest.mark.usefixtures("without_garminconnect")
def test_a_provider_that_the_site_leaves_out_needs_no_library(settings):
    settings.INTEGRATIONS_PROVIDERS = ["integrations.strava.provider.Strava"]
    assert told() == []


def test_metrics_say_what_to_install(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert told() == []
    settings.PROMETHEUS = True
    assert [hint for _id, hint in told()] == [
        'Run `pip install "django-athlete-integrations[prometheus]"`, or switch off PROMETHEUS.'
    ]


@pytest.mark.usefixtures("without_garminconnect")
def test_a_provider_without_its_library_is_not_offered(alice, alice_client):
    assert 'data-provider="garminconnect"' not in alice_client.get(PAGE).content.decode()
    assert "garminconnect" not in services.get_integrations_status(alice.pk)


@pytest.mark.usefixtures("without_garminconnect")
def test_no_password_is_stored_where_nobody_could_use_it(alice_client):
    response = alice_client.post(
        "/integrations/garminconnect/connect/",
        {"email": "alice@example.com", "password": "a password"},
        headers={"accept": "application/json"},
    )
    assert (response.status_code, response.json()["error"]["code"]) == (503, "provider_unavailable")
    assert not GarminConnectLogin.objects.exists()


def test_a_link_outlives_its_library_and_can_be_disconnected(
    alice, alice_client, garmin_linked, monkeypatch
):
    monkeypatch.setitem(sys.modules, "garminconnect", None)
    with pytest.raises(GarminConnectUnavailable):
        services.get_garminconnect_client(alice.pk)
    assert services.get_integrations_status(alice.pk)["garminconnect"]["status"] == "linked"
    assert 'data-provider="garminconnect"' in alice_client.get(PAGE).content.decode()

    services.disconnect(alice.pk, "garminconnect")
    assert row_of(alice).garminconnect_oauth2 is None


def test_the_gear_of_others_is_synced_without_the_library(
    alice, garmin_linked, linked, monkeypatch
):
    for provider in ("garminconnect", "strava"):
        services.set_sync_gear(alice.pk, provider, True)
    monkeypatch.setitem(sys.modules, "garminconnect", None)

    tasks.sync_due_gear.call()

    assert set(Gear.objects.values_list("provider", flat=True)) == {"strava"}
    assert services.get_integrations_status(alice.pk)["garminconnect"]["status"] == "linked"


def test_the_sandbox_is_started_without_the_library(settings, monkeypatch):
    settings.DEBUG = settings.INTEGRATIONS_SANDBOX = True
    monkeypatch.setitem(sys.modules, "garminconnect", None)
    from django.apps import apps

    monkeypatch.setattr(hook, "point_library_at", pytest.fail)
    apps.get_app_config("integrations").ready()
