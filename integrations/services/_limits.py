"""The rate limits that links have run into; refused requests count, too."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.db.models import Q

from ..clock import MAY_WAIT, ahead, dated, over, read_at
from ..exceptions import SecretUnreadable
from ..links import Home, Provider
from ._rows import LIMIT_LASTS


def noted_for(home: Home, row: Any) -> int:
    """Seconds until the limit that is noted on a row is over; 0 if there is none."""
    until = None if row is None else home.get(row, "limited_until")
    left = timedelta() if until is None else until - read_at(row)
    is_ahead = timedelta() < left <= LIMIT_LASTS + MAY_WAIT  # as in clock.over
    return max(1, round(left.total_seconds())) if is_ahead else 0


def limited_for(provider: Provider, row: Any, *, reading: bool = False) -> int:
    """Seconds until the app of a row may ask the provider again.

    Several athletes may use the same app of their own. Comparing apps means opening secrets, but
    only a few apps are limited at a time.
    """
    home = provider.home
    if not provider.limits_apps:
        return noted_for(home, row)
    if not home.has_secret(row, "client_id"):
        return site_limited_for(provider, reading=reading)
    for other in _limited(provider, reading).filter(home.q(client_id__isnull=False))[:100]:
        with suppress(SecretUnreadable):
            if row.pk == other.pk or home.get(row, "client_id") == home.get(other, "client_id"):
                return noted_for(home, other)
    return 0


def site_limited_for(provider: Provider, *, reading: bool = False) -> int:
    """Seconds until the site's app may ask again; 0 if it has not used up its rate limit.

    A limit of reads stops only `reading`; requests to the token endpoint are not reads.
    """
    rows = _limited(provider, reading).filter(site_app(provider.home))
    return noted_for(provider.home, rows.first())


def site_app(home: Home) -> Q:
    """The links whose app is the site's."""
    return home.q(client_id=None) if home.has("client_id") else Q()


def own_unlimited(home: Home) -> Q:
    """The links with their own app that have not run into a limit, except one of reads."""
    unlimited = over(home.column("limited_until"), LIMIT_LASTS) | home.q(limited_reads=True)
    return home.q(client_id__isnull=False) & unlimited


def _limited(provider: Provider, reading: bool) -> Any:
    """The links that ran into a limit that is not over, the longest one first."""
    home = provider.home
    rows = dated(home.rows()).filter(ahead(home.column("limited_until"), LIMIT_LASTS))
    if not reading:
        rows = rows.filter(home.q(limited_reads=False))
    return rows.order_by(f"-{home.column('limited_until')}")
