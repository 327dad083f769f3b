"""How often one user may press the same button."""

from __future__ import annotations

import logging
import time

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.cache import cache

from .exceptions import TooManyRequests

logger = logging.getLogger("integrations.throttle")


def throttle(user: AbstractBaseUser, action: str, times: int, per: int = 60) -> None:
    """Count one press. Raises TooManyRequests after more than `times` in `per` seconds.

    The count is in Django's cache. It is exact if all processes share the cache and agree about the
    time; otherwise each allows as many, and none fewer. It saves resources and is no security, so
    if the cache is down, everything passes.
    """
    now = time.time()
    # A later user may get the same number, and users without a password share a hash.
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
