"""The sandbox does what Intervals.icu does: ticked scopes, tokens without an end, odd errors."""

import pytest

from integrations.sandbox.intervals import (
    ALICE,
    BJORN,
    CHIDI,
    CLIENT_ID,
    CLIENT_SECRET,
    OTHER_CLIENT_ID,
)

from .oauth import site


@pytest.fixture
def app(sandbox, http):
    return site("intervals", sandbox, http)


@pytest.fixture
def provider(app):
    return app.provider


# Consent


def test_the_answer_names_what_was_ticked_and_the_athlete(app):
    _, answer = app.come_back(ticked=("ACTIVITY:READ",), athlete=BJORN)

    answer = app.exchange(answer["code"][0]).json()

    assert answer == {
        "token_type": "Bearer",
        "access_token": answer["access_token"],
        "scope": "ACTIVITY:READ",
        "athlete": {"id": "2080002", "name": "Bjørn Ångström 🚴"},
    }


@pytest.mark.parametrize(
    ("scope", "error"),
    [
        ("ACTIVITY:READ,ACTIVITY:WRITE", "Duplicate scope"),
        ("activity:read", "unknown scope"),
        ("ACTIVITY:READ WELLNESS:READ", "unknown scope"),
        ("", "no scope"),
    ],
)
def test_a_scope_that_makes_no_sense_is_refused(app, scope, error):
    response = app.authorize(scope=scope)

    assert response.status_code == 422
    assert error in response.json()["error"]


def test_the_response_type_may_be_left_out(app):
    assert app.authorize(response_type=None).status_code == 200


def test_localhost_needs_no_registration(app, provider):
    provider.edit_app(CLIENT_ID, redirect_uris=["https://site.example/"])

    assert app.authorize(redirect_uri="http://localhost:8000/any").status_code == 200
    assert app.authorize(redirect_uri="http://127.0.0.1:8000/any").status_code == 400


def test_a_denial_is_an_error_and_nothing_else(app):
    assert app.come_back("cancel")[1] == {"error": ["access_denied"]}


def test_a_denial_may_carry_the_state(app, provider):
    provider.state_on_denial = True

    assert app.come_back("cancel")[1] == {"state": ["s-1"], "error": ["access_denied"]}


# Tokens


@pytest.mark.parametrize("client", [("1", CLIENT_SECRET), (CLIENT_ID, "nope"), ("", "")])
def test_a_bad_client_is_a_404_with_text(app, provider, client):
    response = app.exchange(provider.grant(ALICE), client)

    assert response.status_code == 404
    assert response.headers["Content-Type"] == "text/plain"
    assert response.text == "Client and/or secret not found"


def test_a_missing_code_is_422(app):
    response = app.token(grant_type="authorization_code")

    assert response.status_code == 422
    assert response.json()["error"].startswith("Required request parameter 'code'")
    assert response.json()["status"] == 422


def test_a_bad_code_is_400(app):
    assert app.exchange("0" * 40).status_code == 400


def test_the_redirect_uri_and_the_grant_type_are_not_looked_at(app, provider):
    response = app.token(code=provider.grant(ALICE, redirect_uri="http://localhost/a"))

    assert response.status_code == 200
    assert provider.exchanges == 1


def test_there_is_no_refresh(app, provider):
    assert app.refresh(provider.issue_tokens(ALICE)["access_token"]).status_code == 422
    assert provider.refreshes == 1


def test_a_token_never_ends_by_itself(app, provider):
    token = provider.issue_tokens(ALICE)["access_token"]

    provider.ahead = 100 * 365 * 24 * 60 * 60

    assert provider.is_alive(token)


# The API


@pytest.mark.parametrize("scope", ["SETTINGS:READ", "SETTINGS:WRITE"])
def test_the_athlete_is_read_with_the_scope_for_settings(app, provider, scope):
    token = provider.issue_tokens(ALICE, scope=scope)["access_token"]

    assert app.user(token).json() == {"id": ALICE, "name": "Alice Archer"}
    assert app.call("GET", f"api/v1/athlete/{ALICE}", token).status_code == 200
    assert app.call("GET", f"api/v1/athlete/{CHIDI}", token).status_code == 403


def test_another_scope_is_403(app, provider):
    assert app.user(provider.issue_tokens(ALICE)["access_token"]).status_code == 403


def test_the_scopes_of_the_newest_grant_hold_for_every_token(app, provider):
    old = provider.issue_tokens(ALICE, scope="SETTINGS:READ")["access_token"]
    elsewhere = provider.issue_tokens(ALICE, OTHER_CLIENT_ID, "SETTINGS:READ")["access_token"]

    provider.issue_tokens(ALICE, scope="ACTIVITY:READ")

    assert app.user(old).status_code == 403
    assert provider.is_alive(old)
    assert app.user(elsewhere).status_code == 200


def test_disconnecting_is_a_200(app, provider):
    assert app.revoke(provider.issue_tokens(ALICE)["access_token"]).status_code == 200


@pytest.mark.parametrize("user_agent", ["python-requests/2.32", "Python-urllib/3.13", None])
def test_a_librarys_own_user_agent_is_turned_away(app, provider, user_agent):
    app.http.headers["User-Agent"] = user_agent
    token = provider.issue_tokens(ALICE, scope="SETTINGS:READ")["access_token"]

    response = app.user(token)

    assert response.status_code == 403
    assert response.headers["Content-Type"].startswith("text/html")
    assert app.exchange(provider.grant(ALICE)).status_code == 403
    assert app.authorize().status_code == 200  # browsers come here
