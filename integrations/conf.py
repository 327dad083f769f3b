"""The only reader of Django's settings in this app; each value is read when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.urls import get_script_prefix

DEFAULTS: dict[str, Any] = {
    "INTEGRATIONS_PROVIDERS": [
        "integrations.strava.provider.Strava",
        "integrations.garminconnect.provider.GarminConnect",
        "integrations.polar.provider.Polar",
        "integrations.wahoo.provider.Wahoo",
        "integrations.intervals.provider.Intervals",
    ],
    "INTEGRATIONS_BASE_URL": "",
    "INTEGRATIONS_TRAIL_DAYS": 365,
    "INTEGRATIONS_SPOOL_DIR": "",
    "INTEGRATIONS_SANDBOX": False,
    "INTEGRATIONS_SANDBOX_URL": "http://127.0.0.1:8001",  # where `manage.py sandbox` serves
    "PROMETHEUS": False,
}


def _get(name: str) -> Any:
    return getattr(settings, name, DEFAULTS[name])


def provider_paths() -> tuple[str, ...]:
    """The dotted paths of the providers' classes."""
    return tuple(_get("INTEGRATIONS_PROVIDERS"))


def of_provider(name: str, what: str, default: Any = "") -> Any:
    """A setting of one provider: `of_provider("wahoo", "CLIENT_ID")` is WAHOO_CLIENT_ID."""
    return getattr(settings, f"{name.upper()}_{what}", default)


def require_valid(name: str) -> None:
    """Raises ImproperlyConfigured for a setting of a provider's that is a refusal: a project that
    reads the environment cannot know yet whether a variable is meant for this app."""
    for each in dir(settings):
        if each.startswith(f"{name.upper()}_"):
            value = getattr(settings, each)
            if isinstance(value, ImproperlyConfigured):
                raise value


def scopes_of(name: str, default: Any) -> list[str]:
    """The scopes asked for, in the order of the setting: a list, or text separated by commas or
    spaces."""
    scopes = of_provider(name, "SCOPES", default)
    text = scopes if isinstance(scopes, str) else ",".join(scopes)
    return list(dict.fromkeys(text.replace(",", " ").split()))


def prometheus() -> bool:
    """Whether metrics are counted."""
    return bool(_get("PROMETHEUS"))


def sandbox_url() -> str:
    """Where the stand-ins of the providers are, "" if they are not used; only with DEBUG."""
    return (
        str(_get("INTEGRATIONS_SANDBOX_URL"))
        if settings.DEBUG and _get("INTEGRATIONS_SANDBOX")
        else ""
    )


def fernet_keys() -> tuple[str, ...]:
    """Every key that may open a stored secret, the one that seals new ones first."""
    return tuple(getattr(settings, "FERNET_KEYS", None) or [settings.SECRET_KEY])


def fernet_use_hkdf() -> bool:
    """Whether keys are passed through HKDF (fernet_fields' own setting, on by default)."""
    return bool(getattr(settings, "FERNET_USE_HKDF", True))


def base_url() -> str:
    """The site's public address, without a trailing slash; "" to take it from each request."""
    return str(_get("INTEGRATIONS_BASE_URL")).rstrip("/")


def public_url(path: str, request: HttpRequest | None = None) -> str:
    """The public URL of a path from `reverse`: below INTEGRATIONS_BASE_URL, or else at the address
    of the request. With neither, the path alone.
    """
    base = base_url()
    if not base:
        return request.build_absolute_uri(path) if request else path
    if urlsplit(base).path:  # then it has the sub-path that `reverse` added, too
        path = path.removeprefix(get_script_prefix().rstrip("/"))
    return base + path


def trail_days() -> int:
    """How many days the trail of link events is kept."""
    return int(_get("INTEGRATIONS_TRAIL_DAYS"))


def spool_dir() -> Path:
    """Where providers' answers wait for a database that is away; `spool` in the project's folder,
    unless the setting names another."""
    return Path(_get("INTEGRATIONS_SPOOL_DIR") or Path(getattr(settings, "BASE_DIR", "")) / "spool")
