"""Work through any number of items with a few threads, a few items in memory at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any

from django.db import connections


def run_parallel[Item](items: Iterable[Item], work: Callable[[Item], Any], workers: int) -> None:
    """Call `work` for each item in `workers` threads, and return when all are done.

    This thread reads `items`, only as fast as the workers take them. `work` must not raise; if it
    does, the first exception is raised here at the end.
    """
    waiting: queue.Queue[Item | None] = queue.Queue(maxsize=workers)
    failures: list[BaseException] = []

    def worker() -> None:
        try:
            while (item := waiting.get()) is not None:
                try:
                    work(item)
                except BaseException as exc:
                    failures.append(exc)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for item in items:
            waiting.put(item)
    finally:
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
