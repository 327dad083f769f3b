"""Background work: django.tasks wrappers over services. Ids in, a word out, never a secret."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from django.tasks import Task, task

from . import services
from .exceptions import IntegrationsError, TaskQueueUnavailable
from .metrics import count_failure

logger = logging.getLogger("integrations.tasks")

# An athlete is watching.
_URGENT = 50


def enqueue(work: Task[..., Any], *args: Any) -> None:
    """Hand work to a worker. Raises TaskQueueUnavailable if the task backend does not take it."""
    try:
        work.enqueue(*args)
    except Exception as exc:  # each backend has errors of its own
        event = {"event": "tasks.not_taken"}
        logger.error("task %s was not taken: %s", work.name, type(exc).__name__, extra=event)
        count_failure("", "enqueue", TaskQueueUnavailable.code)
        raise TaskQueueUnavailable from exc


@task(priority=_URGENT)
def sign_in_to_garminconnect(user_id: int, attempt: str) -> str:
    return services.run_garminconnect_login(user_id, uuid.UUID(attempt))


@task(priority=_URGENT)
def answer_garminconnect_mfa(user_id: int, attempt: str) -> str:
    return services.run_garminconnect_mfa(user_id, uuid.UUID(attempt))


@task
def sync_gear(
    user_id: int, provider: str, actor: str = "system", actor_id: int | None = None
) -> dict[str, int] | str:
    """By whom is for the trail: services.acting() where it was asked for."""
    try:
        with services.acting_as(actor, actor_id):
            return services.sync_gear(user_id, provider)._asdict()
    except IntegrationsError as exc:  # noted on the row; the next one is due after a while
        return exc.code


@task
def sync_due_gear() -> int:
    """Enqueue a synchronisation for everyone whose gear is due."""
    count = 0
    for provider in services.PROVIDERS:
        while user_ids := services.take_due_gear_syncs(provider):
            for user_id in user_ids:
                sync_gear.enqueue(user_id, provider)
            count += len(user_ids)
    return count


@task
def refresh_due_strava_tokens() -> dict[str, int]:
    return services.sweep_strava_tokens().as_dict()


@task
def forget_old_link_events() -> int:
    return services.forget_old_link_events()


@task
def confirm_strava_revocation(user_id: int) -> str:
    return services.confirm_strava_revocation(user_id)


@task
def confirm_due_strava_revocations() -> int:
    """Enqueue the confirmation of every revocation that none has brought to an end."""
    count = 0
    while user_ids := services.take_due_strava_checks():
        for user_id in user_ids:
            confirm_strava_revocation.enqueue(user_id)
        count += len(user_ids)
    return count
