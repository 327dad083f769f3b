"""Receivers: end deleted links, settle attempts to link, and plant the key canary on migration."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.db import DatabaseError, InterfaceError, connections, router, transaction
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate, pre_delete
from django.dispatch import receiver

from . import ending, providers
from .clock import dated
from .links import Provider
from .models import FernetCanary, Gear, Link, LinkEvent, UsersIntegrations
from .services import _rows, _spool, keys, links, trail
from .services.status import settle_attempts
from .services.tokens import keeper_of
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
    if _has_looked or connection.alias != router.db_for_write(UsersIntegrations):
        return
    _has_looked = True
    # Without the services' wrapper, which closes a failed connection: this one is in use already.
    with suppress(DatabaseError, InterfaceError):
        if Link._meta.db_table in connection.introspection.table_names():
            settle_attempts()


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
        for provider in providers.known().values():
            while True:
                try:
                    keeper_of(provider).take_up()
                    break
                except _spool.DATABASE_AWAY:
                    connections.close_all()
                    if ending.wait(2):
                        return
    finally:
        connections.close_all()


def end_links_on_delete(
    sender: Any, instance: Any, using: str, origin: Any = None, **kwargs: Any
) -> None:
    """Do what a disconnect does when a row is deleted, with its user or by staff alone."""
    stored_there = [
        provider
        for provider in providers.known().values()
        if provider.home.model is sender
        and all(getattr(instance, key) == value for key, value in provider.home.where.items())
    ]
    if not stored_there and sender is not UsersIntegrations:
        return
    for provider in stored_there:
        # First, in the same order as a sign-in that ends, or the two could deadlock.
        provider.cancel(instance.user_id)
    # Read again and lock the row: the given instance may predate the last rotation or lack the
    # tokens, and a refresh at this moment would store tokens that nobody revokes.
    rows = dated(sender.objects.using(using)).select_for_update()
    row = rows.filter(pk=instance.pk).first()
    if row is None:
        return
    # Deleting a user deletes the trail, too.
    keeps_trail = sender in (type(origin), getattr(origin, "model", None))
    for provider in stored_there:
        _end_link(provider, row, using, keeps_trail)
    if sender is UsersIntegrations and keeps_trail:
        # With this row the others go, and what came of providers that the site has no more.
        Link.objects.using(using).filter(user_id=row.user_id).delete()
        Gear.objects.using(using).filter(user_id=row.user_id).delete()


def _end_link(provider: Provider, row: Any, using: str, keeps_trail: bool) -> None:
    Gear.objects.using(using).filter(user_id=row.user_id, provider=provider.name).delete()
    if not provider.home.is_linked(row):
        return
    if provider.revokes:
        # After commit: a rolled-back deletion must not end the link, and no provider is asked
        # within a transaction. Until then this instance holds the sealed tokens.
        transaction.on_commit(lambda: links.revoke_row(provider, row), using=using, robust=True)
    _rows.send_after_commit(account_unlinked, row.user_id, provider.name)
    if keeps_trail:
        trail.note(row.user_id, provider.name, LinkEvent.Event.UNLINKED, "deleted")


for model in {UsersIntegrations, *(each.home.model for each in providers.known().values())}:
    pre_delete.connect(end_links_on_delete, sender=model)
