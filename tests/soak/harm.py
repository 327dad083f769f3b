"""What goes wrong: providers that misbehave, and what HARMS names.

Only "kills" may cost a link: kill -9, and answers that a provider has spent a token for and that
are lost on the way. All the others must cost none.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from typing import Any

from django.db import DatabaseError

from integrations.sandbox import Sandbox
from integrations.sandbox.faults import FAULTS

from .fleet import KEYS, Fleet
from .traffic import Tally

# Faults after which Strava has spent a refresh token, and the answer is lost or nearly.
LOSING = {"reset_after", "drip", "delay"}
# Roles of the fleet, and how often each is killed among them.
VICTIMS = {
    "web": 5,
    "web master": 1,
    "worker-0": 3,
    "worker-1": 3,
    "worker-2": 3,
    "host": 4,
    "scheduler": 1,
}


def break_providers(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    while not stop.wait(rng.uniform(0, 4)):
        provider: Any = rng.choice([sandbox.strava, sandbox.strava, sandbox.garmin])
        if rng.random() < 0.4:  # or nothing would get far enough to be broken
            provider.recover()
            continue
        # Strava's token endpoint above all: there a link can be lost.
        endpoint = "token" if rng.random() < 0.4 else rng.choice(provider.endpoints)
        faults = set(FAULTS) if "kills" in fleet.harms else set(FAULTS) - LOSING
        fault = rng.choice(sorted(faults))
        seconds = {
            "silence": rng.uniform(1, 40),
            "drip": rng.uniform(0.01, 1),
            "delay": rng.uniform(0.1, 6),
        }.get(fault)
        times = rng.randint(1, 4)
        provider.fail(endpoint, fault, times=times, seconds=seconds)
        tally.add("faults switched on")
        if provider is sandbox.strava and endpoint == "token" and fault in LOSING:
            tally.add("token answers of Strava lost or late", times)


def kill(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    while not stop.wait(rng.uniform(0.5, 6)):
        if rng.random() < 0.15:
            tally.add("database connections killed", kill_connections(rng))
            continue
        fleet.kill(_victim(rng))
        tally.add("processes killed")


def _victim(rng: random.Random) -> str:
    return rng.choices(list(VICTIMS), list(VICTIMS.values()))[0]


def kill_connections(rng: random.Random) -> int:
    """Have PostgreSQL end up to three of the site's connections; SQLite has none to end."""
    from django.db import connection

    if connection.vendor != "postgresql":
        return 0
    victims: list[int] = []
    with suppress(DatabaseError), connection.cursor() as cursor:  # it may be away by now
        cursor.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        pids = [pid for (pid,) in cursor.fetchall()]
        victims = rng.sample(pids, min(len(pids), rng.randint(1, 3)))
        for pid in victims:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    connection.close()
    return len(victims)


def tell_to_end(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    while not stop.wait(rng.uniform(1, 8)):
        role = rng.choice(list(fleet.roles))
        in_time = fleet.end(role)
        tally.add("processes told to end")
        if not in_time:
            tally.add(f"killed, because it had not ended in time: {role}")


def pause(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    while not stop.wait(rng.uniform(1, 8)):
        # Some of them for longer than a lease.
        fleet.pause(_victim(rng), rng.choice([rng.uniform(1, 15), rng.uniform(1, 15), 35]))
        tally.add("processes paused")


def fail_over(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    for seconds in cycle([5, 15, 30, 60]):
        if stop.wait(rng.uniform(5, 40)):
            return
        fleet.server.away(seconds)
        tally.add(f"databases away for {seconds:02} s")


def exhaust_connections(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    while not stop.wait(rng.uniform(5, 30)):
        if not fleet.server.exhausted(rng.randint(1, 6), rng.uniform(2, 10)):
            return
        tally.add("times without a connection left")


def silence_broker(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    while fleet.broker and not stop.wait(rng.uniform(5, 30)):
        fleet.broker.silent(rng.uniform(2, 40))
        tally.add("times with a silent broker")


def run_commands(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    """Sweeps, syncs and turns of the keys, one after another, some of them stopped midway."""
    ways = [gently for gently, harm in ((False, "kills"), (True, "terms")) if harm in fleet.harms]
    while not stop.wait(rng.uniform(0, 5)):
        seconds = rng.uniform(0.3, 5) if ways and rng.random() < 0.4 else None
        gently = bool(ways) and rng.choice(ways)
        in_time = True
        match rng.choice(["refresh_strava_tokens", "sync_gear", "rotate_fernet_keys"]):
            case "refresh_strava_tokens":
                in_time = fleet.command(
                    "refresh_strava_tokens", "--within=600", seconds=seconds or 120, gently=gently
                )
            case "sync_gear":
                in_time = fleet.command("sync_gear", seconds=seconds or 60, gently=gently)
            case "rotate_fernet_keys":
                keys = rng.sample(KEYS, len(KEYS))
                in_time = fleet.command(
                    "rotate_fernet_keys",
                    "--batch-size=5",
                    seconds=seconds or 60,
                    gently=gently,
                    FERNET_KEYS=",".join(keys),
                )
        if seconds is None:
            tally.add("commands run")
        else:
            tally.add("commands told to end" if gently else "commands killed")
            if gently and not in_time:
                tally.add("killed, because it had not ended in time: a command")


Harm = Callable[[Fleet, Sandbox, Tally, threading.Event, random.Random], None]
# "clocks" is the fleet's own: a process has its clock from its start.
HARMS: dict[str, list[Harm]] = {
    "kills": [kill],
    "terms": [tell_to_end],
    "pauses": [pause],
    "failovers": [fail_over],
    "connections": [exhaust_connections],
    "brokers": [silence_broker],
    "clocks": [],
}
