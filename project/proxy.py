"""Fixes to a request before Django sees it, for any server and proxy."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from django.conf import settings
from django.urls import is_valid_path

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# The headers in which proxies send the scheme, and their words for https.
_SCHEME = ("HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_PROTOCOL", "HTTP_X_FORWARDED_SSL")
_SECURE = {"https", "ssl", "on"}


def is_trusted(address: str) -> bool:
    """Whether a peer is one of TRUSTED_PROXIES, or at the other end of a socket file."""
    if not address or "*" in settings.TRUSTED_PROXIES:
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A server that listens on IPv6 for both writes an IPv4 address this way.
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(
        parsed in ipaddress.ip_network(proxy, strict=False) for proxy in settings.TRUSTED_PROXIES
    )


def mended(application: Application) -> Application:
    """Wrap Django so that requests from all proxies look the same."""

    def handle(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        _set_scheme(environ)
        _take_off_sub_path(environ)
        if not _measure_chunks(environ):
            start_response("413 Content Too Large", [("Content-Length", "0")])
            return []
        return application(environ, start_response)

    return handle


def _set_scheme(environ: dict[str, Any]) -> None:
    """Believe a trusted proxy that the browser used https, in upper or lower case and repeated:
    each of several proxies may add its own word.

    If they disagree, it is http: one of the hops was plain, or a client wrote the first word.
    """
    if not is_trusted(environ.get("REMOTE_ADDR", "")):
        return
    words = [word.strip().lower() for name in _SCHEME for word in environ.get(name, "").split(",")]
    if said := {word for word in words if word}:
        environ["wsgi.url_scheme"] = "https" if said <= _SECURE else "http"


def _take_off_sub_path(environ: dict[str, Any]) -> None:
    """Accept requests from a proxy that keeps the site's sub-path, and from one that strips it."""
    prefix, path = settings.FORCE_SCRIPT_NAME, environ.get("PATH_INFO", "")
    if not prefix or environ.get("SCRIPT_NAME") or not f"{path}/".startswith(f"{prefix}/"):
        return
    rest = path.removeprefix(prefix) or "/"
    # With the sub-path /integrations, a proxy that strips it leaves /integrations/status/.
    if is_valid_path(rest) or not is_valid_path(path):
        environ["PATH_INFO"] = rest


def _measure_chunks(environ: dict[str, Any]) -> bool:
    """Give a chunked body a length: without one, Django reads it as empty.

    Returns whether it is within DATA_UPLOAD_MAX_MEMORY_SIZE. The server refuses malformed chunks
    and closes the connection, because the start of the next request is unknown.

    Source: https://code.djangoproject.com/ticket/35838
    """
    chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
    if not chunked or environ.get("CONTENT_LENGTH") or not environ.get("wsgi.input_terminated"):
        return True
    most: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    body = environ["wsgi.input"].read(most + 1)
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = BytesIO(body), str(len(body))
    return len(body) <= most
