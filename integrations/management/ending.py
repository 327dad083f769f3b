"""How a command that takes long ends when it is told to."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from integrations import ending


class LongCommand(BaseCommand):
    """Finishes what is in flight and prints its summary, and then ends by the signal that told it.

    So a shell sees 143 for SIGTERM, as if nothing had been held back, and 130 for Ctrl-C.
    """

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            with ending.holding():
                output = super().execute(*args, **options)
                if ending.told():
                    self.stderr.write("Stopped before the end. Run it again for the rest.")
                self.stdout.flush()  # which a signal does not
                return output
        except KeyboardInterrupt:  # without a traceback, which would hide the summary
            raise SystemExit(130) from None
