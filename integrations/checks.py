"""System checks: problems that an operator should know before an athlete finds them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections, router
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, task_backends
from django.tasks.backends.dummy import DummyBackend
from django.tasks.backends.immediate import ImmediateBackend
from django.urls import NoReverseMatch, reverse

from . import conf, providers, services
from .exceptions import IntegrationsDatabaseError
from .models import FernetCanary, UsersIntegrations
from .oauth.provider import OAuthProvider

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@register(Tags.security)
def check_fernet_keys(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    keys = getattr(settings, "FERNET_KEYS", None) or []
    if not keys:
        message = "FERNET_KEYS is not set: tokens are encrypted with a key made from SECRET_KEY."
        # Also under DEBUG: what was stored there would be lost with the first key of production.
        hint = (
            "Set FERNET_KEYS to a list with one random key, so that SECRET_KEY can be changed by "
            "itself. If secrets are stored already, put SECRET_KEY after it, which opens them."
        )
        return [Error(message, hint=hint, id="integrations.E001")]
    if not settings.DEBUG and any(len(key) < 32 or len(set(key)) < 8 for key in keys):
        return [
            Error(
                "A key in FERNET_KEYS is too weak.",
                hint="Every key needs at least 32 random characters.",
                id="integrations.E002",
            )
        ]
    return []


@register(Tags.security)
def check_provider_urls(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f"{name} is not an https address: tokens would cross the network in the clear.",
            id="integrations.E003",
        )
        for provider in _oauth_providers()
        for name, url in provider.addresses().items()
        if urlsplit(url).scheme != "https" and urlsplit(url).hostname not in _LOOPBACK
    ]


@register
def check_base_url(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if not conf.base_url():
        return []
    try:
        parts = urlsplit(conf.base_url())
        fit = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fit = False
    else:
        fit = fit and not (parts.query or parts.fragment or "@" in parts.netloc)
    if fit:
        return []
    return [
        Error(
            "INTEGRATIONS_BASE_URL is not the address of a site.",
            hint="It is the scheme, the host and, if need be, a path: https://example.com/athletes",
            id="integrations.E008",
        )
    ]


@register
def check_scopes(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A provider may show the athlete an error page if a scope is unknown or none is asked for."""
    found: list[CheckMessage] = []
    for provider in _oauth_providers():
        scopes, known = provider.requested_scopes(), provider.known_scopes
        if not known or not provider.is_shown() or (scopes and known.keys() >= set(scopes)):
            continue
        setting = f"{provider.name.upper()}_SCOPES"
        found.append(
            Error(
                f"{setting} names a scope that {provider.label} does not have."
                if scopes
                else f"{setting} names no scope.",
                hint=f"Known are: {', '.join(known)}.",
                id="integrations.E005",
            )
        )
    return found


def _oauth_providers() -> list[OAuthProvider]:
    return [each for each in providers.known().values() if isinstance(each, OAuthProvider)]


@register(Tags.database)
def check_fernet_canary(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Only where checks may use the database: `check --database default`, and `migrate`."""
    if not databases or router.db_for_read(FernetCanary) not in databases:
        return []
    try:
        opens = services.fernet_keys_open_secrets()
    except IntegrationsDatabaseError:  # not migrated yet
        return []
    if opens:
        return []
    return [
        Error(
            "FERNET_KEYS does not open the stored secrets.",
            hint=(
                "Add the key that they were stored with to FERNET_KEYS, after the newest. If it is "
                "lost for good, those athletes have to reconnect; then run "
                "`rotate_fernet_keys --accept-loss`, after `migrate --skip-checks` where a "
                "migration is pending."
            ),
            id="integrations.E004",
        )
    ]


@register
def check_site_apps(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for provider in _oauth_providers():
        names = [f"{provider.name.upper()}_CLIENT_{which}" for which in ("ID", "SECRET")]
        given = [
            bool(conf.of_provider(provider.name, f"CLIENT_{which}")) for which in ("ID", "SECRET")
        ]
        if any(given) and not all(given):
            found.append(
                checks.Warning(
                    f"Only one of {names[0]} and {names[1]} is set: the site counts as having no "
                    f"{provider.label} app of its own.",
                    id="integrations.W001",
                )
            )
    return found


@register
def check_time_zone(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.USE_TZ:
        return []
    return [
        Error(
            "USE_TZ is off, so it cannot be told at which moment a token expires.",
            hint="Set USE_TZ = True. TIME_ZONE stays what it is.",
            id="integrations.E006",
        )
    ]


@register
def check_database(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Judge the database by the engine's class, without connecting to it."""
    vendor = connections[router.db_for_write(UsersIntegrations)].vendor
    if vendor in ("postgresql", "sqlite"):
        return []
    return [
        Error(
            f"The database is not supported: {vendor}.",
            hint=(
                "The tables need unique constraints with a condition and upserts with a target, "
                "which PostgreSQL and SQLite have. A database router can put the app "
                "“integrations” there."
            ),
            id="integrations.E007",
        )
    ]


@register(Tags.urls)
def check_urls(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if not getattr(settings, "ROOT_URLCONF", None):  # a process that serves no pages
        return []
    try:
        reverse("integrations:settings")
    except NoReverseMatch:
        return [
            Error(
                "The pages of “integrations” are not in the URLconf.",
                hint=(
                    'Add path("", include("integrations.urls")) to the urlpatterns of '
                    f"{settings.ROOT_URLCONF}, not below a namespace of another."
                ),
                id="integrations.E009",
            )
        ]
    return []


@register
def check_libraries(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """What is switched on and lacks its library. Everything else works without it."""
    lacking = [
        (
            f"{each.label} is not offered",
            each.library,
            each.package or each.library,
            "leave it out of INTEGRATIONS_PROVIDERS",
        )
        for each in providers.known().values()
        if not each.is_installed()
    ]
    if conf.prometheus() and find_spec("prometheus_client") is None:
        package = "django-athlete-integrations[prometheus]"
        lacking.append(
            ("Nothing is counted", "prometheus_client", package, "switch off PROMETHEUS")
        )
    return [
        checks.Warning(
            f"{what}: the library {library} is not installed.",
            hint=f'Run `pip install "{package}"`, or {otherwise}.',
            id="integrations.W004",
        )
        for what, library, package, otherwise in lacking
    ]


@register
def check_task_backend(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A password waits for a worker for less than a minute, if a worker or the clock is running."""
    backend = task_backends[DEFAULT_TASK_BACKEND_ALIAS]
    if isinstance(backend, ImmediateBackend):
        words = (
            "Tasks run in the web process, as they do where TASKS is left out: syncing gear and "
            "signing in to Garmin keep it busy for up to a minute."
        )
    elif isinstance(backend, DummyBackend):
        words = "Tasks are never run, so no gear is synced, and nobody can sign in to Garmin."
    else:
        return []
    return [
        checks.Warning(
            words,
            hint=(
                "Set TASKS to a backend with workers, and run the clock (see the README): without "
                "either, a Garmin password that nobody comes for is deleted only when the next "
                "athlete opens the page."
            ),
            id="integrations.W002",
        )
    ]


@register
def check_spool_dir(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """It is made when it is needed, so until then its parent has to let it be made."""
    folder = conf.spool_dir().absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    return [
        checks.Warning(
            "No file can be written to INTEGRATIONS_SPOOL_DIR, where tokens wait if they could not "
            "be stored before the process ended.",
            hint="Name a directory that this process may write to, and that a restart keeps.",
            id="integrations.W003",
        )
    ]
