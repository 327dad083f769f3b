"""What a database that is away, and a holder that is paused, cost: `make kill ARGS="--outages 60"`.

A sweep and callers on demand, each in a process of its own, have been answered by the provider when
the database goes away, for so many seconds. Afterwards every link has the newest pair, or it is
lost. Not part of the tests, because it takes minutes.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from .processes import BASE_DIR, PYTHON, Away, environment, wait_until

if TYPE_CHECKING:
    from integrations.sandbox import Sandbox

LINKS = 12  # for the sweep; half as many for callers, at each provider
ANSWERS_IN = 4.0  # seconds

# Asks for each user in a thread of its own, and ends when all have an answer or an error.
CALLERS = """
import sys, threading, django
from django.conf import settings
django.setup()
from django.db import connection
from integrations import services
from integrations.exceptions import IntegrationsError
from integrations.sandbox.garmin import hook
hook.point_library_at(sys.argv[1], pauses=False)
def ask(get, user_id):
    try:
        get(int(user_id))
    except IntegrationsError as exc:
        print(type(exc).__name__, flush=True)
    finally:
        connection.close()
asks = [(services.get_strava_access_token, user) for user in sys.argv[2].split(",")]
asks += [(services.get_garminconnect_client, user) for user in sys.argv[3].split(",")]
threads = [threading.Thread(target=ask, args=each) for each in asks]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
import time; time.sleep(float(sys.argv[4]))  # as a server lives on
"""


def measure(name: str, seconds: list[int], sandbox: Sandbox) -> bool:
    """Print a table; returns whether a link was lost."""
    from django.db import connection

    outages: list[tuple[str, Outage, float]] = []
    for number in seconds:
        outages.append((f"away for {number} s", _away, number))
        if connection.vendor == "postgresql":
            outages.append((f"locked for {number} s", _locked, number))
            outages.append((f"read-only for {number} s", _read_only, number))
        outages.append((f"away, and killed after {number / 2:g} s", _killed, number))
        outages.append((f"process paused for {number} s", _paused, number))
    print(f"| {name} | answers in flight | links lost | told to reconnect |\n|---|---|---|---|")
    numbers, lost_any = count(1), False
    for what, outage, number in outages:
        in_flight, lost, told = _one(outage, number, numbers, sandbox)
        lost_any |= bool(lost or told)
        print(f"| {what} | {in_flight} | {lost} | {told} |", flush=True)
    return lost_any


def _one(
    outage: Outage, seconds: float, numbers: Iterator[int], sandbox: Sandbox
) -> tuple[int, int, int]:
    from integrations.models import LinkEvent, UsersIntegrations

    from .killing import link
    from .soak.traffic import add_person

    UsersIntegrations.objects.all().delete()
    LinkEvent.objects.all().delete()
    people = [link(add_person(sandbox, next(numbers)), sandbox) for _ in range(2 * LINKS)]
    swept, strava, garmin = people[:LINKS], people[LINKS : LINKS * 3 // 2], people[LINKS * 3 // 2 :]
    # What is not of the process at hand is not due.
    rows, later = UsersIntegrations.objects, timedelta(hours=5)
    rows.exclude(user__in=[each.user for each in swept]).update(strava_retry_at=_now() + later)
    sandbox.strava.fail("token", "delay", len(swept) + len(strava), ANSWERS_IN)
    sandbox.garmin.fail("token", "delay", len(garmin), ANSWERS_IN)
    before = {row.pk: _refresh_tokens(row) for row in rows.all()}
    database = Away()
    env = environment(DATABASE_URL=database.url)
    ids = [",".join(str(each.user.pk) for each in group) for group in (strava, garmin)]
    options: dict[str, Any] = {"env": env, "cwd": BASE_DIR, "text": True}
    callers = subprocess.Popen(
        [PYTHON, "-c", CALLERS, sandbox.url, *ids, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )
    assert callers.stdin is not None
    assert callers.stdout is not None
    callers.stdout.readline()
    sweep = subprocess.Popen(
        [PYTHON, "manage.py", "refresh_strava_tokens", "--workers", str(LINKS)],
        stdout=subprocess.DEVNULL,
        **options,
    )
    processes = [sweep, callers]
    try:
        # All of them are on their way to the providers, and none has its answer.
        wait_until(lambda: _leases() == LINKS, 60, 0.02)
        callers.stdin.write("go\n")
        callers.stdin.flush()
        wait_until(lambda: _leases() == 2 * LINKS, 60, 0.02)
        outage(database, processes, seconds)
        for process in processes:
            process.wait(120)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        database.close()
    for provider in (sandbox.strava, sandbox.garmin):
        provider.recover()
    subprocess.run(
        [PYTHON, "manage.py", "shell", "-c", "from django.contrib.auth.models import User\n"
         "User.objects.count(); import time; time.sleep(3)"],
        env=environment(), cwd=BASE_DIR, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    in_flight = lost = 0
    for row in rows.all():
        for provider, was, now in zip(
            (sandbox.strava, sandbox.garmin), before[row.pk], _refresh_tokens(row), strict=True
        ):
            in_flight += not provider.is_alive(was)
            lost += not provider.is_alive(now)
    told = LinkEvent.objects.filter(event=LinkEvent.Event.RELINK_REQUIRED).count()
    return in_flight, lost, told


def _refresh_tokens(row: Any) -> tuple[str, str]:
    return row.strava_refresh_token, row.garminconnect_oauth2["di_refresh_token"]


def _leases() -> int:
    from integrations.models import UsersIntegrations

    return UsersIntegrations.objects.filter(strava_lease_until__gt=_now()).count() + (
        UsersIntegrations.objects.filter(garminconnect_lease_until__gt=_now()).count()
    )


def _now() -> Any:
    from django.utils import timezone

    return timezone.now()


# --- What happens -------------------------------------------------------------------------------

Processes = list[subprocess.Popen[str]]
Outage = Callable[[Away, Processes, float], None]


def _away(database: Away, processes: Processes, seconds: float) -> None:
    database.go()
    time.sleep(ANSWERS_IN + seconds)
    database.come_back()


def _killed(database: Away, processes: Processes, seconds: float) -> None:
    """As an orchestrator does it, with ten seconds between asking and killing."""
    database.go()
    time.sleep(ANSWERS_IN + seconds / 2)
    for process in processes:
        process.terminate()
    give_up = time.monotonic() + 10
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, give_up - time.monotonic()))
        process.kill()
    time.sleep(max(0, seconds / 2 - 10))
    database.come_back()


def _locked(database: Away, processes: Processes, seconds: float) -> None:
    from django.db import connection, transaction

    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE users_integrations")
        time.sleep(ANSWERS_IN + seconds)


def _read_only(database: Away, processes: Processes, seconds: float) -> None:
    """As after a failover, over new connections."""
    from django.db import connection

    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        time.sleep(ANSWERS_IN + seconds)
        cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


def _paused(database: Away, processes: Processes, seconds: float) -> None:
    """Past the lease, and another asks meanwhile."""
    from integrations import services
    from integrations.exceptions import IntegrationsError
    from integrations.models import UsersIntegrations

    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(ANSWERS_IN)
    for provider in ("strava", "garminconnect"):
        UsersIntegrations.objects.filter(**{f"{provider}_lease__isnull": False}).update(
            **{f"{provider}_lease_until": _now()}
        )
    gets = {
        "strava": services.get_strava_access_token,
        "garminconnect": services.get_garminconnect_client,
    }
    give_up = time.monotonic() + seconds
    for provider, get in gets.items():
        for row in UsersIntegrations.objects.filter(**{f"{provider}_lease__isnull": False}):
            with contextlib.suppress(IntegrationsError):
                get(row.user_id)
    time.sleep(max(0, give_up - time.monotonic()))
    for process in processes:
        process.send_signal(signal.SIGCONT)
