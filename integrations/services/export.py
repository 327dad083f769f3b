"""Everything that is stored about one user's links, without secrets."""

from __future__ import annotations

from typing import Any

from django.db import models

from ..fields import EncryptedTextField
from ..models import GarminConnectAttempt, GarminConnectLogin, Gear, LinkEvent, UsersIntegrations
from ._rows import database_errors
from .garminconnect_login import settle_dead_logins

_LEFT_OUT = {
    # Internal columns, which say nothing about the athlete.
    *("id", "user", "attempt", "email_hash", "strava_lease", "garminconnect_lease"),
    *(
        "strava_spent_state",
        "strava_exchanging_state",
        "strava_exchanging_until",
        "strava_exchanging_error",
    ),
    "strava_state",  # worth as much as a secret for ten minutes
    "actor_user",  # the staff member who acted
}


@database_errors
def export_integrations(user_id: int) -> dict[str, Any]:
    """What is stored about a user's links, as JSON-serializable values (times aware UTC).

    For each secret it says only whether there is one.
    """
    settle_dead_logins()
    return {
        "integrations": _export(UsersIntegrations, user_id),
        "gear": _export(Gear, user_id),
        "garmin_sign_in": _export(GarminConnectLogin, user_id),
        "garmin_attempts": _export(GarminConnectAttempt, user_id),
        "activity": _export(LinkEvent, user_id),
    }


def _export(model: type[models.Model], user_id: int) -> list[dict[str, Any]]:
    rows = model._default_manager.filter(user_id=user_id).order_by("pk")
    fields = [each for each in model._meta.concrete_fields if each.name not in _LEFT_OUT]
    return [
        {
            each.name: _presence(row, each.attname)
            if isinstance(each, EncryptedTextField)
            else getattr(row, each.attname)
            for each in fields
        }
        for row in rows
    ]


def _presence(row: Any, name: str) -> str:
    return "stored, encrypted" if row.has_secret(name) else "not stored"
