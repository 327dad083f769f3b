"""The database's clock, which all processes and machines share.

What one process notes and another compares, such as the end of a lease, is written and compared in
SQL, because machines disagree about the time. Durations within one process are monotonic.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

# A statement that had to wait for a lock compares with the time at which it began.
MAY_WAIT = timedelta(minutes=5)


def later(wait: timedelta) -> Any:
    """The moment after a wait from now, as the database computes it."""
    return Now() + wait


def ahead(column: str, at_most: timedelta) -> Q:
    """Whether the moment in a column is still to come: the opposite of `over`."""
    return Q(**{f"{column}__gt": Now(), f"{column}__lte": later(at_most + MAY_WAIT)})


def over(column: str, at_most: timedelta) -> Q:
    """Whether the moment in a column has passed, or is not set.

    One further ahead than `at_most`, the longest wait that is ever written, has passed as well: it
    was written before the clock was set back.
    """
    passed = Q(**{column: None}) | Q(**{f"{column}__lte": Now()})
    return passed | Q(**{f"{column}__gt": later(at_most + MAY_WAIT)})


def dated(rows: Any) -> Any:
    """The same rows, each with `read_at`: the database's time when it was read."""
    return rows.annotate(read_at=Now())


def read_at(row: Any) -> datetime:
    """The database's time when a row was read; this machine's for a row of a host project's."""
    found: datetime | None = getattr(row, "read_at", None)
    return found or timezone.now()
