"""An athlete's and staff's day at such a host; any failure ends it with a traceback."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.host.settings"

import django

django.setup()

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from integrations import services, tasks
from integrations.garminconnect.login import cancel_login
from integrations.models import Gear, LinkEvent, UsersIntegrations
from integrations.sandbox import Sandbox
from integrations.sandbox.strava import ALICE, CLIENT_ID, CLIENT_SECRET
from integrations.strava import tasks as strava_tasks

JSON = {"accept": "application/json"}
LIST = "/admin/integrations/usersintegrations/"


def work() -> None:
    call_command("db_worker", batch=True, reload=False, verbosity=0)


def main(sandbox: Sandbox) -> None:
    settings.STRAVA_OAUTH_URL, settings.STRAVA_API_URL = (
        f"{sandbox.url}/oauth",
        f"{sandbox.url}/api/v3",
    )
    settings.STRAVA_CLIENT_ID, settings.STRAVA_CLIENT_SECRET = CLIENT_ID, CLIENT_SECRET
    call_command("migrate", run_syncdb=True, verbosity=0)
    users = get_user_model().objects
    alice, root = users.create_user("alice"), users.create_superuser("root")
    row = services.create_user_integrations(alice.pk)
    services.link_strava_account(row, sandbox.strava.issue_tokens(ALICE))
    athlete, staff = Client(), Client()
    athlete.force_login(alice)
    staff.force_login(root)

    assert athlete.get("/settings/integrations/").status_code == 200
    assert athlete.post("/integrations/strava/gear/sync/", headers=JSON).status_code == 202
    work()
    assert Gear.objects.filter(user=alice).count() == 4
    synced = LinkEvent.objects.get(event="synced")
    assert (synced.actor, synced.actor_user) == ("athlete", alice)

    form = {"email": "nobody@example.com", "password": "wrong"}
    response = athlete.post("/integrations/garminconnect/connect/", form, headers=JSON)
    assert response.status_code == 202

    services.set_sync_gear(alice.pk, "strava", True)
    assert tasks.sync_due_gear.call() == 1
    call_command("sync_gear", provider="strava", user=str(alice.pk))
    assert athlete.get("/integrations/export/").json()["gear"]
    for path in ("", f"{row.pk}/change/"):
        assert staff.get(f"{LIST}{path}").status_code == 200
    asked = {"action": "sync_gear", "_selected_action": [row.pk]}
    assert staff.post(LIST, asked).status_code == 302

    sandbox.strava.revoke_grant(ALICE)
    UsersIntegrations.objects.update(strava_check_due_at=timezone.now())
    assert strava_tasks.confirm_due_strava_revocations.call() == 1
    cancel_login(alice.pk)  # nobody asks Garmin here
    work()
    assert services.get_integrations_status(alice.pk)["strava"]["status"] == "not_linked"
    alice.delete()
    assert not UsersIntegrations.objects.exists()


with Sandbox() as sandbox:
    main(sandbox)
