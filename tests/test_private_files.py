"""On a machine with other users, the files of an SQLite site are its own."""

from __future__ import annotations

import os

import pytest

from project.schedule import FileLock

from .test_project import PRODUCTION, manage


@pytest.fixture(autouse=True)
def usual_mask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def files_of(where, mode="WAL"):
    """What the site's files are while it has them open and writes."""
    script = (
        "import os, pathlib; from django.db import connection, transaction;"
        f"cursor = connection.cursor(); cursor.execute('PRAGMA journal_mode={mode}');"
        "block = transaction.atomic(); block.__enter__();"
        "cursor.execute('CREATE TABLE IF NOT EXISTS a (b)');"
        "cursor.execute('INSERT INTO a VALUES (1)');"
        "print(*(f'{each.name} {each.stat().st_mode & 0o777:o}'"
        " for each in sorted(pathlib.Path(os.environ['WHERE']).iterdir())), sep=chr(10));"
        "block.__exit__(None, None, None);"
        "made = os.open(os.environ['WHERE'] + '/other', os.O_CREAT, 0o666)"
    )
    code, out, err = manage(
        *("shell", "--no-imports", "-c", script),
        **PRODUCTION,
        DATABASE_URL=f"sqlite:///{where / 'db.sqlite3'}",
        WHERE=str(where),
        PYTHONWARNINGS="ignore",
    )
    assert code == 0, err
    assert (where / "other").stat().st_mode & 0o777 == 0o644  # nothing else is touched
    (where / "other").unlink()
    return dict(line.split() for line in out.strip().splitlines())


def test_the_database_and_what_stands_beside_it_are_the_sites_own(tmp_path):
    files = files_of(tmp_path)
    assert files == dict.fromkeys(("db.sqlite3", "db.sqlite3-shm", "db.sqlite3-wal"), "600")
    for path in tmp_path.iterdir():  # as a former release left them
        path.chmod(0o644)
    (tmp_path / "db.sqlite3").chmod(0o664)
    assert set(files_of(tmp_path).values()) == {"600"}


def test_so_is_a_journal(tmp_path):
    files = files_of(tmp_path, "DELETE")
    assert files == dict.fromkeys(("db.sqlite3", "db.sqlite3-journal"), "600")


def test_so_is_the_schedulers_lock(tmp_path):
    path = tmp_path / "db.sqlite3-scheduler"
    path.touch(0o666)
    for _ in range(2):
        lock = FileLock(path)
        assert lock.leads()
        lock.release()
        assert path.stat().st_mode & 0o777 == 0o600
        path.unlink()
