"""How a command reports its progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

REPORT_EVERY = 5  # seconds, if there is no terminal


@contextmanager
def progress(unit: str, say: Callable[[str], object]) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function to call with the number done, the total, and both in words.

    On a terminal it draws a bar. Elsewhere it prints the words every few seconds.
    """
    if not sys.stderr.isatty():
        said = time.monotonic()

        def line(done: int, total: int, words: str) -> None:
            nonlocal said
            if time.monotonic() - said >= REPORT_EVERY:
                said = time.monotonic()
                say(words)

        yield line
        return
    with tqdm(unit=f" {unit}", leave=False) as bar:

        def draw(done: int, total: int, words: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield draw
