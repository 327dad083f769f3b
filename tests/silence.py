"""Servers that take a connection, and from some moment on say nothing."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType

# A frame of RabbitMQ's "connection.blocked", as it sends one to who publishes during an alarm.
# Source: https://www.rabbitmq.com/docs/connection-blocked
_REASON = b"low on memory"
_METHOD = struct.pack(">HHB", 10, 60, len(_REASON)) + _REASON
BLOCKED = struct.pack(">BHI", 1, 0, len(_METHOD)) + _METHOD + b"\xce"
# How a "basic.publish" begins.
PUBLISH = struct.pack(">HH", 60, 40)


class Silence:
    """Passes bytes on to a server until a client sends `word`; a memory alarm's is PUBLISH.

    Without a server it never says anything. After recover() it does what the server does.
    """

    def __init__(self, upstream: tuple[str, int] | None = None, word: bytes = b"") -> None:
        self.upstream, self.word = upstream, word
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def recover(self) -> None:
        """Speak again: to those who connect from now on, as to the others nobody listened."""
        self.word = b""

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self.listener.accept()
                self.sockets.append(client)
                if self.upstream is not None:
                    server = socket.create_connection(self.upstream)
                    self.sockets.append(server)
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        from_client = source.getsockname()[1] == self.port
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if from_client and self.word and self.word in data:
                    source.sendall(BLOCKED)
                    return  # and the connection stays open
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Silence:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
