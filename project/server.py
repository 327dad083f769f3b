"""gunicorn's threads, given a request only once all of it is here.

gthread has the thread that answers a request read it as well, and waits for as long as that takes:
as many strangers as there are threads, whose heads or bodies drip, and no page is served. Its main
loop waits for all connections anyway; here it also collects what comes of each request, within a
time and up to a size. A response goes into the kernel's buffer, and a connection is closed, without
a thread that waits for whoever reads slowly.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import socket
import sys
import termios
import time
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]

ARRIVES_IN = 10  # seconds, from the connection or the last response to the end of the request
MAX_HEAD = 32 * 1024  # bytes
MAX_BODY = 64 * 1024  # bytes; the largest form, of the admin, has a few thousand
# Bytes of a response for the kernel to keep. Linux doubles this, and caps it.
SEND_BUFFER = 512 * 1024
# Seconds after which the kernel gives up on somebody who reads nothing of the rest.
READS_IN = 10

_FIELD = rb"\r\n%s[ \t]*:[ \t]*([^\r\n]*)"
_LENGTH = re.compile(_FIELD % rb"content-length", re.I)
_CODING = re.compile(_FIELD % rb"transfer-encoding", re.I)
_EXPECT = re.compile(_FIELD % rb"expect", re.I)
_SIZE = re.compile(rb"[ \t]*([0-9a-f]+)[ \t]*", re.I)  # int() would take -6 as well, and go back
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TOO_LONG = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class TooLong(Exception):
    """A head or a body above its limit; holds the status."""


class Arrival:
    """A request as far as it is here. What it means is gunicorn's to say: this only looks for its
    end, and a thread that finds another one there gets nothing more to read.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.body = 0  # where it begins; 0 if the head is not here
        self.end = 0  # where the next chunk begins, or the body ends
        self.chunked = self.wants_word = False

    def add(self, data: bytes) -> bool:
        """Take what has come; returns whether the request is whole. Raises TooLong."""
        searched = max(len(self.data) - 3, 0)
        self.data += data
        if not self.body and not self._read_head(searched):
            return False
        if self.chunked:
            whole = self._read_chunks()
            if not whole and len(self.data) - self.body > MAX_BODY:
                raise TooLong(b"413 Content Too Large")
            return whole
        return len(self.data) >= self.end

    def _read_head(self, searched: int) -> bool:
        found = self.data.find(b"\r\n\r\n", searched)
        if (len(self.data) if found < 0 else found) > MAX_HEAD:
            raise TooLong(b"431 Request Header Fields Too Large")
        if found < 0:
            return False
        self.body = self.end = found + 4
        head = bytes(self.data[:found])
        self.chunked = bool(_CODING.search(head))
        found_length = _LENGTH.search(head)
        length = found_length[1].strip() if found_length and not self.chunked else b""
        if length.isdigit():
            if len(length) > 9 or int(length) > MAX_BODY:
                raise TooLong(b"413 Content Too Large")
            self.end += int(length)
        self.wants_word = bool(_EXPECT.search(head))
        return True

    def _read_chunks(self) -> bool:
        while (line := self.data.find(b"\r\n", self.end)) >= 0:
            found = _SIZE.fullmatch(bytes(self.data[self.end : line]).partition(b";")[0])
            if found is None:
                return True  # for gunicorn to refuse
            size = int(found[1], 16)
            if size == 0:  # then there may be trailers
                return self.data.find(b"\r\n\r\n", line) >= 0
            if size > MAX_BODY:
                raise TooLong(b"413 Content Too Large")
            if line + 2 + size + 2 > len(self.data):
                return False
            self.end = line + 2 + size + 2
        return False


class Worker(ThreadWorker):
    """For gunicorn's `worker_class`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.untaken: list[TConn] = []

    def enqueue_req(self, conn: TConn) -> None:
        """Have a thread answer the next request of a connection, once it is here.

        The start of it may be here already, behind the last one.
        """
        cfg = self.cfg
        if cfg.is_ssl or (cfg.http2_cleartext, cfg.proxy_protocol) != ("off", "off"):
            super().enqueue_req(conn)  # these begin with other things than a head
            return
        if not hasattr(conn, "arrival"):
            # A socket file has no such options, and some systems have no TCP_USER_TIMEOUT.
            with contextlib.suppress(OSError, AttributeError):
                conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
                conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READS_IN * 1000)
        conn.arrival = Arrival()
        early = conn.parser.unreader.take_buffered() if conn.parser else b""
        self._wait_for(conn, self._collect)
        if early:
            self._take(conn, early)

    def handle(self, conn: TConn) -> Any:
        if arrival := getattr(conn, "arrival", None):
            conn.init()
            conn.parser.unreader.unread(bytes(arrival.data))
            # The request ends here, whatever its head says. No thread waits for more.
            conn.parser.unreader.chunk = lambda size_hint=None: b""
        return super().handle(conn)

    def finish_request(self, conn: TConn, fs: Any) -> None:
        over = not fs.cancelled() and fs.exception() is None and fs.result() is False
        if over and conn.sock.fileno() < 0:  # closed already, because the answer broke off
            self.nr_conns -= 1
        elif over and self.alive and not self.cfg.is_ssl:
            self._say_goodbye(conn)  # gunicorn would wait for the other side's goodbye, right here
        else:
            super().finish_request(conn, fs)

    def _wait_for(self, conn: TConn, then: Any) -> None:
        """Call `then` with what comes on a connection, for ARRIVES_IN seconds; murder_pending
        closes it after that.
        """
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + ARRIVES_IN
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(then, conn))

    def _no_longer(self, conn: TConn) -> None:
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)

    def _collect(self, conn: TConn, sock: socket.socket) -> None:
        if (data := _received(sock)) is not None:
            self._take(conn, data)

    def _take(self, conn: TConn, data: bytes) -> None:
        arrival: Arrival = conn.arrival
        try:
            # With the connection's end, gunicorn decides about what there is.
            whole = arrival.add(data) or not data
        except TooLong as exc:
            self._no_longer(conn)
            with contextlib.suppress(OSError):
                conn.sock.send(_TOO_LONG % exc.args[0])
            self._say_goodbye(conn)
            return
        if whole:
            self.poller.unregister(conn.sock)
            self._hand_over(conn)
        elif arrival.wants_word:
            arrival.wants_word = False
            with contextlib.suppress(OSError):
                conn.sock.send(_CONTINUE)

    def _hand_over(self, conn: TConn) -> None:
        """Have a thread answer, once the last answer has been taken: its buffer is for one."""
        if _unsent(conn.sock):
            self.untaken.append(conn)
        else:
            self.pending_conns.remove(conn)
            conn.data_ready = True
            super().enqueue_req(conn)

    def murder_pending(self) -> None:  # at least once a second
        super().murder_pending()
        untaken, self.untaken = self.untaken, []
        for conn in untaken:
            if conn.sock.fileno() >= 0:  # not closed meanwhile
                self._hand_over(conn)

    def _cap_keepalive(self, deadline: float) -> None:  # once, when the worker is told to stop
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _say_goodbye(self, conn: TConn) -> None:
        """End a connection once the other side has read what was sent and closed its end, too.

        Closing with unread bytes would take back the end of the response (RFC 9112, section 9.6).
        """
        with contextlib.suppress(OSError):
            conn.sock.shutdown(socket.SHUT_WR)
        self._wait_for(conn, self._discard)

    def _discard(self, conn: TConn, sock: socket.socket) -> None:
        if _received(sock) == b"":
            self._no_longer(conn)
            self.nr_conns -= 1
            conn.close()


def _received(sock: socket.socket) -> bytes | None:
    """What has come: b"" at the connection's end, None if it was a false alarm."""
    try:
        return sock.recv(65536)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


def _unsent(sock: socket.socket) -> int:
    """Bytes of an answer that the other side's kernel has not taken; 0 where nobody can say."""
    with contextlib.suppress(OSError, AttributeError):
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0
