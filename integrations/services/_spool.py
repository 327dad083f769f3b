"""Providers' answers on disk, while the database does not take them.

A provider that has answered has spent the token that it was asked with. So an answer that is not in
the database within a second, or when this process ends, is written to a file, too. Whatever becomes
of the process, whoever comes next stores it: each process when it starts, a sweep, and a refresher
whose token the provider has refused. A file outlasts `kill -9`, and is deleted once its answer is
stored or of no use any more.

A file is sealed with FERNET_KEYS, and only its owner may read it.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.fernet import InvalidToken
from django.core.serializers.json import DjangoJSONEncoder
from django.db import InterfaceError, InternalError, OperationalError, connections, router
from django.utils import timezone

from .. import conf, providers
from ..exceptions import IntegrationsError
from ..fields import fernet

logger = logging.getLogger("integrations.links")

# What a database raises that is away, read-only, locked, full, or on its way to another server.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError)
# Seconds.
WRITE_AFTER = 1


@dataclass(eq=False, repr=False, slots=True)
class Answer:
    """What a provider answered to a token: the row as it was then, and the columns to write."""

    provider: str
    row: Any
    lease: uuid.UUID
    columns: dict[str, Any]
    path: Path | None = None
    since: float = 0
    failed: bool = False  # to be written

    def sealed(self) -> bytes:
        # Deferred fields are not asked for.
        fields = self.row._meta.concrete_fields
        loaded = [f for f in fields if self.row.__dict__.get(f.attname) is not None]
        content = {
            "database": _database(type(self.row)),
            "provider": self.provider,
            "row": {field.attname: field.value_to_string(self.row) for field in loaded},
            "lease": self.lease,
            "columns": self.columns,
        }
        return fernet().encrypt(json.dumps(content, cls=DjangoJSONEncoder).encode())


def _database(model: Any) -> str:
    """By its name, because a failover changes the host."""
    return str(connections[router.db_for_write(model)].settings_dict["NAME"])


def _opened(path: Path) -> Answer | None:
    """None for an answer of another database, where the same number is another user.

    Columns that only another release knows are left out: during a deployment, and after one that
    was taken back, either may find the other's answers.

    Raises InvalidToken, or another ValueError, for a file that was not written here.
    """
    content = json.loads(fernet().decrypt(path.read_bytes()))
    if content["provider"] not in providers.known():
        return None
    model = providers.get(content["provider"]).home.model
    if content["database"] != _database(model):
        return None
    fields = {field.attname: field for field in model._meta.concrete_fields}

    def values(name: str) -> dict[str, Any]:
        given = content[name].items()
        return {key: fields[key].to_python(value) for key, value in given if key in fields}

    row = model(**values("row"))
    row.read_at = timezone.now()  # to be revoked, it may have to be judged by its age
    lease = uuid.UUID(content["lease"])
    return Answer(content["provider"], row, lease, values("columns"), path)


def write(answer: Answer) -> None:
    """Write an answer to its file, unless it has one; not raising an error if that fails."""
    if answer.path is not None:
        return
    folder, user_id = conf.spool_dir(), answer.row.user_id
    path = folder / f"{uuid.uuid4()}.sealed"
    unfinished = path.with_suffix(".unfinished")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(answer.sealed())
            stream.flush()
            os.fsync(file)
        unfinished.rename(path)
    except OSError as exc:  # a disk that is full, too, or no right to write there
        with suppress(OSError):
            unfinished.unlink()
        if not answer.failed:
            event = {"event": f"{answer.provider}.answer_not_spooled", "user_id": user_id}
            logger.error("no file takes an answer either: %s", exc.strerror, extra=event)
        answer.failed = True
    else:
        answer.path = path
        event = {"event": f"{answer.provider}.answer_spooled", "user_id": user_id}
        logger.error("the database does not take an answer: it waits in a file", extra=event)


def waiting(provider: str) -> Iterator[Answer]:
    """The answers of a provider that wait in files.

    One that no key opens stays: the operator may have forgotten a key.
    """
    for path in sorted(conf.spool_dir().glob("*.sealed")):
        try:
            answer = _opened(path)
        except FileNotFoundError:
            continue  # stored meanwhile
        except (InvalidToken, ValueError, TypeError, LookupError, OSError) as exc:
            event = {"event": "spool.unreadable"}
            logger.error("%s cannot be opened: %s", path.name, type(exc).__name__, extra=event)
            continue
        if answer is not None and answer.provider == provider:
            yield answer


def is_empty() -> bool:
    """Whether no answer waits in a file; without opening any."""
    return next(conf.spool_dir().glob("*.sealed"), None) is None


def forget(answer: Answer) -> None:
    if answer.path is not None:
        with suppress(OSError):
            answer.path.unlink(missing_ok=True)


# --- What is in hand ----------------------------------------------------------------------------


class _InHand:
    """The answers of this process that are not in the database yet.

    One thread writes those to files that have been in hand for too long: a statement that hangs
    raises nothing.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answers: set[Answer] = set()
        self.thread: threading.Thread | None = None

    def add(self, answer: Answer) -> None:
        answer.since = time.monotonic()
        with self.lock:
            self.answers.add(answer)
            if self.thread is None:
                self.thread = threading.Thread(target=self._watch, name="spool", daemon=True)
                self.thread.start()

    def remove(self, answer: Answer, *, settled: bool) -> None:
        with self.lock:
            self.answers.discard(answer)
            if settled:
                forget(answer)
            else:
                write(answer)

    def write(self, older_than: float = 0) -> None:
        now = time.monotonic()
        with self.lock:
            for answer in self.answers:
                if now - answer.since >= older_than:
                    write(answer)

    def _watch(self) -> None:
        while True:
            time.sleep(WRITE_AFTER / 4)
            if self.answers:
                self.write(WRITE_AFTER)


_in_hand = _InHand()


def _begin_anew() -> None:
    """After a fork: the thread and the answers are the parent's."""
    global _in_hand
    _in_hand = _InHand()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(lambda: _in_hand.write())


@contextmanager
def in_hand(answer: Answer) -> Iterator[None]:
    """Keep an answer safe while the block tries to store it.

    Its file is deleted if the block ends well, or because the answer is of no use any more.
    """
    settled = False
    _in_hand.add(answer)
    try:
        yield
        settled = True
    except IntegrationsError:
        settled = True
        raise
    finally:
        _in_hand.remove(answer, settled=settled)
