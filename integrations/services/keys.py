"""Rotation of encryption keys: every stored secret is sealed again with the newest key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import models

from .. import ending
from ..exceptions import SecretUnreadable
from ..fields import EncryptedTextField, Sealed, keep_sealed
from ..models import FernetCanary
from . import trail
from ._rows import database_errors
from .trail import Event

CANARY = "integrations"


@dataclass
class RotationCounts:
    """Rows: how many there were at the start; then `rotated` now, `current` before, and
    `unreadable` with any key, and their user ids."""

    rows: int = 0
    rotated: int = 0
    current: int = 0
    unreadable: int = 0
    unreadable_user_ids: list[Any] = field(default_factory=list)

    @property
    def done(self) -> int:
        return self.rotated + self.current + self.unreadable


@database_errors
def rotate_fernet_keys(
    batch_size: int = 500, progress: Callable[[RotationCounts], object] = lambda counts: None
) -> RotationCounts:
    """Seal every stored secret with the newest of FERNET_KEYS, a batch of rows in memory at a time.

    It may be stopped anywhere and run again, and the site may keep running: a row is written only
    if it still holds what was read, so a token refreshed meanwhile is not undone. A secret that no
    key opens is counted and left as it is. If the process is told to end, the rest stays as it is.
    """
    models = list(_encrypted_models())
    counts = RotationCounts(rows=sum(model._default_manager.count() for model, _ in models))
    with ending.holding():
        for model, names in models:
            for row in _rows_of(model, batch_size):
                if ending.told():
                    break
                _rotate_row(model, row, names, counts)
                progress(counts)
        code = f"rotated={counts.rotated} unreadable={counts.unreadable}"
        trail.note(None, "", Event.KEYS_ROTATED, code)
        return counts


@database_errors
def fernet_keys_open_secrets() -> bool:
    """Whether FERNET_KEYS opens the canary, and so the secrets that were stored with it."""
    canary = FernetCanary.objects.first()
    if canary is None:
        return True
    try:
        return canary.value == CANARY
    except SecretUnreadable:
        return False


@database_errors
def plant_fernet_canary(*, anew: bool = False) -> None:
    """Store the row by which a wrong key is noticed at start, unless it exists.

    `anew` replaces it, for an operator who knows that a key is lost for good.
    """
    canary = FernetCanary(pk=1, value=CANARY)
    if anew:
        canary.save()
    else:
        FernetCanary.objects.bulk_create([canary], ignore_conflicts=True)


def _encrypted_models() -> Iterator[tuple[type[models.Model], list[str]]]:
    """Every model with encrypted fields, and their names."""
    for model in apps.get_models():
        fields = model._meta.concrete_fields
        if names := [each.attname for each in fields if isinstance(each, EncryptedTextField)]:
            yield model, names


def _rows_of(model: Any, batch_size: int) -> Iterator[Any]:
    last = 0
    rows = model._default_manager.order_by("pk")
    while batch := list(rows.filter(pk__gt=last)[:batch_size]):
        last = batch[-1].pk
        yield from batch


def _rotate_row(model: Any, row: Any, names: list[str], counts: RotationCounts) -> None:
    readable, changed = True, False
    while True:
        read, written = {}, {}
        with keep_sealed():
            sealed = {name: getattr(row, name) for name in names}
        for name, value in sealed.items():
            if not isinstance(value, Sealed):
                continue
            try:
                resealed = value.resealed()
            except SecretUnreadable:
                readable = False
                continue
            if resealed is not None:
                read[name], written[name] = value, resealed
        # If the row has changed since, read it again: the newer value counts.
        if not written or model._default_manager.filter(pk=row.pk, **read).update(**written):
            changed = changed or bool(written)
            break
        row = model._default_manager.filter(pk=row.pk).first()
        if row is None:
            return
    counts.rotated += changed
    counts.current += readable and not changed
    if not readable:
        counts.unreadable += 1
        counts.unreadable_user_ids.append(getattr(row, "user_id", None))
