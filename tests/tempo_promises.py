"""What docs/adding-a-provider.md promises of the provider that it adds.

Run by test_adding_a_provider, in a process whose settings are those of the page.
"""

from __future__ import annotations

from io import StringIO
from urllib.parse import parse_qs, urlsplit

import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone
from mysite.tempo_sandbox import TempoSandbox  # type: ignore[import-not-found]

from integrations import providers, services
from integrations.exceptions import AthleteAlreadyLinked, ProviderUnavailable, RelinkRequired
from integrations.models import Link, LinkEvent
from integrations.sandbox import Sandbox
from integrations.signals import account_linked, account_unlinked

from .conftest import messages_of

ALICE, BJORN = 90001, 90002
SETTINGS = reverse("integrations:settings")
CALLBACK = reverse("integrations:tempo_callback")


@pytest.fixture
def tempo(settings):
    with Sandbox(extra=[TempoSandbox]) as sandbox:
        settings.DEBUG = settings.INTEGRATIONS_SANDBOX = True
        settings.INTEGRATIONS_SANDBOX_URL = sandbox.url
        settings.TEMPO_CLIENT_ID = "sandbox-tempo-client"
        settings.TEMPO_CLIENT_SECRET = "sandbox-secret-at-tempo"
        yield sandbox.providers["tempo"]


def connect(client, tempo, athlete=ALICE):
    """Press the button, agree, and come back; returns the query of the consent page."""
    response = client.post(reverse("integrations:tempo_connect"))
    asked = parse_qs(urlsplit(response["Location"]).query)
    code = tempo.grant(athlete, redirect_uri=asked["redirect_uri"][0])
    client.get(CALLBACK, {"state": asked["state"][0], "code": code})
    return asked


@pytest.fixture
def linked(alice, alice_client, tempo):
    connect(alice_client, tempo)
    return Link.objects.get(user=alice, provider="tempo")


def tokens_of(link):
    return [link.token, link.refresh_token]


def test_the_card_is_shown_only_if_the_site_has_an_app(alice_client, tempo, settings):
    assert "Connect with Tempo" in alice_client.get(SETTINGS).text

    settings.TEMPO_CLIENT_ID = ""

    assert "Tempo" not in alice_client.get(SETTINGS).text


def test_what_athletes_see(alice_client, tempo):
    asked = connect(alice_client, tempo)
    told = messages_of(alice_client)
    page = alice_client.get(SETTINGS).text

    assert asked["scope"] == ["activities"]
    assert asked["redirect_uri"] == [f"http://testserver{CALLBACK}"]
    assert told == ["Tempo is connected."]
    assert "Alice Archer" in page
    assert "See your activities" in page
    assert "Disconnecting ends this site’s access at Tempo" in (
        alice_client.get(reverse("integrations:tempo_disconnect")).text
    )


def test_a_denial_and_an_outage_are_told_with_the_name(alice_client, tempo):
    state = connect(alice_client, tempo)["state"][0]
    alice_client.get(CALLBACK, {"state": state, "error": "access_denied"})
    tempo.fail("token", "500")
    connect(alice_client, tempo)

    assert messages_of(alice_client)[-1].startswith("Tempo cannot be reached at the moment.")


def test_a_state_is_another_users_never(alice_client, bob, bob_client, tempo):
    response = alice_client.post(reverse("integrations:tempo_connect"))
    state = parse_qs(urlsplit(response["Location"]).query)["state"][0]

    bob_client.get(CALLBACK, {"state": state, "code": tempo.grant(ALICE)})

    assert tempo.exchanges == 0
    assert not Link.objects.filter(user=bob, token__isnull=False).exists()


def test_a_redirect_that_comes_twice_makes_one_link(alice_client, tempo, linked):
    response = alice_client.post(reverse("integrations:tempo_connect"))
    state = parse_qs(urlsplit(response["Location"]).query)["state"][0]
    query = {"state": state, "code": tempo.grant(ALICE)}
    before = tempo.exchanges

    for _ in range(2):
        alice_client.get(CALLBACK, query)

    assert tempo.exchanges == before + 1
    assert set(messages_of(alice_client)) == {"Tempo is connected."}


@pytest.mark.django_db(transaction=True)
def test_a_sweep_refreshes_what_expires_soon(alice, tempo, linked):
    Link.objects.update(token_expires_at=timezone.now())
    out = StringIO()

    call_command("refresh_tokens", provider=["tempo"], stdout=out)

    assert tempo.refreshes == 1
    assert tempo.is_alive(services.get_access_token(alice.pk, "tempo"))
    assert tempo.refreshes == 1


def test_an_outage_ends_no_link_and_a_dead_token_does(alice, alice_client, tempo, linked):
    tempo.fail("token", "500")
    with pytest.raises(ProviderUnavailable):
        services.refresh_link(alice.pk, "tempo")
    assert services.get_integrations_status(alice.pk)["tempo"]["status"] == "linked"
    tempo.recover()

    tempo.revoke(ALICE)
    assert not services.report_rejected_token(alice.pk, "tempo", linked.token)

    assert services.get_integrations_status(alice.pk)["tempo"]["status"] == "relink_required"
    with pytest.raises(RelinkRequired, match="Tempo no longer accepts"):
        services.get_access_token(alice.pk, "tempo")
    assert "Please reconnect Tempo." in alice_client.get(SETTINGS).text


def test_the_same_account_anew_is_not_revoked_and_another_one_is(alice_client, tempo, linked):
    connect(alice_client, tempo)
    assert tempo.revocations == 0

    connect(alice_client, tempo, BJORN)

    assert tempo.revocations == 1
    assert Link.objects.get().account_id == str(BJORN)
    assert not any(tempo.is_alive(token) for token in tokens_of(linked))


def test_an_account_belongs_to_one_user(bob, bob_client, tempo, linked):
    connect(bob_client, tempo)

    assert str(AthleteAlreadyLinked.default_message % {"provider": "Tempo"}) in messages_of(
        bob_client
    )
    assert all(tempo.is_alive(token) for token in tokens_of(linked))


def test_disconnecting_and_deleting_revoke(
    alice, alice_client, tempo, linked, django_capture_on_commit_callbacks
):
    alice_client.post(reverse("integrations:tempo_disconnect"))
    assert tempo.revocations == 1
    connect(alice_client, tempo)
    fresh = tokens_of(Link.objects.get())

    with django_capture_on_commit_callbacks(execute=True):
        alice.delete()

    assert not any(tempo.is_alive(token) for token in fresh)
    assert not Link.objects.exists()


def test_hosts_are_told(alice, alice_client, tempo, django_capture_on_commit_callbacks):
    told = []

    def note(sender, user_id, provider, signal, **kwargs):
        told.append((signal is account_linked, user_id, provider))

    for signal in (account_linked, account_unlinked):
        signal.connect(note)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            connect(alice_client, tempo)
            services.disconnect(alice.pk, "tempo")
    finally:
        for signal in (account_linked, account_unlinked):
            signal.disconnect(note)

    assert told == [(True, alice.pk, "tempo"), (False, alice.pk, "tempo")]
    trail = LinkEvent.objects.filter(provider="tempo").order_by("pk")
    assert list(trail.values_list("event", flat=True)) == ["linked", "unlinked"]


def test_the_export_has_it_and_no_secret(alice, alice_client, tempo, linked):
    found = alice_client.get(reverse("integrations:export"))

    [link] = found.json()["links"]
    assert (link["provider"], link["account_id"]) == ("tempo", str(ALICE))
    assert link["token"] == link["refresh_token"] == "stored, encrypted"
    assert not any(token in found.text for token in tokens_of(linked))


def test_the_admin_has_it_and_no_secret(admin_client, alice, tempo, linked):
    url = reverse("admin:integrations_usersintegrations_changelist")

    found = admin_client.get(url, {"tempo": "linked"})
    assert found.status_code == 200
    assert "alice" in found.text
    assert admin_client.get(url, {"tempo": "relink_required"}).context["cl"].result_count == 0
    assert not any(token in found.text for token in tokens_of(linked))


def test_keys_are_rotated_with_it(alice, tempo, linked, settings):
    token, old = linked.token, settings.FERNET_KEYS
    settings.FERNET_KEYS = ["another-key-for-tests-9876543210-zyxwvutsrqponmlkji", *old]
    call_command("rotate_fernet_keys", stdout=StringIO())
    settings.FERNET_KEYS = settings.FERNET_KEYS[:1]

    assert services.get_access_token(alice.pk, "tempo") == token


def test_browsers_may_be_sent_there_if_it_is_shown(settings):
    assert "https://tempo.example" not in providers.authorization_origins()

    settings.TEMPO_CLIENT_ID = settings.TEMPO_CLIENT_SECRET = "x"

    assert "https://tempo.example" in providers.authorization_origins()
