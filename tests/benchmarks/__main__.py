"""`make bench`, or `python -m tests.benchmarks [--database sqlite|postgres] [PART ...]`."""

from __future__ import annotations

import argparse
import os
import platform
import sys

from . import site, table

# In this order: the later ones need what the earlier ones leave, or a larger database.
PARTS = ("floors", "pages", "gear", "sweep")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--database", choices=("sqlite", "postgres"), default="", help="default: PostgreSQL if up"
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: {' '.join(PARTS)}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    lines: list[table.Line] = []
    with site.throw_away(options.database) as database:
        from . import data, floors, gear, pages, sweep

        modules = {"floors": floors, "pages": pages, "gear": gear, "sweep": sweep}
        data.grow_to(2 * gear.USERS)
        for part in options.parts or PARTS:
            print(f"{part} ...", file=sys.stderr)
            lines += modules[part].measure()
    print(f"{database}, Python {platform.python_version()}, {os.cpu_count()} CPUs\n")
    print(table.show(lines))


if __name__ == "__main__":
    main()
