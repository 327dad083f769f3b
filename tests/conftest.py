"""People and things that most tests need."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from cryptography.fernet import MultiFernet
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.management.commands import flush
from django.db import connection
from django.db.models.signals import post_migrate
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from whitenoise.middleware import WhiteNoiseMiddleware

from integrations import services
from integrations.models import UsersIntegrations
from integrations.sandbox import Sandbox
from integrations.sandbox import intervals as intervals_sandbox
from integrations.sandbox import polar as polar_sandbox
from integrations.sandbox import wahoo as wahoo_sandbox
from integrations.sandbox.garmin import Garmin, hook
from integrations.sandbox.intervals import Intervals
from integrations.sandbox.polar import Polar
from integrations.sandbox.strava import ALICE, CLIENT_ID, CLIENT_SECRET, Strava
from integrations.sandbox.wahoo import Wahoo
from integrations.strava.client import StravaTokens

from .settings import TESTS_DIRECTORY

# Whoever runs the tests in the background has them ignore Ctrl-C, and so would their processes.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)  # before -m chooses among them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the database: pytest-django lets nothing else reach it, so that the rest is
    the same on each and need be run with one of them only.
    """
    ways = {"db", "transactional_db", "django_db_setup"}
    for item in items:
        asked_for = ways.intersection(getattr(item, "fixturenames", ()))
        if asked_for or item.get_closest_marker("django_db"):
            item.add_marker("database")


@pytest.fixture(scope="session", autouse=True)
def directory() -> Iterator[None]:
    """Where the files of this process's tests are."""
    TESTS_DIRECTORY.mkdir(mode=0o700)
    yield
    shutil.rmtree(TESTS_DIRECTORY, ignore_errors=True)


# Always as the migrations have left them, and a good part of the time to make anew.
KEPT = {"django_content_type", "auth_permission"}


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Spare the database what only a crash of its machine, or a large table, would need. And empty
    it, after each test that commits, without the permissions, which are the same each time.
    """
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            name = connection.ops.quote_name(connection.settings_dict["NAME"])
            cursor.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
            connection.close()  # the next one has it
    # PostgreSQL takes a third of a second to truncate some thirty empty tables.
    connection.ops.sql_flush = lambda style, tables, **options: [
        f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables if table not in KEPT
    ]

    def emit_to_the_app(verbosity: int, interactive: bool, db: str, **more: Any) -> None:
        app = apps.get_app_config("integrations")
        options = {"verbosity": verbosity, "interactive": interactive, "using": db, **more}
        post_migrate.send(sender=app, app_config=app, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "emit_post_migrate_signal", emit_to_the_app)
        yield


@pytest.fixture(scope="session", autouse=True)
def static_files_found_once() -> Iterator[None]:
    """Have all clients share what WhiteNoise finds at its start: each is a start of its own."""
    find, found = WhiteNoiseMiddleware.add_files_from_finders, {}

    def find_once(self: WhiteNoiseMiddleware) -> None:
        if self.static_prefix not in found:
            find(self)
            found[self.static_prefix] = dict(self.files)
        self.files.update(found[self.static_prefix])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteNoiseMiddleware, "add_files_from_finders", find_once)
        yield


@pytest.fixture(autouse=True)
def no_counts_from_before() -> None:
    """Forget what earlier tests have counted against a limit."""
    cache.clear()


@pytest.fixture(autouse=True)
def no_answers_from_before(settings: Any) -> None:
    """Leave no earlier test's answers for a process to take up."""
    shutil.rmtree(settings.INTEGRATIONS_SPOOL_DIR, ignore_errors=True)


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    while True:
        with Sandbox() as sandbox:
            # garminconnect reads statuses out of messages that hold the address, too.
            if not re.search("401|427|429", sandbox.url):
                yield sandbox
                return


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Iterator[Sandbox]:
    """The session's sandbox, as good as new."""
    running_sandbox.reset()
    yield running_sandbox
    running_sandbox.reset()


@pytest.fixture
def strava(sandbox: Sandbox, settings: Any) -> Strava:
    """Strava, with a site that has an app of its own there."""
    settings.STRAVA_OAUTH_URL = f"{sandbox.url}/oauth"
    settings.STRAVA_API_URL = f"{sandbox.url}/api/v3"
    settings.STRAVA_CLIENT_ID = CLIENT_ID
    settings.STRAVA_CLIENT_SECRET = CLIENT_SECRET
    return sandbox.strava


@pytest.fixture
def polar(sandbox: Sandbox, settings: Any) -> Polar:
    """Polar, with a site that has a client of its own there."""
    settings.POLAR_AUTHORIZE_URL = f"{sandbox.url}/polar/oauth2/authorization"
    settings.POLAR_TOKEN_URL = f"{sandbox.url}/polar/v2/oauth2/token"
    settings.POLAR_REVOKE_URL = f"{sandbox.url}/polar/v3/users"
    settings.POLAR_API_URL = f"{sandbox.url}/polar/v3"
    settings.POLAR_CLIENT_ID = polar_sandbox.CLIENT_ID
    settings.POLAR_CLIENT_SECRET = polar_sandbox.CLIENT_SECRET
    return sandbox.polar


@pytest.fixture
def wahoo(sandbox: Sandbox, settings: Any) -> Wahoo:
    """Wahoo, with a site that has an app of its own there."""
    settings.WAHOO_AUTHORIZE_URL = f"{sandbox.url}/wahoo/oauth/authorize"
    settings.WAHOO_TOKEN_URL = f"{sandbox.url}/wahoo/oauth/token"
    settings.WAHOO_REVOKE_URL = f"{sandbox.url}/wahoo/v1/permissions"
    settings.WAHOO_API_URL = f"{sandbox.url}/wahoo/v1"
    settings.WAHOO_CLIENT_ID = wahoo_sandbox.CLIENT_ID
    settings.WAHOO_CLIENT_SECRET = wahoo_sandbox.CLIENT_SECRET
    return sandbox.wahoo


@pytest.fixture
def intervals(sandbox: Sandbox, settings: Any) -> Intervals:
    """Intervals.icu, with a site that has an app of its own there."""
    settings.INTERVALS_AUTHORIZE_URL = f"{sandbox.url}/intervals/oauth/authorize"
    settings.INTERVALS_TOKEN_URL = f"{sandbox.url}/intervals/api/oauth/token"
    settings.INTERVALS_REVOKE_URL = f"{sandbox.url}/intervals/api/v1/disconnect-app"
    settings.INTERVALS_API_URL = f"{sandbox.url}/intervals/api/v1"
    settings.INTERVALS_CLIENT_ID = intervals_sandbox.CLIENT_ID
    settings.INTERVALS_CLIENT_SECRET = intervals_sandbox.CLIENT_SECRET
    return sandbox.intervals


@pytest.fixture
def garmin(sandbox: Sandbox, monkeypatch: Any) -> Iterator[Garmin]:
    """Garmin, with the real library pointed at it and in a hurry."""
    import garminconnect.api.base

    monkeypatch.delenv("GARMINTOKENS", raising=False)
    # Between two tries to load a profile.
    monkeypatch.setattr(
        garminconnect.api.base, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: None)
    )
    # Between two tries to exchange a ticket.
    monkeypatch.setattr("integrations.garminconnect.watch.TICKET_PAUSES", (0, 0))
    with hook.pointed_at(sandbox.url, pauses=False):
        yield sandbox.garmin


@pytest.fixture
def in_one_window(monkeypatch: Any) -> None:
    """No window of Strava's limits turns in the middle of a test, however slow the machine."""
    monkeypatch.setattr("integrations.strava.client._retry_after", lambda headers: 600)


@pytest.fixture
def http() -> Iterator[requests.Session]:
    """A plain session, whatever proxy the environment names."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def alice(db: None) -> Any:
    return get_user_model().objects.create_user("alice", "alice@example.com", "alice-demo")


@pytest.fixture
def bob(db: None) -> Any:
    return get_user_model().objects.create_user("bob", "bob@example.com", "bob-demo")


@pytest.fixture
def alice_client(alice: Any) -> Client:
    client = Client()
    client.force_login(alice)
    return client


@pytest.fixture
def bob_client(bob: Any) -> Client:
    client = Client()
    client.force_login(bob)
    return client


@pytest.fixture
def sealed_for_good(monkeypatch: Any) -> None:
    """From here on, decrypting anything fails the test."""
    monkeypatch.setattr(MultiFernet, "decrypt", lambda *args: pytest.fail("decrypted"))


def a_moment_ago() -> datetime:
    """What is past for SQLite as well, whose clock has whole milliseconds."""
    return timezone.now() - timedelta(milliseconds=1)


def row_of(user: Any) -> UsersIntegrations:
    return UsersIntegrations.objects.get(user=user)


def messages_of(client: Client) -> list[str]:
    """What the settings page tells the athlete next, of what happened and what did not."""
    response = client.get(reverse("integrations:settings"))
    assert response.status_code == 200
    return told_on(response)


def told_on(page: Any) -> list[str]:
    """What a settings page tells, of what happened and what did not."""
    told = [str(message) for message in page.context["messages"]]
    alert = page.context["alert"]
    return [*told, alert.message] if alert else told


@pytest.fixture
def link(strava: Strava) -> Callable[..., UsersIntegrations]:
    """Link a user to an athlete as the site's app; `expires_in` seconds are left."""

    def link(user: Any, athlete_id: int = ALICE, expires_in: int = 21600) -> UsersIntegrations:
        if not UsersIntegrations.objects.filter(user=user).exists():
            services.create_user_integrations(user.pk)
        tokens = StravaTokens(**strava.issue_tokens(athlete_id, expires_in=expires_in))
        services.link_strava_account(row_of(user), tokens)
        UsersIntegrations.objects.filter(user=user).update(
            strava_scope="read,profile:read_all", strava_site_client_id=CLIENT_ID
        )
        return row_of(user)

    return link


@pytest.fixture
def linked(alice: Any, link: Callable[..., UsersIntegrations]) -> UsersIntegrations:
    """Alice's link, with a fresh token."""
    return link(alice)


@pytest.fixture
def expired(linked: UsersIntegrations, strava: Strava) -> UsersIntegrations:
    """Alice's link, with a token that has expired here and at Strava."""
    strava.expire(ALICE)
    UsersIntegrations.objects.update(strava_token_expires_at=timezone.now() - timedelta(minutes=1))
    linked.refresh_from_db()
    return linked


def begin(client: Client, **fields: str) -> dict[str, str]:
    """Press "Connect with Strava"; returns the query that the consent page gets."""
    response = client.post(reverse("integrations:strava_connect"), fields)
    assert response.status_code == 302, response.content
    return {
        name: values[0] for name, values in parse_qs(urlsplit(response["Location"]).query).items()
    }


def come_back(client: Client, **query: str) -> Any:
    """Follow Strava's redirect back to the site."""
    return client.get(reverse("integrations:strava_callback"), query)
