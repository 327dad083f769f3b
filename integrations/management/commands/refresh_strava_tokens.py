from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from integrations import services
from integrations.exceptions import IntegrationsError
from integrations.services import SweepCounts

REPORT_EVERY = 5  # seconds, where there is no terminal


class Command(BaseCommand):
    help = "Refresh every Strava token that expires soon. Fit for cron; any number may run at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--within", type=int, default=3600, metavar="SECONDS", help="default: 3600"
        )
        parser.add_argument("--workers", type=int, default=8, metavar="N", help="default: 8")
        parser.add_argument("--json", action="store_true", help="print the counts as JSON")

    def handle(self, *, within: int, workers: int, json: bool, **options: Any) -> None:
        if workers < 1 or within < 0:
            raise CommandError("--workers starts at 1, --within at 0.")
        try:
            counts = self.sweep(within, workers, quiet=json)
        except IntegrationsError as exc:
            raise CommandError(f"Nothing could be attempted: {exc.code}") from exc
        self.report(counts, json)
        if counts.due and not counts.attempted:
            raise CommandError("Nothing could be attempted: see the log for the reason.")

    def sweep(self, within: int, workers: int, *, quiet: bool) -> SweepCounts:
        if quiet or not sys.stderr.isatty():
            said = time.monotonic()

            def line(counts: SweepCounts) -> None:
                nonlocal said
                if not quiet and time.monotonic() - said >= REPORT_EVERY:
                    said = time.monotonic()
                    self.report(counts, as_json=False)

            return services.sweep_strava_tokens(within, workers, line)
        with tqdm(unit=" tokens", leave=False) as bar:

            def draw(counts: SweepCounts) -> None:
                bar.total = counts.due
                bar.update(counts.refreshed + counts.failed + counts.skipped - bar.n)

            return services.sweep_strava_tokens(within, workers, draw)

    def report(self, counts: SweepCounts, as_json: bool) -> None:
        values = counts.as_dict()
        if as_json:
            self.stdout.write(json.dumps(values))
        else:
            self.stdout.write("  ".join(f"{name}: {value}" for name, value in values.items()))
