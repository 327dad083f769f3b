"""Limits that spare resources, and cookies as strict as the way back from Strava allows."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache

from integrations.models import UsersIntegrations

from .conftest import messages_of

JSON = {"accept": "application/json"}
LIMITS = {
    "/integrations/strava/connect/": 20,
    "/integrations/strava/gear/sync/": 12,
    "/integrations/garminconnect/connect/": 30,
    "/integrations/garminconnect/gear/sync/": 12,
}


@pytest.mark.parametrize("path", LIMITS)
def test_a_button_is_answered_so_often_in_a_minute(alice_client, bob_client, strava, path):
    codes = [alice_client.post(path, headers=JSON).status_code for _ in range(LIMITS[path] + 2)]

    assert 429 not in codes[: LIMITS[path]]
    assert codes[-1] == 429
    response = alice_client.post(path, headers=JSON)
    assert response.json()["error"]["code"] == "too_many_requests"
    assert 0 < int(response["Retry-After"]) <= 60
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


def test_a_limit_that_was_reached_changes_nothing(alice, alice_client, linked):
    for _ in range(25):
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


def log_in(client, password):
    return client.post("/accounts/login/", {"username": "alice", "password": password})


def test_passwords_cannot_be_guessed_at_leisure(alice, client):
    codes = [log_in(client, f"wrong-{n}").status_code for n in range(11)]
    assert codes == [200] * 10 + [429]
    # the right one does not give itself away now
    response = log_in(client, "alice-demo")
    assert response.status_code == 429
    assert "five minutes" in response.content.decode()

    cache.clear()  # five minutes later
    assert log_in(client, "alice-demo").status_code == 302


def test_a_right_password_starts_the_count_again(alice, client):
    for _ in range(3):
        for n in range(9):
            log_in(client, f"wrong-{n}")
        assert log_in(client, "alice-demo").status_code == 302
        client.logout()


def test_guessing_locks_nobody_out_from_elsewhere(alice, client):
    for n in range(12):
        log_in(client, f"wrong-{n}")
    response = client.post(
        "/accounts/login/",
        {"username": "alice", "password": "alice-demo"},
        REMOTE_ADDR="198.51.100.7",
    )
    assert response.status_code == 302


def test_cookies_are_as_strict_as_they_can_be(alice, client):
    response = log_in(client, "alice-demo")
    session, csrf = response.cookies["sessionid"], response.cookies["csrftoken"]
    # Lax: the return from Strava is a cross-site navigation (see the browser's journey).
    for cookie in (session, csrf):
        assert (cookie["samesite"], cookie["httponly"]) == ("Lax", True)
