"""Garmin's background work: only workers sign in."""

from __future__ import annotations

import uuid
from typing import Any

from django.tasks import task

from .. import ending
from ..tasks import URGENT, key_of, start_wanted_gear_sync
from . import login


@task(priority=URGENT)
@ending.holding()
def sign_in_to_garminconnect(user_id: Any, attempt: str) -> str:
    key = key_of(user_id)
    return _linked(key, login.run_login(key, uuid.UUID(attempt)))


@task(priority=URGENT)
@ending.holding()
def answer_garminconnect_mfa(user_id: Any, attempt: str) -> str:
    key = key_of(user_id)
    return _linked(key, login.run_mfa(key, uuid.UUID(attempt)))


def _linked(user_id: Any, outcome: str) -> str:
    if outcome == "linked":
        start_wanted_gear_sync(user_id, "garminconnect")
    return outcome
