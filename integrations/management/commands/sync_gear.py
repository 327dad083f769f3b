from __future__ import annotations

import threading
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError

from integrations import ending, providers, services
from integrations.exceptions import IntegrationsError
from integrations.management.ending import LongCommand
from integrations.services._parallel import run_parallel
from integrations.services.gear import iterate_wanting_gear


def _key(text: str) -> Any:
    try:
        return get_user_model()._meta.pk.to_python(text)
    except ValidationError as exc:
        raise ArgumentTypeError("that is not the key of a user") from exc


class Command(LongCommand):
    help = "Sync the gear of all who want it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--provider", choices=[each.name for each in providers.with_gear()], help="default: all"
        )
        parser.add_argument("--user", type=_key, metavar="ID", help="this user's alone")
        parser.add_argument("--workers", type=int, default=4, metavar="N", help="default: 4")

    def handle(self, *, provider: str | None, user: Any, workers: int, **options: Any) -> None:
        for name in [provider] if provider else [each.name for each in providers.with_gear()]:
            if ending.told():
                return
            totals = _sync_all(name, user, workers)
            counts = (f"  {key}: {totals[key]}" for key in _COUNTED)
            self.stdout.write(f"{name}{''.join(counts)}")


_COUNTED = ("synced", "failed", "created", "updated", "retired")


def _sync_all(name: str, user: Any, workers: int) -> Counter[str]:
    totals, lock = Counter[str](), threading.Lock()

    def sync(user_id: int) -> None:
        if ending.told():
            return
        try:
            found = Counter(**services.sync_gear(user_id, name)._asdict(), synced=1)
        except IntegrationsError:  # noted on the row, and in the log
            found = Counter(failed=1)
        with lock:
            totals.update(found)

    run_parallel(iterate_wanting_gear(name, user), sync, max(1, workers))
    return totals
