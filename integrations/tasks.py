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
from importlib import import_module
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connections
from django.tasks import Task, task
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.backends.dummy import DummyBackend
from django.tasks.backends.immediate import ImmediateBackend

from . import ending, providers, services
from .exceptions import IntegrationsError, TaskQueueUnavailable
from .metrics import count_failure
from .services import gear, trail
from .services.sweep import sweep_tokens

logger = logging.getLogger("integrations.tasks")

# An athlete is watching.
URGENT = 50
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
        enqueue_now(work, *args)
        return
    _late[:] = [thread for thread in _late if thread.is_alive()]
    if _late:
        raise TimeoutError
    outcome: Future[None] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.set_result(context.run(enqueue_now, work, *args))
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


def enqueue_now(work: Task[..., Any], *args: Any) -> None:
    # Arguments are JSON, and a host project's users may have UUIDs for keys.
    work.enqueue(*(str(arg) if isinstance(arg, uuid.UUID) else arg for arg in args))


def key_of(user_id: Any) -> Any:
    """A user's key as it was before it became JSON."""
    return get_user_model()._meta.pk.to_python(user_id)


def start_gear_sync(user_id: Any, provider: str) -> None:
    """Have a worker sync gear. Raises what gear.request_gear_sync raises, and
    TaskQueueUnavailable."""
    error = gear.request_gear_sync(user_id, provider)
    try:
        enqueue(sync_gear, user_id, provider, *trail.acting())
    except TaskQueueUnavailable:
        gear.withdraw_gear_sync(user_id, provider, error)
        raise


def start_wanted_gear_sync(user_id: Any, provider: str) -> None:
    """After a reconnect: sync gear at once, if the athlete wants it."""
    with suppress(IntegrationsError):  # the scheduler will find it due
        if gear.wants_gear(user_id, provider):
            start_gear_sync(user_id, provider)


@task
@ending.holding()
def sync_gear(
    user_id: Any, provider: str, actor: str = "system", actor_id: Any = None
) -> dict[str, int] | str:
    """Sync one link's gear; the actor is for the trail: trail.acting() at the request."""
    try:
        with services.acting_as(actor, key_of(actor_id)):
            return services.sync_gear(key_of(user_id), provider)._asdict()
    except IntegrationsError as exc:  # noted on the row; the next one is due after a while
        return exc.code


@task
def refresh_link(user_id: Any, provider: str, actor: str = "system", actor_id: Any = None) -> str:
    """Refresh one link now; the actor is for the trail, as in sync_gear."""
    try:
        with services.acting_as(actor, key_of(actor_id)):
            services.refresh_link(key_of(user_id), provider)
    except IntegrationsError as exc:  # noted on the row
        return exc.code
    return "refreshed"


@task
def sync_taken_gear(user_id: Any, provider: str, until: str) -> dict[str, int] | str:
    """Run a sync that take_due_gear_syncs gave out until then, unless it was given out again."""
    if not gear.is_gear_sync_taken(key_of(user_id), provider, datetime.fromisoformat(until)):
        return "superseded"
    return sync_gear.call(user_id, provider)


@task
@ending.holding()
def sync_due_gear() -> int:
    """Enqueue a sync for everyone whose gear is due."""
    count, time_is_up_at = 0, time.monotonic() + SLICE
    for provider in providers.with_gear():
        while not ending.told():
            if time.monotonic() > time_is_up_at:
                enqueue_now(sync_due_gear)
                return count
            user_ids, until = gear.take_due_gear_syncs(provider.name)
            if not user_ids:
                break
            for user_id in user_ids:
                enqueue_now(sync_taken_gear, user_id, provider.name, until.isoformat())
            count += len(user_ids)
    return count


@task
def refresh_due_tokens() -> dict[str, int]:
    counts = sweep_tokens(lasts=SLICE)
    if not counts.is_over:
        enqueue_now(refresh_due_tokens)
    return counts.as_dict()


@task
@ending.holding()
def forget_old_link_events() -> int:
    count = trail.forget_old_link_events(limit=EVENTS)
    if count >= EVENTS:
        enqueue_now(forget_old_link_events)
    return count


def __getattr__(name: str) -> Any:
    """A provider's task by the path that it had in release 0.1.0, which may still enqueue it."""
    for provider in () if name.startswith("_") else providers.known().values():
        if provider.tasks and name in vars(module := import_module(provider.tasks)):
            return getattr(module, name)
    raise AttributeError(name)
