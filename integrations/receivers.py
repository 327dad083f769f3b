"""What happens by itself: revoking with a deletion, and the key canary with a migration."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections, router, transaction
from django.db.models.signals import post_migrate, pre_delete
from django.dispatch import receiver

from .models import FernetCanary, LinkStatus, UsersIntegrations
from .services import keys, strava


@receiver(post_migrate)
def plant_fernet_canary(sender: AppConfig, using: str, **kwargs: Any) -> None:
    if sender.name != "integrations" or using != router.db_for_write(FernetCanary):
        return
    if FernetCanary._meta.db_table in connections[using].introspection.table_names():
        keys.plant_fernet_canary()  # there is no table after `migrate integrations zero`


@receiver(pre_delete, sender=UsersIntegrations)
def revoke_on_delete(instance: UsersIntegrations, using: str, **kwargs: Any) -> None:
    # Read anew: the instance at hand may be older than the last rotation, or lack the tokens.
    row = UsersIntegrations.objects.using(using).filter(pk=instance.pk).first()
    # After commit: a deletion that is rolled back must not end the link, and no provider is
    # asked within a transaction. Until then the row holds the tokens sealed.
    if row is not None and row.strava_status != LinkStatus.NOT_LINKED:
        transaction.on_commit(lambda: strava.revoke_row(row), using=using, robust=True)
