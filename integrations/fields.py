"""Encrypted model fields that decrypt nothing until a secret is really read.

`fernet_fields` decrypts while a row is loaded: some 12 µs a value, and once a key is lost, every
page that loads the row crashes. Here a loaded value stays sealed until its attribute is read. A
sealed value is written back unchanged, is never displayed, and travels (pickle, dumpdata, caches)
only as ciphertext.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.core.exceptions import FieldError
from django.db import models
from django.db.models.query_utils import DeferredAttribute
from fernet_fields import fields as fernet_fields
from fernet_fields import hkdf

from . import conf
from .exceptions import SecretUnreadable

# Marks ciphertext in fixtures, so that loaddata can tell it from a plain value.
_SERIALIZED_PREFIX = "fernet:"


@lru_cache(maxsize=8)
def _multi_fernet(keys: tuple[str, ...], use_hkdf: bool) -> MultiFernet:
    return MultiFernet([Fernet(hkdf.derive_fernet_key(key) if use_hkdf else key) for key in keys])


def fernet() -> MultiFernet:
    """Seal with the newest of FERNET_KEYS, open with any; settings are read at each call."""
    return _multi_fernet(conf.fernet_keys(), conf.fernet_use_hkdf())


class Sealed:
    """A secret at rest: ciphertext that never prints its content."""

    __slots__ = ("ciphertext",)

    def __init__(self, ciphertext: bytes) -> None:
        self.ciphertext = ciphertext

    def open(self) -> bytes:
        """Decrypt. Raises SecretUnreadable if no key opens it."""
        try:
            return fernet().decrypt(self.ciphertext)
        except InvalidToken as exc:
            raise SecretUnreadable from exc

    def is_readable(self) -> bool:
        """Whether a key of FERNET_KEYS opens it, judged by its signature without decrypting it."""
        try:
            fernet().extract_timestamp(self.ciphertext)
        except InvalidToken:
            return False
        return True

    def resealed(self) -> Sealed | None:
        """The same secret under the newest key; None if it is under that key already.

        Raises SecretUnreadable if no key opens it.
        """
        newest = _multi_fernet(conf.fernet_keys()[:1], conf.fernet_use_hkdf())
        try:
            newest.decrypt(self.ciphertext)
        except InvalidToken:
            return Sealed(newest.encrypt(self.open()))
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sealed) and self.ciphertext == other.ciphertext

    def __hash__(self) -> int:
        return hash(self.ciphertext)

    def __repr__(self) -> str:
        return "<sealed>"


_keep_sealed: ContextVar[bool] = ContextVar("integrations_keep_sealed", default=False)


@contextmanager
def keep_sealed() -> Iterator[None]:
    """Within this block encrypted attributes read as Sealed, without decrypting."""
    token = _keep_sealed.set(True)
    try:
        yield
    finally:
        _keep_sealed.reset(token)


class SealedAttribute(DeferredAttribute):
    """Opens a sealed value each time it is read, and does not keep what it opened."""

    field: EncryptedTextField

    def __get__(self, instance: Any, cls: Any = None) -> Any:
        value = super().__get__(instance, cls)
        if isinstance(value, Sealed) and not _keep_sealed.get():
            return self.field.from_plaintext(value.open().decode())
        return value

    # A data descriptor: without this, Python would read the instance's dict first.
    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.field.attname] = value


class EncryptedTextField(fernet_fields.EncryptedTextField):
    """Text under Fernet (AES-128-CBC with HMAC-SHA256), opened when read."""

    descriptor_class = SealedAttribute

    def from_plaintext(self, plaintext: str) -> Any:
        return plaintext

    def to_plaintext(self, value: Any) -> str:
        return str(value)

    def seal(self, value: Any) -> Any:
        """What is stored for a value; None, expressions and sealed values stay as they are."""
        if value is None or isinstance(value, Sealed) or hasattr(value, "as_sql"):
            return value
        return Sealed(fernet().encrypt(self.to_plaintext(value).encode()))

    def from_db_value(self, value: Any, expression: Any, connection: Any, *args: Any) -> Any:
        return None if value is None else Sealed(bytes(value))

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and value.startswith(_SERIALIZED_PREFIX):
            return Sealed(value.removeprefix(_SERIALIZED_PREFIX).encode())
        return value

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        # Sealing on the instance too keeps the plain value no longer than the save.
        sealed = self.seal(self.value_from_object(model_instance))
        model_instance.__dict__[self.attname] = sealed
        return sealed

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        value = self.seal(value)
        if isinstance(value, Sealed):
            return connection.Database.Binary(value.ciphertext)
        return value

    def value_from_object(self, obj: models.Model) -> Any:
        # Serializers and model forms call this: they get ciphertext, never a secret.
        with keep_sealed():
            return super().value_from_object(obj)

    def value_to_string(self, obj: models.Model) -> str:
        sealed = self.seal(self.value_from_object(obj))
        return "" if sealed is None else _SERIALIZED_PREFIX + sealed.ciphertext.decode()


@EncryptedTextField.register_lookup
class SealedExact(models.Lookup):
    """`filter(field=sealed)`: is this ciphertext still the one that is stored?

    This is the compare of a compare-and-swap. Fernet's random IV rules out a look-up by a secret,
    so any other value is refused, as in fernet_fields.
    """

    lookup_name = "exact"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        if not isinstance(self.rhs, Sealed):
            raise FieldError("Encrypted fields cannot be looked up by value.")
        lhs, params = self.process_lhs(compiler, connection)
        return f"{lhs} = %s", [*params, connection.Database.Binary(self.rhs.ciphertext)]


class EncryptedJSONField(EncryptedTextField):
    """A JSON value (here: an object) under Fernet, opened when read."""

    def from_plaintext(self, plaintext: str) -> Any:
        return json.loads(plaintext)

    def to_plaintext(self, value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))


class Internal:
    """Mixin of fields that say nothing about the athlete, or are worth as much as a secret while an
    authorization is open: they are neither exported nor searched.
    """

    def deconstruct(self) -> Any:  # as Django's own field: it is the same column
        name, _path, args, kwargs = super().deconstruct()  # type: ignore[misc]
        kind = type(self).__name__.removeprefix("Internal")
        return name, f"django.db.models.{kind}", args, kwargs


class InternalCharField(Internal, models.CharField):  # type: ignore[type-arg]
    pass


class InternalTextField(Internal, models.TextField):  # type: ignore[type-arg]
    pass


class InternalDateTimeField(Internal, models.DateTimeField):  # type: ignore[type-arg]
    pass


class InternalUUIDField(Internal, models.UUIDField):  # type: ignore[type-arg]
    pass


class KeepsSecretsSealed(models.Model):
    """Base of models with encrypted fields."""

    class Meta:
        abstract = True

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        # Django copies attribute by attribute, which would open every secret.
        with keep_sealed():
            super().refresh_from_db(*args, **kwargs)

    def sealed(self, name: str) -> Sealed | None:
        """Return an encrypted field as it is stored, without decrypting it."""
        with keep_sealed():
            value: Sealed | None = getattr(self, name)
            return value

    def has_secret(self, name: str) -> bool:
        """Whether an encrypted field holds anything, without decrypting it."""
        return self.sealed(name) is not None
