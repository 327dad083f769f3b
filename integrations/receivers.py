"""Receivers: end deleted links, settle dead sign-ins, and plant the key canary on migration."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.db import DatabaseError, InterfaceError, connections, router, transaction
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate, pre_delete
from django.dispatch import receiver

from . import ending
from .models import FernetCanary, GarminConnectLogin, Gear, LinkEvent, UsersIntegrations
from .services import _rows, _spool, _trail, garminconnect_login, keys, strava
from .services._gear_sources import KEEPERS
from .signals import account_unlinked


@receiver(post_migrate)
def plant_fernet_canary(sender: AppConfig, using: str, **kwargs: Any) -> None:
    if sender.name != "integrations" or using != router.db_for_write(FernetCanary):
        return
    if FernetCanary._meta.db_table in connections[using].introspection.table_names():
        keys.plant_fernet_canary()  # there is no table after `migrate integrations zero`


@receiver(connection_created)
def forget_what_is_over(connection: Any, **kwargs: Any) -> None:
    """End abandoned sign-ins at a process's first connection, and so at a worker's start.

    Without this, and where no clock runs, a password would stay if its worker died.
    """
    global _has_looked
    if _has_looked or connection.alias != router.db_for_write(GarminConnectLogin):
        return
    _has_looked = True
    # Without the services' wrapper, which closes a failed connection: this one is in use already.
    with suppress(DatabaseError, InterfaceError):
        if GarminConnectLogin._meta.db_table in connection.introspection.table_names():
            garminconnect_login.settle_dead_logins()


_has_looked = False


@receiver(connection_created)
def take_up_answers(connection: Any, **kwargs: Any) -> None:
    """Store what an earlier process could not, once this one has a database.

    In a thread, because this connection is in use already, and a link that is gone by now is
    revoked at its provider.
    """
    global _has_looked_for_answers
    if _has_looked_for_answers or connection.alias != router.db_for_write(UsersIntegrations):
        return
    _has_looked_for_answers = True
    if not _spool.is_empty():
        threading.Thread(target=_take_up_answers, daemon=True).start()


_has_looked_for_answers = False


def _take_up_answers() -> None:
    try:
        for keeper in KEEPERS.values():
            while True:
                try:
                    keeper.take_up()
                    break
                except _spool.DATABASE_AWAY:
                    connections.close_all()
                    if ending.wait(2):
                        return
    finally:
        connections.close_all()


@receiver(pre_delete, sender=UsersIntegrations)
def end_links_on_delete(
    instance: UsersIntegrations, using: str, origin: Any = None, **kwargs: Any
) -> None:
    """Do what a disconnect does when a row is deleted, with its user or by staff alone."""
    # First, in the same order as a sign-in that ends, or the two could deadlock.
    GarminConnectLogin.objects.using(using).filter(user_id=instance.user_id).delete()
    # Read again and lock the row: the given instance may predate the last rotation or lack the
    # tokens, and a refresh at this moment would store a pair that nobody revokes.
    row = UsersIntegrations.objects.using(using).select_for_update().filter(pk=instance.pk).first()
    if row is None:
        return
    if row.is_linked("strava"):
        # After commit: a rolled-back deletion must not end the link, and no provider is asked
        # within a transaction. Until then this instance holds the sealed tokens.
        transaction.on_commit(lambda: strava.revoke_row(row), using=using, robust=True)
    Gear.objects.using(using).filter(user_id=row.user_id).delete()
    for provider in Gear.Provider.values:
        if row.is_linked(provider):
            _rows.send_after_commit(account_unlinked, row.user_id, provider)
            # Deleting a user deletes the trail, too.
            if UsersIntegrations in (type(origin), getattr(origin, "model", None)):
                _trail.note(row.user_id, provider, LinkEvent.Event.UNLINKED, "deleted")
