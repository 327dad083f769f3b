"""The only reader of Django's settings in this app; each value is read when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.urls import get_script_prefix

DEFAULTS: dict[str, Any] = {
    "STRAVA_CLIENT_ID": "",
    "STRAVA_CLIENT_SECRET": "",
    "STRAVA_WEBHOOK_VERIFY_TOKEN": "",
    "INTEGRATIONS_BASE_URL": "",
    "INTEGRATIONS_TRAIL_DAYS": 365,
    "INTEGRATIONS_SPOOL_DIR": "",
    "STRAVA_SCOPES": ["read", "profile:read_all"],
    # OAuth stays at www.strava.com when the API moves to a host of its own in
    # 2027, hence two settings. Source: https://developers.strava.com/docs/changelog/
    "STRAVA_OAUTH_URL": "https://www.strava.com/oauth",
    "STRAVA_API_URL": "https://www.strava.com/api/v3",
}


def _get(name: str) -> Any:
    return getattr(settings, name, DEFAULTS[name])


def fernet_keys() -> tuple[str, ...]:
    """Every key that may open a stored secret, the one that seals new ones first."""
    return tuple(getattr(settings, "FERNET_KEYS", None) or [settings.SECRET_KEY])


def fernet_use_hkdf() -> bool:
    """Whether keys are passed through HKDF (fernet_fields' own setting, on by default)."""
    return bool(getattr(settings, "FERNET_USE_HKDF", True))


def strava_client() -> tuple[str, str] | None:
    """The site's own Strava app as (client_id, client_secret), or None where it has none."""
    client_id, client_secret = _get("STRAVA_CLIENT_ID"), _get("STRAVA_CLIENT_SECRET")
    return (str(client_id), str(client_secret)) if client_id and client_secret else None


def strava_webhook_verify_token() -> str:
    """The token that Strava repeats in a push subscription's handshake; "" where none is set."""
    return str(_get("STRAVA_WEBHOOK_VERIFY_TOKEN"))


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


def strava_scopes() -> list[str]:
    """The scopes asked for at Strava, in the order of the setting: a list, or text separated by
    commas or spaces."""
    scopes = _get("STRAVA_SCOPES")
    text = scopes if isinstance(scopes, str) else ",".join(scopes)
    return list(dict.fromkeys(text.replace(",", " ").split()))


def strava_oauth_url() -> str:
    """Base of Strava's OAuth endpoints, without a trailing slash."""
    return str(_get("STRAVA_OAUTH_URL")).rstrip("/")


def strava_api_url() -> str:
    """Base of Strava's API, without a trailing slash."""
    return str(_get("STRAVA_API_URL")).rstrip("/")
