"""`make kill`: kill -9 at 200 random moments of connecting, refreshing, syncing and turning keys.

Each time a process of its own does one of these for an athlete who has both providers linked, and
is killed before it is through. Afterwards the athlete's next requests work, or say relink where
the provider itself had spent the token: nobody can close the moment between its answer and our
write. Not part of the tests, because what it hits is chance; it prints its seed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

from . import outages
from .benchmarks import database

if TYPE_CHECKING:
    from integrations.sandbox import Sandbox

    from .soak.traffic import Person

KEYS = ["killing-only-fernet-key-0123456789-abcdefghij-" + end for end in ("one", "two")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.killing", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument(
        "--outages", type=int, nargs="+", metavar="SECONDS", help="instead: see tests/outages.py"
    )
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="postgres")
    options = parser.parse_args()
    with database.throw_away(options.database) as name:
        from django.conf import settings

        from integrations.sandbox import Sandbox
        from integrations.sandbox.garmin import hook
        from integrations.sandbox.strava import CLIENT_ID, CLIENT_SECRET

        with Sandbox() as sandbox, hook.pointed_at(sandbox.url, pauses=False):
            settings.STRAVA_OAUTH_URL = f"{sandbox.url}/oauth"
            settings.STRAVA_API_URL = f"{sandbox.url}/api/v3"
            settings.STRAVA_CLIENT_ID, settings.STRAVA_CLIENT_SECRET = CLIENT_ID, CLIENT_SECRET
            settings.FERNET_KEYS = KEYS
            sandbox.strava.limit_rate(overall=(10**9, 10**9), read=(10**9, 10**9))
            for provider in (sandbox.strava, sandbox.garmin):
                provider.fail("*", "delay", seconds=0.01)
            if options.outages:
                return 1 if outages.measure(name, options.outages, sandbox) else 0
            counts = kill(options.kills, random.Random(options.seed), sandbox)
    print(f"| {name}, seed {options.seed} | count |\n|---|---|")
    for what, number in sorted(counts.items()):
        print(f"| {what} | {number} |")
    return 1 if any("LOST" in what for what in counts) else 0


def kill(kills: int, chance: random.Random, sandbox: Sandbox) -> Counter[str]:
    """What was killed, and what became of the athlete's links then."""
    from .soak.traffic import add_person

    counts: Counter[str] = Counter()
    people = (link(add_person(sandbox, number), sandbox) for number in count())
    takes = {operation: seconds(operation, people, sandbox) for operation in OPERATIONS}
    killed = 0
    while killed < kills:
        person, operation = next(people), chance.choice(OPERATIONS)
        process = fork(operation, person, sandbox)
        time.sleep(chance.uniform(0, takes[operation]))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            continue  # it was through already, which is no kill
        killed += 1
        counts[f"killed: {operation.__name__}"] += 1
        for outcome in next_requests(person, sandbox):
            counts[outcome] += 1
            if "LOST" in outcome:
                print(f"number {killed}, {operation.__name__}: {outcome}", file=sys.stderr)
    return counts


def link(person: Person, sandbox: Sandbox) -> Person:
    """Both providers, with tokens that the next use renews."""
    from integrations import services

    user_id = person.user.pk
    row = services.create_user_integrations(user_id)
    services.link_strava_account(row, sandbox.strava.issue_tokens(person.athlete_id, expires_in=60))
    services.link_garminconnect_account(
        user_id, None, sandbox.garmin.issue_session(person.email, expires_in=60)
    )
    return person


def seconds(operation: Operation, people: Iterator[Person], sandbox: Sandbox) -> float:
    """How long a process is at it, the longer of two that nobody kills."""
    took = []
    for person in (next(people), next(people)):
        started = time.monotonic()
        _, status = os.waitpid(fork(operation, person, sandbox), 0)
        if status:
            raise RuntimeError(f"{operation.__name__} does not even work by itself.")
        took.append(time.monotonic() - started)
    return max(took)


def fork(operation: Operation, person: Person, sandbox: Sandbox) -> int:
    """Do it in a process of its own; returns its number."""
    from django.db import connections

    code = sandbox.strava.grant(person.athlete_id)
    connections.close_all()  # a child has connections of its own
    with warnings.catch_warnings(action="ignore"):  # of the sandbox's threads, which stay here
        process = os.fork()
    if process == 0:
        status = 1
        try:
            operation(person, code)
            status = 0
        finally:
            os._exit(status)
    return process


def next_requests(person: Person, sandbox: Sandbox) -> Iterator[str]:
    """How both links fare, once the leases of the dead have run out."""
    from django.utils import timezone

    from integrations.models import Gear, UsersIntegrations
    from integrations.services._single_flight import WAITING

    from .soak.traffic import BIKES
    from .soak.verdict import judge_garmin, judge_strava

    past = timezone.now() - timedelta(minutes=1)
    rows = UsersIntegrations.objects.filter(user=person.user)
    for provider, name, judge in (
        ("strava", "Strava", judge_strava),
        ("garminconnect", "Garmin", judge_garmin),
    ):
        # And what is left waiting then has waited for long enough.
        rows.filter(**{f"{provider}_lease__isnull": False}).update(
            **{f"{provider}_lease": WAITING, f"{provider}_lease_until": past}
        )
        gear = Gear.objects.filter(user=person.user, provider=provider).count()
        outcome = judge(person, sandbox)
        if gear not in (0, BIKES):
            outcome = f"LOST: {gear} of {BIKES} pieces of gear were written"
        if outcome == "not linked":
            outcome = "LOST: not linked any more"
        yield f"{name}: {outcome}"


# --- What is killed -----------------------------------------------------------------------------


def connect(person: Person, code: str) -> None:
    from integrations import services

    state = services.begin_authorization(person.user.pk, "strava", "http://testserver/").state
    services.complete_authorization(person.user.pk, "strava", state=state, code=code, scope="read")


def refresh(person: Person, code: str) -> None:
    from integrations import services

    services.get_strava_access_token(person.user.pk)


def sync(person: Person, code: str) -> None:
    from integrations import services

    services.sync_strava_gear(person.user.pk)


def rotate(person: Person, code: str) -> None:
    from django.conf import settings

    from integrations.services.keys import rotate_fernet_keys

    settings.FERNET_KEYS = KEYS[::-1]
    rotate_fernet_keys()


def sign_in(person: Person, code: str) -> None:
    from integrations.garminconnect import login
    from integrations.sandbox.garmin import MFA_CODE, PASSWORD

    user_id = person.user.pk
    attempt = login.begin_login(user_id, person.email, PASSWORD)
    if login.run_login(user_id, attempt) == "mfa_required":
        attempt = login.submit_code(user_id, MFA_CODE)
        assert login.run_mfa(user_id, attempt) == "linked"


def refresh_session(person: Person, code: str) -> None:
    from integrations import services

    services.get_garminconnect_client(person.user.pk)


def sync_garmin(person: Person, code: str) -> None:
    from integrations import services

    services.sync_garminconnect_gear(person.user.pk)


Operation = Callable[["Person", str], None]
OPERATIONS: tuple[Operation, ...] = (
    connect, refresh, sync, rotate, sign_in, refresh_session, sync_garmin
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
