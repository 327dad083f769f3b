from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from integrations import ending
from integrations.exceptions import IntegrationsError
from integrations.management.ending import LongCommand
from integrations.management.progress import progress
from integrations.services.keys import RotationCounts, plant_fernet_canary, rotate_fernet_keys


class Command(LongCommand):
    help = (
        "Encrypt every stored secret with the newest of FERNET_KEYS. Can be stopped and run again, "
        "while the site runs."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--batch-size", type=int, default=500, metavar="N", help="default: 500")
        parser.add_argument(
            "--accept-loss",
            action="store_true",
            help="a key is lost for good: stop the checks from asking for it",
        )

    def handle(self, *, batch_size: int, accept_loss: bool, **options: Any) -> None:
        if batch_size < 1:
            raise CommandError("--batch-size starts at 1.")
        try:
            with progress("rows", self.stdout.write) as report:
                counts = rotate_fernet_keys(
                    batch_size,
                    lambda counts: report(counts.done, counts.rows, _in_words(counts)),
                )
            if accept_loss and not ending.told():
                plant_fernet_canary(anew=True)
        except IntegrationsError as exc:
            raise CommandError(f"Stopped: {exc.code}. Run it again.") from exc
        self.stdout.write(_in_words(counts))
        if counts.unreadable:
            ids = sorted({pk for pk in counts.unreadable_user_ids if pk is not None})
            self.stdout.write(
                "No key opens the secrets of these users, who have to reconnect: "
                + ", ".join(map(str, ids))
            )


def _in_words(counts: RotationCounts) -> str:
    return f"rotated: {counts.rotated}  current: {counts.current}  unreadable: {counts.unreadable}"
