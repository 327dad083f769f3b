"""The sessions that the garminconnect library makes, under the rules of our own requests.

They are of two kinds, made in half a dozen places: of requests, and of curl_cffi, which passes for
a browser with Garmin's front. Left alone, they follow a 307 with a password or a refresh token in
hand, read whatever comes into memory, and limit each read, or all of them by the clock.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import requests

from .. import http

# Seconds, by the clock of libcurl, which runs on while this process sleeps. The watchdog comes long
# before.
_LAST_RESORT = 300


def bounded(session: Any) -> Any:
    """The session, of either kind, with a deadline and a size for answers, and no redirects.

    A request raises TooLong for an answer that is too long.
    """
    if isinstance(session, requests.Session):
        for scheme in ("https://", "http://"):
            session.mount(scheme, http.DeadlineAdapter(pool_maxsize=20))
        return session
    from curl_cffi import CurlHttpVersion, CurlInfo, CurlOpt

    ask = session.request
    header_out = 2  # libcurl's CURLINFO_HEADER_OUT: the request goes out

    def request(method: str, url: str, **options: Any) -> Any:
        body = bytearray()
        sockets: list[socket.socket] = []

        def keep(piece: bytes) -> int:
            body.extend(piece)
            if len(body) > http.MAX_BODY:
                raise http.TooLong
            return len(piece)

        def listen(kind: int, text: bytes) -> None:
            number = session.curl.getinfo(CurlInfo.ACTIVESOCKET)
            if number < 0 or (sockets and kind != header_out):
                return
            # A copy, because libcurl closes its own when it likes.
            copy = cuts.enter_context(socket.socket(fileno=os.dup(number)))
            sockets.append(copy)
            if watch.late:  # libcurl asks again by itself where a kept connection has died
                copy.shutdown(socket.SHUT_RDWR)
            else:
                http.watchdog.begin(copy)

        session.curl_options |= {
            CurlOpt.CONNECTTIMEOUT_MS: int(http.CONNECT_TIMEOUT * 1000),
            # On a reused connection, libcurl may send a request twice by itself.
            CurlOpt.FRESH_CONNECT: int(method == "POST"),
            CurlOpt.VERBOSE: 1,
            CurlOpt.DEBUGFUNCTION: listen,
        }
        options |= {
            "allow_redirects": False, "timeout": _LAST_RESORT, "content_callback": keep
        }  # fmt: skip
        with ExitStack() as cuts, http.watchdog.watch() as watch:
            answer = ask(method, url, **options)
        is_known = (
            answer.http_version > CurlHttpVersion.V1_1
            or {"content-length", "transfer-encoding"} & {name.lower() for name in answer.headers}
        )  # fmt: skip
        if watch.late and not is_known:  # cut off, perhaps; libcurl cannot tell
            raise requests.ReadTimeout
        answer.content = bytes(body)
        return answer

    session.request = request
    return session


def bind(package: ModuleType, client: Any) -> None:
    """Put a client of the library's under the rules, but for what it makes to sign in.

    `package` is garminconnect.client.
    """

    def post(url: str, **options: Any) -> Any:
        """What the library's own does, for the token endpoint."""
        if not package.HAS_CFFI:
            with bounded(requests.Session()) as session:
                return session.post(url, **options)
        with bounded(package.cffi_requests.Session(impersonate="chrome")) as session:
            return session.post(url, **options)

    client._http_post = post
    bounded(client.cs)
    bounded(client._api_session)
