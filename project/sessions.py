"""Django's sessions in the database, under a hash of the cookie's value.

Whoever copies the table, or finds a backup of it, must not be able to sign in with what it holds.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.base_session import AbstractBaseSession
from django.utils import timezone


def stored_key(session_key: str | None) -> str:
    """What the table holds for a cookie's value: as many hexadecimal digits as the column takes.

    The value has 165 random bits, so nobody guesses it and a plain hash will do.
    """
    return sha256((session_key or "").encode(errors="replace")).hexdigest()[:40]


# The class keeps its name: Django salts the signature of what it stores with it.
class SessionStore(db.SessionStore):
    # These of the base class ask the ones below, in a thread.
    aload, aexists = SessionBase.aload, SessionBase.aexists
    asave, adelete = SessionBase.asave, SessionBase.adelete

    def load(self) -> dict[str, Any]:
        key = stored_key(self.session_key)
        row = self.model.objects.filter(session_key=key, expire_date__gt=timezone.now()).first()
        if row is None:
            self._session_key = None  # as Django does: nobody chooses the key of a new session
            return {}
        return self.decode(row.session_data)

    def exists(self, session_key: str) -> bool:
        return super().exists(stored_key(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        row = super().create_model_instance(data)
        row.session_key = stored_key(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            super().delete(stored_key(key))
