"""The site as whoever runs it sees it: health, metrics and logs."""

from __future__ import annotations

import ast
import base64
import io
import json
import logging
import logging.config
import re
import shutil
import socket
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from logging.config import DictConfigurator

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tasks_db.models import DBTaskResult

from integrations import exceptions, metrics, services
from integrations.garminconnect.login import begin_login, run_login
from integrations.models import UsersIntegrations
from integrations.reporting import (
    REDACTED,
    OnOneLine,
    WithEvent,
    WithoutQuery,
    WithoutSecrets,
    redact,
)
from integrations.sandbox.garmin import MFA, PASSWORD
from integrations.sandbox.strava import ALICE, OTHER_CLIENT_ID, OTHER_CLIENT_SECRET
from integrations.services.keys import plant_fernet_canary
from integrations.services.sweep import sweep_tokens
from project import health
from project import settings as site

from .conftest import begin, come_back
from .processes import BASE_DIR
from .test_project import PRODUCTION, manage
from .test_task_backends import RABBITMQ_URL, REDIS_URL, queue_on

# --- /healthz/ ----------------------------------------------------------------------------------


def checks_of(response):
    answer = response.json()
    assert set(answer) == {"status", "checks"}
    assert answer["status"] == ("ok" if response.status_code == 200 else "unavailable")
    assert set(answer["checks"].values()) <= {"ok", "failed"}
    return answer["checks"]


def failed_checks(client):
    response = client.get("/healthz/")
    failed = {name for name, found in checks_of(response).items() if found == "failed"}
    assert response.status_code == (503 if failed else 200)
    return failed


@pytest.mark.parametrize("backend", ["immediate", "database"])
def test_a_healthy_site_says_so_to_anybody(db, client, settings, backend):
    settings.TASKS_BACKEND = backend
    response = client.get("/healthz/")
    assert response.status_code == 200
    assert checks_of(response) == dict.fromkeys(
        ["database", "migrations", "task_backend", "key"], "ok"
    )
    assert "no-store" in response["Cache-Control"]
    assert client.head("/healthz/").status_code == 200
    assert client.post("/healthz/").status_code == 405


@pytest.mark.parametrize("accept", ["text/html", "application/rss+xml", "garbage;;q=x"])
@pytest.mark.parametrize("query", ["", "?format=openmetrics", "?format=rss"])
def test_the_answer_is_json_whatever_is_asked_for(db, client, accept, query):
    response = client.get(f"/healthz/{query}", headers={"Accept": accept})
    assert response["Content-Type"] == "application/json"
    assert checks_of(response)


def test_health_costs_few_statements(db, client, settings):
    settings.TASKS_BACKEND = "database"
    client.get("/healthz/")
    with CaptureQueriesContext(connection) as queries:
        client.get("/healthz/")
    # The bounds in time around each check apart.
    bounds = ("SAVEPOINT", "RELEASE", "SELECT set_config", "SET LOCAL", "PRAGMA busy_timeout")
    asked = [query for query in queries if not query["sql"].startswith(bounds)]
    assert len(asked) <= 5


def test_a_database_that_is_gone_is_told_without_its_words(db, client, caplog):
    def fail(*args):
        raise DatabaseError("s3cret at 10.0.0.5")

    with connection.execute_wrapper(fail):
        response = client.get("/healthz/")
    assert response.status_code == 503
    assert checks_of(response)["database"] == "failed"
    assert b"s3cret" not in response.content
    assert b"Error" not in response.content
    assert "database is not healthy: DatabaseError" in caplog.text
    lines = [record for record in caplog.records if record.name == "project.health"]
    assert "s3cret" not in "".join(record.getMessage() for record in lines)
    assert {record.event for record in lines} >= {"health.database_failed"}


def test_a_migration_that_is_not_applied_is_told(db, client):
    newest = MigrationRecorder.Migration.objects.filter(app="integrations").order_by("-name")[0]
    newest.delete()
    assert failed_checks(client) == {"migrations"}


def test_a_migration_of_a_newer_release_does_no_harm(db, client):
    MigrationRecorder.Migration.objects.create(app="integrations", name="9999_from_the_future")
    assert failed_checks(client) == set()


def test_a_key_that_opens_nothing_is_told(db, client, settings):
    plant_fernet_canary(anew=True)
    assert failed_checks(client) == set()
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopqrstuvwxyz"]
    assert failed_checks(client) == {"key"}


def test_a_missing_queue_is_told(db, client, settings):
    settings.TASKS_BACKEND = "database"
    table = DBTaskResult._meta.db_table

    def without_the_table(execute, sql, params, many, context):
        if table in sql:
            raise DatabaseError("no such table")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(without_the_table):
        assert failed_checks(client) == {"task_backend"}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """The file of a site's database, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "db.sqlite3"
    code, _out, err = manage("migrate", **PRODUCTION, DATABASE_URL=f"sqlite:///{path}")
    assert code == 0, err
    return path


@pytest.fixture
def database_url(migrated, tmp_path):
    return f"sqlite:///{shutil.copy(migrated, tmp_path)}"


def ask_with_celery(broker_url, database_url):
    """The status, the checks and the seconds of a site in a process of its own."""
    script = (
        "import time; from django.test import Client; start = time.monotonic();"
        "response = Client().get('/healthz/', headers={'host': 'example.org'});"
        "print(response.status_code, response.json()['checks']['task_backend'],"
        "sum(value == 'ok' for value in response.json()['checks'].values()),"
        "time.monotonic() - start, response.content)"
    )
    code, out, err = manage(
        *("shell", "--no-imports", "-c", script),
        **PRODUCTION,
        TASKS_BACKEND="celery",
        CELERY_BROKER_URL=broker_url,
        DATABASE_URL=database_url,
        PYTHONWARNINGS="ignore",
    )
    assert code == 0, err
    assert "hunter22" not in out + err
    status, task_backend, ok, seconds, content = out.split(maxsplit=4)
    assert "127.0.0.1" not in content
    return int(status), task_backend, int(ok), float(seconds)


@pytest.mark.parametrize("url", [RABBITMQ_URL, REDIS_URL])
def test_a_broker_that_answers_is_healthy_over_plain_http(url, database_url):
    queue_on(url).delete()
    assert ask_with_celery(url, database_url)[:3] == (200, "ok", 4)


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_refuses_is_told(scheme, database_url):
    url = f"{scheme}://me:hunter22@127.0.0.1:9/"
    assert ask_with_celery(url, database_url)[:3] == (503, "failed", 3)


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_says_nothing_is_told_within_seconds(scheme, database_url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://me:hunter22@127.0.0.1:{silent.getsockname()[1]}/"
        *found, seconds = ask_with_celery(url, database_url)
    assert found == [503, "failed", 3]
    assert seconds < 6


@pytest.mark.django_db(transaction=True)
def test_a_table_that_is_locked_does_not_hold_a_probe(client, settings, monkeypatch):
    if connection.vendor != "postgresql":
        pytest.skip("readers of SQLite do not wait")
    monkeypatch.setattr(health, "TIMEOUT", timedelta(seconds=1))
    settings.TASKS_BACKEND = "database"
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f"LOCK TABLE {DBTaskResult._meta.db_table}")
        start = time.monotonic()
        assert failed_checks(client) == {"task_backend"}
        assert time.monotonic() - start < 5
    finally:
        other.close()
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


# --- /metrics -----------------------------------------------------------------------------------


@pytest.fixture
def prometheus(settings):
    settings.PROMETHEUS = True
    metrics._own.cache_clear()
    yield
    metrics._own.cache_clear()


def scraped(client, **headers):
    """The samples, by name and labels as they are written."""
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain")
    return {
        name: float(value)
        for line in response.content.decode().splitlines()
        if not line.startswith("#")
        for name, value in [line.rsplit(" ", 1)]
    }


def test_metrics_are_off_by_default(db, client):
    assert client.get("/metrics").status_code == 404
    assert not site.PROMETHEUS


def test_nothing_is_counted_while_metrics_are_off(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)  # as if it were not installed
    metrics.count_refresh("strava", "refreshed")
    metrics.count_failure("strava", "refresh", "rate_limited")


def test_a_counter_that_fails_stops_nobody(prometheus, monkeypatch, caplog):
    def fail():
        raise OSError("No space left on device")

    monkeypatch.setattr(metrics, "_registry_and_counters", fail)
    metrics.count_refresh("strava", "refreshed")
    [record] = caplog.records
    assert record.event == "metrics.not_counted"


def test_a_fresh_site_has_gauges(db, client, prometheus):
    found = scraped(client)
    assert found['integrations_links{provider="strava",state="linked"}'] == 0
    assert found['integrations_links{provider="garminconnect",state="relink_required"}'] == 0
    assert found["integrations_due_tokens"] == 0


def test_refreshes_and_failures_are_counted(alice, expired, strava, client, prometheus):
    strava.fail("token", "500", times=1)
    with pytest.raises(exceptions.ProviderUnavailable):
        services.get_strava_access_token(alice.pk)
    found = scraped(client)
    assert found['integrations_refreshes_total{outcome="failed",provider="strava"}'] == 1
    failure = 'integrations_failures_total{code="provider_unavailable",operation="refresh",'
    assert found[failure + 'provider="strava"}'] == 1

    services.get_strava_access_token(alice.pk)
    services.get_strava_access_token(alice.pk)  # still fresh: nothing is asked
    found = scraped(client)
    assert found['integrations_refreshes_total{outcome="refreshed",provider="strava"}'] == 1
    assert found['integrations_links{provider="strava",state="linked"}'] == 1
    assert not any(str(ALICE) in name or "user" in name for name in found)


def test_the_end_of_a_link_is_counted(alice, expired, strava, client, prometheus):
    strava.revoke_grant(ALICE)
    with pytest.raises(exceptions.StravaRelinkRequired):
        services.get_strava_access_token(alice.pk)
    found = scraped(client)
    assert found['integrations_refreshes_total{outcome="ended",provider="strava"}'] == 1
    assert found['integrations_links{provider="strava",state="relink_required"}'] == 1
    assert found['integrations_links{provider="strava",state="linked"}'] == 0
    assert found["integrations_due_tokens"] == 0


def test_a_lost_key_is_counted_as_a_failure(alice, expired, settings, client, prometheus):
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopqrstuvwxyz"]
    with pytest.raises(exceptions.StravaRelinkRequired):
        services.get_strava_access_token(alice.pk)
    found = scraped(client)
    failure = 'integrations_failures_total{code="secret_unreadable",operation="refresh",'
    assert found[failure + 'provider="strava"}'] == 1


@pytest.mark.django_db(transaction=True)
def test_due_tokens_are_those_that_a_sweep_would_refresh(alice, expired, client, prometheus):
    assert scraped(client)["integrations_due_tokens"] == sweep_tokens().due == 1
    assert scraped(client)["integrations_due_tokens"] == 0


def test_what_an_athlete_runs_into_is_counted(alice_client, strava, client, prometheus):
    come_back(alice_client, state="forged", code="x")
    found = scraped(client)
    failure = 'integrations_failures_total{code="invalid_state",operation="authorize",'
    assert found[failure + 'provider="strava"}'] == 1


def test_failed_sign_ins_are_counted(alice, garmin, client, prometheus):
    attempt = begin_login(alice.pk, MFA, "wrong")
    assert run_login(alice.pk, attempt) == "invalid_credentials"
    found = scraped(client)
    failure = 'integrations_failures_total{code="invalid_credentials",operation="sign_in",'
    assert found[failure + 'provider="garminconnect"}'] == 1


def task(**columns):
    now = timezone.now()
    result = DBTaskResult.objects.create(
        **{"args_kwargs": {}, "task_path": "x", "backend_name": "default", "run_after": now}
        | columns
    )
    return DBTaskResult.objects.filter(pk=result.pk)


def test_the_age_of_the_queue_is_that_of_its_oldest_ready_task(db, client, settings, prometheus):
    assert "integrations_queue_age_seconds" not in scraped(client)  # TASKS_BACKEND=immediate
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    assert scraped(client)["integrations_queue_age_seconds"] == 0

    now = timezone.now()
    at_once = task(run_after=timezone.datetime(9999, 1, 1, tzinfo=timezone.UTC))
    at_once.update(enqueued_at=now - timedelta(minutes=2))
    task(run_after=now + timedelta(hours=1)).update(enqueued_at=now - timedelta(days=1))
    task(status="RUNNING").update(enqueued_at=now - timedelta(days=1))
    assert scraped(client)["integrations_queue_age_seconds"] == pytest.approx(120, abs=20)


def test_a_scrape_asks_little_of_the_database(
    alice, linked, client, settings, prometheus, django_assert_num_queries
):
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    with django_assert_num_queries(3):
        client.get("/metrics")


def test_counts_are_told_while_the_database_is_away(db, client, prometheus):
    metrics.count_refresh("strava", "failed")

    def fail(*args):
        raise DatabaseError("s3cret at 10.0.0.5")

    with connection.execute_wrapper(fail):
        found = scraped(client)
    assert found['integrations_refreshes_total{outcome="failed",provider="strava"}'] == 1
    assert "integrations_due_tokens" not in found


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer", 401),
        ("Basic t0ken", 401),
        ("t0ken", 401),
        ("Bearer t0kén", 401),
        ("Bearer t0ken", 200),
        ("bearer t0ken", 200),
    ],
)
def test_a_token_is_asked_for_where_one_is_set(db, client, settings, prometheus, header, status):
    settings.PROMETHEUS_TOKEN = "t0ken"
    response = client.get("/metrics", headers={"Authorization": header} if header else {})
    assert response.status_code == status
    assert (b"integrations_links" in response.content) == (status == 200)


def test_openmetrics_are_spoken_where_they_are_asked_for(db, client, prometheus):
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert response["Content-Type"].startswith("application/openmetrics-text")
    assert response.content.endswith(b"# EOF\n")


COUNT = "from integrations import metrics; metrics.count_refresh('strava', 'refreshed')"
SCRAPE = (
    f"{COUNT}; from django.test import Client;"
    "headers = {'host': 'example.org', 'authorization': 'Bearer s3cret'};"
    "print(Client().get('/metrics', headers=headers).content.decode())"
)


def test_processes_of_a_machine_are_counted_together(database_url, tmp_path):
    counts = tmp_path / "counts"
    counts.mkdir()
    env = {
        **PRODUCTION,
        "PROMETHEUS": "on",
        "PROMETHEUS_TOKEN": "s3cret",
        "PROMETHEUS_MULTIPROC_DIR": str(counts),
        "DATABASE_URL": database_url,
        "PYTHONWARNINGS": "ignore",
    }
    for script in (COUNT, SCRAPE):
        code, out, err = manage("shell", "--no-imports", "-c", script, **env)
        assert code == 0, err
    assert 'integrations_refreshes_total{outcome="refreshed",provider="strava"} 2.0' in out
    assert "integrations_due_tokens 0.0" in out


def test_a_directory_for_counts_has_to_be_there(tmp_path):
    env = {**PRODUCTION, "PROMETHEUS": "on", "PROMETHEUS_TOKEN": "s3cret"}
    code, _out, err = manage("check", **env, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "none"))
    assert code == 1
    assert "PROMETHEUS_MULTIPROC_DIR must name a directory" in err


def test_metrics_in_production_need_a_token():
    code, _out, err = manage("check", **PRODUCTION, PROMETHEUS="on")
    assert code == 1
    assert "PROMETHEUS_TOKEN" in err


# --- Logs ---------------------------------------------------------------------------------------


@pytest.fixture
def json_log():
    """What the console would get with LOG_FORMAT=json."""
    config = site.LOGGING["filters"], site._LOG_FORMATS["json"]
    stream = io.StringIO()
    configurator = logging.config.DictConfigurator({"version": 1})
    handler = logging.StreamHandler(stream)
    handler.setFormatter(configurator.configure_formatter(dict(config[1])))
    for name in site.LOGGING["handlers"]["console"]["filters"]:
        handler.addFilter(configurator.configure_filter(dict(config[0][name])))
    loggers = [logging.getLogger(name) for name in ("", "django")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.mark.django_db(transaction=True)
def test_a_journey_is_told_in_json_without_a_secret(
    alice, alice_client, strava, garmin, json_log, settings
):
    secrets = {OTHER_CLIENT_SECRET, PASSWORD}
    state = begin(alice_client, client_id=OTHER_CLIENT_ID, client_secret=OTHER_CLIENT_SECRET)[
        "state"
    ]
    code = strava.grant(ALICE, OTHER_CLIENT_ID)
    secrets |= {state, code}
    come_back(alice_client, state=state, code=code, scope="read")
    lapse = timezone.now() - timedelta(hours=1)
    for fault in ("500", "wrong_types", "401_client"):
        strava.expire(ALICE, OTHER_CLIENT_ID)
        UsersIntegrations.objects.update(strava_token_expires_at=lapse)
        strava.fail("token", fault, times=1)
        with pytest.raises(exceptions.ProviderError):
            services.get_strava_access_token(alice.pk)
    secrets |= {*strava._by_access, *strava._by_refresh}
    keys = settings.FERNET_KEYS
    settings.FERNET_KEYS = ["another-key-0123456789-abcdefghijklmnopqrstuvwxyz"]
    with pytest.raises(exceptions.StravaRelinkRequired):
        services.get_strava_access_token(alice.pk)
    settings.FERNET_KEYS = keys
    strava.revoke_grant(ALICE, OTHER_CLIENT_ID)
    UsersIntegrations.objects.update(strava_retry_at=None)
    with pytest.raises(exceptions.StravaRelinkRequired):
        services.get_strava_access_token(alice.pk)
    garmin.fail("mobile_page", "500", times=1)
    attempt = begin_login(alice.pk, MFA, PASSWORD)
    run_login(alice.pk, attempt)
    alice_client.get(f"/integrations/nothing/?code={code}&state={state}")

    lines = json_log()
    for line in lines:
        assert {"time", "level", "logger", "event", "message"} <= set(line)
        assert line["event"]
        assert timezone.datetime.fromisoformat(line["time"]).tzinfo is not None
    events = {line["event"] for line in lines}
    assert {"strava.link_ended", "django.request"} <= events
    [ended] = [line for line in lines if line["event"] == "strava.link_ended"]
    assert ended["level"] == "WARNING"
    assert ended["user_id"] == alice.pk
    assert "request" not in str([set(line) for line in lines])
    text = json.dumps(lines)
    for secret in secrets:
        assert secret[:12] not in text
    assert REDACTED not in text  # the last net had nothing to do


def logger_calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=level)):
                yield f"{path.name}:{node.lineno}", level, node


def test_every_line_of_the_app_names_what_happened():
    paths = [
        path
        for package in ("integrations", "project")
        for path in (BASE_DIR / package).rglob("*.py")
        if "sandbox" not in path.parts
    ]
    calls = [call for path in paths for call in logger_calls(path)]
    assert len(calls) >= 20
    for where, level, call in calls:
        assert "extra" in {keyword.arg for keyword in call.keywords}, where
        assert level in {"info", "warning", "error"}, f"{where}: tracebacks hold what they hold"
    text = "".join(path.read_text() for path in paths)
    events = re.findall(r'"event": f?"([^"]+)"', text)
    noted = re.findall(r'\bnote\(\s*"([^"]+)"', text)  # project.login's own, for log-ins
    assert len(events) == len(calls) - 1
    assert len(noted) >= 7
    for event in [*events, *noted]:
        assert re.fullmatch(r"(\{[\w.]+\}|[a-z]+)\.(\{[\w.]+\}_?)?[a-z_]+", event)


def test_the_format_of_the_log_is_a_setting():
    for name, words in (("json", None), ("line", None), ("xml", "LOG_FORMAT must be one of")):
        code, _out, err = manage("check", **PRODUCTION, LOG_FORMAT=name)
        assert code == (1 if words else 0)
        assert not words or words in err
    script = "import logging; logging.getLogger('integrations.x').warning('a %s', 'b' + chr(10))"
    _code, _out, err = manage(
        "shell", "--no-imports", "-c", script, **PRODUCTION, LOG_FORMAT="json"
    )
    line = json.loads(err)
    assert (line["message"], line["level"], line["event"]) == ("a b\n", "WARNING", "integrations.x")
    _code, _out, err = manage("shell", "--no-imports", "-c", script, **PRODUCTION)
    assert err.endswith(" WARNING integrations.x a b\\n\n")  # on one line


HEX = "0123456789abcdef0123456789abcdef01234567"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
FERNET = "gAAAAABmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU2Nzg5QUJDREVGR0hJSktMTU5PUFE="


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"refused {HEX}", "refused *"),
        (f"refused {HEX.upper()}.", "refused *."),
        (f"got {JWT}, at last", "got *, at last"),
        (f"row 5: b'{FERNET}'", "row 5: b'*'"),
        (f"Authorization: Bearer {HEX}", "Authorization: Bearer *"),
        ("authorization: bearer s3cret7", "authorization: bearer *"),
        ("Basic bWU6aHVudGVyMjI=", "Basic *"),
        ("access_token=s3cret&x=1", "access_token=*&x=1"),
        ("POST refresh_token = s3cret; x", "POST refresh_token = *; x"),
        ("{'client_secret': 's3cret words', 'a': 1}", "{'client_secret': *, 'a': 1}"),
        ('{"di_token":"s3cret"}', '{"di_token":*}'),
        ('{"di_refresh_token": "s3cret", "n": 1}', '{"di_refresh_token": *, "n": 1}'),
        (r"{\"access_token\": \"s3cret\"}", r"{\"access_token\": *}"),
        ("Login(email='a@example.com', password='it is')", None),
        ("PASSWORD=hunter2 x", "PASSWORD=* x"),
        ("mfa_code: '123456'", "mfa_code: *"),
        ("{'code': '123456'}", "{'code': '*'}"),
        ("/callback/?state=9x8y7z6w5v4u&code=a1b2c3d4&scope=read", None),
        ("state=" + "abcdefghijklmnopqrstuvwxyz_-ABCDEFG", "state=*"),
        ("csrfmiddlewaretoken=s3cret", "csrfmiddlewaretoken=*"),
        ("amqp://me:hunter22@broker:5672//", "amqp://me:*@broker:5672//"),
        ("postgres://me:hunter22@db/name", "postgres://me:*@db/name"),
        (f"two: {HEX} {HEX}", "two: * *"),
        (f"strava_{HEX}", "strava_*"),
        (f"/callback%3Fcode%3D{HEX}", None),
        (repr(f"a\n{HEX}"), "'a\\n*'"),
        ("<QueryDict: {'email': ['a'], 'password': ['s3cret']}>", None),
        ("[('email', 'a'), ('password', 's3cret')]", None),
        ("password=['s3cret', 'hunter2']", None),
        ("{'client_state': {'cookies': {'CASTGC': 's3cret'}}}", None),
        ("FERNET_KEYS=['s3cret-1', 's3cret-2']", None),
        (r'{"password": "ab\"s3cret"}', r'{"password": *}'),
        ('{"password": "None-s3cret"}', '{"password": *}'),
        ("body=email%3Da%26password%3Ds3cret", "body=email=a&password=*"),
        ("Set-Cookie: CASTGC=s3cret; Path=/", "Set-Cookie: *"),
        ("wrong password: s3cret7", "wrong password: *"),
        ('{"mfaVerificationCode": "123456"}', '{"mfaVerificationCode": *}'),
        ("verification_code=123456", "verification_code=*"),
        ("Key (strava_state)=(9x8y7z6w5v4u) already exists", None),
        ("for eyJyZWZyZXNoVG9rZW4iOiIxMjM0NTY3OC1hYmNkIn0abcdefgh=", "for *"),
        ("redis://:hunter2/x@db", "redis://:*@db"),
        ("redis://:hunter%402%20it%20is@db", "redis://:*@db"),
        ('{"access_token":"s3cret-o~p.q/u+e","x_user_id":7}', '{"access_token":*,"x_user_id":7}'),
        ("?code=a1b2c3%2Fs3cret&scope=ACTIVITY:READ", "?code=*&scope=ACTIVITY:READ"),
        ("FERNET_KEYS=s3cret-1,hunter2-2 DEBUG=on", "FERNET_KEYS=* DEBUG=on"),
        ("for ST-012345-s3cretABCDEF-cas", "for *"),
        ("next=%252F%26refresh_token%253Ds3cret", "next=/&refresh_token=*"),
        ("session_key=s3cret", "session_key=*"),
        ("{'session_key': 's3cret', 'a': 1}", "{'session_key': *, 'a': 1}"),
        ("Cookie __Host-sessionid=s3cret", "Cookie __Host-sessionid=*"),
        ("x %7B%22client_secret%22%3A%20%22s3cret%22%7D", 'x {"client_secret": *}'),
        ("refresh%5Ftoken=s3cret", "refresh%5Ftoken=*"),
        ("Bearer%20s3cret7", "Bearer *"),
        ("%2561ccess_token%253Ds3cret", None),
        ("amqp%3A%2F%2Fme%3Ahunter22%40broker", "amqp://me:*@broker"),
        ("at " + "".join(f"%{ord(each):02x}" for each in HEX), "at *"),
        ("at " + JWT.replace(".", "%2E"), "at *"),
        ("".join(f"%25{ord(each):02X}" for each in "password=it is"), "password=* is"),
    ],
)
def test_the_shape_of_a_secret_is_caught(text, left):
    cut = redact(text)
    assert REDACTED in cut
    if left is not None:
        assert cut.replace(REDACTED, "*") == left
    for secret in ("s3cret", "hunter2", "it is", "123456", "9x8y7z", "a1b2c3", HEX, JWT, FERNET):
        assert secret not in cut


@pytest.mark.parametrize(
    "text",
    [
        "strava link of user 5 has ended",
        "no key opens the strava tokens of user 5",
        f"Task id={uuid.UUID(int=7 << 120)} path=integrations.tasks.sync_gear state=SUCCESSFUL",
        f"lease {uuid.UUID(int=7 << 120).hex}",
        "strava answered 503: provider_unavailable",
        '{"error": {"code": "athlete_already_linked", "message": "…"}}',
        "exit code=255, status code: 404, state=linked",
        "https://www.strava.com/oauth/authorize?client_id=12345&scope=read,profile:read_all",
        "http://127.0.0.1:8000/settings/integrations/ for alice@example.com",
        "Applying integrations.0003_users_integrations_strava_athlete... OK",
        "digest e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "md5 d41d8cd98f00b204e9800998ecf8427e at commit a883710",
        "Forbidden (CSRF token missing.): /accounts/login/",
        "Your password was reset. Bearer authentication is basic knowledge.",
        "access_token=None, refresh_token=null",
        '"GET /healthz/ HTTP/1.1" 200 1234567',
        "/settings/%C3%BC/?next=%2Fsettings%2F%3Fa%3D1 is 100% fine, 5%20 of %zz",
        'SELECT "users_integrations"."strava_token", "users_integrations"."strava_refresh_token"',
        "",
    ],
)
def test_ordinary_text_is_kept(text):
    assert redact(text) is text


def test_a_whole_sha1_goes_with_strava_s_tokens():
    """Decided: the two cannot be told apart, and a shortened commit says as much."""
    assert redact(f"commit {HEX}") == f"commit {REDACTED}"


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


def filtered(message, *args, exc_info=None, **extra):
    record = logging.getLogger("x").makeRecord(
        "x", logging.WARNING, "x.py", 1, message, args, exc_info, extra=extra
    )
    found = WithoutSecrets().filter(record)
    return record, record if found is True else found


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("%s", (HEX,), REDACTED),
        ("%d of %5.1f%%", (3, 2.5), "3 of   2.5%"),
        ("%(a)s", ({"a": HEX},), REDACTED),
        ("%s", ({"access_token": "s3cret"},), "{'access_token': [redacted]}"),
        ("%r", (b"access_token=s3cret",), "b'access_token=[redacted]'"),
        ("access_token=%s", ("s3cret",), f"access_token={REDACTED}"),
        ("100 % sure", (), "100 % sure"),
        ({"password": "s3cret"}, (), "{'password': [redacted]}"),
        (exceptions.InvalidState(), (), None),
        (None, (), "None"),
        ("%s", (None,), "None"),
    ],
)
def test_messages_and_arguments_of_any_kind_pass(message, args, expected):
    _before, record = filtered(message, *args)
    assert expected in (None, record.getMessage())


@pytest.mark.parametrize(
    ("message", "args"),
    [("%d", (HEX,)), ("%s %s", (HEX,)), ("%s", (Unprintable(),)), ("%s %s", (Unprintable(),))],
)
def test_a_line_that_cannot_be_formatted_shows_no_secret_either(message, args, capsys):
    _before, record = filtered(message, *args)
    assert HEX not in logging.Formatter().format(record)
    assert capsys.readouterr() == ("", "")


def test_a_traceback_is_cut_and_the_record_left_to_others_as_it_was():
    try:
        raise ValueError(f"cannot use {HEX}")
    except ValueError:
        before, after = filtered(
            "failed", exc_info=sys.exc_info(), body=f"x {HEX}", odd=Unprintable()
        )
    text = logging.Formatter().format(after)
    assert text.startswith("failed\nTraceback")
    assert f"ValueError: cannot use {REDACTED}" in text
    assert HEX not in text + after.body
    assert (before.exc_info[0], before.exc_text) == (ValueError, None)


def endless():
    """As what a careless caller logs: a list that has itself in it."""
    found = ["access_token=s3cret"]
    found.append(found)
    return found


@dataclass
class Hides:
    """As `Session` does: not in its repr, but a JSON line takes it apart."""

    di_token: str = field(repr=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("access_token", "s3cret"),
        ("fernet_keys", ["s3cret"]),
        ("session", Hides("s3cret")),
        ("sessions", {"of": [Hides("s3cret")]}),
        ("body", b"access_token=s3cret"),
        ("endless", endless()),
        ("fields", {"password": "s3cret"}),
    ],
)
def test_a_json_line_shows_no_more_than_the_record_does(name, value):
    _before, record = filtered("failed", **{name: value})
    formatter = DictConfigurator({}).configure_custom(dict(site._LOG_FORMATS["json"]))
    line = formatter.format(record)
    assert json.loads(line)["message"] == "failed"
    assert "s3cret" not in line
    assert base64.b64encode(b"access_token=s3cret").decode() not in line


FORGED = ["a\nFORGED", "a\r\nFORGED", "a\x0bFORGED", "a\x1b[2K\x1b[GFORGED", "a\x85FORGED"]
FORGED += ["a\u2028FORGED", "a\u202eDEGROF", "a\ud800FORGED", "a\x00FORGED", "a\x7fFORGED"]


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("log_format", ["line", "json"])
def test_nobody_writes_a_line_of_their_own_into_the_log(text, log_format):
    def lines(**record):
        written = io.StringIO()
        handler = logging.StreamHandler(written)
        handler.setFormatter(formatter)
        for each in (WithoutSecrets(), *([OnOneLine()] if log_format == "line" else [])):
            handler.addFilter(each)
        handler.handle(logging.makeLogRecord({"levelname": "INFO", "name": "x"} | record))
        written.getvalue().encode()  # as the stream does
        return written.getvalue().splitlines()

    config = dict(site._LOG_FORMATS[log_format])
    formatter = (
        DictConfigurator({}).configure_custom(config)
        if log_format == "json"
        else logging.Formatter(config["format"])
    )
    [line] = lines(msg="Not Found: %s", args=(text,))
    assert "FORGED" in line or "DEGROF" in line
    assert line.isprintable()
    try:
        raise RuntimeError(text)
    except RuntimeError:
        first, *more = lines(msg="failed", exc_info=sys.exc_info())
    assert first.isprintable()
    assert all(line.startswith("  ") and line.isprintable() for line in more)
    assert log_format == "json" or more


def test_a_record_with_nothing_to_hide_is_not_copied():
    before, after = filtered("user %s", 5, event="strava.link_ended")
    assert after is before
    assert after.args == (5,)


def test_a_hostile_line_costs_what_its_length_costs():
    lines = ["token" * 40_000, "eyJ" * 60_000, "://a:" * 40_000, "code=a" * 30_000, "\\" * 100_000]
    start = time.monotonic()
    lines += ["%25" * 70_000, "%" * 200_000, "%" + "25" * 100_000, "%3d%74oken" * 20_000]
    lines += ["://a:" * 40_000 + " =", "token=" + "\\" * 99_999 + "'" + "\\" * 99_999]
    for line in [*lines, "token" + " " * 200_000, "password='" * 20_000, "state=" + "a." * 90_000]:
        redact(line)
    assert time.monotonic() - start < 20


def test_the_console_has_the_filters(db):
    names = site.LOGGING["handlers"]["console"]["filters"]
    classes = [site.LOGGING["filters"][name]["()"].rsplit(".", 1)[1] for name in names]
    filters = [WithEvent, WithoutQuery, WithoutSecrets, OnOneLine]
    assert classes == [each.__name__ for each in filters]
    assert all(
        handlers == ["console"]
        for logger in [site.LOGGING["root"], *site.LOGGING["loggers"].values()]
        if (handlers := logger.get("handlers"))
    )
    call_command("check", verbosity=0)
