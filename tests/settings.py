"""The site's settings for tests: fixed keys, and a database that other processes can open."""

import os
import tempfile
from pathlib import Path
from uuid import uuid4

# In memory, where the machine has such a place: after each commit SQLite waits for the disk, and no
# test cuts the power. conftest makes it, because mypy reads this file, too.
TESTS_DIRECTORY = (
    Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    / f"integrations-tests-{uuid4()}"
)

# Set outright, so that neither a developer's .env nor their shell changes what is tested. The
# few that a run may choose are named here.
_CHOSEN = {"DATABASE_URL": os.environ.get("TEST_DATABASE_URL", "sqlite:///unused.sqlite3")}
# Providers that no test sees unless it gives the site an app there.
_OTHERS = ("POLAR", "WAHOO", "INTERVALS")
os.environ.update(
    {
        "DEBUG": "on",
        "SECRET_KEY": "tests-only-secret-key-0123456789-abcdefghijklmnop",
        "FERNET_KEYS": "tests-only-fernet-key-0123456789-abcdefghijklmnop",
        "ALLOWED_HOSTS": "testserver,localhost,127.0.0.1",
        "CSRF_TRUSTED_ORIGINS": "",
        "INTEGRATIONS_BASE_URL": "",
        "SCRIPT_NAME": "",
        "INSECURE_HTTP": "off",
        "INTEGRATIONS_SANDBOX": "off",
        "INTEGRATIONS_SPOOL_DIR": str(TESTS_DIRECTORY / "spool"),
        "TASKS_BACKEND": "immediate",
        "EMAIL_URL": "",
        "STAFF_SECOND_FACTOR": "off",
        "PROMETHEUS": "off",
        "PROMETHEUS_TOKEN": "",
        "LOG_FORMAT": "line",
        "CACHE_URL": "locmemcache://",
        "FORWARDED_ALLOW_IPS": "127.0.0.1,::1",
        "STRAVA_CLIENT_ID": "",
        "STRAVA_CLIENT_SECRET": "",
        "STRAVA_SCOPES": "read,profile:read_all",
        # Nobody listens there: a test that forgets to name its sandbox reaches nothing.
        "STRAVA_OAUTH_URL": "http://127.0.0.1:9/oauth",
        "STRAVA_API_URL": "http://127.0.0.1:9/api/v3",
        **{f"{name}_{what}": "" for name in _OTHERS for what in ("CLIENT_ID", "CLIENT_SECRET")},
        **{f"{name}_SCOPES": "" for name in _OTHERS},
        **{
            f"{name}_{what}_URL": "http://127.0.0.1:9"
            for name in _OTHERS
            for what in ("AUTHORIZE", "TOKEN", "REVOKE", "API")
        },
        **_CHOSEN,
    }
)

from project.settings import *  # noqa: E402, F403
from project.settings import DATABASES  # noqa: E402

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, not memory: threads and processes of a test open it, too.
    DATABASES["default"]["TEST"] = {"NAME": str(TESTS_DIRECTORY / "test.sqlite3")}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
