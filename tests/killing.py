"""`make kill`: kill -9 at 200 random moments of connecting, refreshing, syncing and turning keys.

Afterwards every athlete's next request works, or says relink where Strava itself had spent the
token: nobody can close the moment between its answer and our write. Not part of the tests,
because what it hits is chance; it prints its seed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from datetime import timedelta
from typing import Any

from .benchmarks import database

KEYS = ["killing-only-fernet-key-0123456789-abcdefghij-" + end for end in ("one", "two")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.killing", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="postgres")
    options = parser.parse_args()
    with database.throw_away(options.database) as name:
        from django.conf import settings

        from integrations.sandbox import Sandbox
        from integrations.sandbox.strava import CLIENT_ID, CLIENT_SECRET

        with Sandbox() as sandbox:
            settings.STRAVA_OAUTH_URL = f"{sandbox.url}/oauth"
            settings.STRAVA_API_URL = f"{sandbox.url}/api/v3"
            settings.STRAVA_CLIENT_ID, settings.STRAVA_CLIENT_SECRET = CLIENT_ID, CLIENT_SECRET
            settings.FERNET_KEYS = KEYS
            sandbox.strava.limit_rate(overall=(10**9, 10**9), read=(10**9, 10**9))
            sandbox.strava.fail("*", "delay", seconds=0.01)
            counts = kill(options.kills, random.Random(options.seed), sandbox.strava)
    print(f"{name}, seed {options.seed}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    return 1 if counts["LOST"] else 0


def kill(kills: int, chance: random.Random, strava: Any) -> Counter[str]:
    from django.contrib.auth import get_user_model
    from django.db import connections
    from django.utils import timezone

    from integrations import exceptions, services
    from integrations.models import Gear, UsersIntegrations

    counts = Counter({"kills": 0, "of them midway": 0, "went on": 0, "said relink": 0, "LOST": 0})
    for number in range(kills):
        operation = chance.choice([connect, refresh, sync, rotate])
        user = get_user_model().objects.create(username=f"athlete{number}")
        athlete_id = 800_000 + user.pk
        strava.add_athlete(athlete_id, bikes=[bike(athlete_id, each) for each in range(3)])
        row = services.create_user_integrations(user.pk)
        services.link_strava_account(row, strava.issue_tokens(athlete_id))
        code = strava.grant(athlete_id)
        connections.close_all()  # a child has connections of its own
        pid = os.fork()
        if pid == 0:
            try:
                operation(user.pk, code)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0, 0.12))
        counts["of them midway"] += os.waitpid(pid, os.WNOHANG) == (0, 0)
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it was through already
        counts["kills"] += 1

        # The athlete's next request, once the lease of the dead has run out.
        strava.expire(athlete_id)
        past = timezone.now() - timedelta(minutes=1)
        UsersIntegrations.objects.filter(user=user, strava_lease__isnull=False).update(
            strava_lease_until=past
        )
        UsersIntegrations.objects.filter(user=user).update(strava_token_expires_at=past)
        stored = UsersIntegrations.objects.get(user=user).strava_refresh_token
        try:
            works = strava.is_alive(services.get_strava_access_token(user.pk))
            outcome = "went on" if works else "LOST"
        except exceptions.StravaRelinkRequired:
            # Asked only now: a request of the dead may have been on its way to Strava still.
            outcome = "LOST" if strava.is_alive(stored) else "said relink"
        except exceptions.IntegrationsError:
            outcome = "LOST"
        if outcome == "went on":
            whole = Gear.objects.filter(user=user).count() in (0, 3)
            again = services.sync_strava_gear(user.pk)
            if not whole or Gear.objects.filter(user=user).count() != 3 or again is None:
                outcome = "LOST"
        if outcome == "LOST":
            print(f"lost at {operation.__name__}, number {number}", file=sys.stderr)
        counts[outcome] += 1
    return counts


def bike(athlete_id: int, number: int) -> dict[str, Any]:
    return {"id": f"b{athlete_id}{number}", "name": f"Bike {number}", "distance": 1000.0}


def connect(user_id: int, code: str) -> None:
    from integrations import services

    state = services.begin_strava_authorization(user_id, "http://testserver/").state
    services.complete_strava_authorization(user_id, state=state, code=code, scope="read")


def refresh(user_id: int, code: str) -> None:
    from django.utils import timezone

    from integrations import services
    from integrations.models import UsersIntegrations

    expired = timezone.now() - timedelta(minutes=1)
    UsersIntegrations.objects.filter(user_id=user_id).update(strava_token_expires_at=expired)
    services.get_strava_access_token(user_id)


def sync(user_id: int, code: str) -> None:
    from integrations import services

    services.sync_strava_gear(user_id)


def rotate(user_id: int, code: str) -> None:
    from django.conf import settings

    from integrations import services

    settings.FERNET_KEYS = KEYS[::-1]
    services.rotate_fernet_keys()


if __name__ == "__main__":
    sys.exit(main())
