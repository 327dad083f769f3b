"""What strangers send to the site as it runs in production, and what its logs make of it."""

from __future__ import annotations

import re
import runpy
import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from .processes import BASE_DIR, Site

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


@pytest.fixture
def log(tmp_path):
    """gunicorn's own logs, with what the site's settings for it do to them."""
    config = Config()
    config.set("errorlog", str(tmp_path / "error"))
    config.set("accesslog", str(tmp_path / "access"))
    log = Logger(config)
    runpy.run_path(str(BASE_DIR / "gunicorn.conf.py"))["on_starting"](SimpleNamespace(log=log))
    yield log
    for each in (log.error_log, log.access_log):
        each.filters.clear()
        for handler in list(each.handlers):
            each.removeHandler(handler)
            handler.close()


def test_what_gunicorn_itself_says_has_no_secret_and_no_line_of_a_strangers(log, tmp_path):
    secret = "0123456789abcdef" * 2 + "01234567"
    forged = "\n[2026-01-01] FORGED\r\x1b[2K\u2028FORGED"
    try:
        raise ValueError(f"{secret}{forged}")
    except ValueError:
        # Its words for an error of the site's outside Django.
        log.exception("Error handling request %s", f"/callback/?code={secret}{forged}")
    log.access_log.info("%s", f"GET /?code={secret}{forged}")

    for name in ("error", "access"):
        text = (tmp_path / name).read_bytes().decode()
        assert "FORGED" in text
        assert secret not in text
        first, *rest = text.removesuffix("\n").split("\n")
        assert (first[0], bool(rest)) == (("[", True) if name == "error" else ("G", False))
        assert all(line.startswith("  ") for line in rest)
        assert all(line.isprintable() for line in (first, *rest))
