"""Numbers as providers send them."""

from __future__ import annotations

from math import isfinite
from typing import Any


def number(value: Any) -> float | None:
    """A number, which may come as text; None for anything else, including a bool."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if isfinite(found) else None
