from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from integrations import providers
from integrations.exceptions import IntegrationsError
from integrations.management.ending import LongCommand
from integrations.management.progress import progress
from integrations.services.sweep import SweepCounts, sweep_tokens


class Command(LongCommand):
    default: list[str] = []  # all
    help = "Refresh every token that expires soon. Fit for cron; any number may run at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--within", type=int, default=3600, metavar="SECONDS", help="default: 3600"
        )
        parser.add_argument("--workers", type=int, default=8, metavar="N", help="default: 8")
        parser.add_argument("--json", action="store_true", help="print the counts as JSON")
        parser.add_argument(
            "--provider",
            action="append",
            choices=[each.name for each in providers.known().values() if each.is_swept],
            help="only this one's; may be repeated (default: all)",
        )

    def handle(
        self, *, within: int, workers: int, json: bool, provider: list[str] | None, **options: Any
    ) -> None:
        if workers < 1 or within < 0:
            raise CommandError("--workers starts at 1, --within at 0.")
        in_words = _as_json if json else _as_text
        with progress("tokens", str if json else self.stdout.write) as report:

            def tell(counts: SweepCounts) -> None:
                done = counts.refreshed + counts.failed + counts.skipped
                report(done, counts.due, in_words(counts))

            try:
                counts = sweep_tokens(within, workers, tell, names=provider or self.default)
            except IntegrationsError as exc:
                raise CommandError(f"Nothing could be attempted: {exc.code}") from exc
        self.stdout.write(in_words(counts))
        if counts.due and not counts.attempted:
            raise CommandError("Nothing could be attempted: see the log for the reason.")


def _as_json(counts: SweepCounts) -> str:
    return json.dumps(counts.as_dict())


def _as_text(counts: SweepCounts) -> str:
    return "  ".join(f"{name}: {value}" for name, value in counts.as_dict().items())
