"""How a command that takes long ends when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import BaseCommand

from integrations import ending


@contextmanager
def ending_in_order(command: BaseCommand) -> Iterator[None]:
    """Let a command finish what is in flight and print its summary, then end it by its signal.

    So a shell sees 143 for SIGTERM, as if nothing had been held back, and 130 for Ctrl-C.
    """
    try:
        with ending.holding():
            yield
            if ending.told():
                command.stderr.write("Stopped before the end. Run it again for the rest.")
            command.stdout.flush()  # which a signal does not
    except KeyboardInterrupt:  # without a traceback, which would hide the summary
        raise SystemExit(130) from None
