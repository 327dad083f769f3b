"""The settings page, the status URL and the site around them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import DatabaseError, connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from integrations import providers, services
from integrations.models import UsersIntegrations
from integrations.sandbox.strava import ALICE

from .conftest import row_of

SETTINGS, STATUS = "/settings/integrations/", "/integrations/status/"


def test_the_paths_of_the_contract():
    for name, path in {
        "settings": SETTINGS,
        "status": STATUS,
        "strava_connect": "/integrations/strava/connect/",
        "strava_callback": "/integrations/strava/callback/",
        "strava_disconnect": "/integrations/strava/disconnect/",
    }.items():
        assert reverse(f"integrations:{name}") == path
    assert reverse("login") == "/accounts/login/"
    assert reverse("logout") == "/accounts/logout/"
    assert reverse("healthz") == "/healthz/"


def test_the_status_of_a_user_with_nothing_linked(alice_client, strava):
    nothing = {
        "status": "not_linked",
        "sync_gear": False,
        "gear": 0,
        "last_synced_at": None,
        "token_expires_at": None,
        "error": None,
    }
    assert alice_client.get(STATUS).json() == {
        "strava": {**nothing, "athlete_id": None, "account_id": None, "scope": []},
        "garminconnect": nothing,
    }
    assert not UsersIntegrations.objects.exists()  # looking writes nothing


def test_the_status_of_a_link(alice, alice_client, linked):
    services.link_garminconnect_account(alice.pk, None, {"di_token": "s3cret"})

    response = alice_client.get(STATUS)

    status = response.json()
    assert status["strava"]["status"] == "linked"
    assert status["strava"]["athlete_id"] == ALICE
    assert status["strava"]["scope"] == ["read", "profile:read_all"]
    assert status["strava"]["token_expires_at"].startswith(str(timezone.now().year))
    assert status["strava"]["error"] is None
    assert status["garminconnect"]["status"] == "linked"
    assert "s3cret" not in response.content.decode()
    assert "no-store" in response["Cache-Control"]


def test_the_status_names_what_is_wrong(alice_client, linked):
    UsersIntegrations.objects.update(
        strava_relink_required_at=timezone.now(), strava_error="relink_required"
    )

    strava = alice_client.get(STATUS).json()["strava"]

    assert strava["status"] == "relink_required"
    assert strava["error"]["code"] == "relink_required"
    assert "Reconnect" in strava["error"]["message"]


@pytest.mark.parametrize("status", ["not_linked", "linked", "relink_required"])
def test_the_page_says_how_it_stands(alice_client, linked, status):
    if status == "not_linked":
        UsersIntegrations.objects.all().delete()
    if status == "relink_required":
        UsersIntegrations.objects.update(strava_relink_required_at=timezone.now())

    text = alice_client.get(SETTINGS).content.decode()

    assert text.count('data-provider="strava"') == 1
    assert f'data-status="{status}"' in text
    assert "Powered by Strava" in text
    assert "Connect with Strava" in text


def test_the_page_names_a_missing_permission_and_its_cost(alice_client, linked):
    UsersIntegrations.objects.update(strava_scope="read")
    assert "gear will not sync" in alice_client.get(SETTINGS).content.decode()


@pytest.mark.parametrize(
    "code", ["rate_limited", "invalid_client", "application_inactive", "provider_unavailable", "x"]
)
def test_the_page_explains_an_error_and_keeps_the_link(alice_client, linked, code):
    UsersIntegrations.objects.update(strava_error=code, strava_failures=1)
    response = alice_client.get(SETTINGS)
    assert (
        response.context["strava"]["error"]["message"]
        in response.context["strava"]["error"]["message"]
    )
    assert 'data-status="linked"' in response.content.decode()
    assert str(response.context["strava"]["error"]["message"])[:20] in response.content.decode()


def test_the_page_costs_few_queries_and_no_decryption(
    alice, alice_client, linked, django_assert_max_num_queries, sealed_for_good
):
    services.set_user_strava_client(alice.pk, "10002", "secret")
    with django_assert_max_num_queries(5):
        assert alice_client.get(SETTINGS).status_code == 200


@pytest.mark.parametrize("path", [SETTINGS, STATUS, "/integrations/strava/callback/"])
def test_pages_need_a_login(db, client, path):
    response = client.get(path)
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")
    assert client.get(path, headers={"accept": "application/json"}).status_code == 401


@pytest.mark.parametrize("path", [SETTINGS, STATUS, "/integrations/strava/callback/"])
def test_pages_only_answer_to_get_and_are_never_cached(alice_client, strava, path):
    assert alice_client.post(path).status_code == 405
    assert "no-store" in alice_client.get(path)["Cache-Control"]


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/static/integrations/integrations.css", "testserver", 200),
        ("/static/admin/css/base.css", "testserver", 200),
        ("/nowhere/", "testserver", 404),
        ("/nowhere/", "evil.example", 400),
    ],
)
def test_whatever_the_site_sends_has_its_policy(db, client, path, host, status):
    response = client.get(path, headers={"host": host})
    response.close()
    assert response.status_code == status
    assert "default-src 'none'" in response["Content-Security-Policy"]


def test_the_policy_allows_nothing_inline_and_nothing_foreign(alice_client, settings):
    from project.settings import _form_action

    response = alice_client.get(SETTINGS)

    policy = response["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "data:" not in policy
    assert _form_action() == ["'self'", *providers.authorization_origins()]
    text = response.content.decode()
    assert "style=" not in text
    assert "<style" not in text
    assert " onclick" not in text
    assert "<script" not in text.replace('<script type="module" src="/static/', "")


def test_the_front_page_leads_to_the_settings(alice_client):
    assert alice_client.get("/")["Location"] == SETTINGS


def test_logging_in_and_out(alice):
    client = Client(enforce_csrf_checks=True)
    page = client.get("/accounts/login/")
    login = {"username": "alice", "password": "alice-demo"}
    login["csrfmiddlewaretoken"] = page.context["csrf_token"]
    assert client.post("/accounts/login/", login)["Location"] == SETTINGS
    page = client.get(SETTINGS)
    response = client.post("/accounts/logout/", {"csrfmiddlewaretoken": page.context["csrf_token"]})
    assert response["Location"] == "/accounts/login/"


FORMS = {
    "multipart/form-data; boundary=x": "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("username", "alice"), ("password", "alice-demo"))
    )
    + "--x--\r\n",
    "application/x-www-form-urlencoded": "username=alice&password=alice-demo",
}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(
    ("charset", "status"),
    [
        *((name, 302) for name in ("utf-8", "UTF-8", '"utf-8"')),
        *((name, 400) for name in ("utf-7", "utf-16", "latin-1", "idna", "unicode_escape", "no")),
    ],
)
def test_a_form_is_read_as_utf_8_or_not_at_all(alice, client, kind, charset, status):
    """This one would log Alice in under any of the charsets."""
    content_type = f"{kind}; charset={charset}"
    response = client.generic("POST", "/accounts/login/", FORMS[kind], content_type=content_type)
    assert response.status_code == status
    assert ("_auth_user_id" in client.session) == (status == 302)


@pytest.mark.parametrize("username", ["\0", "x" * 50_000, "\ud7ff"])
def test_garbage_to_the_login_is_harmless(db, client, username):
    response = client.post("/accounts/login/", {"username": username, "password": "\0"})
    assert response.status_code == 200


def test_health(db, client):
    assert client.get("/healthz/").status_code == 200

    def fail(*args):
        raise DatabaseError("gone")

    with connection.execute_wrapper(fail):
        response = client.get("/healthz/")
    assert response.status_code == 503
    assert b"gone" not in response.content


def test_a_page_that_does_not_exist(client, db):
    assert client.get("/integrations/nothing/").status_code == 404


def test_a_database_failure_is_said_plainly(alice, alice_client, strava, linked):
    def fail(execute, sql, params, many, context):
        if "users_integrations" in sql:
            raise DatabaseError("s3cret at 10.0.0.5")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(fail):
        for name in ("strava_connect", "strava_disconnect"):
            response = alice_client.post(
                reverse(f"integrations:{name}"), headers={"accept": "application/json"}
            )
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "database_error"
            assert "s3cret" not in response.content.decode()


def test_looking_does_not_end_an_attempt(alice, alice_client, strava):
    state = services.begin_authorization(alice.pk, "strava", "http://testserver/cb").state
    alice_client.get(SETTINGS)
    alice_client.get(STATUS)
    assert row_of(alice).strava_state == state
    assert row_of(alice).strava_state_expires_at > timezone.now() + timedelta(minutes=9)


@pytest.mark.parametrize(
    ("said", "wanted"), [("on", True), ("true", True), ("off", False), ("0", False), ("No", False)]
)
def test_a_program_may_say_its_preference_in_words(alice, alice_client, said, wanted):
    alice_client.post("/integrations/strava/preferences/", {"sync_gear": said})
    assert UsersIntegrations.objects.get(user=alice).strava_sync_gear is wanted


@pytest.mark.parametrize("path", ["/integrations/status/", "/integrations/export/"])
def test_a_database_in_trouble_is_said_in_json_where_programs_ask(alice_client, linked, path):
    def fail(execute, sql, params, many, context):
        if "users_integrations" in sql:
            raise DatabaseError("s3cret")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(fail):
        response = alice_client.get(path)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "database_error"
    assert b"s3cret" not in response.content
