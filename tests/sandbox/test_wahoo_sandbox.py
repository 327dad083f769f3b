"""The sandbox does what Wahoo does: late rotation, ten tokens, a live one to revoke."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from integrations.sandbox import Sandbox
from integrations.sandbox.wahoo import (
    ALICE,
    BJORN,
    CLIENT_ID,
    CLIENT_SECRET,
    DANA,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
)

from .oauth import CALLBACK, site

TOO_MANY = {
    "error": "Too many unrevoked access tokens exist for this app and user. You can only create a"
    " new token if you revoke an old one first."
}


@pytest.fixture
def app(sandbox, http):
    return site("wahoo", sandbox, http)


@pytest.fixture
def provider(app):
    return app.provider


@pytest.fixture
def pair(provider):
    return provider.issue_tokens(ALICE)


def assert_dead_grant(response):
    assert response.status_code == 400
    assert response.json()["error"] == "invalid_grant"
    assert response.json()["error_description"]


# Tokens


def test_the_answer_has_a_pair_and_when_it_was_made(app, provider):
    answer = app.exchange(provider.grant(ALICE)).json()

    assert set(answer) == {
        "access_token", "token_type", "expires_in", "refresh_token", "created_at",
    }  # fmt: skip
    assert answer["token_type"] == "bearer"
    assert answer["expires_in"] == 7200
    assert abs(answer["created_at"] - time.time()) < 3


def test_the_answer_may_name_scope_and_user(app, provider):
    provider.user_in_answer = True

    answer = app.exchange(provider.grant(BJORN, scope="user_read email")).json()

    assert answer["scope"] == "user_read email"
    assert answer["user"]["id"] == BJORN
    assert answer["user"]["first"] == "Bjørn"


def test_json_works_as_well_as_a_form(app, provider, http):
    fields = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "grant_type": "authorization_code",
        "code": provider.grant(ALICE),
        "redirect_uri": CALLBACK,
    }

    pair = http.post(app.url(app.token_path), json=fields).json()
    fields |= {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}

    assert http.post(app.url(app.token_path), json=fields).status_code == 200
    assert (provider.exchanges, provider.refreshes) == (1, 1)
    for body in (b"[]", b"{", b"\xff"):
        headers = {"Content-Type": "application/json"}
        response = http.post(app.url(app.token_path), data=body, headers=headers)
        assert response.status_code == 401


def test_the_redirect_uri_is_required(app, provider):
    response = app.exchange(provider.grant(ALICE), redirect_uri="")

    assert response.status_code == 400
    assert response.json()["error"] == "invalid_request"


@pytest.mark.parametrize("client", [("nobody", CLIENT_SECRET), (CLIENT_ID, "nope"), ("", "")])
def test_a_bad_client_is_401(app, provider, pair, client):
    for response in (
        app.exchange(provider.grant(ALICE), client),
        app.refresh(pair["refresh_token"], client),
    ):
        assert response.status_code == 401
        assert response.json()["error"] == "invalid_client"


def test_an_unknown_grant_type_is_400(app):
    assert app.token(grant_type="password").json() == {"error": "unsupported_grant_type"}


def test_a_bad_code_is_invalid_grant(app):
    assert_dead_grant(app.exchange("0" * 40))


def test_a_denial_has_a_description_and_the_state(app):
    _, answer = app.come_back("cancel")

    assert answer["error"] == ["access_denied"]
    assert answer["error_description"]
    assert answer["state"] == ["s-1"]


@pytest.mark.parametrize("scope", ["user_read,email", "", None])
def test_scopes_are_separated_by_spaces_and_required(app, scope):
    assert app.authorize(scope=scope).status_code == 400


# Late rotation


def test_the_old_pair_lives_until_the_new_one_is_used(app, provider, pair):
    new = app.refresh(pair["refresh_token"]).json()

    assert new["refresh_token"] != pair["refresh_token"]
    assert app.user(pair["access_token"]).status_code == 200
    assert provider.is_alive(pair["refresh_token"])

    assert app.user(new["access_token"]).status_code == 200

    assert app.user(pair["access_token"]).status_code == 401
    assert not provider.is_alive(pair["refresh_token"])
    assert_dead_grant(app.refresh(pair["refresh_token"]))


def test_a_lost_answer_is_no_lost_link(app, provider, pair):
    lost = app.refresh(pair["refresh_token"]).json()

    second = app.refresh(pair["refresh_token"]).json()

    assert second["access_token"] != lost["access_token"]
    assert app.user(second["access_token"]).status_code == 200
    assert not provider.is_alive(pair["access_token"])
    # Nobody used the lost one: it goes on counting.
    assert provider.unrevoked(ALICE) == 2


def test_a_refused_call_is_no_use(app, provider):
    pair = provider.issue_tokens(ALICE, scope="workouts_read")
    new = app.refresh(pair["refresh_token"]).json()

    assert app.user(new["access_token"]).status_code == 403

    assert provider.is_alive(pair["refresh_token"])


def test_an_expired_access_token_can_be_refreshed(app, provider, pair):
    assert provider.expire(ALICE) == 1
    assert app.user(pair["access_token"]).status_code == 401

    new = app.refresh(pair["refresh_token"]).json()

    assert app.user(new["access_token"]).status_code == 200


def test_a_refresh_token_belongs_to_its_client(app, provider, pair):
    other = (OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)

    assert_dead_grant(app.refresh(pair["refresh_token"], other))
    assert provider.is_alive(pair["refresh_token"])


def test_a_dead_refresh_token_may_be_a_400_without_a_body(app, provider, pair):
    provider.bare_invalid_grant = True

    response = app.refresh("0" * 40)

    assert (response.status_code, response.content) == (400, b"")
    assert app.refresh(pair["refresh_token"]).status_code == 200


# Ten tokens


def test_the_eleventh_unrevoked_access_token_is_refused(app, provider, pair):
    refresh_token = pair["refresh_token"]
    for _ in range(9):
        refresh_token = app.refresh(refresh_token).json()["refresh_token"]
    assert provider.unrevoked(ALICE) == 10

    for response in (app.refresh(refresh_token), app.exchange(provider.grant(ALICE))):
        assert response.status_code == 400
        assert response.json() == TOO_MANY
    assert provider.is_alive(refresh_token)
    assert app.exchange(provider.grant(BJORN)).status_code == 200
    other = (OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)
    assert app.exchange(provider.grant(ALICE, OTHER_CLIENT_ID), other).status_code == 200


def test_a_token_that_is_used_makes_room(app, provider, pair):
    for _ in range(25):
        pair = app.refresh(pair["refresh_token"]).json()
        assert app.user(pair["access_token"]).status_code == 200

    assert provider.unrevoked(ALICE) == 1


def test_expired_tokens_count_until_they_are_revoked(app, provider):
    for _ in range(10):
        provider.issue_tokens(ALICE, expires_in=-1)

    assert app.exchange(provider.grant(ALICE)).json() == TOO_MANY

    provider.revoke(ALICE)
    assert app.exchange(provider.grant(ALICE)).status_code == 200


def test_of_many_exchanges_at_once_ten_succeed(app, provider):
    codes = [provider.grant(ALICE) for _ in range(16)]

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(response.status_code for response in pool.map(app.exchange, codes))

    assert statuses == [200] * 10 + [400] * 6


def test_a_token_that_nobody_uses_ends_after_sixty_days(http):
    now = 1_800_000_000.0
    with Sandbox(clock=lambda: now) as sandbox:
        app = site("wahoo", sandbox, http)
        used, unused = (app.provider.issue_tokens(ALICE) for _ in range(2))
        app.user(used["access_token"])

        now += 60 * 24 * 60 * 60

        assert_dead_grant(app.refresh(unused["refresh_token"]))
        assert app.refresh(used["refresh_token"]).status_code == 200


# The API


def test_the_user_has_an_email_with_its_scope_alone(app, provider):
    mine = app.user(provider.issue_tokens(ALICE)["access_token"]).json()
    scope = "user_read email"
    told = app.user(provider.issue_tokens(DANA, scope=scope)["access_token"]).json()

    assert (mine["id"], mine["first"], mine["last"]) == (ALICE, "Alice", "Archer")
    assert "email" not in mine
    assert told["email"].endswith("@example.com")
    assert told["id"] > 2**32


def test_an_app_that_is_not_approved_gets_422(app, provider, pair):
    provider.edit_app(CLIENT_ID, approved=False)

    assert app.user(pair["access_token"]).status_code == 422
    assert app.refresh(pair["refresh_token"]).status_code == 200


def test_revoking_needs_a_live_token(app, provider, pair):
    provider.expire(ALICE)
    assert app.revoke(pair["access_token"]).status_code == 401
    assert provider.is_alive(pair["refresh_token"])

    new = app.refresh(pair["refresh_token"]).json()
    response = app.revoke(new["access_token"])

    assert (response.status_code, response.content) == (204, b"")
    assert not provider.is_alive(pair["refresh_token"])
    assert not provider.is_alive(new["refresh_token"])


def test_a_revocation_may_be_told_as_json(app, provider, pair):
    provider.revocation_says_so = True

    response = app.revoke(pair["access_token"])

    assert response.status_code == 200
    assert response.json() == {"success": "Application has been revoked"}
    assert not provider.is_alive(pair["access_token"])
