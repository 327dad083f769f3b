"""The sandbox does what Polar does: Basic, registration, deregistration."""

import pytest

from integrations.sandbox.polar import (
    ALICE,
    BJORN,
    CHIDI,
    CLIENT_ID,
    CLIENT_SECRET,
    DANA,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
)

from .oauth import site


@pytest.fixture
def app(sandbox, http):
    return site("polar", sandbox, http)


@pytest.fixture
def provider(app):
    return app.provider


def token_of(provider, athlete=ALICE, *client):
    return provider.issue_tokens(athlete, *client)["access_token"]


def register(app, token, member_id="m-1"):
    return app.call("POST", "v3/users", token, json={"member-id": member_id})


def data(app, token):
    return app.call("GET", "v3/exercises", token).status_code


# Tokens


def test_the_answer_names_the_person_and_has_neither_scope_nor_refresh_token(app, provider):
    answer = app.exchange(provider.grant(ALICE)).json()

    assert answer == {
        "access_token": answer["access_token"],
        "token_type": "bearer",
        "expires_in": 31535999,
        "x_user_id": ALICE,
    }


def test_the_scope_may_be_left_out(app):
    _, answer = app.come_back(scope=None)

    assert app.authorize(scope=None).status_code == 200
    assert app.exchange(answer["code"][0]).status_code == 200


def test_a_denial_carries_the_state(app):
    assert app.come_back("cancel")[1] == {"state": ["s-1"], "error": ["access_denied"]}


@pytest.mark.parametrize("client", [("nobody", CLIENT_SECRET), (CLIENT_ID, "nope")])
def test_a_bad_client_is_401(app, provider, client):
    response = app.exchange(provider.grant(ALICE), client)

    assert response.status_code == 401
    assert response.json() == {"error": "invalid_client"}


def test_the_client_identifies_itself_by_basic_alone(app, provider, http):
    code = provider.grant(ALICE)
    fields = {"grant_type": "authorization_code", "code": code, "client_id": CLIENT_ID}
    url = app.url(app.token_path)

    assert http.post(url, data=fields | {"client_secret": CLIENT_SECRET}).status_code == 401
    assert app.exchange(code, client_secret=CLIENT_SECRET).status_code == 400
    assert app.exchange(code).status_code == 200


def test_a_bad_code_is_invalid_grant(app):
    response = app.exchange("0" * 40)

    assert response.status_code == 400
    assert response.json() == {"error": "invalid_grant"}


def test_there_is_no_refresh(app, provider):
    response = app.refresh(token_of(provider))

    assert response.status_code == 400
    assert response.json() == {"error": "unsupported_grant_type"}
    assert provider.refreshes == 1
    assert provider.exchanges == 0


# Registration


def test_data_calls_are_403_until_the_person_is_registered(app, provider):
    token = token_of(provider)
    assert data(app, token) == 403
    assert app.user(token).status_code == 204
    assert app.user(token).content == b""

    answer = register(app, token)

    assert answer.status_code == 200
    assert answer.json()["polar-user-id"] == ALICE
    assert answer.json()["member-id"] == provider.member_id(ALICE) == "m-1"
    assert app.user(token).json()["first-name"] == "Alice"
    assert data(app, token) == 200
    assert provider.registrations == 1


def test_a_new_grant_unregisters_nothing_but_has_to_register_again(app, provider):
    register(app, token_of(provider))
    token = token_of(provider)
    assert app.user(token).status_code == 200
    assert data(app, token) == 403

    assert register(app, token, "m-2").status_code == 409

    assert data(app, token) == 200
    assert provider.member_id(ALICE) == "m-1"


def test_the_member_id_of_another_person_is_409_too_and_data_stay_shut(app, provider):
    register(app, token_of(provider, ALICE))
    token = token_of(provider, BJORN)

    assert register(app, token).status_code == 409

    assert data(app, token) == 403
    assert provider.member_id(BJORN) is None
    assert register(app, token, "m-2").status_code == 200
    assert data(app, token) == 200


def test_member_ids_are_the_clients_own(app, provider):
    register(app, token_of(provider, ALICE))

    assert register(app, token_of(provider, BJORN, OTHER_CLIENT_ID)).status_code == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"member-id": 7}', b'{"member-id": ""}'])
def test_a_registration_needs_a_member_id(app, provider, body):
    response = app.call("POST", "v3/users", token_of(provider), data=body)

    assert response.status_code == 400
    assert provider.member_id(ALICE) is None


def test_without_the_mandatory_consents_everything_is_403(app, provider):
    token = token_of(provider, DANA)
    assert register(app, token).status_code == 403
    assert app.user(token, DANA).status_code == 403

    provider.athletes[DANA].consents = True

    assert register(app, token).status_code == 200
    assert app.user(token, DANA).status_code == 200


def test_a_dead_token_is_401_before_anything_else(app):
    assert register(app, "0" * 40).status_code == 401
    assert data(app, "0" * 40) == 401


def test_a_name_may_be_missing(app, provider):
    answer = register(app, token_of(provider, CHIDI)).json()

    assert answer["first-name"] == "Chidi"
    assert "last-name" not in answer


# The end


def test_deleting_deregisters_and_ends_every_token(app, provider):
    old, new = token_of(provider), token_of(provider)
    register(app, new)

    response = app.revoke(old)

    assert (response.status_code, response.content) == (204, b"")
    assert not provider.is_alive(new)
    assert provider.member_id(ALICE) is None


def test_a_token_reads_and_deletes_nobody_else(app, provider):
    token = token_of(provider, ALICE)
    somebody = token_of(provider, BJORN)

    for call in (app.user, app.revoke):
        assert call(token, BJORN).status_code == 403
    assert provider.is_alive(somebody)


def test_a_registration_is_with_one_client(app, provider):
    register(app, token_of(provider))
    elsewhere = token_of(provider, ALICE, OTHER_CLIENT_ID)

    assert app.user(elsewhere).status_code == 204
    code = provider.grant(ALICE, OTHER_CLIENT_ID)
    assert app.exchange(code, (OTHER_CLIENT_ID, OTHER_CLIENT_SECRET)).status_code == 200
