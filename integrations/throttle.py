"""How often one user may press the same button."""

from __future__ import annotations

import logging
import time

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.cache import cache

from .exceptions import TooManyRequests

logger = logging.getLogger("integrations.throttle")


def throttle(user: AbstractBaseUser, action: str, times: int, per: int = 60) -> None:
    """Count one more. Raises TooManyRequests if that is more than there may be in `per` seconds.

    In Django's cache: one that all processes share counts exactly, one of each process's own
    lets each have as many. It spares resources and guards nothing, so a cache that is down lets
    everything pass.
    """
    now = time.time()
    # The number alone a later user may get; the hash alone all have who have no password.
    who = f"{user.pk}:{user.get_session_auth_hash()[:32]}"
    key = f"integrations:{action}:{who}:{int(now // per)}"
    try:
        cache.add(key, 0, timeout=2 * per)
        count = cache.incr(key)
    except Exception as exc:
        logger.warning(
            "the cache does not count: %s",
            type(exc).__name__,
            extra={"event": "throttle.cache_failed"},
        )
        return
    if count > times:
        raise TooManyRequests(retry_after=per - int(now % per))
