"""A worker without the pauses that the garminconnect library makes before it sends a password."""

import django
from django.conf import settings
from django.core.management import call_command

from integrations.sandbox.garmin import hook

if __name__ == "__main__":
    django.setup()
    hook.point_library_at(settings.INTEGRATIONS_SANDBOX_URL, pauses=False)
    call_command("db_worker", "--interval", "0.05", "--no-reload")
