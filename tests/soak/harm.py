"""What goes wrong: providers that misbehave, processes and connections that are killed."""

from __future__ import annotations

import random
import threading
from typing import Any

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
        fault = rng.choice(list(FAULTS))
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
        fleet.kill(rng.choices(list(VICTIMS), list(VICTIMS.values()))[0])
        tally.add("processes killed")


def kill_connections(rng: random.Random) -> int:
    """Have PostgreSQL end up to three of the site's connections; SQLite has none to end."""
    from django.db import connection

    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        pids = [pid for (pid,) in cursor.fetchall()]
        victims = rng.sample(pids, min(len(pids), rng.randint(1, 3)))
        for pid in victims:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    return len(victims)


def run_commands(
    fleet: Fleet, sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    """Sweeps, syncs and turns of the keys, one after another, some of them killed."""
    while not stop.wait(rng.uniform(0, 5)):
        seconds = rng.uniform(0.3, 3) if rng.random() < 0.3 else None
        match rng.choice(["refresh_strava_tokens", "sync_gear", "rotate_fernet_keys"]):
            case "refresh_strava_tokens":
                fleet.command("refresh_strava_tokens", "--within=600", seconds=seconds or 120)
            case "sync_gear":
                fleet.command("sync_gear", seconds=seconds or 60)
            case "rotate_fernet_keys":
                keys = rng.sample(KEYS, len(KEYS))
                fleet.command(
                    "rotate_fernet_keys",
                    "--batch-size=5",
                    seconds=seconds or 60,
                    FERNET_KEYS=",".join(keys),
                )
        tally.add("commands run" if seconds is None else "commands killed")
