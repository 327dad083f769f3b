"""The base of HTTP clients for providers: timeouts, a size limit, parsing, named errors."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from threading import Lock, Thread, local
from typing import Any

import requests
import urllib3
import urllib3.connection
from pydantic import BaseModel
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.util.ssltransport import SSLTransport

from .exceptions import InvalidProviderReply, ProviderError, ProviderUnavailable

logger = logging.getLogger("integrations.http")

CONNECT_TIMEOUT = 3  # seconds
READ_TIMEOUT = 10  # seconds, for the whole answer: a slow drip must not hold a worker
MAX_BODY = 1024 * 1024  # bytes; the largest honest answer is a few kilobytes


def bearer(token: str) -> dict[str, str]:
    """`Authorization: Bearer` (RFC 6750, section 2.1)."""
    return {"Authorization": f"Bearer {token}"}


class _Watch:
    """The time limit of one answer, from the request's end until the answer is whole."""

    __slots__ = ("deadline", "late", "socket")

    def __init__(self) -> None:
        self.deadline = 0.0
        self.late = False  # then the connection was cut
        self.socket: Any = None

    def hang_up(self) -> None:
        self.late = True
        plain = self.socket
        while isinstance(plain, SSLTransport):  # TLS inside a proxy's TLS
            plain = plain.socket
        with suppress(OSError):
            # Shut the plain socket: the reader is using the TLS object.
            socket.socket.shutdown(plain, socket.SHUT_RDWR)


class _Watchdog:
    """Cuts a connection that has not sent a whole answer in time.

    A socket's timeout is for one read. A head, a chunk size, trailers or empty gzip blocks that
    come at a byte a second never reach it, and would hold a worker and a token's lease for hours.
    One thread serves all connections.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._watches: set[_Watch] = set()
        self._current = local()
        self._thread: Thread | None = None

    @contextmanager
    def watch(self) -> Iterator[_Watch]:
        """Watch this thread's requests within the block, each from `begin` on."""
        watch = self._current.watch = _Watch()
        try:
            yield watch
        finally:
            self._current.watch = None
            with self._lock:
                self._watches.discard(watch)

    def begin(self, sock: Any) -> _Watch:
        """Start the answer's time limit, once the request has been sent."""
        watch: _Watch = self._current.watch
        watch.socket = sock
        watch.deadline = time.monotonic() + READ_TIMEOUT
        with self._lock:
            self._watches.add(watch)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="http-watchdog", daemon=True)
                self._thread.start()
        return watch

    def _run(self) -> None:
        while True:
            time.sleep(0.25)
            now = time.monotonic()
            with self._lock:
                late = [watch for watch in self._watches if watch.deadline < now]
                for watch in late:
                    self._watches.discard(watch)
                    watch.hang_up()


class _Watched:
    """A connection whose answers are under the watchdog's time limit."""

    sock: Any

    def getresponse(self) -> Any:
        watch = _watchdog.begin(self.sock)
        response = super().getresponse()  # type: ignore[misc]
        if watch.late:  # a head cut off looks like a whole one
            response.close()
            raise TimeoutError
        return response


class _HTTPConnection(_Watched, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_Watched, urllib3.connection.HTTPSConnection):
    pass


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class TooLong(requests.RequestException):
    """An answer of more than MAX_BODY bytes."""


class DeadlineAdapter(HTTPAdapter):
    """Limits the time and size of a whole answer; requests limits only each read of it."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, stream: bool = False, **kwargs: Any
    ) -> requests.Response:
        with _watchdog.watch() as watch:
            response = super().send(request, stream=True, **kwargs)
            body = b""
            try:
                # read1, because iter_content returns a slow body only once it is whole.
                while chunk := response.raw.read1(8192, decode_content=True):
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise TooLong
                # Only its length or its last chunk shows whether it was cut off.
                if watch.late and not response.raw.chunked:
                    raise requests.ReadTimeout
            except OSError:
                response.raw.close()
                raise
            except urllib3.exceptions.HTTPError as exc:
                response.raw.close()
                raise requests.ConnectionError(exc) from exc
        response._content = body
        response._content_consumed = True  # type: ignore[attr-defined]
        return response


_watchdog = _Watchdog()
# One connection pool per process. No `requests.Session` around it: a session would keep one
# athlete's cookies for the next one's request, follow redirects with credentials in hand, let a
# ~/.netrc entry replace our Authorization header, and cost a sweep a fifth of its time.
_adapter = DeadlineAdapter(pool_maxsize=64, max_retries=0)
# Variables that operators rely on besides those for proxies.
_VERIFY = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": requests.utils.default_user_agent("athlete-integrations requests"),
}


def _forget_connections() -> None:
    """A forked child must not talk on its parent's connections."""
    global _adapter, _watchdog
    _adapter, _watchdog = DeadlineAdapter(pool_maxsize=64, max_retries=0), _Watchdog()


os.register_at_fork(after_in_child=_forget_connections)


@lru_cache(maxsize=16)
def _proxies(origin: str) -> dict[str, str]:
    """The proxy that the environment names for an origin, respecting NO_PROXY."""
    return requests.utils.get_environ_proxies(origin)


class ProviderClient:
    """Base of a provider's HTTP client. A provider's file holds only what differs."""

    provider: str

    def _request(
        self,
        method: str,
        url: str,
        *,
        auth: requests.auth.AuthBase | None = None,
        headers: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> requests.Response:
        """Ask once: a repeated refresh would send a token that is already spent.

        Redirects are not followed, because they would carry credentials to another host.

        Raises ProviderUnavailable if no whole answer came in time, and the error from `error_for`
        for a status of 300 or more.
        """
        request = requests.PreparedRequest()
        request.prepare_method(method)
        if params:
            request.prepare_url(url, params)
        else:
            request.url = url
        request.headers = CaseInsensitiveDict(_HEADERS | (headers or {}))
        request.prepare_body(data, files=None)
        if auth is not None:
            request.prepare_auth(auth)
        try:
            response = _adapter.send(
                request,
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                verify=_VERIFY,
                proxies=_proxies(url[: url.index("/", 8)]),
            )
        except TooLong as exc:
            raise InvalidProviderReply from exc
        except (requests.RequestException, OSError) as exc:
            event = {"event": f"{self.provider}.not_reached"}
            logger.warning("%s %s: %s", self.provider, method, type(exc).__name__, extra=event)
            raise ProviderUnavailable from exc
        if response.status_code >= 300:
            error = self.error_for(response)
            event = {"event": f"{self.provider}.refused"}
            logger.warning(
                "%s answered %s: %s", self.provider, response.status_code, error.code, extra=event
            )
            raise error
        return response

    def error_for(self, response: requests.Response) -> ProviderError:
        """The error that an answer with a status of 300 or more stands for."""
        if response.status_code >= 500:
            return ProviderUnavailable(provider_status=response.status_code)
        return InvalidProviderReply(provider_status=response.status_code)

    def _parse[Reply: BaseModel](self, model: type[Reply], response: requests.Response) -> Reply:
        """Trust nothing: wrong types, missing fields and HTML all raise InvalidProviderReply."""
        try:
            # Python's own parser, because it accepts half a surrogate pair in a name.
            return model.model_validate(json.loads(response.content))
        except (ValueError, RecursionError):  # pydantic's error is a ValueError, too
            event = {"event": f"{self.provider}.reply_unusable"}
            logger.warning("%s gave an unusable %s", self.provider, model.__name__, extra=event)
            # `from None`: the validation error carries the body, tokens and all.
            raise InvalidProviderReply(provider_status=response.status_code) from None
