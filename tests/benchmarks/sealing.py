"""How often secrets are sealed and opened, and with what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from integrations import fields


class Counted:
    """Passes on to Fernet, and keeps what was given to it."""

    def __init__(self) -> None:
        self.fernet = fields.fernet()
        self.sealed: list[bytes] = []
        self.opened: list[bytes] = []

    def encrypt(self, plaintext: bytes) -> bytes:
        self.sealed.append(plaintext)
        return self.fernet.encrypt(plaintext)

    def decrypt(self, ciphertext: bytes) -> bytes:
        self.opened.append(ciphertext)
        return self.fernet.decrypt(ciphertext)

    def extract_timestamp(self, ciphertext: bytes) -> int:
        return self.fernet.extract_timestamp(ciphertext)


@contextmanager
def counted() -> Iterator[Counted]:
    counts = Counted()
    with patch.object(fields, "fernet", lambda: counts):
        yield counts
