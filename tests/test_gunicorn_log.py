"""What strangers send to the site as it runs in production, and what its logs make of it."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

import pytest

from .processes import Site

# Each with a line of its own in mind.
REQUESTS = [
    b"GET /y%0aFORGED HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /y%0d%0aFORGED%20%22%20200 HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /y%5c%22%20200%205%201ms%20FORGED HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /%c3%bc/%%/FORGED%zz%25 HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /y%1b%5b2KFORGED%e2%80%a8FORGED%c2%85FORGED HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /y%0aFORGED/access_token=s3cret HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /y HTTP/1.1\r\nHost: localhost%0aFORGED\r\n",
    b"GET /y HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1%0aFORGED\r\n",
    b"POST /accounts/login/?%0aFORGED HTTP/1.1\r\nHost: localhost\r\nReferer: \x0bFORGED\r\n",
    b"GET /y\x0bFORGED HTTP/1.1\r\nHost: localhost\r\n",
    b"FORGED\x0b HTTP/1.1\r\nHost: localhost\r\n",
]


@pytest.mark.django_db(transaction=True)
def test_nobody_writes_a_line_of_their_own(tmp_path):
    site = Site(ALLOWED_HOSTS="localhost")
    arguments = [f"--{name}-logfile={tmp_path / name}" for name in ("access", "error")]
    url = urlsplit(site.url)
    try:
        site.web(workers=1, more=arguments, console=tmp_path / "console")
        for request in REQUESTS:
            with socket.create_connection((url.hostname, url.port), timeout=20) as peer:
                peer.sendall(request + b"Connection: close\r\n\r\n")
                while peer.recv(65536):
                    pass
    finally:
        site.stop()
    found = {path.name: path.read_bytes().decode() for path in tmp_path.iterdir()}
    assert found["access"].count("FORGED") >= 5
    assert found["console"].count("FORGED") >= 4
    for line in found["access"].splitlines():
        assert re.fullmatch(r'127\.0\.0\.1 "[A-Z]+ [^" ]*" \d{3} (\d+|-) \d+ms', line), line
    assert '"GET /y%0AFORGED" 404' in found["access"]
    assert '"GET /%C3%BC/' in found["access"]
    assert "s3cret" not in "".join(found.values())
    for name, text in found.items():
        starts = {"access": "127.0.0.1 ", "error": "[", "console": ("2", "  ")}[name]
        for line in (line for line in text.splitlines() if "FORGED" in line):
            assert line.startswith(starts), (name, line)
            assert line.isprintable(), (name, line)
