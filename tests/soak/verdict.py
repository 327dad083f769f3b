"""What is left once the noise is over."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from integrations.sandbox import Sandbox
from integrations.sandbox.garmin import PASSWORD, hook
from integrations.sandbox.strava import CLIENT_ID, CLIENT_SECRET

from ..test_secrets import everything_stored
from .fleet import KEYS, Fleet
from .traffic import BIKES, Person, Tally

# What counts as alive without a sign of life: the longest of leases, sign-ins and syncs.
QUIET = 75  # seconds


def wait_for_quiet(fleet: Fleet) -> None:
    """Let the site go on by itself until every lease must have run out and the queue is empty."""
    from django.db import connections
    from django.utils import timezone
    from django_tasks_db.models import DBTaskResult

    from integrations.models import UsersIntegrations

    connections.close_all()  # one of them may have been killed
    # As if an hour had passed, and with it what a 429 or a failure has put off.
    put_off = ("strava_limited_until", "strava_retry_at", "garminconnect_limited_until")
    UsersIntegrations.objects.update(**dict.fromkeys((*put_off, "garminconnect_retry_at")))
    fleet.command("refresh_strava_tokens", "--within=600")
    give_up = time.monotonic() + 10 * 60
    quiet = time.monotonic() + QUIET
    while time.monotonic() < give_up:
        living = fleet.worker_ids()
        busy = (
            DBTaskResult.objects.ready().exists()
            or any(task.worker_ids[-1] in living for task in DBTaskResult.objects.running())
            # The scheduler looks every five minutes.
            or UsersIntegrations.objects.filter(strava_check_due_at__lt=timezone.now()).exists()
        )
        if not busy and time.monotonic() > quiet:
            return
        time.sleep(1)


def give(
    name: str,
    minutes: float,
    seed: int,
    people: list[Person],
    sandbox: Sandbox,
    secrets: set[str],
    tally: Tally,
    logs: Path,
    costs_links: bool,
) -> int:
    from django.conf import settings

    from integrations.models import LinkEvent

    settings.FERNET_KEYS = KEYS
    settings.STRAVA_CLIENT_ID, settings.STRAVA_CLIENT_SECRET = CLIENT_ID, CLIENT_SECRET
    settings.STRAVA_OAUTH_URL = f"{sandbox.url}/oauth"
    settings.STRAVA_API_URL = f"{sandbox.url}/api/v3"
    stuck = Counter(find_stuck())
    end_the_grace()
    links: Counter[str] = Counter()
    if not costs_links:
        # Their athletes may have connected again since.
        ended = LinkEvent.objects.filter(event=LinkEvent.Event.RELINK_REQUIRED).count()
        links += Counter({"LOST: came to say relink": ended})
    with hook.pointed_at(sandbox.url, pauses=False):
        for person in people:
            links[f"Strava: {judge_strava(person, sandbox)}"] += 1
            links[f"Garmin: {judge_garmin(person, sandbox)}"] += 1
    leaks = find_leaks(secrets | {PASSWORD, CLIENT_SECRET, *KEYS}, logs)
    report(name, minutes, seed, sandbox, tally, links, stuck, leaks)
    lost = sum(count for what, count in links.items() if "LOST" in what)
    return 1 if lost or stuck or leaks else 0


def end_the_grace() -> None:
    """As if what waits after a killed refresher had waited for long enough."""
    from django.utils import timezone

    from integrations.models import UsersIntegrations
    from integrations.services._single_flight import WAITING

    for provider in ("strava", "garminconnect"):
        UsersIntegrations.objects.filter(**{f"{provider}_lease__isnull": False}).update(
            **{f"{provider}_lease": WAITING, f"{provider}_lease_until": timezone.now()}
        )


def judge_strava(person: Person, sandbox: Sandbox) -> str:
    """ "whole", "not linked", "relink: …", or "LOST: …"."""
    from integrations import exceptions, services
    from integrations.models import Gear, LinkStatus, UsersIntegrations

    row = UsersIntegrations.objects.filter(user=person.user).first()
    if row is None or row.strava_status == LinkStatus.NOT_LINKED:
        gear = Gear.objects.filter(user=person.user, provider="strava").exists()
        left = row is not None and row.has_secret("strava_refresh_token")
        return "LOST: half unlinked" if gear or left else "not linked"
    sandbox.strava.expire(person.athlete_id)
    UsersIntegrations.objects.filter(user=person.user, strava_token__isnull=False).update(
        strava_token_expires_at=row.created_at
    )
    stored = row.strava_refresh_token
    try:
        token = services.get_strava_access_token(person.user.pk)
        if not sandbox.strava.is_alive(token):
            return "LOST: a dead token was handed out"
        services.sync_strava_gear(person.user.pk)
    except exceptions.StravaRelinkRequired:
        if sandbox.strava.is_alive(stored):
            return "LOST: relink, though the token lived"
        return "said relink, the token was spent or revoked"
    except exceptions.IntegrationsError as exc:
        return f"LOST: {exc.code}"
    gear = Gear.objects.filter(user=person.user, provider="strava", retired=False)
    return "whole" if gear.count() == BIKES else "LOST: gear is not whole"


def judge_garmin(person: Person, sandbox: Sandbox) -> str:
    from integrations import exceptions, services
    from integrations.models import Gear, LinkStatus, UsersIntegrations

    row = UsersIntegrations.objects.filter(user=person.user).first()
    if row is None or row.garminconnect_status == LinkStatus.NOT_LINKED:
        gear = Gear.objects.filter(user=person.user, provider="garminconnect").exists()
        return "LOST: half unlinked" if gear else "not linked"
    stored = row.garminconnect_oauth2["di_refresh_token"]
    try:
        services.sync_garminconnect_gear(person.user.pk)
    except exceptions.GarminConnectRelinkRequired:
        if sandbox.garmin.is_alive(stored):
            return "LOST: relink, though the session lived"
        return "said relink, the session was spent"
    except exceptions.IntegrationsError as exc:
        return f"LOST: {exc.code}"
    gear = Gear.objects.filter(user=person.user, provider="garminconnect", retired=False)
    return "whole" if gear.count() == BIKES else "LOST: gear is not whole"


def find_stuck() -> dict[str, int]:
    """Leases, locks, sign-ins and tasks that nobody holds any more and that bar the way."""
    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone
    from django_tasks_db.models import DBTaskResult

    from integrations import conf
    from integrations.models import GarminConnectLogin, UsersIntegrations
    from integrations.services._single_flight import WAITING

    now = timezone.now()
    rows = UsersIntegrations.objects
    # The scheduler's doing, were an hour to pass.
    DBTaskResult.objects.running().update(started_at=now - timedelta(hours=2))
    from project.schedule import end_lost_tasks

    end_lost_tasks()
    found = {
        "Strava leases": rows.exclude(strava_lease=WAITING)
        .filter(strava_lease_until__gt=now)
        .count(),
        "Garmin leases": rows.exclude(garminconnect_lease=WAITING)
        .filter(garminconnect_lease_until__gt=now)
        .count(),
        "answers in files": len(list(conf.spool_dir().glob("*"))),
        "Strava syncs": rows.filter(strava_syncing_until__gt=now).count(),
        "Garmin syncs": rows.filter(garminconnect_syncing_until__gt=now).count(),
        "push events not looked into": rows.filter(strava_check_due_at__lt=now).count(),
        "sign-ins": GarminConnectLogin.objects.filter(step_until__lte=now).count(),
        "passwords": GarminConnectLogin.objects.filter(password__isnull=False).count(),
        "tasks that wait": DBTaskResult.objects.ready().count(),
        "tasks that run": DBTaskResult.objects.running().count(),
    }
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND state LIKE 'idle in transaction%%'",
            )
            found["transactions left open"] = cursor.fetchone()[0]
            cursor.execute(
                "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
                "WHERE datname = current_database() AND locktype = 'advisory'"
            )
            found["advisory locks"] = cursor.fetchone()[0]
    call_command("check", "--database", "default", verbosity=0)
    return {what: count for what, count in found.items() if count}


def watch(sandbox: Sandbox) -> set[str]:
    """Every token that the providers will ever have handed out."""
    seen: set[str] = set()

    def watched(owner: Any, name: str) -> None:
        answer = getattr(owner, name)

        def answer_and_note(*args: Any) -> Any:
            reply = answer(*args)
            for field in ("access_token", "refresh_token"):
                if reply and field in reply:
                    seen.add(reply[field])
            return reply

        setattr(owner, name, answer_and_note)

    watched(sandbox.strava, "reply")
    watched(sandbox.garmin, "start_session")
    watched(sandbox.garmin, "refresh")
    return seen


def find_leaks(secrets: set[str], logs: Path) -> list[str]:
    """Where a secret stands that should not: in the logs, or readable in the database."""
    texts = {"the database": everything_stored()}
    texts |= {path.name: path.read_text() for path in logs.iterdir()}
    return [where for where, text in texts.items() if any(secret in text for secret in secrets)]


def report(
    name: str,
    minutes: float,
    seed: int,
    sandbox: Sandbox,
    tally: Tally,
    links: Counter[str],
    stuck: Counter[str],
    leaks: list[str],
) -> None:
    """The figures, as a Markdown table."""
    from integrations.models import LinkEvent

    lines: list[tuple[str, Any]] = [(f"{name}, seed {seed}", f"{minutes:g} minutes")]
    lines += tally.items()
    lines += [
        ("calls to Strava, of them for tokens", _of(sandbox.strava.calls)),
        ("calls to Garmin, of them for tokens", _of(sandbox.garmin.calls)),
    ]
    events = Counter(LinkEvent.objects.values_list("event", flat=True))
    lines += [(f"trail: {event}", count) for event, count in sorted(events.items())]
    lines += sorted(links.items())
    lines += [("stuck", json.dumps(stuck) if stuck else 0)]
    lines += [("secrets in logs or readable in the database", ", ".join(leaks) or 0)]
    print("| what | count |\n|---|---|")
    for what, count in lines:
        print(f"| {what} | {count} |")
    sys.stdout.flush()


def _of(calls: Counter[str]) -> str:
    return f"{sum(calls.values()):,}, {calls['token']:,}"
