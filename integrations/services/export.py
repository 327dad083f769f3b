"""Everything that is stored about one user's links, without secrets."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import models

from ..fields import EncryptedTextField, Internal
from ._rows import database_errors
from .status import settle_attempts


@database_errors
def export_integrations(user_id: int) -> dict[str, Any]:
    """What is stored about a user's links, as JSON-serializable values (times aware UTC).

    For each secret it says only whether there is one.
    """
    settle_attempts()
    found = apps.get_app_config("integrations").get_models()
    return {
        model.exported_as: _export(model, user_id)  # type: ignore[attr-defined]
        for model in found
        if any(field.attname == "user_id" for field in model._meta.concrete_fields)
    }


def _export(model: type[models.Model], user_id: int) -> list[dict[str, Any]]:
    rows = model._default_manager.filter(user_id=user_id).order_by("pk")
    # Neither what says nothing about the athlete, nor the staff member who acted.
    fields = [
        each
        for each in model._meta.concrete_fields
        if not (each.primary_key or each.is_relation or isinstance(each, Internal))
    ]
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
