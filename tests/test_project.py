"""The site as an operator meets it: settings, checks, migrations, commands."""

from __future__ import annotations

import subprocess
from importlib import import_module
from types import SimpleNamespace

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command

from integrations import providers
from integrations.oauth.provider import OAuthProvider
from integrations.strava.provider import Strava
from project import development

from .processes import BASE_DIR, PYTHON

PRODUCTION = {
    "SECRET_KEY": "b9xwQ2fVh1mTz8rLk4sNp7cYd6uGe3jA-5oXiEvC0yKt-Hn2Jq8Wd4",
    "FERNET_KEYS": "Zr5tY8uI1oP4aS7dF0gH3jK6lX9cV2bN-mQwErTyUiO,"
    "Aq1sW2dE3fR4gT5hY6jU7kI8lO9pZ0xC-vBnMmNbVcX",
    "ALLOWED_HOSTS": "example.org",
    "DEBUG": "off",
}


def manage(*arguments, **environment):
    """Run manage.py with this environment and no other, away from any .env."""
    result = subprocess.run(
        [PYTHON, "-c", MANAGE, *arguments],
        env={"PYTHONPATH": str(BASE_DIR), "PATH": "/usr/bin:/bin", **environment},
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return result.returncode, result.stdout, result.stderr


# manage.py itself, but blind for the .env of whoever runs the tests.
MANAGE = """
import pathlib, runpy, sys
is_file = pathlib.Path.is_file
pathlib.Path.is_file = lambda self, **kw: self.name != ".env" and is_file(self, **kw)
sys.argv[0] = "manage.py"
runpy.run_path("manage.py", run_name="__main__")
"""


def test_the_deployment_check_is_silent_with_production_settings():
    code, out, err = manage("check", "--deploy", "--fail-level", "INFO", **PRODUCTION)
    assert (code, err) == (0, "")
    assert out.startswith("System check identified no issues")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY must be set"),
        ({"FERNET_KEYS": ""}, "FERNET_KEYS must be set"),
        ({"FERNET_KEYS": ","}, "FERNET_KEYS must be set"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is too weak"),
        ({"FERNET_KEYS": "x" * 50}, "FERNET_KEYS is too weak"),
        ({"FERNET_KEYS": PRODUCTION["FERNET_KEYS"] + ",short"}, "FERNET_KEYS is too weak"),
        ({"INTEGRATIONS_SANDBOX": "on"}, "INTEGRATIONS_SANDBOX is for development"),
    ],
)
def test_missing_and_weak_keys_are_refused_with_one_clear_line(change, words):
    code, _out, err = manage("check", **{**PRODUCTION, **change})
    assert code == 1
    assert words in err
    assert len(err.strip().splitlines()) == 1
    for value in change.values():
        assert len(value) < 5 or value not in err


def test_development_needs_no_keys():
    code, _out, err = manage("check", DEBUG="on")
    assert (code, err) == (0, "")


def test_production_serves_pages_without_collectstatic(tmp_path):
    script = (
        "from django.test import Client; "
        "response = Client().get('/accounts/login/', secure=True, headers={'host': 'example.org'});"
        "print(response.status_code, response.cookies['__Host-csrftoken']['secure'], "
        "Client().get('/accounts/login/', headers={'host': 'example.org'}).status_code, "
        "Client().get('/healthz/', headers={'host': 'example.org'}).status_code)"
    )
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    code, out, err = manage(
        "shell",
        "--no-imports",
        "-c",
        script,
        **PRODUCTION,
        DATABASE_URL=url,
        PYTHONWARNINGS="ignore",
    )
    assert code == 0, err
    # Without its migrations it is not healthy, but says so: the probe is not sent to https.
    assert out.strip() == "200 True 301 503"


def test_models_and_migrations_agree(db):
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_migrations_reverse():
    call_command("migrate", "integrations", "zero", verbosity=0)
    call_command("migrate", "integrations", verbosity=0)


def messages_of(settings, **changes):
    for name, value in changes.items():
        setattr(settings, name, value)
    return [message.id for message in run_checks() if message.id.startswith("integrations")]


@pytest.fixture
def with_workers(settings):
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}


def test_checks_are_silent_where_all_is_well(db, settings, with_workers):
    assert messages_of(settings) == []


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({"FERNET_KEYS": [], "DEBUG": False}, ["integrations.E001"]),
        ({"FERNET_KEYS": [], "DEBUG": True}, ["integrations.E001"]),
        ({"FERNET_KEYS": ["weak"], "DEBUG": False}, ["integrations.E002"]),
        ({"STRAVA_API_URL": "http://strava.example"}, ["integrations.E003"]),
        ({"STRAVA_OAUTH_URL": "http://strava.example"}, ["integrations.E003"]),
        ({"STRAVA_OAUTH_URL": "http://localhost:8001/oauth"}, []),
        ({"STRAVA_CLIENT_ID": "1", "STRAVA_CLIENT_SECRET": ""}, ["integrations.W001"]),
        ({"USE_TZ": False}, ["integrations.E006"]),
        ({"INTEGRATIONS_SPOOL_DIR": __file__}, ["integrations.W003"]),
        ({"ROOT_URLCONF": "django.contrib.auth.urls"}, ["integrations.E009"]),
        ({"ROOT_URLCONF": ""}, []),
        *(
            ({"TASKS": {"default": {"BACKEND": f"{backend}Backend"}}}, ["integrations.W002"])
            for backend in (
                "django.tasks.backends.immediate.Immediate",
                "django.tasks.backends.dummy.Dummy",
            )
        ),
        ({"STRAVA_SCOPES": ["read", "profile:readall"]}, ["integrations.E005"]),
        ({"STRAVA_SCOPES": ["Read"]}, ["integrations.E005"]),
        ({"STRAVA_SCOPES": "read;activity:read"}, ["integrations.E005"]),
        ({"STRAVA_SCOPES": []}, ["integrations.E005"]),
        ({"STRAVA_SCOPES": ["read activity:read"]}, []),
        ({"STRAVA_SCOPES": "read_all, profile:write activity:read_all\nactivity:write"}, []),
    ],
)
def test_checks_tell_the_operator(db, settings, with_workers, changes, ids):
    assert messages_of(settings, **changes) == ids


def test_a_site_that_leaves_tasks_out_is_told(db, settings):
    del settings.TASKS
    assert messages_of(settings) == ["integrations.W002"]


@pytest.mark.parametrize("vendor", ["mysql", "oracle", "somethingelse"])
def test_a_database_that_is_not_supported_is_told(db, settings, with_workers, monkeypatch, vendor):
    others = {"default": SimpleNamespace(vendor=vendor)}
    monkeypatch.setattr("integrations.checks.connections", others)
    assert messages_of(settings) == ["integrations.E007"]


@pytest.mark.parametrize(
    "scopes",
    [
        "read,activity:read",
        "read activity:read",
        " read ,\n activity:read,read",
        ["read activity:read"],
        ["read", "activity:read"],
        ("read,activity:read", ""),
    ],
)
def test_scopes_are_read_however_a_host_writes_them(settings, scopes):
    settings.STRAVA_SCOPES = scopes
    assert Strava().requested_scopes() == ["read", "activity:read"]


def test_the_sandbox_is_for_development_only(settings):
    settings.DEBUG = False
    with pytest.raises(CommandError):
        call_command("sandbox")


def test_make_run_writes_keys_once_and_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setattr(development, "BASE_DIR", tmp_path)
    development.write_dotenv()
    dotenv = tmp_path / ".env"
    written = dotenv.read_text()
    development.write_dotenv()

    assert dotenv.read_text() == written
    assert dotenv.stat().st_mode & 0o077 == 0
    values = dict(line.split("=", 1) for line in written.splitlines() if "=" in line)
    assert len(values["SECRET_KEY"]) >= 50
    assert values["SECRET_KEY"] != values["FERNET_KEYS"]


def test_make_run_shows_every_provider(tmp_path, monkeypatch):
    """The sandbox has an app at each that needs one."""
    monkeypatch.setattr(development, "BASE_DIR", tmp_path)
    development.write_dotenv()
    values = dict(
        line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines() if "=" in line
    )
    for provider in providers.known().values():
        if isinstance(provider, OAuthProvider):
            sandbox = import_module(f"integrations.sandbox.{provider.name}")
            app = (sandbox.CLIENT_ID, sandbox.CLIENT_SECRET)
            name = provider.name.upper()
            assert (values[f"{name}_CLIENT_ID"], values[f"{name}_CLIENT_SECRET"]) == app
