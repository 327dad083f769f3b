"""Background work: django.tasks wrappers over services. Ids in, a word out, never a secret.

A task for all athletes works for a few seconds and then enqueues itself again, so that what is
urgent comes in between, and no queue takes its worker for dead. A worker that is told to end ends
with the request that it has under way; the scheduler's next run does the rest.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connections
from django.tasks import Task, task
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.backends.dummy import DummyBackend
from django.tasks.backends.immediate import ImmediateBackend

from . import ending, services
from .exceptions import IntegrationsError, TaskQueueUnavailable
from .metrics import count_failure

logger = logging.getLogger("integrations.tasks")

# An athlete is watching.
_URGENT = 50
# Seconds. A password waits for a worker for no more than 50.
SLICE = 20
# As many as are deleted in a few seconds.
EVENTS = 20_000


# Seconds that an athlete may have to wait for a task backend.
ENQUEUE_FOR = 3
# Threads that still wait for it after that.
_late: list[threading.Thread] = []


def enqueue(work: Task[..., Any], *args: Any) -> None:
    """Hand work to a worker. Raises TaskQueueUnavailable if the task backend refuses it, or has not
    taken it after ENQUEUE_FOR seconds; then a worker may get it later.
    """
    try:
        _enqueue_in_time(work, *args)
    except Exception as exc:  # each backend has errors of its own
        event = {"event": "tasks.not_taken"}
        logger.error("task %s was not taken: %s", work.name, type(exc).__name__, extra=event)
        count_failure("", "enqueue", TaskQueueUnavailable.code)
        raise TaskQueueUnavailable from exc


def _enqueue_in_time(work: Task[..., Any], *args: Any) -> None:
    """Enqueue in a thread, because no setting bounds all that a broker's client may wait for: a
    name server, a handshake, a free connection, a confirm, a goodbye. Raises TimeoutError.

    While a thread still waits, nobody else does: the backend is known to be silent.
    """
    if _is_here(work.get_backend()):
        _enqueue(work, *args)
        return
    _late[:] = [thread for thread in _late if thread.is_alive()]
    if _late:
        raise TimeoutError
    outcome: Future[None] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.set_result(context.run(_enqueue, work, *args))
        except BaseException as exc:
            outcome.set_exception(exc)
        finally:
            connections.close_all()  # those of this thread, if a receiver has used any

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        outcome.result(ENQUEUE_FOR)
    except TimeoutError:
        _late.append(thread)
        raise


def _is_here(backend: BaseTaskBackend) -> bool:
    """Whether a backend's queue is this process or Django's database, on the same connection."""
    if isinstance(backend, ImmediateBackend | DummyBackend):
        return True
    return any(cls.__module__.startswith("django_tasks_db.") for cls in type(backend).__mro__)


def _enqueue(work: Task[..., Any], *args: Any) -> None:
    # Arguments are JSON, and a host project's users may have UUIDs for keys.
    work.enqueue(*(str(arg) if isinstance(arg, uuid.UUID) else arg for arg in args))


def _key(user_id: Any) -> Any:
    """A user's key as it was before it became JSON."""
    return get_user_model()._meta.pk.to_python(user_id)


def start_gear_sync(user_id: Any, provider: str) -> None:
    """Have a worker sync gear. Raises what services.request_gear_sync raises, and
    TaskQueueUnavailable."""
    error = services.request_gear_sync(user_id, provider)
    try:
        enqueue(sync_gear, user_id, provider, *services.acting())
    except TaskQueueUnavailable:
        services.withdraw_gear_sync(user_id, provider, error)
        raise


def start_wanted_gear_sync(user_id: Any, provider: str) -> None:
    """After a reconnect: sync gear at once, if the athlete wants it."""
    with suppress(IntegrationsError):  # the scheduler will find it due
        row = services.get_user_integrations_by_user_id(user_id)
        if getattr(row, f"{provider}_sync_gear"):
            start_gear_sync(user_id, provider)


def _linked(user_id: Any, outcome: str) -> str:
    if outcome == "linked":
        start_wanted_gear_sync(user_id, "garminconnect")
    return outcome


@task(priority=_URGENT)
@ending.holding()
def sign_in_to_garminconnect(user_id: Any, attempt: str) -> str:
    key = _key(user_id)
    return _linked(key, services.run_garminconnect_login(key, uuid.UUID(attempt)))


@task(priority=_URGENT)
@ending.holding()
def answer_garminconnect_mfa(user_id: Any, attempt: str) -> str:
    key = _key(user_id)
    return _linked(key, services.run_garminconnect_mfa(key, uuid.UUID(attempt)))


@task
@ending.holding()
def sync_gear(
    user_id: Any, provider: str, actor: str = "system", actor_id: Any = None
) -> dict[str, int] | str:
    """Sync one link's gear; the actor is for the trail: services.acting() at the request."""
    try:
        with services.acting_as(actor, _key(actor_id)):
            return services.sync_gear(_key(user_id), provider)._asdict()
    except IntegrationsError as exc:  # noted on the row; the next one is due after a while
        return exc.code


@task
def refresh_garminconnect_session(user_id: Any, actor: str = "system", actor_id: Any = None) -> str:
    """Rotate one Garmin session now; the actor is for the trail, as in sync_gear."""
    try:
        with services.acting_as(actor, _key(actor_id)):
            services.refresh_garminconnect_session(_key(user_id))
    except IntegrationsError as exc:  # noted on the row
        return exc.code
    return "refreshed"


@task
def sync_taken_gear(user_id: Any, provider: str, until: str) -> dict[str, int] | str:
    """Run a sync that take_due_gear_syncs gave out until then, unless it was given out again."""
    if not services.is_gear_sync_taken(_key(user_id), provider, datetime.fromisoformat(until)):
        return "superseded"
    return sync_gear.call(user_id, provider)


@task
@ending.holding()
def sync_due_gear() -> int:
    """Enqueue a sync for everyone whose gear is due."""
    count, time_is_up_at = 0, time.monotonic() + SLICE
    for provider in services.PROVIDERS:
        while not ending.told():
            if time.monotonic() > time_is_up_at:
                _enqueue(sync_due_gear)
                return count
            user_ids, until = services.take_due_gear_syncs(provider)
            if not user_ids:
                break
            for user_id in user_ids:
                _enqueue(sync_taken_gear, user_id, provider, until.isoformat())
            count += len(user_ids)
    return count


@task
def refresh_due_strava_tokens() -> dict[str, int]:
    counts = services.sweep_strava_tokens(lasts=SLICE)
    if not counts.is_over:
        _enqueue(refresh_due_strava_tokens)
    return counts.as_dict()


@task
@ending.holding()
def forget_old_link_events() -> int:
    count = services.forget_old_link_events(limit=EVENTS)
    if count >= EVENTS:
        _enqueue(forget_old_link_events)
    return count


@task
def confirm_strava_revocation(user_id: Any) -> str:
    return services.confirm_strava_revocation(_key(user_id))


@task
def confirm_due_strava_revocations() -> int:
    """Enqueue the confirmation of revocations that is still due."""
    user_ids = services.take_due_strava_checks()
    for user_id in user_ids:
        _enqueue(confirm_strava_revocation, user_id)
    return len(user_ids)


@task
def learn_strava_subscription() -> bool:
    return services.learn_strava_subscription()
