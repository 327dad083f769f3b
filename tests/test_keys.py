"""Keys that turn, and keys that are lost."""

from __future__ import annotations

import functools
import subprocess
import threading

import pytest
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connection
from tqdm import tqdm

from integrations import services
from integrations.exceptions import GarminConnectRelinkRequired, StravaRelinkRequired
from integrations.garminconnect.login import begin_login
from integrations.models import FernetCanary, GarminConnectLogin, UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import PASSWORD
from integrations.sandbox.strava import ALICE, BJORN, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET
from integrations.services import keys
from integrations.services.keys import plant_fernet_canary, rotate_fernet_keys
from integrations.services.sweep import sweep_tokens

from .conftest import begin, come_back, row_of
from .processes import BASE_DIR, PYTHON, Site, environment, wait_until

OLD = "tests-only-fernet-key-0123456789-abcdefghijklmnop"
NEW = "tests-only-newer-key-0123456789-abcdefghijklmnopq"
JSON = {"accept": "application/json"}
OTHER = "tests-only-other-key-0123456789-abcdefghijklmnopq"


@pytest.fixture(autouse=True)
def canary(request):
    """As after a migration; a test that empties the database empties it of this as well."""
    if "db" in request.fixturenames or request.node.get_closest_marker("django_db"):
        request.getfixturevalue("transactional_db" if is_transactional(request.node) else "db")
        plant_fernet_canary()


def is_transactional(node):
    marker = node.get_closest_marker("django_db")
    return bool(marker and marker.kwargs.get("transaction"))


def rotate(capsys, *arguments):
    call_command("rotate_fernet_keys", *arguments)
    return capsys.readouterr().out


def test_every_secret_of_every_table_turns(alice, bob, linked, link, settings, capsys, garmin):
    link(bob, BJORN)
    services.set_user_strava_client(bob.pk, "10002", "secret")
    services.link_garminconnect_account(bob.pk, {"a": 1}, {"b": 2})
    services.begin_authorization(bob.pk, "strava", "http://x/", "10002", "secret")
    begin_login(bob.pk, "a@example.com", "password")
    settings.FERNET_KEYS = [NEW, OLD]

    assert rotate(capsys, "--batch-size", "1") == "rotated: 4  current: 0  unreadable: 0\n"

    settings.FERNET_KEYS = [NEW]
    row = row_of(bob)
    assert row.strava_client_secret == row.strava_pending_client_secret == "secret"
    assert (row.garminconnect_oauth1, row.garminconnect_oauth2) == ({"a": 1}, {"b": 2})
    assert GarminConnectLogin.objects.get().password == "password"
    assert FernetCanary.objects.get().value == keys.CANARY
    assert services.get_strava_access_token(alice.pk) == row_of(alice).strava_token
    assert rotate(capsys) == "rotated: 0  current: 4  unreadable: 0\n"


def test_a_rotation_tells_how_far_it_is(alice, bob, linked, link, settings, capsys, monkeypatch):
    monkeypatch.setattr("integrations.management.progress.REPORT_EVERY", 0)
    link(bob, BJORN)
    settings.FERNET_KEYS = [NEW, OLD]
    assert rotate(capsys).splitlines() == [
        f"rotated: {rows}  current: 0  unreadable: 0" for rows in (1, 2, 3, 3)
    ]


def test_on_a_terminal_a_bar_tells_it(alice, linked, settings, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    at_once = functools.partial(tqdm, mininterval=0, miniters=1)
    monkeypatch.setattr("integrations.management.progress.tqdm", at_once)
    settings.FERNET_KEYS = [NEW, OLD]
    call_command("rotate_fernet_keys")
    said = capsys.readouterr()
    assert "/2" in said.err
    assert said.out == "rotated: 2  current: 0  unreadable: 0\n"


def test_every_encrypted_field_is_covered():
    covered = {model.__name__: names for model, names in keys._encrypted_models()}
    assert set(covered) == {"UsersIntegrations", "Link", "GarminConnectLogin", "FernetCanary"}
    assert len(covered["UsersIntegrations"]) == 8


def test_a_rotation_that_is_stopped_goes_on(alice, bob, linked, link, settings, capsys):
    link(bob, BJORN)
    settings.FERNET_KEYS = [NEW, OLD]

    def stop(counts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate_fernet_keys(1, stop)

    assert rotate(capsys) == "rotated: 2  current: 1  unreadable: 0\n"


def test_a_token_refreshed_meanwhile_is_not_undone(alice, linked, strava, settings, monkeypatch):
    settings.FERNET_KEYS = [NEW, OLD]
    resealed = keys.Sealed.resealed
    refreshed = []

    def meanwhile(self):
        if not refreshed:
            strava.expire(ALICE, expires_in=60)
            refreshed.append("")
            services.refresh_link(alice.pk, "strava")
            refreshed[:] = [row_of(alice).strava_token]
        return resealed(self)

    monkeypatch.setattr(keys.Sealed, "resealed", meanwhile)
    rotate_fernet_keys()

    assert row_of(alice).strava_token == refreshed[0] != linked.strava_token
    settings.FERNET_KEYS = [NEW]
    assert strava.is_alive(row_of(alice).strava_refresh_token)


@pytest.mark.django_db(transaction=True)
def test_refreshes_and_rotations_at_once_lose_nothing(alice, linked, strava, settings):
    settings.FERNET_KEYS = [NEW, OLD]
    stop = threading.Event()

    def rotate_for_ever():
        turn = 0
        while not stop.is_set():
            turn += 1
            rotate_fernet_keys()
            for row in UsersIntegrations.objects.all():  # and seal it with the old key again
                sealed = row.sealed("strava_refresh_token")
                keyring = keys.Sealed(sealed.ciphertext)
                UsersIntegrations.objects.filter(strava_refresh_token=sealed).update(
                    strava_refresh_token=keyring.open().decode()
                )
        connection.close()

    thread = threading.Thread(target=rotate_for_ever)
    thread.start()
    try:
        for _ in range(15):
            strava.expire(ALICE, expires_in=60)
            services.refresh_link(alice.pk, "strava")
    finally:
        stop.set()
        thread.join()

    row = row_of(alice)
    assert row.strava_status == "linked"
    assert strava.is_alive(row.strava_refresh_token)


@pytest.mark.django_db(transaction=True)
def test_a_rotation_killed_at_any_moment_can_be_run_again(alice, bob, linked, link, settings):
    link(bob, BJORN)
    for delay in (0.3, 0.45, 0.6):
        process = subprocess.Popen(
            [PYTHON, "manage.py", "rotate_fernet_keys"],
            env=environment(FERNET_KEYS=f"{NEW},{OLD}"),
            cwd=BASE_DIR,
        )
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    settings.FERNET_KEYS = [NEW, OLD]
    rotate_fernet_keys()
    settings.FERNET_KEYS = [NEW]
    for user in (alice, bob):
        assert services.get_strava_access_token(user.pk)


def test_what_no_key_opens_is_named_and_left_alone(alice, bob, linked, link, settings, capsys):
    settings.FERNET_KEYS = [OTHER]
    link(bob, BJORN)
    before = row_of(alice).sealed("strava_token")
    settings.FERNET_KEYS = [NEW, OTHER]

    out = rotate(capsys)

    assert "unreadable: 2" in out  # Alice's, and the canary
    assert out.endswith(f"have to reconnect: {alice.pk}\n")
    assert row_of(alice).sealed("strava_token") == before


def test_the_canary_tells_a_wrong_key_at_start(alice, linked, settings, capsys):
    ids = lambda: [message.id for message in run_checks(databases=["default"])]  # noqa: E731
    assert "integrations.E004" not in ids()
    settings.FERNET_KEYS = [OTHER]
    assert "integrations.E004" in ids()
    assert "integrations.E004" not in [message.id for message in run_checks()]

    settings.FERNET_KEYS = [OTHER, OLD]  # the old key is found again
    assert "integrations.E004" not in ids()
    settings.FERNET_KEYS = [OTHER]
    rotate(capsys, "--accept-loss")
    assert "integrations.E004" not in ids()


@pytest.mark.django_db(transaction=True)
def test_a_site_with_a_wrong_key_starts_and_says_so(capfd, settings):
    site, said = Site(FERNET_KEYS=OTHER), []

    def warned():
        said.append(capfd.readouterr().err)
        return "integrations.E004" in "".join(said)

    try:
        site.web(workers=1, ready="/accounts/login/")
        assert not site.answers()
        wait_until(warned)
    finally:
        site.stop()


def test_the_migration_plants_the_canary(db):
    FernetCanary.objects.all().delete()
    call_command("migrate", "integrations", verbosity=0)
    assert FernetCanary.objects.get().value == keys.CANARY


def test_with_a_wrong_key_nothing_crashes(
    alice, bob, linked, link, strava, settings, alice_client, client, garmin
):
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session("alice@example.com"))
    services.set_user_strava_client(alice.pk, "10002", "secret")
    settings.FERNET_KEYS = [OTHER]
    link(bob, BJORN, expires_in=60)

    client.force_login(get_user_model().objects.create_superuser("root", password="pw"))
    pages = [
        (alice_client, "/settings/integrations/"),
        (alice_client, "/integrations/status/"),
        (client, "/admin/integrations/usersintegrations/"),
        (client, f"/admin/integrations/usersintegrations/{row_of(alice).pk}/change/"),
    ]
    for browser, path in pages:
        assert browser.get(path).status_code == 200, path
    posts = [
        "strava/connect",
        "strava/gear/sync",
        "garminconnect/gear/sync",
        "garminconnect/disconnect",
        "strava/disconnect",
    ]
    for path in posts:
        response = alice_client.post(f"/integrations/{path}/", headers=JSON)
        assert response.status_code < 500 or response.json()["error"]["code"] == "secret_unreadable"
    # and once the key is gone for good, connecting again works
    assert alice_client.post("/integrations/strava/connect/").status_code == 302


STATUS, PAGE = "/integrations/status/", "/settings/integrations/"


@pytest.fixture
def both_linked(alice, linked, garmin):
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session(GARMIN_ALICE))
    return row_of(alice)


def test_those_users_see_reconnect_at_once_and_no_others(
    alice, bob, both_linked, link, settings, alice_client, bob_client
):
    settings.FERNET_KEYS = [OTHER]
    link(bob, BJORN)

    for provider, status in alice_client.get(STATUS).json().items():
        assert (status["status"], status["error"]["code"]) == (
            "relink_required",
            "secret_unreadable",
        ), provider
    page = alice_client.get(PAGE).content.decode()
    assert page.count('data-status="relink_required"') == 2
    assert page.count("We can no longer read your stored connection. Please reconnect.") == 2
    for provider in ("strava", "garminconnect"):
        response = alice_client.post(f"/integrations/{provider}/gear/sync/", headers=JSON)
        assert response.json()["error"]["code"] == "relink_required"
    for call in (
        services.get_strava_access_token,
        services.get_garminconnect_client,
        services.sync_strava_gear,
        services.sync_garminconnect_gear,
    ):
        with pytest.raises((StravaRelinkRequired, GarminConnectRelinkRequired)):
            call(alice.pk)
    assert bob_client.get(STATUS).json()["strava"]["status"] == "linked"


def test_staff_see_them_too(both_linked, settings, client):
    settings.FERNET_KEYS = [OTHER]
    client.force_login(get_user_model().objects.create_superuser("root", password="pw"))
    for path in ("", f"{both_linked.pk}/change/"):
        page = client.get(f"/admin/integrations/usersintegrations/{path}").content.decode()
        assert page.count("Secret unreadable") == 2
        assert page.count("Needs reconnecting") >= 2


def test_a_key_that_is_found_again_mends_everything(alice, expired, settings, alice_client):
    settings.FERNET_KEYS = [OTHER]
    with pytest.raises(StravaRelinkRequired):
        services.get_strava_access_token(alice.pk)
    assert row_of(alice).strava_error == "secret_unreadable"
    settings.FERNET_KEYS = [OTHER, OLD]

    status = alice_client.get(STATUS).json()["strava"]

    assert (status["status"], status["error"]) == ("linked", None)
    assert services.get_strava_access_token(alice.pk)


@pytest.mark.django_db(transaction=True)
def test_the_sweep_goes_on_past_them(alice, bob, linked, link, strava, settings):
    for user, athlete in ((alice, ALICE), (bob, BJORN)):
        settings.FERNET_KEYS = [OLD if user == alice else OTHER]
        link(user, athlete, expires_in=60)

    assert sweep_tokens(workers=1).as_dict() == {
        "due": 2,
        "refreshed": 1,
        "failed": 1,
        "skipped": 0,
    }
    assert row_of(alice).strava_error == "secret_unreadable"
    assert row_of(alice).strava_relink_required_at is None  # the key may be found again


def test_an_app_of_their_own_that_is_lost_is_asked_for_again(
    alice, linked, strava, settings, alice_client
):
    services.set_user_strava_client(alice.pk, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)
    settings.FERNET_KEYS = [OTHER]

    assert 'name="client_secret"' in alice_client.get(PAGE).content.decode()
    response = alice_client.post("/integrations/strava/connect/", headers=JSON)
    assert response.json()["error"]["code"] == "client_required"

    own = {"client_id": OTHER_CLIENT_ID, "client_secret": OTHER_CLIENT_SECRET}
    state = begin(alice_client, **own)["state"]
    code = strava.grant(ALICE, client_id=OTHER_CLIENT_ID)
    come_back(alice_client, state=state, code=code, scope="read")
    assert alice_client.get(STATUS).json()["strava"]["status"] == "linked"
    services.refresh_link(alice.pk, "strava")


def test_how_signing_in_again_went_is_told_all_the_same(
    both_linked, garmin, settings, alice_client
):
    settings.FERNET_KEYS = [OTHER]
    wrong = {"email": GARMIN_ALICE, "password": "wrong"}
    alice_client.post("/integrations/garminconnect/connect/", wrong)
    status = alice_client.get(STATUS).json()["garminconnect"]
    assert status["status"] == "relink_required"
    assert status["error"]["code"] == "invalid_credentials"

    alice_client.post("/integrations/garminconnect/connect/", wrong | {"password": PASSWORD})
    assert alice_client.get(STATUS).json()["garminconnect"]["status"] == "linked"


def test_nonsense_is_refused(db):
    with pytest.raises(CommandError):
        call_command("rotate_fernet_keys", batch_size=0)
