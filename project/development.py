"""What `make run` needs on a fresh clone: a .env with keys of its own, and users to sign in as."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
DEMO_USERS = {"alice": "an athlete", "bob": "another athlete", "admin": "staff, for /admin/"}


def write_dotenv() -> None:
    """Write .env for development, readable only by its owner. Keeps an existing one."""
    from integrations.sandbox import intervals, polar, strava, wahoo

    apps = {"STRAVA": strava, "POLAR": polar, "WAHOO": wahoo, "INTERVALS": intervals}
    lines = [
        "# For development, written by `make run`. Every setting is described in the README.",
        "DEBUG=on",
        f"SECRET_KEY={secrets.token_urlsafe(48)}",
        f"FERNET_KEYS={secrets.token_urlsafe(48)}",
        "# Stand-ins of the providers instead of the real ones.",
        "INTEGRATIONS_SANDBOX=on",
        "# The site's own app at each provider. Without one it is not shown, except for Strava:",
        "# there, athletes can paste an app of their own.",
    ]
    for name, app in apps.items():
        lines += [f"{name}_CLIENT_ID={app.CLIENT_ID}", f"{name}_CLIENT_SECRET={app.CLIENT_SECRET}"]
    try:
        # O_EXCL: two runs at once must not each write half of the keys.
        handle = os.open(BASE_DIR / ".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
    print("Wrote .env with new keys.")


def create_demo_users() -> None:
    """Create the demo users and print how to sign in. Does nothing unless DEBUG is on."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    import django
    from django.conf import settings

    django.setup()
    if not settings.DEBUG:
        return
    from django.contrib.auth import get_user_model

    users = get_user_model()
    print("\nDemo users (DEBUG is on):")
    for name, role in DEMO_USERS.items():
        if not users.objects.filter(username=name).exists():
            create = (
                users.objects.create_superuser if name == "admin" else users.objects.create_user
            )
            create(name, f"{name}@example.com", f"{name}-demo")
        print(f"  {name:<6} password {name}-demo  ({role})")
    print("\nOpen http://127.0.0.1:8000/ and press Ctrl-C here to end it all.\n", flush=True)


if __name__ == "__main__":
    {"dotenv": write_dotenv, "users": create_demo_users}[sys.argv[1]]()
