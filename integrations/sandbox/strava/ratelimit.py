"""Strava's two rate limits, counted in Strava's windows.

Source: https://developers.strava.com/docs/rate-limits/
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: (calls in 15 minutes, calls in a day)
Limit = tuple[int, int]

DEFAULT_OVERALL: Limit = (200, 2000)
DEFAULT_READ: Limit = (100, 1000)

# Epoch time began at midnight UTC, so plain division ends the windows when Strava does.
_WINDOWS = (15 * 60, 24 * 60 * 60)


class RateLimits:
    """Calls counted by client. A refused call counts, too."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._limits: dict[str, tuple[Limit, Limit]] = {}
        # (client, kind, window length) → (which window it is, calls in it)
        self._counts: dict[tuple[str, str, int], tuple[int, int]] = {}

    def set(
        self, client_id: str, overall: Limit = DEFAULT_OVERALL, read: Limit = DEFAULT_READ
    ) -> None:
        with self._lock:
            self._limits[client_id] = (overall, read)

    def clear(self) -> None:
        with self._lock:
            self._limits.clear()
            self._counts.clear()

    def spend(self, client_id: str, *, is_read: bool) -> tuple[bool, dict[str, str]]:
        """Count one call; say whether it is within the limits, and the headers to send."""
        with self._lock:
            overall, read = self._limits.get(client_id, (DEFAULT_OVERALL, DEFAULT_READ))
            overall_usage = self._count(client_id, "overall", 1)
            read_usage = self._count(client_id, "read", int(is_read))
        within = all(used <= limit for used, limit in zip(overall_usage, overall, strict=True))
        if is_read:
            within &= all(used <= limit for used, limit in zip(read_usage, read, strict=True))
        return within, {
            "X-RateLimit-Limit": _pair(overall),
            "X-RateLimit-Usage": _pair(overall_usage),
            "X-ReadRateLimit-Limit": _pair(read),
            "X-ReadRateLimit-Usage": _pair(read_usage),
        }

    def _count(self, client_id: str, kind: str, calls: int) -> Limit:
        now = self._clock()
        usage = []
        for length in _WINDOWS:
            window = int(now // length)
            key = (client_id, kind, length)
            counted_in, count = self._counts.get(key, (window, 0))
            count = (count if counted_in == window else 0) + calls
            self._counts[key] = (window, count)
            usage.append(count)
        return usage[0], usage[1]


def _pair(limit: Limit) -> str:
    return f"{limit[0]},{limit[1]}"
