"""Secrets at rest, and how little it takes to load a row."""

from __future__ import annotations

import json
import pickle

import pytest
from cryptography.fernet import MultiFernet
from django.core import serializers
from django.core.exceptions import FieldError
from django.db import connection
from django.forms import model_to_dict

from integrations import services
from integrations.exceptions import IntegrationsError, SecretUnreadable
from integrations.models import UsersIntegrations
from integrations.models.integrations import STRAVA

from .conftest import row_of

SECRETS = {
    "strava_client_id": "s3cret-id",
    "strava_client_secret": "s3cret-é-\U0001f6b4",
    "strava_token": "s3cret-token",
    "strava_refresh_token": "s3cret-refresh",
    "garminconnect_oauth1": {"oauth_token": "s3cret-1", "n": 1},
    "garminconnect_oauth2": {"di_token": "s3cret-2", "list": [1, None]},
}


@pytest.fixture
def row(alice):
    return UsersIntegrations.objects.create(user=alice, **SECRETS)


@pytest.fixture
def opened(monkeypatch):
    """How many values were decrypted."""
    calls = []
    decrypt = MultiFernet.decrypt
    monkeypatch.setattr(
        MultiFernet, "decrypt", lambda self, *args: calls.append(1) or decrypt(self, *args)
    )
    return calls


def raw(user):
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(SECRETS)} FROM users_integrations WHERE user_id = %s", [user.pk]
        )
        return [bytes(value) for value in cursor.fetchone()]


def test_secrets_come_back_as_they_were(alice, row):
    loaded = row_of(alice)
    assert {name: getattr(loaded, name) for name in SECRETS} == SECRETS


def test_secrets_are_stored_encrypted(alice, row):
    values = raw(alice)
    assert len(values) == len(SECRETS)
    for value in values:
        assert value.startswith(b"gAAAA")  # Fernet's version and time
        assert b"s3cret" not in value


def test_the_same_secret_never_looks_the_same(alice, bob, row):
    UsersIntegrations.objects.create(user=bob, **SECRETS)
    assert not set(raw(alice)) & set(raw(bob))


def test_loading_decrypts_nothing_until_a_secret_is_read(alice, row, opened):
    [loaded] = UsersIntegrations.objects.all()
    loaded.refresh_from_db()
    assert loaded.strava_status == "linked"
    assert loaded.garminconnect_status == "linked"
    assert repr(loaded)
    assert not opened

    assert loaded.strava_token == "s3cret-token"
    assert len(opened) == 1


def test_saving_a_loaded_row_neither_decrypts_nor_encrypts(alice, row, opened):
    before = raw(alice)
    loaded = row_of(alice)
    loaded.strava_sync_gear = True
    loaded.save()

    assert raw(alice) == before
    assert not opened


def test_a_deferred_secret_is_loaded_when_it_is_read(alice, row):
    loaded = UsersIntegrations.objects.defer("strava_token").get(user=alice)
    assert loaded.strava_token == "s3cret-token"
    assert UsersIntegrations.objects.only("pk").get(user=alice).garminconnect_oauth1 == {
        "oauth_token": "s3cret-1",
        "n": 1,
    }


def test_a_saved_instance_keeps_no_plain_secret(row):
    assert "s3cret" not in repr(row.__dict__)
    assert row.strava_token == "s3cret-token"


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda row: repr(vars(row)),
        lambda row: repr(model_to_dict(row)),
        lambda row: repr(list(UsersIntegrations.objects.values())),
        lambda row: repr(list(UsersIntegrations.objects.values_list("strava_token"))),
        lambda row: serializers.serialize("json", [row]),
        lambda row: serializers.serialize("xml", [row]),
        lambda row: repr(pickle.dumps(row)),
        lambda row: f"{UsersIntegrations.objects.filter(pk=row.pk).query}",
    ],
)
def test_no_way_to_show_a_row_shows_a_secret(alice, row, show):
    assert "s3cret" not in show(row)
    assert "s3cret" not in show(row_of(alice))


def test_a_fixture_brings_the_secrets_back(alice, row):
    fixture = serializers.serialize("json", [row])
    assert json.loads(fixture)[0]["fields"]["strava_token"].startswith("fernet:")
    row.delete()

    for loaded in serializers.deserialize("json", fixture):
        loaded.save()

    assert row_of(alice).strava_token == "s3cret-token"
    assert row_of(alice).garminconnect_oauth2 == SECRETS["garminconnect_oauth2"]


def test_a_pickled_row_opens_again(row):
    assert pickle.loads(pickle.dumps(row)).strava_token == "s3cret-token"


def test_a_secret_cannot_be_looked_up(row):
    with pytest.raises(FieldError):
        UsersIntegrations.objects.filter(strava_token="s3cret-token").exists()
    with pytest.raises(FieldError):
        UsersIntegrations.objects.filter(strava_token__in=["s3cret-token"]).exists()


def test_what_is_stored_can_be_compared_and_swapped(row):
    rows = UsersIntegrations.objects.filter(strava_token=row.sealed("strava_token"))
    assert rows.update(strava_token="next") == 1
    assert rows.update(strava_token="lost") == 0
    row.refresh_from_db()
    assert row.strava_token == "next"


def test_the_newest_key_seals_and_every_key_opens(alice, row, settings):
    settings.FERNET_KEYS = ["a-newer-key-0123456789-abcdefghijklmn", *settings.FERNET_KEYS]
    assert row_of(alice).strava_token == "s3cret-token"

    services.set_user_strava_client(alice.pk, "s3cret-newer", "s3cret")
    settings.FERNET_KEYS = settings.FERNET_KEYS[:1]
    assert row_of(alice).strava_client_id == "s3cret-newer"


def test_a_lost_key_is_an_error_with_a_name_and_only_where_a_secret_is_read(
    alice, row, settings, alice_client
):
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopq"]

    loaded = row_of(alice)
    loaded.refresh_from_db()
    assert STRAVA.is_linked(loaded)
    assert not STRAVA.is_readable(loaded)
    with pytest.raises(SecretUnreadable) as caught:
        loaded.strava_token  # noqa: B018
    assert isinstance(caught.value, IntegrationsError)
    assert alice_client.get("/settings/integrations/").status_code == 200


def test_keys_without_hkdf_are_fernets_own(alice, settings):
    settings.FERNET_USE_HKDF = False
    settings.FERNET_KEYS = ["A" * 43 + "="]
    services.create_user_integrations(alice.pk)
    services.set_user_strava_client(alice.pk, "id", "secret")
    assert row_of(alice).strava_client_secret == "secret"


def test_values_of_fernet_fields_own_fields_are_read(alice, row, settings):
    """A site that comes with rows written by fernet_fields itself keeps them."""
    from fernet_fields import EncryptedTextField

    theirs = EncryptedTextField()
    stored = theirs.get_db_prep_save("s3cret-theirs", connection)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE users_integrations SET strava_token = %s", [stored])
    assert row_of(alice).strava_token == "s3cret-theirs"
