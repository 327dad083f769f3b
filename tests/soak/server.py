"""What is below the fleet: a database that can be away, a broker that can fall silent."""

from __future__ import annotations

import secrets
import socket
import sqlite3
import threading
import time
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import psycopg
from django.conf import settings
from psycopg import sql

from ..benchmarks.database import POSTGRES_URL
from ..processes import database_url


class Server:
    """SQLite's file, which can be locked for long."""

    def __init__(self) -> None:
        self.url = database_url()

    def away(self, seconds: float) -> None:
        name = settings.DATABASES["default"]["NAME"]
        with closing(sqlite3.connect(name, timeout=30, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)

    def exhausted(self, left: int, seconds: float) -> bool:
        """Whether that can happen here."""
        return False

    def close(self) -> None:
        pass


class PostgresServer(Server):
    """The fleet has a role of its own, because a superuser's connections are not limited."""

    def __init__(self) -> None:
        super().__init__()
        parts = urlsplit(self.url)
        self.database = sql.Identifier(parts.path[1:])
        name, password = f"{parts.path[1:]}_fleet", secrets.token_hex(16)
        self.role = sql.Identifier(name)
        self.url = parts._replace(
            netloc=f"{name}:{password}@{parts.hostname}:{parts.port or 5432}"
        ).geturl()
        self.admin = psycopg.connect(POSTGRES_URL, autocommit=True)
        self.do("CREATE ROLE {role} LOGIN PASSWORD {password}", password=sql.Literal(password))
        self.do("GRANT pg_read_all_data, pg_write_all_data TO {role}")

    def do(self, statement: str, **parts: Any) -> None:
        self.admin.execute(
            sql.SQL(statement).format(role=self.role, database=self.database, **parts)  # type: ignore[arg-type]
        )

    def away(self, seconds: float) -> None:
        """As in a failover: every connection is cut, and none is accepted for so long."""
        self.do("ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        try:
            self.do(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {name}",
                name=sql.Literal(self.role.as_string().strip('"')),
            )
            time.sleep(seconds)
        finally:
            self.do("ALTER DATABASE {database} ALLOW_CONNECTIONS true")

    def exhausted(self, left: int, seconds: float) -> bool:
        """Allow no more connections than that, counting those that are there."""
        self.do("ALTER ROLE {role} CONNECTION LIMIT {left}", left=sql.Literal(left))
        time.sleep(seconds)
        self.do("ALTER ROLE {role} CONNECTION LIMIT -1")
        return True

    def close(self) -> None:
        self.do("ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        self.do("DROP ROLE {role}")
        self.admin.close()


class Broker:
    """RabbitMQ behind a door that can be shut: what is sent waits, as under its memory alarm."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.target = (parts.hostname, parts.port or 5672)
        self.door = threading.Event()
        self.door.set()
        self.server = socket.create_server(("127.0.0.1", 0))
        login = parts.netloc.rpartition("@")[0]
        port = self.server.getsockname()[1]
        self.url = parts._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
        threading.Thread(target=self._accept, daemon=True).start()

    def silent(self, seconds: float) -> None:
        self.door.clear()
        time.sleep(seconds)
        self.door.set()

    def close(self) -> None:
        self.door.set()
        self.server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.server.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.door.wait()
        with client, suppress(OSError), socket.create_connection(self.target) as broker:
            there = threading.Thread(target=self._pass_on, args=(client, broker), daemon=True)
            there.start()
            self._pass_on(broker, client)
            there.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.door.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
