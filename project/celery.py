"""The Celery app, for TASKS_BACKEND=celery: background work on any number of machines.

    celery -A project worker

The tasks are those of django.tasks, which do not depend on Celery.
"""

from __future__ import annotations

import os
from typing import Any

import celery  # type: ignore[import-untyped]
from celery.signals import (  # type: ignore[import-untyped]
    setup_logging,
    worker_shutting_down,
)
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from integrations import ending

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

if settings.TASKS_BACKEND != "celery":
    # Celery would assume a broker on this machine, and wait for it in vain.
    raise ImproperlyConfigured(f"TASKS_BACKEND is {settings.TASKS_BACKEND}, so Celery has no work.")

HIGHEST = settings.CELERY_TASK_QUEUE_MAX_PRIORITY


class Task(celery.Task):
    """A task whose priority every broker understands."""

    def apply_async(self, *args: Any, priority: int | None = None, **options: Any) -> Any:
        """Send the task; `priority` is from django-tasks-celery: 1 to 255, or None for 0.

        RabbitMQ caps a priority at the queue's highest, and each level costs it memory, so 255
        levels are too many. To Celery's Redis transport 0 is the most urgent, so without this the
        least urgent task would come first.

        Source: https://www.rabbitmq.com/docs/priority;
        https://docs.celeryq.dev/en/stable/userguide/routing.html#redis-message-priorities
        """
        level = round((128 if priority is None else priority) * HIGHEST / 255)
        if settings.CELERY_BROKER_URL.startswith("redis"):
            level = HIGHEST - level
        return super().apply_async(*args, priority=level, **options)


@setup_logging.connect  # type: ignore[untyped-decorator]
def leave_logging_to_django(**kwargs: Any) -> None:
    """Keep Celery from replacing the handlers and their filters, which remove secrets."""


# The signal comes to the parent; its children, which run the tasks, look at what it was told.
worker_shutting_down.connect(ending.tell)

app = celery.Celery("project", task_cls=Task)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
