"""Other processes for a test: the same site, the same database, an environment of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connection

BASE_DIR = Path(__file__).resolve().parent.parent


def database_url() -> str:
    """The test database as a DATABASE_URL."""
    config = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{config['NAME']}"
    login = quote(config["USER"]) + (f":{quote(config['PASSWORD'])}" if config["PASSWORD"] else "")
    return f"postgres://{login}@{config['HOST']}:{config['PORT'] or 5432}/{config['NAME']}"


def environment(**more: str) -> dict[str, str]:
    """The environment in which `project.settings` is this test's site."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": str(BASE_DIR),
        "DEBUG": "on",
        "DATABASE_URL": database_url(),
        "SECRET_KEY": settings.SECRET_KEY,
        "FERNET_KEYS": ",".join(settings.FERNET_KEYS),
        "STRAVA_CLIENT_ID": settings.STRAVA_CLIENT_ID,
        "STRAVA_CLIENT_SECRET": settings.STRAVA_CLIENT_SECRET,
        "STRAVA_OAUTH_URL": settings.STRAVA_OAUTH_URL,
        "STRAVA_API_URL": settings.STRAVA_API_URL,
        **more,
    }


PYTHON = sys.executable
