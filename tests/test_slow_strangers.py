"""gunicorn, as the README starts it and with no proxy before it, among strangers who are slow."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from io import BytesIO
from selectors import DefaultSelector
from urllib.parse import urlsplit

import pytest
import requests
from gunicorn.config import Config
from gunicorn.workers.gthread import TConn

from project.server import ARRIVES_IN, MAX_BODY, MAX_HEAD, Arrival, Worker

from .test_proxy import running

HOST = b"Host: site.home\r\n"
LOGIN = b"/accounts/login/"
# The largest file that the site serves.
SCRIPT = b"/static/admin/js/vendor/jquery/jquery.js"
POST = b"POST " + LOGIN + b" HTTP/1.1\r\n" + HOST

# What a stranger sends at once, and what then drips, byte for byte.
SLOW = {
    "nothing": (b"", b""),
    "a head": (b"GET " + LOGIN + b" HTTP/1.1\r\nX: ", b"x" * 1000),
    "a head after an empty one": (b"\r\n\r\n", b"GET " + LOGIN + b" HTTP/1.1\r\n"),
    "a body": (POST + b"Content-Length: 1000\r\n\r\nx=", b"x" * 1000),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\nx=", b"x" * 1000),
    "chunks that look like their end": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n\r\n0\r\n\r\n",
        b"x" * 1000,
    ),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 1000),
    "a huge body": (POST + b"Content-Length: 1000000000\r\n\r\nx=", b"x" * 1000),
    "no goodbye": (b"GET " + LOGIN + b" HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n", b""),
    "what is read": ((b"GET " + SCRIPT + b" HTTP/1.1\r\n" + HOST + b"\r\n") * 40, b""),
}


@pytest.fixture(scope="module")
def site(django_db_setup, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "errors"
    site = running(
        ALLOWED_HOSTS="site.home,127.0.0.1",
        INSECURE_HTTP="on",
        GUNICORN_CMD_ARGS=f"--error-logfile {log}",
    )
    site.log = log
    yield site
    site.stop()


def connected(site, small_window=False):
    host, port = urlsplit(site.url).netloc.split(":")
    connection = socket.socket()
    if small_window:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    return connection


def drip(connections, text, stop):
    for byte in text:
        if stop.wait(0.2):
            return
        for connection in connections:
            try:
                connection.send(bytes([byte]))
            except OSError:
                return  # it was sent away


@pytest.mark.parametrize("name", SLOW)
def test_twelve_slow_strangers_keep_nobody_waiting(transactional_db, site, name):
    first, rest = SLOW[name]
    stop = threading.Event()
    with ExitStack() as open_connections:
        open_connections.callback(stop.set)
        strangers = [
            open_connections.enter_context(connected(site, name == "what is read"))
            for _ in range(12)
        ]
        for stranger in strangers:
            stranger.sendall(first)
        threading.Thread(target=drip, args=(strangers, rest, stop), daemon=True).start()
        time.sleep(2 if name == "what is read" else 0.5)  # until what is sent fills what it can
        for _ in range(3):
            started = time.monotonic()
            assert requests.get(f"{site.url}/accounts/login/", timeout=60).status_code == 200
            assert time.monotonic() - started < 3


def test_who_does_not_come_to_an_end_is_sent_away(transactional_db, site):
    stop = threading.Event()
    started = time.monotonic()
    with ExitStack() as open_connections:
        open_connections.callback(stop.set)
        strangers = [open_connections.enter_context(connected(site)) for _ in range(3)]
        for stranger, name in zip(strangers, ("nothing", "a head", "a body"), strict=True):
            stranger.sendall(SLOW[name][0])
        threading.Thread(target=drip, args=(strangers[1:], b"x" * 500, stop), daemon=True).start()
        for stranger in strangers:
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
        assert ARRIVES_IN - 1 < time.monotonic() - started < ARRIVES_IN + 10
    assert "Traceback" not in site.log.read_text()


def test_slow_strangers_do_not_put_off_a_restart(transactional_db):
    site = running(ALLOWED_HOSTS="site.home,127.0.0.1", INSECURE_HTTP="on")
    try:
        with ExitStack() as open_connections:
            for name in ("nothing", "a head", "no goodbye"):
                open_connections.enter_context(connected(site)).sendall(SLOW[name][0])
            time.sleep(0.5)
            started = time.monotonic()
            site.processes[0].terminate()
            assert site.processes[0].wait(30) == 0
            assert time.monotonic() - started < ARRIVES_IN - 2
    finally:
        site.stop()


def exchange(site, *parts, pause=0.0):
    """All that is answered to these parts, up to the end of the connection."""
    with connected(site) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_what_comes_slowly_but_whole_is_answered(transactional_db, site):
    """A head and a body in parts, and two requests in one piece."""
    asked = b"GET " + LOGIN + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    assert exchange(site, asked[:9], asked[9:-2], asked[-2:], pause=0.3).startswith(
        b"HTTP/1.1 200 OK"
    )
    assert exchange(site, asked + asked).count(b"HTTP/1.1 200 OK") == 2
    # Without a CSRF token, which a view or a middleware found in the body.
    body = POST + b"Content-Length: 3\r\n\r\n"
    assert exchange(site, body, b"a=1", asked, pause=0.3).count(b"HTTP/1.1") == 2
    expecting = POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    assert exchange(site, expecting, b"a=1", pause=0.3).startswith(b"HTTP/1.1 100 Continue")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEAD // 6), b"431"),
        (POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), b"413"),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n", b"413"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (MAX_BODY + 1), b"413"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * MAX_BODY, b"413"),
    ],
)
def test_what_is_too_long_is_refused_before_a_thread_sees_it(transactional_db, site, head, status):
    with connected(site) as connection:
        threading.Thread(target=connection.sendall, args=(head,), daemon=True).start()
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] == status
    assert b"\r\nConnection: close\r\n" in answer


def test_an_answer_that_breaks_off_ends_its_connection_and_not_the_worker():
    """gunicorn closes a socket by itself if an error comes after the head."""
    here, there = socket.socketpair()
    worker = Worker.__new__(Worker)
    worker.alive, worker.cfg, worker.nr_conns = True, Config(), 1
    worker.poller, worker.pending_conns = DefaultSelector(), deque()
    conn = TConn(worker.cfg, here, None, None)
    here.close()
    there.close()
    broken = Future()
    broken.set_result(False)
    worker.finish_request(conn, broken)
    worker.poller.close()
    assert worker.nr_conns == len(worker.pending_conns) == 0


def test_a_form_with_a_file_is_refused(client, db):
    answer = client.post("/accounts/login/", {"file": BytesIO(b"x")})
    assert answer.status_code == 400


# --- Where a request ends -----------------------------------------------------------------------

WHOLE = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\ncontent-length:5 \r\nX: y\r\n\r\n\r\n\r\n\r",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n0\r\n\r\n\r\n0\r\nX: y\r\n\r\n",
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("request_", WHOLE)
def test_a_request_is_whole_with_its_last_byte(request_, step):
    arrival = Arrival()
    parts = [request_[at : at + step] for at in range(0, len(request_), step)]
    assert [arrival.add(part) for part in parts] == [False] * (len(parts) - 1) + [True]
    assert arrival.data == request_


@pytest.mark.parametrize("size", [b"zz", b"-6", b"-1", b"+5", b"0x5", b"1_0", b"", b";a"])
def test_what_is_no_chunk_is_gunicorn_s_to_refuse(size):
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert Arrival().add(chunked + size + b"\r\n")


def test_no_chunk_of_a_stranger_s_stops_the_main_loop(transactional_db, site):
    with connected(site) as stranger:
        stranger.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n-6\r\n")
        assert requests.get(f"{site.url}/accounts/login/", timeout=10).status_code == 200


def test_a_drip_of_chunks_costs_no_more_than_its_bytes():
    arrival = Arrival()
    arrival.add(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    started = time.process_time()
    for byte in b"1\r\nx\r\n" * (MAX_BODY // 6):
        assert not arrival.add(bytes([byte]))
    assert time.process_time() - started < 5
