"""Deleting a user, or a row, revokes at the provider too."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models.signals import pre_delete
from django.dispatch import receiver

from .models import UsersIntegrations
from .services import strava


@receiver(pre_delete, sender=UsersIntegrations)
def revoke_on_delete(instance: UsersIntegrations, using: str, **kwargs: Any) -> None:
    # After commit: a deletion that is rolled back must not end the link, and no provider is
    # asked within a transaction. Until then the row at hand holds the tokens sealed.
    if instance.has_secret("strava_token"):
        transaction.on_commit(lambda: strava.revoke_row(instance), using=using, robust=True)
