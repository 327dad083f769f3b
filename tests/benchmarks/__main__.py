"""`make bench`, or `python -m tests.benchmarks [--database sqlite|postgres] [PART ...]`."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys

from . import database, table

# In this order: the sweep fills the database, and the last ones add users that would be in its way.
PARTS = ("sweep", "gear", "pages", "floors")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--database", choices=("sqlite", "postgres"), default="", help="default: PostgreSQL if up"
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: {' '.join(PARTS)}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    # As Ctrl-C does: so that the database goes, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lines: list[table.Line] = []
    with database.throw_away(options.database) as name:
        from . import data, floors, gear, pages, sweep

        modules = {"floors": floors, "pages": pages, "gear": gear, "sweep": sweep}
        for part in PARTS:
            if options.parts and part not in options.parts:
                continue
            print(f"{part} ...", file=sys.stderr)
            if part != "sweep":
                data.grow_to(2 * gear.USERS)
            lines += modules[part].measure()
    print(f"{name}, Python {platform.python_version()}, {os.cpu_count()} CPUs\n")
    print(table.show(lines))


if __name__ == "__main__":
    main()
