"""The stand-in that others are built on: RFC 6749 and RFC 7009, and no oddities."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command

from integrations.sandbox import Sandbox
from integrations.sandbox.oauth import PlainOAuth

CALLBACK = "http://127.0.0.1:8000/integrations/tempo/callback/"
CLIENT = {"client_id": "sandbox-tempo-client", "client_secret": "sandbox-secret-at-tempo"}
ALICE = 90001


class Tempo(PlainOAuth):
    name = "tempo"
    title = "Tempo"
    scopes = {"activities": "See your activities", "sleep": "See your sleep"}


@pytest.fixture(scope="module")
def running():
    with Sandbox(extra=[Tempo]) as sandbox:
        yield sandbox


@pytest.fixture
def tempo(running):
    running.reset()
    return running.providers["tempo"]


@pytest.fixture
def ask(running, http):
    def ask(path, sent=None, auth=None, token=""):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        method = "GET" if sent is None else "POST"
        url = f"{running.url}/tempo/{path}"
        return http.request(method, url, data=sent, auth=auth, headers=headers)

    return ask


def exchange(code, **changes):
    grant = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
    return CLIENT | grant | changes


def refresh(token):
    return CLIENT | {"grant_type": "refresh_token", "refresh_token": token}


def test_the_consent_page_names_each_scope(running, http, tempo):
    query = {"client_id": CLIENT["client_id"], "redirect_uri": CALLBACK, "response_type": "code"}
    query |= {"scope": "activities sleep", "state": "s-1"}

    page = http.get(f"{running.url}/tempo/oauth/authorize", params=query)

    assert page.status_code == 200
    assert "See your sleep" in page.text


@pytest.mark.parametrize("basic", [False, True], ids=["body", "basic"])
def test_a_code_is_traded_once_whichever_way_the_client_authenticates(tempo, ask, basic):
    sent = exchange(tempo.grant(ALICE))
    auth = (sent.pop("client_id"), sent.pop("client_secret")) if basic else None

    tokens = ask("oauth/token", sent, auth).json()

    assert tokens["scope"] == "activities sleep"
    me = ask("v1/me", token=tokens["access_token"]).json()
    assert me == {"id": ALICE, "name": "Alice Archer"}
    assert ask("oauth/token", sent, auth).json() == {"error": "invalid_grant"}


def test_a_refresh_token_is_traded_once_and_ends_its_access_token(tempo, ask):
    first = tempo.issue_tokens(ALICE)

    second = ask("oauth/token", refresh(first["refresh_token"])).json()

    assert tempo.is_alive(second["access_token"])
    assert ask("v1/me", token=first["access_token"]).status_code == 401
    answer = ask("oauth/token", refresh(first["refresh_token"]))
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
def test_revoking_either_token_ends_the_grant(tempo, ask, which):
    tokens = tempo.issue_tokens(ALICE)

    assert ask("oauth/revoke", CLIENT | {"token": tokens[which]}).status_code == 200

    assert not tempo.is_alive(tokens["access_token"])
    assert not tempo.is_alive(tokens["refresh_token"])
    assert ask("oauth/revoke", CLIENT | {"token": tokens[which]}).status_code == 200


@pytest.mark.parametrize("path", ["oauth/token", "oauth/revoke"])
def test_a_client_without_its_secret_gets_nothing(tempo, ask, path):
    tokens = tempo.issue_tokens(ALICE)
    sent = refresh(tokens["refresh_token"]) | {"token": tokens["refresh_token"]}

    for wrong in ({"client_secret": "guessed"}, {"client_secret": ""}, {"client_id": "other"}):
        answer = ask(path, sent | wrong)
        assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})
    assert ask(path, sent, auth=(CLIENT["client_id"], "guessed")).status_code == 401
    assert ask(f"{path}?client_secret={CLIENT['client_secret']}", sent).status_code == 400
    assert tempo.is_alive(tokens["refresh_token"])


@pytest.mark.parametrize(
    ("fault", "status"), [("401_client", 401), ("403_limit", 403), ("429", 429), ("500", 500)]
)
def test_faults_are_answers_of_its_own(tempo, ask, fault, status):
    tempo.fail("token", fault, times=1)

    answer = ask("oauth/token", exchange(tempo.grant(ALICE)))

    assert answer.status_code == status
    assert answer.json()["error"]


def test_the_command_says_which_stand_in_it_cannot_find(settings):
    settings.DEBUG = True

    with pytest.raises(CommandError, match="nowhere"):
        call_command("sandbox", add=["nowhere.Tempo"])
