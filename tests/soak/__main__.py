"""`make soak`: twenty minutes of mixed traffic with random faults and killed processes.

Two dozen athletes press every button of a site that runs as in production, another program asks
for tokens, and commands sweep, sync and turn keys, while both providers misbehave and
processes and database connections are killed, told to end and paused, the database and the broker
are away, and clocks are wrong. Afterwards every link has to be whole or to say that it needs a
relink because the provider had spent or ended its token, and no lease, lock, sign-in or task may be
stuck. Without "kills" among the --harm, no link may ever have come to need a relink. Not part of
the tests, because what it hits is chance; it prints
its seed. Its last figures stand in docs/soak.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..benchmarks import database

HARMS = ("kills", "terms", "pauses", "failovers", "connections", "brokers", "clocks")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="postgres")
    parser.add_argument("--harm", nargs="+", choices=HARMS, default=HARMS, help="default: all")
    parser.add_argument("--broker", help="an amqp:// address, for Celery in place of db_worker")
    parser.add_argument("--logs", help="a directory to keep the logs in")
    options = parser.parse_args()
    with database.throw_away(options.database) as name, kept(options.logs) as logs:
        from integrations.sandbox import Sandbox

        with Sandbox() as sandbox:
            return soak(name, options, sandbox, logs)


@contextmanager
def kept(directory: str | None) -> Iterator[Path]:
    """The directory, made where it is missing, or one that is gone afterwards."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="integrations-soak-") as name:
            yield Path(name)
    else:
        Path(directory).mkdir(parents=True, exist_ok=True)
        yield Path(directory)


def soak(name: str, options: argparse.Namespace, sandbox: Any, logs: Path) -> int:
    from . import harm, traffic, verdict
    from .fleet import Fleet

    minutes, seed = options.minutes, options.seed
    people = traffic.set_up(sandbox)
    secrets = verdict.watch(sandbox)
    fleet = Fleet(logs, sandbox, random.Random(seed), options.harm, options.broker)
    if "kills" not in options.harm:
        traffic.BUTTONS.pop(traffic.revoke_at_strava)
    tally = traffic.Tally()
    stop = threading.Event()
    try:
        fleet.launch()
        url = f"{fleet.url}/integrations/strava/webhook/"
        assert fleet.command("strava_webhook", "create", "--callback-url", url)
        tabs = [traffic.Tab(fleet, person) for person in people for _ in range(2)]
        # Randomness of its own for each thread, or the seed would decide nothing.
        threads = [
            threading.Thread(target=traffic.press_buttons, args=(tabs, sandbox, tally, stop, rng))
            for rng in (random.Random(f"{seed} {number}") for number in range(8))
        ]
        threads += [
            threading.Thread(target=work, args=(fleet, sandbox, tally, stop, random.Random(seed)))
            for work in (
                *(harm.break_providers, harm.run_commands),
                *(each for name in options.harm for each in harm.HARMS[name]),
            )
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            time.sleep(min(60, max(0.0, end - time.monotonic())))
            print(f"{(end - time.monotonic()) / 60:.0f} min left: {tally}", file=sys.stderr)
        stop.set()
        for thread in threads:
            thread.join(120)
        sandbox.strava.recover()
        sandbox.garmin.recover()
        verdict.wait_for_quiet(fleet)
    finally:
        stop.set()
        fleet.stop()
    costs_links = "kills" in options.harm
    return verdict.give(name, minutes, seed, people, sandbox, secrets, tally, logs, costs_links)


if __name__ == "__main__":
    sys.exit(main())
