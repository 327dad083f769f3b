"""Background work: django.tasks wrappers over services. Ids in, a word out, never a secret."""

from __future__ import annotations

import uuid

from django.tasks import task

from . import services

# An athlete is watching.
_URGENT = 50


@task(priority=_URGENT)
def sign_in_to_garminconnect(user_id: int, attempt: str) -> str:
    return services.run_garminconnect_login(user_id, uuid.UUID(attempt))


@task(priority=_URGENT)
def answer_garminconnect_mfa(user_id: int, attempt: str) -> str:
    return services.run_garminconnect_mfa(user_id, uuid.UUID(attempt))
