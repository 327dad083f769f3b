"""Whether this process has been told to end: by a deployment, a closed terminal, or Ctrl-C.

A provider that has rotated a token is owed a write, so nothing may end between the two. What asks
a provider does it within `holding`. What goes through many rows asks `told` before each.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

# SIGHUP is a closed terminal. A worker of Django's tasks takes SIGQUIT like the others.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# Seconds. A terminal or `timeout` may send the same thing twice at once; somebody who sends it
# again later does not want to wait.
AGAIN = 1

# One byte each, in memory that is shared with forks: this process's own is the last, and those of
# the processes that it was forked from come before. Celery tells only the parent.
_flags = [mmap.mmap(-1, 1)]
os.register_at_fork(after_in_child=lambda: _flags.append(mmap.mmap(-1, 1)))


def told() -> bool:
    """Whether this process, or the one that it was forked from, has been told to end."""
    return any(flag[0] for flag in _flags)


def tell(*_: Any, **__: Any) -> None:
    """Note that this process has been told to end; fit for a signal handler of a server's own."""
    _flags[-1][0] = 1


def wait(seconds: float) -> bool:
    """Sleep for so long, or until this process is told to end; returns whether it was.

    Not on a threading.Event: its lock could be held by the thread that runs the signal handler.
    """
    give_up = time.monotonic() + seconds
    while not told() and (left := give_up - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
    return told()


def listen() -> None:
    """Note from now on that a signal has told this process to end, and do what was done before.

    For a server that answers requests in threads: call it in the main thread of each worker, once
    the server has its own handlers. A signal that ends the process at once stays as it is.
    """
    for number in SIGNALS:
        before = signal.getsignal(number)
        if not callable(before) or before is signal.default_int_handler:
            continue

        def note(number: int, frame: FrameType | None, before: Any = before) -> None:
            tell()
            before(number, frame)

        signal.signal(number, note)


@contextmanager
def holding() -> Iterator[None]:
    """Hold a signal to end back until the block is over; meanwhile `told` says that it came.

    Then it does what it would have done. One that comes again is not held back. In any thread but
    the main one, where Python runs no handlers, this does nothing; nor for a signal that is ignored
    or handled outside Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    came: list[int] = []
    since = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if came and time.monotonic() - since >= AGAIN:
            restore()
            signal.raise_signal(number)
        elif not came:
            since = time.monotonic()
            came.append(number)
            tell()

    note.holds = True  # type: ignore[attr-defined]

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)

    was_told = _flags[-1][0]
    try:
        with suppress(ValueError):  # where Python is embedded and has no signals
            for number in SIGNALS:
                handler = signal.getsignal(number)
                # Within another block, which holds them back already.
                if handler not in (None, signal.SIG_IGN) and not hasattr(handler, "holds"):
                    before[number] = handler
                    signal.signal(number, note)
        yield
    finally:
        restore()
        if came:
            # The process may live on: Ctrl-C in a shell ends a call, and not the shell.
            _flags[-1][0] = was_told
            signal.raise_signal(came[0])
