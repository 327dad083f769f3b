from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

_umask = Lock()


class PrivateConnection(sqlite3.Connection):
    """A connection to a file that only the site's own user may read: it holds password hashes.

    SQLite makes the files beside it with the same mode.
    """

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        for path in (database, *(f"{database}{each}" for each in ("-wal", "-shm", "-journal"))):
            # Never open it to find out: closing it would drop the locks that SQLite has on it in
            # this process. It may be missing, or another user's.
            with suppress(OSError):
                if Path(path).stat().st_mode & 0o077:
                    Path(path).chmod(0o600)
        if Path(database).exists():
            super().__init__(database, *args, **kwargs)
            return
        with _umask:  # the mask is the whole process's
            before = os.umask(0o077)
            try:
                super().__init__(database, *args, **kwargs)
            finally:
                os.umask(before)
