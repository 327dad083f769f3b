"""After a whole journey no secret is found anywhere it might have been left."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core.signals import got_request_exception
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.views.debug import get_exception_reporter_class

from integrations import exceptions, providers, services
from integrations.models import UsersIntegrations
from integrations.sandbox.strava import ALICE, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET
from integrations.strava.client import StravaClient, StravaTokens

from .conftest import begin, row_of

STAFF = "/admin/integrations/usersintegrations/"


def everything_stored() -> str:
    """Every value of every table, and on SQLite the very bytes of its files."""
    parts = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            parts += [
                bytes(value).decode("latin-1") if isinstance(value, memoryview) else str(value)
                for row in cursor.fetchall()
                for value in row
            ]
    if connection.vendor == "sqlite":
        database = Path(connection.settings_dict["NAME"])
        # In a process of its own: closing one of these files here would drop all the locks that
        # SQLite holds on it in this process, and another process would tear the log away.
        files = subprocess.run(
            ["cat", *database.parent.glob(f"{database.name}*")], capture_output=True, check=True
        )
        parts.append(files.stdout.decode("latin-1"))
    return "\n".join(parts)


@pytest.mark.django_db(transaction=True)
def test_a_whole_journey_leaves_no_secret_behind(alice, alice_client, strava, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    shown, secrets = [], {OTHER_CLIENT_SECRET}
    admin = Client()
    admin.force_login(get_user_model().objects.create_superuser("root", password="pw"))

    def look():
        row = UsersIntegrations.objects.filter(user=alice).first()
        if row is not None:
            shown.append(repr(row) + str(row) + repr(vars(row)))
            secrets.update({row.strava_token, row.strava_refresh_token} - {None})
            shown.append(admin.get(f"{STAFF}{row.pk}/change/").content.decode())
        for client, path in (
            (alice_client, "/settings/integrations/"),
            (alice_client, "/integrations/status/"),
            (admin, STAFF),
        ):
            response = client.get(path)
            shown.append(response.content.decode() + str(response.headers) + str(client.cookies))

    state = begin(alice_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)[
        "state"
    ]
    look()
    code = strava.grant(ALICE, OTHER_CLIENT_ID)
    secrets.add(code)
    alice_client.get(
        reverse("integrations:strava_callback"), {"state": state, "code": code, "scope": "read"}
    )
    look()
    # the token expires and is refreshed; then Strava is in trouble; then the link dies
    lapse = timezone.now() - timezone.timedelta(hours=1)
    for fault in (None, "500", "wrong_types", "401_client"):
        strava.expire(ALICE, OTHER_CLIENT_ID)
        UsersIntegrations.objects.update(strava_token_expires_at=lapse)
        if fault:
            strava.fail("token", fault, times=1)
        try:
            secrets.add(services.get_strava_access_token(alice.pk))
        except exceptions.ProviderError as exc:
            shown.append(repr(exc) + str(exc))
        look()
    everything = everything_stored()
    assert row_of(alice).strava_status == "linked"
    shown.append("".join(str(session.get_decoded()) for session in Session.objects.all()))
    alice_client.post(reverse("integrations:strava_disconnect"))
    everything += everything_stored()

    assert len(secrets) == 6  # the client secret, the code, and two pairs
    out, err = capfd.readouterr()
    places = {
        "database": everything,
        "pages and cookies": "".join(shown),
        "log": caplog.text,
        "output": out + err,
    }
    for place, text in places.items():
        assert len(text) > 100 or place == "output"
        for secret in secrets:
            assert secret not in text, place
            assert secret[:12] not in text, f"{place}, shortened"


def test_replies_and_clients_show_nothing(strava):
    tokens = StravaTokens(access_token="s3cret", refresh_token="s3cret", expires_at=1)
    client = providers.get("strava").client("10", "s3cret")
    assert "s3cret" not in repr(tokens) + str(tokens) + repr(client)


@pytest.mark.parametrize("debug", [True, False])
def test_a_crash_page_shows_no_secret(alice, strava, alice_client, settings, monkeypatch, debug):
    """The worst place to crash: inside the exchange, with everything on the stack."""
    settings.DEBUG = debug
    alice_client.raise_request_exception = False
    state = begin(alice_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)[
        "state"
    ]
    code = strava.grant(ALICE, OTHER_CLIENT_ID)
    mails = []

    def report(sender, request, **kwargs):
        reporter = get_exception_reporter_class(request)(request, *sys.exc_info(), is_email=True)
        mails.append(reporter.get_traceback_text() + reporter.get_traceback_html())

    def crash(self, model, response):
        secret = response.content  # noqa: F841
        raise RuntimeError("crashed")

    monkeypatch.setattr(StravaClient, "_parse", crash)
    got_request_exception.connect(report)
    try:
        response = alice_client.get(
            reverse("integrations:strava_callback"),
            {"state": state, "code": code},
            # as gunicorn has it, and a browser that was sent back here
            RAW_URI=f"/integrations/strava/callback/?state={state}&code={code}",
            HTTP_REFERER=f"http://testserver/?state={state}&code={code}",
        )
    finally:
        got_request_exception.disconnect(report)

    assert response.status_code == 500
    text = response.content.decode()
    if debug:
        assert "RuntimeError" in text
    [mail] = mails
    assert "crashed" in mail
    tokens = [*strava._by_access, *strava._by_refresh]
    assert len(tokens) == 2
    for secret in (code, state, OTHER_CLIENT_SECRET, *tokens):
        assert secret not in text + mail


def test_a_crash_before_the_view_shows_no_code_that_is_still_good(
    alice_client, strava, settings, monkeypatch
):
    settings.DEBUG = True
    secret = "s3cret"  # which no line of source that a crash page shows has by itself
    settings.CELERY_BROKER_URL = f"amqp://me:{secret}-broker@10.0.0.5//"
    settings.OTHER_CACHES = {"default": {"LOCATION": f"redis://:{secret}-cache@10.0.0.5"}}
    alice_client.raise_request_exception = False
    state, code = begin(alice_client)["state"], strava.grant(ALICE)

    def away(*args, **kwargs):
        try:
            raise ValueError(f"refresh_token={secret}-token")
        except ValueError as exc:
            error = RuntimeError(f"access_token={secret}-token")
            error.add_note(f"password={secret}-token")
            raise error from exc

    monkeypatch.setattr("project.sessions.SessionStore.load", away)
    query = {"state": state, "code": code}
    raw = f"/integrations/strava/callback/?state={state}&code={code}"
    text = alice_client.get(
        reverse("integrations:strava_callback"), query, RAW_URI=raw, headers={"referer": raw}
    ).content.decode()

    assert "RuntimeError" in text
    assert "/integrations/strava/callback/" in text
    for hidden in (state, code, f"{secret}-broker", f"{secret}-cache", f"{secret}-token"):
        assert hidden not in text


@pytest.mark.parametrize("debug", [True, False])
def test_a_crash_while_connecting_shows_no_pasted_secret(
    alice_client, strava, settings, monkeypatch, debug
):
    settings.DEBUG = debug
    alice_client.raise_request_exception = False

    def crash(*args):
        raise RuntimeError("crashed")

    monkeypatch.setattr(services, "begin_authorization", crash)
    response = alice_client.post(
        reverse("integrations:strava_connect"),
        {"client_id": OTHER_CLIENT_ID, "client_secret": OTHER_CLIENT_SECRET},
    )
    assert response.status_code == 500
    assert OTHER_CLIENT_SECRET not in response.content.decode()


def test_the_servers_log_has_no_query():
    record = logging.LogRecord(
        "django.server",
        logging.INFO,
        "",
        0,
        '"%s" %s %s',
        ("GET /integrations/strava/callback/?state=s3cret&code=s3cret HTTP/1.1", "302", "0"),
        None,
    )
    from integrations.reporting import WithoutQuery

    assert WithoutQuery().filter(record)
    assert "s3cret" not in record.getMessage()
    assert "/callback/ HTTP/1.1" in record.getMessage()
