"""What holds for every request to a provider, whichever code makes it: who may hear it, how much of
an answer is read, the operator's proxies, and whose connections they are."""

from __future__ import annotations

import gzip
import json
import re
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.utils import timezone

from integrations import http, services
from integrations.exceptions import (
    GarminConnectUnavailable,
    InvalidProviderReply,
    ProviderError,
    ProviderUnavailable,
)
from integrations.garminconnect import client as garminconnect_client
from integrations.models import LinkStatus
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import PASSWORD, hook
from integrations.sandbox.strava import ALICE

from .conftest import row_of
from .processes import BASE_DIR, PYTHON, environment

# Elsewhere a request that checks no certificate is warned of and sent.
pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")

DAY = timedelta(days=1)
PEM = serialization.Encoding.PEM
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NOWHERE = "localhost:9"  # nobody listens there


class Authority:
    """Signs certificates, its own among them."""

    def __init__(self, folder):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An authority")])
        uses = dict.fromkeys(
            [
                "digital_signature", "content_commitment", "key_encipherment",
                "data_encipherment", "key_agreement", "encipher_only", "decipher_only",
            ],
            False,
        )  # fmt: skip
        certificate = self._sign(
            self.name,
            self.key,
            (-DAY, DAY),
            x509.BasicConstraints(ca=True, path_length=None),
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, **uses),
        )
        self.bundle = folder / f"{id(self)}.pem"
        self.bundle.write_bytes(certificate.public_bytes(PEM))

    def issue(self, name="localhost", valid=(-DAY, DAY)):
        """A file with a key and the certificate for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            x509.Name([]), key, valid, x509.SubjectAlternativeName([x509.DNSName(name)])
        )
        path = self.folder / f"{certificate.serial_number}.pem"
        path.write_bytes(
            key.private_bytes(
                PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(PEM)
        )  # fmt: skip
        return path

    def _sign(self, name, key, valid, *more):
        now, serial = timezone.now(), x509.random_serial_number()
        ours, theirs = self.key.public_key(), key.public_key()
        certificate = x509.CertificateBuilder(
            self.name, name, theirs, serial, now + valid[0], now + valid[1]
        )
        for extension in (
            x509.SubjectKeyIdentifier.from_public_key(theirs),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ours),
        ):
            certificate = certificate.add_extension(extension, critical=False)
        for extension in more:
            certificate = certificate.add_extension(extension, critical=True)
        return certificate.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An authority of the same name, which nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.setenv(name.upper(), "")
    http._proxies.cache_clear()


@pytest.fixture
def rules(authority, monkeypatch):
    """Trust the authority and no other, and begin without proxies and connections."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setattr(http, "_VERIFY", str(authority.bundle))  # read when the process began
    monkeypatch.setattr(http, "_adapter", http.DeadlineAdapter(max_retries=0))
    proxies = http._proxies
    no_proxies(monkeypatch)
    yield
    proxies.cache_clear()


class Listener:
    """Keeps what it was sent, and whether somebody has taken all of an answer."""

    def __init__(self):
        self.knocks, self.heard, self.is_read = 0, b"", False


@contextmanager
def listening(answer=BUSY, certificate=None, tunnels=False):
    """Answer all requests alike, over TLS if there is a certificate; gives host:port and the
    Listener. One that tunnels is a proxy, and poses as the host behind it as well."""
    listener, context = Listener(), None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.set_alpn_protocols(["http/1.1"])

    def serve(connection):
        if tunnels:
            assert connection.recv(65536).startswith(b"CONNECT ")
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        if context:
            connection = context.wrap_socket(connection, True)
        with connection:
            listener.heard += connection.recv(65536)
            connection.sendall(answer)
            listener.is_read = True
            while more := connection.recv(65536):
                listener.heard += more

    def accept():
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                listener.knocks += 1
                connection.settimeout(10)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                with connection, suppress(OSError):
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"localhost:{server.getsockname()[1]}", listener
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


# --- Every way in which a provider is asked -----------------------------------------------------


class Way:
    """One way; `secret` is what the provider alone may hear."""

    def __init__(self, request, user, monkeypatch):
        self.request, self.user, self.patch = request, user, monkeypatch
        self.prepare()
        no_proxies(monkeypatch)  # nor those that the sandbox bypasses

    def ask_in_vain(self, address):
        with pytest.raises(self.error):
            self.ask(address)


class StravaTokens(Way):
    def prepare(self):
        row = self.request.getfixturevalue("expired")
        self.secret, self.error = row.strava_refresh_token, ProviderUnavailable

    def ask(self, address):
        self.request.getfixturevalue("settings").STRAVA_OAUTH_URL = f"{address}/oauth"
        services.get_strava_access_token(self.user.pk)


class StravaGear(Way):
    def prepare(self):
        row = self.request.getfixturevalue("linked")
        self.secret, self.error = row.strava_token, ProviderUnavailable

    def ask(self, address):
        self.request.getfixturevalue("settings").STRAVA_API_URL = f"{address}/api/v3"
        services.sync_strava_gear(self.user.pk)


class Garmin(Way):
    error, expires_in, has_curl = GarminConnectUnavailable, None, True

    def prepare(self):
        garmin = self.request.getfixturevalue("garmin")
        self.patch.setattr("garminconnect.client.HAS_CFFI", self.has_curl)
        services.create_user_integrations(self.user.pk)
        session = garmin.issue_session(GARMIN_ALICE, expires_in=self.expires_in)
        services.link_garminconnect_account(self.user.pk, None, session)
        self.secret = session[self.token]

    def ask(self, address):
        self.patch.setattr(hook, "_ORIGIN", re.compile("(.*)"))  # by itself, it takes no TLS
        self.patch.setattr(hook, "_bypass_proxies", lambda host: None)
        hook.point_library_at(address, pauses=False)
        self.call()


class GarminTokens(Garmin):
    token, expires_in = "di_refresh_token", 60

    def call(self):
        services.get_garminconnect_client(self.user.pk)


class GarminTokensWithoutCurl(GarminTokens):
    has_curl = False


class GarminGear(Garmin):
    token = "di_token"

    def call(self):
        services.sync_garminconnect_gear(self.user.pk)


class GarminSignIn(Garmin):
    token = "di_token"

    def call(self):
        self.secret = "GET /"  # the page before the form
        garminconnect_client.sign_in(GARMIN_ALICE, PASSWORD, is_cn=False)


class GarminSignInWithoutCurl(GarminSignIn):
    has_curl = False


WAYS = [
    StravaTokens,
    StravaGear,
    GarminTokens,
    GarminTokensWithoutCurl,
    GarminGear,
    GarminSignIn,
    GarminSignInWithoutCurl,
]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request, alice, rules, monkeypatch):
    return request.param(request, alice, monkeypatch)


# --- Who may hear it ----------------------------------------------------------------------------

IMPOSTERS = {
    "another name": lambda authority, stranger: authority.issue("strava.example"),
    "a name that begins so": lambda authority, stranger: authority.issue("localhost.example"),
    "expired": lambda authority, stranger: authority.issue(valid=(-2 * DAY, -DAY)),
    "not yet valid": lambda authority, stranger: authority.issue(valid=(DAY, 2 * DAY)),
    "an authority that is not trusted": lambda authority, stranger: stranger.issue(),
}


def hears_nothing(way, listener):
    assert listener.knocks
    assert listener.heard == b""
    row = row_of(way.user)
    assert LinkStatus.RELINK_REQUIRED not in (row.strava_status, row.garminconnect_status)


def test_who_proves_the_name_is_asked(way, authority):
    with listening(certificate=authority.issue()) as (host, listener):
        way.ask_in_vain(f"https://{host}")
    assert way.secret.encode() in listener.heard


@pytest.mark.parametrize("imposter", IMPOSTERS)
def test_who_does_not_prove_the_name_hears_nothing(way, imposter, authority, stranger):
    certificate = IMPOSTERS[imposter](authority, stranger)
    with listening(certificate=certificate) as (host, listener):
        way.ask_in_vain(f"https://{host}")
    hears_nothing(way, listener)


def test_without_an_authority_of_the_operators_only_the_public_ones_count(
    way, authority, monkeypatch
):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setattr(http, "_VERIFY", True)
    with listening(certificate=authority.issue()) as (host, listener):
        way.ask_in_vain(f"https://{host}")
    hears_nothing(way, listener)


@pytest.mark.parametrize("name", ["localhost", "strava.example"])
def test_behind_a_proxy_the_name_is_proved_as_well(way, name, authority, monkeypatch):
    certificate = authority.issue(name)
    with listening(certificate=certificate, tunnels=True) as (proxy, listener):
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        way.ask_in_vain(f"https://{NOWHERE}")
    if name == "localhost":
        assert way.secret.encode() in listener.heard
    else:
        hears_nothing(way, listener)


ASK = """
import sys
from integrations.exceptions import ProviderUnavailable
from integrations.http import ProviderClient
ProviderClient.provider = "strava"
try:
    ProviderClient()._request("GET", sys.argv[1])
except ProviderUnavailable as exc:
    print(exc.provider_status)
"""


@pytest.mark.parametrize(
    ("trusted", "said"),
    [("REQUESTS_CA_BUNDLE", "503"), ("CURL_CA_BUNDLE", "503"), ("UNKNOWN", "None")],
)
def test_operators_may_name_their_own_authority(db, authority, trusted, said):
    env = environment()
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        env.pop(name, None)
    env |= {trusted: str(authority.bundle), "no_proxy": "*"}
    with listening(certificate=authority.issue()) as (host, listener):
        done = subprocess.run(
            [PYTHON, "-c", ASK, f"https://{host}/x"],
            env=env, cwd=BASE_DIR, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.stdout.strip() == said, done.stderr
    assert bool(listener.heard) == (said == "503")


# --- How much of an answer is read --------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
HEAD += b"Connection: close\r\n%b\r\n"
# More than the buffers of both ends take.
FLOOD = HEAD % (16 * http.MAX_BODY, b"") + b" " * (16 * http.MAX_BODY)


def test_a_flood_is_cut_off(way, monkeypatch):
    monkeypatch.setattr(http, "READ_TIMEOUT", 60)  # by its size, not by the deadline
    with listening(FLOOD) as (host, listener), pytest.raises(ProviderError):
        way.ask(f"http://{host}")
    assert listener.knocks
    assert not listener.is_read


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize(("more", "is_taken"), [(0, True), (1, False)])
def test_an_answer_may_be_so_long_and_no_longer(
    alice, expired, strava, settings, rules, coding, more, is_taken
):
    tokens = strava.issue_tokens(ALICE)
    body = json.dumps(tokens).encode().ljust(http.MAX_BODY + more)
    if coding == "gzip":
        body = gzip.compress(body)
    answer = HEAD % (len(body), f"Content-Encoding: {coding}\r\n".encode()) + body
    with listening(answer) as (host, _):
        settings.STRAVA_OAUTH_URL = f"http://{host}/oauth"
        if is_taken:
            assert services.get_strava_access_token(alice.pk) == tokens["access_token"]
        else:
            with pytest.raises(InvalidProviderReply):
                services.get_strava_access_token(alice.pk)


# --- The operator's proxies ---------------------------------------------------------------------


def test_a_request_goes_to_the_proxy_that_the_environment_names(way, monkeypatch):
    with listening() as (proxy, listener):
        monkeypatch.setenv("http_proxy", f"http://user:pass@{proxy}")
        way.ask_in_vain(f"http://{NOWHERE}")
    assert f" http://{NOWHERE}/".encode() in listener.heard
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in listener.heard


def test_a_proxy_hears_nothing_but_the_name_of_an_https_address(way, monkeypatch):
    with listening() as (proxy, listener):
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        way.ask_in_vain(f"https://{NOWHERE}")
    assert listener.heard.startswith(f"CONNECT {NOWHERE} HTTP/1.".encode())
    assert way.secret.encode() not in listener.heard


def test_a_request_passes_by_a_proxy_that_is_not_for_its_host(way, monkeypatch):
    with listening() as (proxy, passed_by), listening() as (host, listener):
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        monkeypatch.setenv("no_proxy", "localhost")
        way.ask_in_vain(f"http://{host}")
    assert way.secret.encode() in listener.heard
    assert not passed_by.knocks


# --- Whose connections they are -----------------------------------------------------------------

FORK = """
import os, signal, sys
from integrations import http
from integrations.exceptions import ProviderUnavailable
http.ProviderClient.provider = "strava"
http.READ_TIMEOUT = 1
def ask(path):
    http.ProviderClient()._request("GET", sys.argv[1] + path)
ask("/parent")
if os.fork() == 0:
    signal.alarm(20)  # nobody else would end it
    ask("/child")
    try:
        ask("/silence")
    except ProviderUnavailable:
        os._exit(0)
    os._exit(1)
status = os.waitstatus_to_exitcode(os.wait()[1])
ask("/parent")
print(status)
"""


@contextmanager
def remembering():
    """Keep connections alive; gives the address, and what was asked for, each with its peer."""
    asked, peers = [], []

    def serve(connection, peer):
        with connection, suppress(OSError):
            while request := connection.recv(65536):
                path = request.split()[1].decode()
                asked.append((path, peer))
                if path != "/silence":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def accept():
        with suppress(OSError):
            while True:
                connection, peer = server.accept()
                peers.append(threading.Thread(target=serve, args=(connection, peer)))
                peers[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for each in (thread, *peers):
                each.join()


def test_a_forked_process_has_connections_and_a_watchdog_of_its_own(db):
    with remembering() as (address, asked):
        done = subprocess.run(
            [PYTHON, "-c", FORK, address],
            env=environment(no_proxy="*"), cwd=BASE_DIR, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.stdout == "0\n", done.stderr
    parents, childs = (
        {peer for path, peer in asked if path == who} for who in ("/parent", "/child")
    )
    assert len(parents) == 1  # it goes on with the one that it has
    assert childs.isdisjoint(parents)
