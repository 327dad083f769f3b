"""Strava's background work."""

from __future__ import annotations

from typing import Any

from django.tasks import task

from ..tasks import enqueue_now, key_of, refresh_due_tokens
from . import push


@task
def confirm_strava_revocation(user_id: Any) -> str:
    return push.confirm_revocation(key_of(user_id))


@task
def confirm_due_strava_revocations() -> int:
    """Enqueue the confirmation of revocations that is still due."""
    user_ids = push.take_due_checks()
    for user_id in user_ids:
        enqueue_now(confirm_strava_revocation, user_id)
    return len(user_ids)


@task
def learn_strava_subscription() -> bool:
    return push.learn_subscription()


# By the name that it had in release 0.1.0.
refresh_due_strava_tokens = refresh_due_tokens
