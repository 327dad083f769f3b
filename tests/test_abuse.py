"""Limits that spare resources, and cookies as strict as the way back from Strava allows."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import connection
from django.test import Client

from integrations.models import UsersIntegrations
from project.login import client_network

from .conftest import messages_of

JSON = {"accept": "application/json"}
JSON_ONLY = {"HTTP_ACCEPT": "application/json"}
LIMITS = {
    "/integrations/strava/connect/": 60,
    "/integrations/strava/gear/sync/": 12,
    "/integrations/garminconnect/connect/": 30,
    "/integrations/garminconnect/gear/sync/": 12,
}


@pytest.fixture(autouse=True)
def in_one_window(monkeypatch):
    """No window of a limit turns in the middle of a test, however slow the machine."""
    monkeypatch.setattr(
        "integrations.throttle.time", SimpleNamespace(time=lambda: 1_800_000_000 + 1)
    )


@pytest.mark.parametrize("path", LIMITS)
def test_a_button_is_answered_so_often_in_a_minute(alice_client, bob_client, strava, path):
    codes = [alice_client.post(path, headers=JSON).status_code for _ in range(LIMITS[path] + 2)]

    assert 429 not in codes[: LIMITS[path]]
    assert codes[-1] == 429
    response = alice_client.post(path, headers=JSON)
    assert response.json()["error"]["code"] == "too_many_requests"
    assert 0 < int(response["Retry-After"]) <= (900 if "sync" in path else 60)
    assert bob_client.post(path, headers=JSON).status_code != 429
    page = alice_client.post(path)
    assert page.status_code == 302
    assert "too often" in messages_of(alice_client)[-1]


def test_the_status_may_be_polled_but_not_hammered(alice_client):
    codes = [alice_client.get("/integrations/status/").status_code for _ in range(242)]
    assert set(codes[:240]) == {200}
    assert codes[-1] == 429


def test_users_without_a_password_do_not_share_a_limit(alice, bob, alice_client, bob_client):
    get_user_model().objects.update(password="")  # as a single sign-on may leave it
    for user, client in ((alice, alice_client), (bob, bob_client)):
        user.refresh_from_db()
        client.force_login(user)
    for _ in range(241):
        response = alice_client.get("/integrations/status/")
    assert response.status_code == 429
    assert bob_client.get("/integrations/status/").status_code == 200


def use_up_the_status(client):
    for _ in range(241):
        response = client.get("/integrations/status/")
    assert response.status_code == 429


def test_a_limit_that_was_reached_is_nobody_elses(alice, alice_client):
    """Databases may give the number of a user who is gone to the next."""
    use_up_the_status(alice_client)
    number = alice.pk
    alice.delete()
    successor = get_user_model().objects.create_user("carol", password="pw", pk=number)
    client = Client()
    client.force_login(successor)
    assert client.get("/integrations/status/").status_code == 200


def test_a_limit_that_was_reached_is_of_one_button(alice_client, strava):
    use_up_the_status(alice_client)
    for path in LIMITS:
        assert alice_client.post(path, headers=JSON).status_code != 429


def test_a_limit_that_was_reached_is_over_in_the_next_window(alice_client, monkeypatch):
    use_up_the_status(alice_client)
    now = 1_800_000_000 + 61
    monkeypatch.setattr("integrations.throttle.time", SimpleNamespace(time=lambda: now))
    assert alice_client.get("/integrations/status/").status_code == 200


def test_one_athlete_cannot_use_up_what_all_have_at_strava(alice, alice_client, linked, strava):
    for _ in range(20):
        alice_client.post("/integrations/strava/gear/sync/")
        response = alice_client.post("/integrations/strava/preferences/", {"sync_gear": "on"})
        assert response.status_code == 302
    assert strava.calls["athlete"] == 12
    assert UsersIntegrations.objects.get(user=alice).strava_sync_gear


def test_a_limit_that_was_reached_changes_nothing(alice, alice_client, linked):
    for _ in range(61):
        alice_client.post("/integrations/strava/connect/")
    state = UsersIntegrations.objects.get(user=alice).strava_state
    alice_client.post("/integrations/strava/connect/")
    assert UsersIntegrations.objects.get(user=alice).strava_state == state


def test_a_cache_that_is_down_lets_everything_pass(alice_client, strava, monkeypatch):
    def down(*args, **kwargs):
        raise ConnectionError("redis://:s3cret@10.0.0.5")

    monkeypatch.setattr(type(cache._connections["default"]), "incr", down)
    for _ in range(25):
        assert alice_client.post("/integrations/strava/connect/").status_code == 302


def log_in(client, password, username="alice", **environ):
    fields = {"username": username, "password": password}
    return client.post("/accounts/login/", fields, **environ)


def test_passwords_cannot_be_guessed_at_leisure(alice, client):
    codes = [log_in(client, f"wrong-{n}").status_code for n in range(11)]
    assert codes == [200] * 9 + [429] * 2
    # the right one does not give itself away now
    response = log_in(client, "alice-demo")
    assert response.status_code == 429
    assert "five minutes" in response.content.decode()
    assert response["Retry-After"] == "300"
    assert log_in(client, "alice-demo", **JSON_ONLY).json()["error"]["code"] == "too_many_requests"

    cache.clear()  # five minutes later
    assert log_in(client, "alice-demo").status_code == 302


def test_who_keeps_trying_does_not_wait_longer(alice, client, monkeypatch):
    """Or somebody else in the same network could keep a person out for good."""
    for n in range(10):
        log_in(client, f"wrong-{n}")
    touched = []
    for name in ("add", "incr", "touch", "set"):
        monkeypatch.setattr(
            type(cache._connections["default"]), name, lambda *args, **kwargs: touched.append(args)
        )
    assert log_in(client, "wrong").status_code == 429
    assert not touched


def test_nothing_of_a_failed_log_in_is_in_the_database(alice, client):
    for n in range(12):
        log_in(client, f"wrong-{n}", HTTP_USER_AGENT="a-browser")
    for model in apps.get_app_config("axes").get_models():
        assert not model.objects.exists()
        assert model not in admin.site._registry


def test_a_right_password_starts_the_count_again(alice, client):
    for _ in range(3):
        for n in range(9):
            log_in(client, f"wrong-{n}")
        assert log_in(client, "alice-demo").status_code == 302
        client.logout()


def test_guessing_locks_nobody_out_from_elsewhere(alice, client):
    for n in range(12):
        log_in(client, f"wrong-{n}")
    response = log_in(client, "alice-demo", REMOTE_ADDR="198.51.100.7")
    assert response.status_code == 302


def test_behind_a_proxy_elsewhere_is_what_the_proxy_says(alice, client):
    for n in range(12):
        # What stands before the last comma the guesser has written.
        log_in(client, f"wrong-{n}", HTTP_X_FORWARDED_FOR=f"192.0.2.{n}, 203.0.113.9")
    blocked = log_in(client, "alice-demo", HTTP_X_FORWARDED_FOR="198.51.100.1, 203.0.113.9")
    assert blocked.status_code == 429
    elsewhere = log_in(client, "alice-demo", HTTP_X_FORWARDED_FOR="203.0.113.9, 198.51.100.7")
    assert elsewhere.status_code == 302


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "network"),
    [
        (["127.0.0.1"], "127.0.0.1", "", "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1", "192.0.2.1", "192.0.2.1"),
        (["127.0.0.1"], "192.0.2.9", "192.0.2.1", "192.0.2.9"),
        (["127.0.0.1", "10.0.0.0/8"], "10.1.2.3", "192.0.2.1, 127.0.0.1", "192.0.2.1"),
        (["*"], "10.1.2.3", "192.0.2.1, 192.0.2.2", "192.0.2.2"),
        (["*"], "", "192.0.2.1", "192.0.2.1"),
        (["127.0.0.1"], "", "192.0.2.1", "192.0.2.1"),  # gunicorn at a socket in the file system
        (["127.0.0.1"], "", "", ""),
        (["127.0.0.1"], "127.0.0.1", "192.0.2.1:51234", "192.0.2.1"),
        (["127.0.0.1"], "127.0.0.1", "[2001:db8:0:1::5]:51234", "2001:db8::/48"),
        (["127.0.0.1"], "127.0.0.1", "nonsense", ""),
        (["::1"], "::1", "2001:db8:0:1::5", "2001:db8::/48"),
        (["::1"], "::ffff:192.0.2.1", "", "192.0.2.1"),
    ],
)
def test_where_a_request_comes_from(rf, settings, proxies, peer, forwarded, network):
    settings.TRUSTED_PROXIES = proxies
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    assert client_network(rf.get("/", headers=headers, REMOTE_ADDR=peer)) == network


@pytest.mark.parametrize(
    "spelling",
    ["alice", " alice  ", "\uff41lice", "ALICE"],
    ids=["as it is", "spaces", "wide", "big"],
)
def test_another_spelling_is_not_another_name(alice, client, spelling):
    for n in range(10):
        log_in(client, f"wrong-{n}", username=spelling)
    assert log_in(client, "alice-demo").status_code == 429


def test_staff_cannot_be_guessed_either(client, django_user_model):
    django_user_model.objects.create_superuser("root", "root@example.com", "root-demo")

    def log_in_to_admin(password):
        fields = {"username": "root", "password": password}
        return client.post("/admin/login/?next=/admin/", fields)

    for n in range(9):
        assert b"correct username and password" in log_in_to_admin(f"wrong-{n}").content
    assert b"five minutes" in log_in_to_admin("wrong").content
    assert b"five minutes" in log_in_to_admin("root-demo").content
    cache.clear()
    assert log_in_to_admin("root-demo").status_code == 302


def test_one_network_cannot_try_one_password_on_everybody(alice, client):
    for n in range(50):
        assert log_in(client, "123456", username=f"athlete{n}").status_code == 200
    assert log_in(client, "alice-demo").status_code == 429
    assert log_in(client, "alice-demo", REMOTE_ADDR="198.51.100.7").status_code == 302


def test_where_nobody_says_which_network_it_is_nobody_shares_one(alice, client):
    for n in range(60):
        log_in(client, "wrong", username=f"athlete{n}", REMOTE_ADDR="")
    for _ in range(49):
        log_in(client, "wrong", REMOTE_ADDR="")
    assert log_in(client, "alice-demo", REMOTE_ADDR="").status_code == 302
    for _ in range(50):
        log_in(Client(), "wrong", REMOTE_ADDR="")
    assert log_in(Client(), "alice-demo", REMOTE_ADDR="").status_code == 429


def test_somebody_with_a_part_of_your_address_cannot_add_the_rest_to_your_name(alice, client):
    for _ in range(12):
        log_in(client, "wrong", username="alice1", REMOTE_ADDR="98.51.100.7")
    assert log_in(client, "alice-demo", REMOTE_ADDR="198.51.100.7").status_code == 302


def test_a_cache_that_is_down_keeps_nobody_out(alice, client, monkeypatch):
    def down(*args, **kwargs):
        raise ConnectionError

    for name in ("get", "add", "incr", "touch", "delete"):
        monkeypatch.setattr(type(cache._connections["default"]), name, down)
    assert log_in(client, "wrong").status_code == 200
    assert log_in(client, "alice-demo").status_code == 302


def test_a_form_without_a_password_starts_no_count_again(alice, client):
    for n in range(10):
        log_in(client, f"wrong-{n}")
        log_in(client, "")
    assert log_in(client, "alice-demo").status_code == 429


def test_cookies_are_as_strict_as_they_can_be(alice, client):
    response = log_in(client, "alice-demo")
    session, csrf = response.cookies["sessionid"], response.cookies["csrftoken"]
    # Lax: the return from Strava is a cross-site navigation (see the browser's journey).
    for cookie in (session, csrf):
        assert (cookie["samesite"], cookie["httponly"]) == ("Lax", True)


@pytest.mark.django_db(transaction=True)
def test_of_guesses_at_the_same_moment_each_counts(alice):
    """They may be judged before they are counted: one more for each thread of the site."""
    gate = threading.Barrier(10)

    def guess():
        gate.wait(10)
        log_in(Client(), "wrong")
        connection.close()

    threads = [threading.Thread(target=guess) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log_in(Client(), "alice-demo").status_code == 429


def test_one_line_of_ipv6_is_one_network(alice, client):
    for n in range(25):  # of the 256 that a home may have
        for _ in range(10):
            log_in(client, "wrong", REMOTE_ADDR=f"2001:db8:0:{n:x}::1")
    assert log_in(client, "alice-demo", REMOTE_ADDR="2001:db8:5:1::1").status_code == 302


@pytest.mark.parametrize("path", LIMITS)
def test_a_press_after_the_session_has_ended_leads_back_to_the_page(db, client, path):
    response = client.post(path)
    assert response["Location"] == "/accounts/login/?next=/settings/integrations/"
    assert client.post(path, headers=JSON).status_code == 401
