"""What athletes, staff and workers do, said only in what every release of the site has.

A test of the new release calls these functions; the code of the last one runs this file by itself,
with that release's folder as its place: each line of its input is a call, each line of its output
what came of it, both JSON.
"""

from __future__ import annotations

import inspect
import io
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

JSON = {"accept": "application/json"}


def _client(user_id: int) -> Client:
    client = Client()
    client.force_login(get_user_model().objects.get(pk=user_id))
    return client


def _press(user_id: int, path: str, **fields: str) -> Any:
    response = _client(user_id).post(f"/integrations/{path}/", fields, headers=JSON)
    assert response.status_code < 400, response.content
    return response.json() if response.content else None


def connect(user_id: int) -> str:
    """Begin with Strava; returns the state."""
    return str(_press(user_id, "strava/connect")["state"])


def come_back(user_id: int, state: str, code: str, scope: str) -> str:
    """Follow Strava's redirect; returns the link's status."""
    client = _client(user_id)
    query = {"state": state, "code": code, "scope": scope}
    assert client.get("/integrations/strava/callback/", query).status_code == 302
    return str(look(user_id)["strava"]["status"])


def sign_in(user_id: int, email: str, password: str) -> str:
    """Sign in to Garmin, in this process; returns the link's status."""
    fields = {"email": email, "password": password}
    _client(user_id).post("/integrations/garminconnect/connect/", fields, headers=JSON)
    return str(look(user_id)["garminconnect"]["status"])


def answer(user_id: int, code: str) -> str:
    """Answer Garmin's question for a code; returns the link's status."""
    _press(user_id, "garminconnect/mfa", code=code)
    return str(look(user_id)["garminconnect"]["status"])


def look(user_id: int) -> dict[str, Any]:
    """Open the page, and return what the status URL says."""
    client = _client(user_id)
    page = client.get("/settings/integrations/")
    assert page.status_code == 200
    status: dict[str, Any] = client.get("/integrations/status/").json()
    for provider, state in status.items():
        assert f'data-provider="{provider}"'.encode() in page.content
        assert f'data-status="{state["status"]}"'.encode() in page.content
    return status


def want_gear(user_id: int, provider: str) -> None:
    _press(user_id, f"{provider}/preferences", sync_gear="on")


def sync_gear(user_id: int, provider: str) -> int:
    """Press "Sync now"; returns how many pieces of gear there are."""
    _press(user_id, f"{provider}/gear/sync")
    return int(look(user_id)[provider]["gear"])


def disconnect(user_id: int, provider: str) -> str:
    _press(user_id, f"{provider}/disconnect")
    return str(look(user_id)[provider]["status"])


def token(user_id: int) -> str:
    from integrations import services

    return services.get_strava_access_token(user_id)


def ride(user_id: int) -> str:
    """Ask Garmin something with the stored session; returns the name there."""
    from integrations import services

    return str(services.get_garminconnect_client(user_id).get_full_name())


def sweep() -> dict[str, int]:
    out = io.StringIO()
    call_command("refresh_strava_tokens", "--json", stdout=out)
    counts: dict[str, int] = json.loads(out.getvalue())
    return counts


def turn_keys() -> None:
    call_command("rotate_fernet_keys", verbosity=0, stdout=io.StringIO())


def administer(staff_id: int) -> None:
    """Open the lists and the first row of each of the app's tables as staff."""
    from django.apps import apps
    from django.contrib import admin
    from django.urls import reverse

    client = _client(staff_id)
    for model in apps.get_app_config("integrations").get_models():
        if admin.site.is_registered(model):
            name = f"admin:integrations_{model._meta.model_name}"
            assert client.get(reverse(f"{name}_changelist")).status_code == 200
            if (first := model._default_manager.first()) is not None:
                page = client.get(reverse(f"{name}_change", args=[first.pk]))
                assert page.status_code == 200


def codes() -> list[str]:
    """The codes of this release's errors, some of which are stored."""
    from integrations import exceptions

    classes: list[Any] = [exceptions.IntegrationsError]
    for cls in classes:  # the loop adds to it
        classes.extend(cls.__subclasses__())
    return sorted({cls.code for cls in classes})


def tasks(*names: str) -> dict[str, list[str]]:
    """The parameters of these tasks, or of every task that this release enqueues, by its name."""
    from django.tasks import Task

    from integrations import tasks

    return {
        name: list(inspect.signature(each.func).parameters)
        for name in names or vars(tasks)
        if isinstance(each := getattr(tasks, name, None), Task)
    }


def main(sandbox_url: str) -> None:
    import django

    django.setup()
    from integrations.sandbox.garmin import hook

    hook.point_library_at(sandbox_url, pauses=False)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        call: Callable[..., Any] = globals()[name]
        try:
            came = {"returned": call(*arguments)}
        except Exception:
            came = {"raised": traceback.format_exc()}
        print(json.dumps(came), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
