"""The server survives what is thrown at it, and obeys only its own machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from django.core.management.base import CommandError

from integrations.sandbox import Sandbox
from integrations.sandbox.server import MAX_BODY, is_loopback
from integrations.sandbox.strava import ALICE, BJORN, CLIENT_ID, CLIENT_SECRET

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import sys
from django.conf import settings
settings.configure(DEBUG=sys.argv[1] == "debug", INSTALLED_APPS=[])
from django.core.management import call_command
from integrations.management.commands.sandbox import Command
call_command(Command(), *sys.argv[2:])
"""


@pytest.fixture
def control(http, sandbox):
    """Call /_sandbox/PATH as another process would."""

    def control(path, method="POST", **fields):
        url = f"{sandbox.url}/_sandbox/{path}"
        return http.request(method, url, json=fields or None)

    return control


def talk(sandbox, raw):
    """Send raw bytes, return all that comes back until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=1) as connection:
        connection.sendall(raw)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except TimeoutError:
            pass
        return answer


# Garbage


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/oauth/token", b"\xff\xfe=\x00&client_id=%ff%00"),
        ("/oauth/token", b"client_id=10001&client_id=10002&client_secret=x"),
        ("/oauth/token", b"client_id=10001\x00"),
        ("/oauth/token", b"client_id=" + b"1" * 5000),
        ("/oauth/token", b"&".join(b"a=1" for _ in range(5000))),
        ("/oauth/revoke", b"token=\xff"),
        ("/oauth/token?client_id=10001", b"client_id=10001&client_secret=x"),
        ("/oauth/token?%ff%fe=%00", b""),
        ("/oauth/%ff%00", b""),
        ("/api/v3/athlete", b""),
        ("/api/v3/gear/%ff", b""),
        ("/api/v3/push_subscriptions", b"client_id=%00"),
        ("/nowhere", b""),
        ("/_sandbox/faults", b"[" * 100_000),
        ("/_sandbox/faults", b"\xff"),
        ("/_sandbox/faults", b"[]"),
        ("/_sandbox/strava/grant", b'{"athlete_id": [], "x": {}}'),
        ("/_sandbox/strava/unknown", b"{}"),
        ("/_sandbox/unknown/grant", b"{}"),
    ],
)
def test_garbage_is_a_client_error(http, sandbox, path, body):
    response = http.post(
        f"{sandbox.url}{path}",
        data=body,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=5,
    )

    assert 400 <= response.status_code < 500


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=\xff",
        "multipart/form-data; boundary=b",
        "application/x-www-form-urlencoded; charset=nonsense",
        "application/json",
    ],
)
def test_a_body_of_a_strange_type_is_a_client_error(http, sandbox, content_type):
    headers = {"Content-Type": content_type.encode("latin-1")}
    response = http.post(f"{sandbox.url}/oauth/token", data=b"--b\r\n\xff", headers=headers)

    assert 400 <= response.status_code < 500


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b" 400 "),
        (b"GET\r\n\r\n", b" 400 "),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b" 414 "),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b" 431 "),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b" 403 "),
        (b"FROB / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b" 405 "),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b" 400 "),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n", b" 400 "),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b" 400 ",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b" 411 ",
        ),
    ],
)
def test_what_is_hardly_http_is_a_client_error(sandbox, raw, status):
    assert status in talk(sandbox, raw).partition(b"\r\n")[0]


def test_a_huge_body_is_refused_and_the_refusal_arrives(http, sandbox):
    response = http.post(f"{sandbox.url}/oauth/token", data=b"a" * (MAX_BODY * 8))

    assert response.status_code == 413


def test_answers_share_a_connection(sandbox):
    request = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

    answer = talk(sandbox, request * 2 + last)

    assert answer.count(b"HTTP/1.1 404 ") == 3
    assert answer.count(b"Content-Length: ") == 3


def test_head_sends_no_body(sandbox):
    request = b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

    head, _, body = talk(sandbox, request).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""


# Who may ask


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost", "LOCALHOST:1", "[::1]:8001"])
def test_loopback_names_are_ours(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8001",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost,evil.example",
        "localhost/evil",
        "[::1",
        "192.0.2.1",
        " ",
    ],
)
def test_other_names_are_not(host):
    assert not is_loopback(host)


def test_a_rebound_name_is_refused(http, sandbox, strava):
    response = http.get(f"{sandbox.url}/_sandbox/state", headers={"Host": "evil.example"})

    assert response.status_code == 403
    assert "calls" not in response.text


def test_a_page_of_another_origin_cannot_turn_the_controls(http, sandbox, strava):
    strava.fail("token", "500")
    url = f"{sandbox.url}/_sandbox/reset"

    assert http.post(url, headers={"Origin": "https://evil.example"}).status_code == 403
    assert strava.faults.as_list()
    assert http.post(url, headers={"Origin": sandbox.url}).status_code == 200
    assert not strava.faults.as_list()


# Pages


def test_the_index_lists_apps_athletes_and_faults_and_escapes_them(http, sandbox):
    page = http.get(f"{sandbox.url}/")

    for text in (CLIENT_ID, CLIENT_SECRET, "Alice Archer", "push_subscriptions", "half_json"):
        assert text in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_the_stylesheet_is_served_here(http, sandbox):
    response = http.get(f"{sandbox.url}/_sandbox/sandbox.css")

    assert response.headers["Content-Type"] == "text/css; charset=utf-8"
    assert "prefers-color-scheme: dark" in response.text


# Controls from another process


def test_state_counts_calls(control, http, sandbox):
    http.post(f"{sandbox.url}/oauth/token")

    state = control("state?requests=1", "GET").json()["strava"]

    assert state["calls"] == {"token": 1}
    assert state["requests"][0]["status"] == 400
    assert state["counts"]["access_tokens"] == 0


def test_faults_are_switched_on_and_off(control, http, sandbox):
    assert control("faults", endpoint="token", fault="500", times=2).json() == {
        "strava": [{"endpoint": "token", "fault": "500", "times": 2, "seconds": 0.0}]
    }
    assert http.post(f"{sandbox.url}/oauth/token").status_code == 500

    assert control("faults", "DELETE").status_code == 200
    assert http.post(f"{sandbox.url}/oauth/token").status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"endpoint": "token"},
        {"endpoint": "token", "fault": "599"},
        {"endpoint": "token", "fault": []},
        {"endpoint": "token", "fault": "500", "times": "two"},
        {"endpoint": "token", "fault": "500", "until": "noon"},
        {"endpoint": "token", "fault": "500", "provider": "nobody"},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(control, strava, fields):
    assert control("faults", **fields).status_code in (400, 404)
    assert strava.faults.as_list() == []


def test_codes_and_tokens_are_had_without_a_browser(control, http, sandbox, strava):
    code = control("strava/grant", athlete_id=ALICE).json()["code"]
    fields = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    fields |= {"grant_type": "authorization_code", "code": code}
    assert http.post(f"{sandbox.url}/oauth/token", data=fields).status_code == 200

    pair = control("strava/tokens", athlete_id=BJORN, expires_in=7200, scope="read").json()
    assert pair["athlete"]["id"] == BJORN
    assert control("strava/alive", token=pair["access_token"]).json() == {"alive": True}
    assert control("strava/expire", athlete_id=BJORN).json() == {"expired": 1}
    assert not strava.is_alive(pair["access_token"])
    assert control("strava/revoke", athlete_id=BJORN).json() == {"event": []}
    assert not strava.is_alive(pair["refresh_token"])


def test_apps_and_athletes_can_be_changed(control, strava):
    assert control("strava/athlete", athlete_id=777, firstname="Eve").status_code == 200
    assert control("strava/tokens", athlete_id=777).status_code == 200
    changed = control("strava/app", client_id=CLIENT_ID, active=False, overall=[1, 2]).json()
    assert changed["active"] is False

    assert control("strava/app", client_id="1").status_code == 400
    assert (
        control("strava/app", client_id=CLIENT_ID, client_secret=CLIENT_SECRET).status_code == 400
    )
    assert control("strava/app", client_id=CLIENT_ID, callback_domain=7).status_code == 400

    assert control("reset").status_code == 200
    assert strava.apps[CLIENT_ID].active
    assert 777 not in strava.athletes


# Life and death


def test_a_sandbox_starts_stops_and_starts_again(http):
    sandbox = Sandbox()
    with pytest.raises(RuntimeError):
        _ = sandbox.url
    for _ in range(2):
        with sandbox:
            url = sandbox.url
            assert http.get(url).status_code == 200
        with pytest.raises(requests.ConnectionError):
            http.get(url)


def test_two_sandboxes_do_not_share_a_port():
    with Sandbox() as first, pytest.raises(OSError, match="in use"):
        Sandbox(first.port).start()


def test_it_serves_hundreds_of_refreshes_a_second(sandbox, strava):
    workers, calls = 16, 40
    pairs = [strava.issue_tokens(ALICE, expires_in=-1) for _ in range(workers)]

    def refresh(pair):
        fields = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(calls):
                fields |= {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}
                pair = session.post(f"{sandbox.url}/oauth/token", data=fields, timeout=10).json()
        return pair

    started = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        last = list(pool.map(refresh, pairs))
    seconds = time.monotonic() - started

    assert strava.calls["token"] == workers * calls
    assert all(strava.is_alive(pair["access_token"]) for pair in last)
    # The client's half of the work runs in this process too: far from tight.
    assert workers * calls / seconds > 100


# The command


def run_command(*arguments):
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(http, number):
    process = run_command("debug", "--port", "0")
    try:
        url = process.stdout.readline().split()[2]
        assert "this is not" not in http.get(url).text
        http.get(f"{url}oauth/authorize?state=hidden")
        process.send_signal(number)
        output, errors = process.communicate(timeout=10)
    finally:
        process.kill()

    assert process.returncode == 0
    assert errors == ""
    assert "GET /oauth/authorize 400" in output
    assert "hidden" not in output
    assert output.endswith("Sandbox stopped.\n")


def test_the_command_refuses_to_run_without_debug():
    process = run_command("production", "--port", "0")
    _, errors = process.communicate(timeout=30)

    assert process.returncode != 0
    assert CommandError.__name__ in errors
    assert "it needs DEBUG" in errors


def test_the_command_says_that_a_port_is_taken(sandbox):
    process = run_command("debug", "--port", str(sandbox.port))
    _, errors = process.communicate(timeout=30)

    assert process.returncode != 0
    assert "Cannot serve on port" in errors
