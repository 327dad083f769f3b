"""`make bench`, or `python -m tests.benchmarks [--database NAME] [--idle USERS] [PART ...]`."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys

from . import database, table

# In this order: the services want few rows, and the sweep fills the database for the others.
PARTS = ("services", "sweep", "gear", "pages")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgres"),
        help="default: PostgreSQL if one answers, and the services on both",
    )
    parser.add_argument(
        "--idle", type=int, default=100_000, help="users of the larger sweep; default: 100000"
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: {' '.join(PARTS)}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    parts = [part for part in PARTS if part in (options.parts or PARTS)]
    if not options.database and "services" in parts and database.has_postgres():
        # A process of its own, because Django is set up once for one database.
        command = [sys.executable, "-m", __package__, "--database", "sqlite", "services"]
        subprocess.run(command, check=True)
    # As Ctrl-C does: so that the database goes, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lines: list[table.Line] = []
    with database.throw_away(options.database or "", "tests.benchmarks") as name:
        from . import data, gear, pages, services, sweep

        for part in parts:
            print(f"{part} ...", file=sys.stderr)
            if part == "services":
                data.grow_to(services.ROWS)
                data.grow_obvious_to(services.ROWS)
                lines += services.measure()
                data.forget_all()
            elif part == "sweep":
                lines += sweep.measure(options.idle)
            else:
                data.grow_to(2 * gear.USERS)
                lines += {"gear": gear, "pages": pages}[part].measure()
    print(f"{name}, Python {platform.python_version()}, {os.cpu_count()} CPUs\n")
    print(table.show(lines))


if __name__ == "__main__":
    main()
