"""What is shown of a link, to whom, and that no secret is in it."""

from __future__ import annotations

import json
import logging
import re

import pytest
from django.contrib.auth import get_user_model
from django.core import checks
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from integrations import metrics, providers, services
from integrations.exceptions import IntegrationsError
from integrations.fields import Internal
from integrations.models import UsersIntegrations
from integrations.services.keys import rotate_fernet_keys
from project.settings import _form_action

from ..conftest import messages_of
from ..test_secrets import everything_stored
from .kit import JSON, query_of

LIST = "admin:integrations_usersintegrations_changelist"
SETTINGS = "integrations:settings"


def card_of(kit, client):
    """The opening tag of the provider's card, and the page."""
    page = client.get(reverse(SETTINGS)).content.decode()
    [tag] = re.findall(rf'<section\s[^>]*data-provider="{kit.name}"[^>]*>', page)
    return tag, page


def test_the_card_says_how_the_link_is(kit, alice, alice_client):
    for step, status in (
        (lambda: None, "not_linked"),
        (lambda: kit.link(alice), "linked"),
        (lambda: kit.end(alice), "relink_required"),
    ):
        step()
        tag, page = card_of(kit, alice_client)
        assert f'data-status="{status}"' in tag
        assert f'action="{kit.url("connect")}"' in page
    assert kit.stand_in.athletes[kit.alice].full_name in page
    assert kit.provider.label in page


def test_an_athletes_name_is_text(kit, alice, alice_client):
    kit.link(alice)
    kit.set(alice, account_name="<script>alert(1)</script>")
    _tag, page = card_of(kit, alice_client)
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


def test_a_failure_is_told_in_its_own_card(kit, alice_client):
    address = kit.begin(alice_client)
    kit.come_back(alice_client, {"error": "access_denied", "state": query_of(address)["state"]})
    page = alice_client.get(reverse(SETTINGS))
    assert page.context["alert"].provider == kit.name
    tag, text = card_of(kit, alice_client)  # told once
    assert "alert" not in text[text.index(tag) :].split("</section>")[0]


def test_the_status_url_says_the_same_to_programs(kit, alice, alice_client):
    def status():
        return alice_client.get(reverse("integrations:status")).json()[kit.name]

    keys = {"status", "token_expires_at", "error", "account_id", "scope"}
    assert status().keys() >= keys
    assert status()["status"] == "not_linked"
    assert status()["account_id"] is status()["token_expires_at"] is None

    kit.link(alice)
    found = status()
    assert found.keys() - keys == (
        {"athlete_id", "sync_gear", "gear", "last_synced_at"} if kit.name == "strava" else set()
    )
    assert found["status"] == "linked"
    assert found["account_id"] == str(kit.alice)
    assert found["scope"] == kit.provider.requested_scopes()
    assert found["error"] is None
    assert (found["token_expires_at"] is None) == (kit.stand_in.token_lifetime is None)

    kit.end(alice)
    found = status()
    assert found["status"] == found["error"]["code"] == "relink_required"
    assert kit.provider.label in found["error"]["message"]


def test_an_error_that_lasts_is_said_on_the_page_and_in_the_status(kit, alice, alice_client):
    kit.link(alice)
    kit.stand_in.fail(kit.asked_at, "500", times=1)
    with pytest.raises(IntegrationsError):
        services.refresh_link(alice.pk, kit.name)
    error = alice_client.get(reverse("integrations:status")).json()[kit.name]["error"]
    assert error["code"] == "provider_unavailable"
    assert error["message"].startswith(f"{kit.provider.label} could not be reached")
    tag, page = card_of(kit, alice_client)
    assert 'data-status="linked"' in tag
    assert error["message"] in page


@pytest.mark.parametrize("asked", ["page", "status", "export"])
def test_what_is_shown_needs_a_login(kit, linked, asked):
    url = reverse(SETTINGS if asked == "page" else f"integrations:{asked}")
    assert Client().get(url, headers=JSON).status_code == 401
    assert Client().get(url)["Location"].startswith(reverse("login"))


def test_nobody_sees_somebody_elses(kit, linked, bob_client):
    tag, page = card_of(kit, bob_client)
    assert 'data-status="not_linked"' in tag
    assert kit.stand_in.athletes[kit.alice].full_name not in page
    assert str(kit.alice) not in bob_client.get(reverse("integrations:export")).content.decode()


# --- The export ---------------------------------------------------------------------------------


def test_the_export_has_the_link_and_neither_secret_nor_state(kit, alice, alice_client, linked):
    state = query_of(kit.begin(alice_client))["state"]
    text = alice_client.get(reverse("integrations:export")).content.decode()
    exported = json.loads(text)

    [row] = exported["integrations" if kit.home.model is UsersIntegrations else "links"]
    assert row[kit.home.column("token")] == "stored, encrypted"
    assert str(row[kit.home.column("account_id")]) == str(kit.alice)
    if kit.home.where:
        assert row["provider"] == kit.name
    kept_back = {
        kit.home.column(name)
        for name, field in kit.home.fields.items()
        if isinstance(field, Internal)
    }
    assert {kit.home.column("state"), kit.home.column("lease")} <= kept_back
    assert not kept_back & row.keys()
    assert {(each["provider"], each["event"]) for each in exported["activity"]} == {
        (kit.name, "linked")
    }
    for secret in (state, *secrets_of(kit, alice)):
        assert secret not in text


def secrets_of(kit, user):
    stored = kit.stored(user)
    return [stored[name] for name in kit.home.secrets if stored[name]]


# --- Metrics, checks, the policy ----------------------------------------------------------------


@pytest.fixture
def scraped(settings, client, db):
    settings.PROMETHEUS = True
    metrics._own.cache_clear()

    def scraped():
        lines = client.get("/metrics").content.decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    yield scraped
    metrics._own.cache_clear()


def test_links_and_what_becomes_of_them_are_counted_by_provider(kit, alice, scraped):
    def links(state):
        return scraped()[f'integrations_links{{provider="{kit.name}",state="{state}"}}']

    def refreshes(outcome):
        labels = f'outcome="{outcome}",provider="{kit.name}"'
        return scraped().get(f"integrations_refreshes_total{{{labels}}}", 0)

    assert links("linked") == links("relink_required") == 0
    kit.link(alice)
    assert links("linked") == 1
    services.refresh_link(alice.pk, kit.name)
    assert refreshes("refreshed") == 1
    kit.stand_in.fail(kit.asked_at, "500", times=1)
    with pytest.raises(IntegrationsError):
        services.refresh_link(alice.pk, kit.name)
    assert refreshes("failed") == 1
    labels = f'code="provider_unavailable",operation="refresh",provider="{kit.name}"'
    assert scraped()[f"integrations_failures_total{{{labels}}}"] == 1
    kit.end(alice)
    assert refreshes("ended") == 1
    assert (links("linked"), links("relink_required")) == (0, 1)


def test_due_tokens_are_those_that_a_sweep_would_refresh(kit, alice, scraped):
    kit.link(alice)
    assert scraped()["integrations_due_tokens"] == 0
    kit.set(alice, token_expires_at=timezone.now() + timezone.timedelta(minutes=20))
    assert scraped()["integrations_due_tokens"] == kit.renews


def test_a_failed_connection_is_counted(kit, alice, alice_client, scraped):
    kit.begin(alice_client)
    kit.come_back(alice_client, {"state": "wrong", "code": "c"})
    labels = f'code="invalid_state",operation="authorize",provider="{kit.name}"'
    assert scraped()[f"integrations_failures_total{{{labels}}}"] == 1


def test_forms_may_lead_to_the_consent_page_and_nowhere_else(kit, alice_client, settings):
    what = "OAUTH" if kit.name == "strava" else "AUTHORIZE"
    setattr(settings, f"{kit.name.upper()}_{what}_URL", "https://consent.example/oauth")
    settings.SECURE_CSP = settings.SECURE_CSP | {"form-action": _form_action()}
    policy = alice_client.get(reverse(SETTINGS))["Content-Security-Policy"]
    [form_action] = [each for each in policy.split("; ") if each.startswith("form-action")]
    assert "https://consent.example" in form_action.split()
    assert set(form_action.split()[2:]) == set(providers.authorization_origins())
    assert kit.begin(alice_client).startswith("https://consent.example/oauth")


def test_secrets_may_not_cross_the_network_in_the_clear(kit, settings):
    for setting in kit.provider.addresses():
        setattr(settings, setting, "http://provider.example/x")
        found = [each for each in checks.run_checks(tags=["security"]) if setting in each.msg]
        assert [each.id for each in found] == ["integrations.E003"], setting
        setattr(settings, setting, "https://provider.example/x")
        assert not [each for each in checks.run_checks(tags=["security"]) if setting in each.msg]


def test_half_an_app_is_pointed_out(kit, settings):
    setattr(settings, f"{kit.name.upper()}_CLIENT_SECRET", "")
    found = [each for each in checks.run_checks() if each.id == "integrations.W001"]
    assert [kit.provider.label in each.msg for each in found] == [True]


# --- Keys, and a whole journey ------------------------------------------------------------------


def test_keys_turn(kit, alice, linked, settings):
    before, old = kit.stored(alice), settings.FERNET_KEYS
    settings.FERNET_KEYS = ["tests-only-newer-key-0123456789-abcdefghijklmnopq", *old]
    rotate_fernet_keys()
    settings.FERNET_KEYS = settings.FERNET_KEYS[:1]
    assert kit.stored(alice) == before
    assert kit.stand_in.is_alive(kit.ask(alice))
    assert services.fernet_keys_open_secrets()


@pytest.mark.django_db(transaction=True)
def test_a_whole_journey_leaves_no_secret_behind(kit, alice, alice_client, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    root = get_user_model().objects.create_superuser("root", "r@example.com", "pw")
    admin = Client()
    admin.force_login(root)
    secrets, shown = {kit.module.CLIENT_SECRET}, []

    def look():
        row = kit.row(alice)
        secrets.update(secrets_of(kit, alice))
        shown.append(repr(row) + str(row) + repr(vars(row)))
        pk = UsersIntegrations.objects.get(user=alice).pk
        urls = [SETTINGS, "integrations:status", "integrations:export"]
        pages = [alice_client.get(reverse(url)) for url in urls]
        pages += [
            admin.get(reverse(LIST)),
            admin.get(reverse("admin:integrations_usersintegrations_change", args=[pk])),
            admin.get(reverse("admin:integrations_linkevent_changelist")),
        ]
        shown.extend(page.content.decode() + str(page.headers) for page in pages)
        shown.append(str(alice_client.cookies))

    query = kit.consent(kit.begin(alice_client))
    secrets.add(query["code"])
    kit.come_back(alice_client, query)
    look()
    for fault in (None, "500", "wrong_types", "429", "401_client"):
        if fault:
            kit.stand_in.fail("token", fault, times=1)
            kit.stand_in.fail(kit.asked_at, fault, times=1)
        for step in (
            lambda: services.refresh_link(alice.pk, kit.name),
            lambda: kit.link(alice),
        ):
            try:
                step()
            except IntegrationsError as exc:
                shown.append(repr(exc) + str(exc) + repr(exc.__cause__))
        kit.stand_in.recover()
        kit.set(alice, limited_until=None)
        look()
    stored = everything_stored()
    call_command("refresh_tokens")
    alice_client.post(kit.url("disconnect"))
    messages_of(alice_client)
    stored += everything_stored()

    assert len(secrets) >= 4  # the app's, the code, and at least two tokens
    out, err = capfd.readouterr()
    for place, text in {
        "database": stored,
        "pages": "".join(shown),
        "log": caplog.text,
        "output": out + err,
    }.items():
        for secret in secrets:
            assert secret[:14] not in text, place
    assert kit.name in stored
