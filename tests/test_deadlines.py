"""A deadline is for a provider's silence while we listen, and nothing takes longer than it."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from datetime import timedelta

import curl_cffi
import pytest
import requests
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.contrib.auth import get_user_model
from django.utils import timezone
from requests.adapters import HTTPAdapter

from integrations import http, services
from integrations.exceptions import ProviderUnavailable
from integrations.garminconnect.provider import GarminConnect
from integrations.garminconnect.sessions import bounded
from integrations.models import LinkStatus
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.strava import ALICE
from integrations.services import oauth, sweep
from integrations.strava.provider import Strava

from .conftest import row_of
from .processes import BASE_DIR, PYTHON, environment, wait_until
from .test_fault_matrix import bit_by_bit

# --- A process that sleeps ----------------------------------------------------------------------

PAUSE = 12.5
IN_FLIGHT = 16
# Both providers answer half of the requests within the pause, and the others a second after it.
MEANWHILE, AFTERWARDS = 1, PAUSE + 1
SESSION = """
import sys, django
django.setup()
from integrations import services
services.get_garminconnect_client(int(sys.argv[1]))
"""


@pytest.fixture
def start(sandbox):
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [PYTHON, *arguments],
            env=environment(INTEGRATIONS_SANDBOX="on", INTEGRATIONS_SANDBOX_URL=sandbox.url),
            cwd=BASE_DIR,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.django_db(transaction=True)
def test_a_pause_of_twelve_seconds_costs_no_link(strava, garmin, link, start):
    create = get_user_model().objects.create_user
    users = [create(f"athlete{number}") for number in range(IN_FLIGHT)]
    for number, user in enumerate(users):
        link(user, athlete_id=strava.add_athlete(700_000 + number).id, expires_in=60)
    signed_in = [create(f"garmin{number}") for number in range(2)]
    for user in signed_in:
        services.create_user_integrations(user.pk)
        session = garmin.issue_session(GARMIN_ALICE, expires_in=300)
        services.link_garminconnect_account(user.pk, None, session)
    for seconds in (MEANWHILE, AFTERWARDS):
        strava.fail("token", "delay", times=IN_FLIGHT // 2, seconds=seconds)
        garmin.fail("token", "delay", times=1, seconds=seconds)

    processes = [
        start("manage.py", "refresh_strava_tokens", f"--workers={IN_FLIGHT}"),
        *(start("-c", SESSION, str(user.pk)) for user in signed_in),
    ]
    wait_until(lambda: strava.calls["token"] == IN_FLIGHT and garmin.calls["token"] == 2)
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE)
    for process in processes:
        process.send_signal(signal.SIGCONT)
    for process in processes:
        process.wait(20)

    lost = [user for user in users if not strava.is_alive(row_of(user).strava_refresh_token)]
    assert len(lost) == 0
    assert strava.calls["token"] == IN_FLIGHT
    stored = [row_of(user).garminconnect_oauth2["di_token"] for user in signed_in]
    assert [garmin.is_alive(token) for token in stored] == [True, True]
    assert garmin.calls["token"] == 2


# --- Until something is sent --------------------------------------------------------------------

NAME = "localhost"  # the sandbox answers to no other, and no other is ever looked up


@pytest.fixture
def asks(alice, expired, strava, settings, monkeypatch):
    """Refresh Alice's token with a deadline of a second to connect and one to answer."""
    monkeypatch.setattr("integrations.http.CONNECT_TIMEOUT", 1)
    monkeypatch.setattr("integrations.http.READ_TIMEOUT", 1)
    monkeypatch.setattr(http, "_adapter", http.DeadlineAdapter(max_retries=0))  # not connected
    http._proxies.cache_clear()

    def ask(origin):
        settings.STRAVA_OAUTH_URL = f"{origin}/oauth"
        started = time.monotonic()
        try:
            services.get_strava_access_token(alice.pk)
        finally:
            row = row_of(alice)
            assert (row.strava_status, row.strava_lease) == (LinkStatus.LINKED, None)
            assert time.monotonic() - started < 3

    proxies = http._proxies
    yield ask
    proxies.cache_clear()


@pytest.fixture
def dead():
    """The address of a port that lets whoever knocks wait: its queue is full."""
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()


@pytest.fixture
def resolve(monkeypatch):
    """Have NAME mean something."""

    def resolve(answer):
        real = socket.getaddrinfo

        def getaddrinfo(host, *arguments, **more):
            if host != NAME:
                return real(host, *arguments, **more)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in answer()]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return resolve


def test_twelve_dead_addresses_have_one_deadline(asks, resolve, dead):
    resolve(lambda: [dead] * 12)
    with pytest.raises(ProviderUnavailable):
        asks(f"http://{NAME}")


def test_one_that_lives_is_found_among_the_dead(asks, resolve, dead, sandbox):
    resolve(lambda: [dead, dead, ("127.0.0.1", sandbox.port)])
    asks(f"http://{NAME}")


def test_a_name_that_is_never_found_holds_nobody(asks, resolve):
    over = threading.Event()
    resolve(lambda: over.wait(10) and [])
    with pytest.raises(ProviderUnavailable):
        asks(f"http://{NAME}")
    over.set()


@pytest.mark.parametrize("answer", [OSError("no such name"), UnicodeError("too long")])
def test_a_name_that_does_not_exist_is_an_outage(asks, resolve, answer):
    def fail():
        raise answer

    resolve(fail)
    with pytest.raises(ProviderUnavailable):
        asks(f"http://{NAME}")


def test_a_handshake_that_never_ends_holds_nobody(asks):
    with (
        bit_by_bit(b"\x16\x03\x03\x3f\xff", b"\0" * 500) as address,
        pytest.raises(ProviderUnavailable),
    ):
        asks(address.replace("http:", "https:"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_behind_a_proxy_the_deadline_is_the_same(asks, scheme, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with bit_by_bit(b"", b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 500) as address:
        monkeypatch.setenv(f"{scheme}_proxy", address)
        with pytest.raises(ProviderUnavailable):
            asks(f"{scheme}://{NAME}")


def test_behind_a_socks_proxy_an_answer_has_its_deadline(asks, monkeypatch):
    """Its connections are another library's, here a stand-in that needs no proxy."""
    manager = urllib3.PoolManager()
    monkeypatch.setattr(HTTPAdapter, "proxy_manager_for", lambda *arguments, **more: manager)
    with bit_by_bit(b"", b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 500) as address:
        monkeypatch.setattr(http, "_proxies", lambda origin: {"http": "socks5://127.0.0.1:9"})
        with pytest.raises(ProviderUnavailable):
            asks(address)


def test_the_deadline_lies_within_every_lease():
    takes = http.CONNECT_TIMEOUT + http.READ_TIMEOUT
    waited = sweep.CLAIM_LASTS
    assert waited + takes + 5 < Strava.lease
    assert takes + 5 < GarminConnect.lease
    assert takes < oauth.EXCHANGE_TAKES.total_seconds()


# --- Once an answer is whole --------------------------------------------------------------------


def test_an_answer_that_came_whole_is_never_late(asks, sandbox, monkeypatch):
    begin = http.watchdog.begin

    def begin_late(sock, *seconds):
        watch = begin(sock, *seconds)
        if not seconds:
            sock.recv(1, socket.MSG_PEEK)
            watch.hang_up()
        return watch

    monkeypatch.setattr(http.watchdog, "begin", begin_late)
    asks(sandbox.url)


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """Serve one answer over TLS: what comes at once, and the rest a byte at a time."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = timezone.now()
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "both.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(pem)
    )  # fmt: skip
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    monkeypatch.setattr(http, "_VERIFY", str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)

    @contextlib.contextmanager
    def serve(at_once, rest=b""):
        server = socket.create_server(("127.0.0.1", 0))

        def answer():
            plain, _ = server.accept()
            with contextlib.suppress(OSError), context.wrap_socket(plain, True) as connection:
                connection.recv(65536)
                connection.sendall(at_once)
                for byte in rest:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)
                while connection.recv(65536):  # until they hang up
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"https://localhost:{server.getsockname()[1]}"
        finally:
            thread.join()
            server.close()

    return serve


@pytest.mark.parametrize("at_once", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"])
def test_over_tls_a_drip_is_cut_too(asks, tls, at_once):
    drip = b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 200
    with tls(at_once, drip) as address, pytest.raises(ProviderUnavailable):
        asks(address)
    started = time.monotonic()
    with tls(at_once, drip) as address:
        with pytest.raises((curl_cffi.CurlError, requests.ReadTimeout)):
            bounded(curl_cffi.Session(impersonate="chrome")).get(address)
        assert time.monotonic() - started < 3


def test_over_tls_an_answer_that_came_whole_is_never_late(asks, tls, strava, monkeypatch):
    begin = http.watchdog.begin

    def begin_late(sock, *seconds):
        watch = begin(sock, *seconds)
        if isinstance(sock, ssl.SSLSocket):
            select.select([sock], [], [])
            time.sleep(0.1)
            watch.hang_up()
        return watch

    monkeypatch.setattr(http.watchdog, "begin", begin_late)
    pair = json.dumps(strava.issue_tokens(ALICE)).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(pair), pair)
    with tls(answer) as address:
        asks(address)


def test_whoever_used_a_connection_before_cannot_cut_it():
    watchdog = http._Watchdog()
    ours, theirs = socket.socketpair()
    with ours, theirs, watchdog.watch():
        watchdog.begin(ours, 0)  # its time is over
        with watchdog.watch() as second:
            watchdog.end(ours)
            watchdog.begin(ours, 60)
            time.sleep(3 * watchdog.STEP)
            assert not second.late
            theirs.send(b"x")
            assert ours.recv(1) == b"x"
