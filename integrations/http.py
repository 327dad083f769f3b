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
from queue import Empty, SimpleQueue
from threading import Lock, Thread, local
from typing import Any

import requests
import urllib3
from pydantic import BaseModel
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import allowed_gai_family, create_connection
from urllib3.util.ssltransport import SSLTransport

from .exceptions import InvalidProviderReply, ProviderError, ProviderUnavailable

logger = logging.getLogger("integrations.http")

# Seconds. Both together are one try's deadline, which has to lie within a lease on a token.
CONNECT_TIMEOUT = 6  # for the name and all of its addresses together; nothing is sent before
READ_TIMEOUT = 10  # for the whole answer: a slow drip must not hold a worker
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
            # Shut the plain socket: the reader is using the TLS object. What has come already can
            # still be read.
            socket.socket.shutdown(plain, socket.SHUT_RDWR)


class _Watchdog:
    """Cuts a connection that has not sent a whole answer in time.

    A socket's timeout is for one read. A head, a chunk size, trailers or empty gzip blocks that
    come at a byte a second never reach it, and would hold a worker and a token's lease for hours.

    Time is counted in the watchdog's own steps, not by the clock. Whoever sleeps for twelve seconds
    (a stopped process, a suspended machine) has not listened meanwhile: that is not the provider's
    silence, and its answer may carry the only pair of tokens that still works. One thread serves
    all connections.
    """

    STEP = 0.25

    def __init__(self) -> None:
        self.now = 0.0  # seconds in which this process was awake
        self._lock = Lock()
        self._watches: dict[Any, _Watch] = {}  # by socket
        self._current = local()
        self._thread: Thread | None = None

    @contextmanager
    def watch(self) -> Iterator[_Watch]:
        """Watch this thread's requests within the block, each from `begin` on."""
        with self._lock:
            if self._thread is None:  # not in `begin`: once a request is out, nothing may fail
                self._thread = Thread(target=self._run, name="http-watchdog", daemon=True)
                self._thread.start()
        watch = self._current.watch = _Watch()
        try:
            yield watch
        finally:
            self._current.watch = None
            with self._lock:
                self._forget(watch)

    def begin(self, sock: Any, seconds: float | None = None) -> _Watch:
        """Start a time limit anew; without `seconds`, that of the answer to what was just sent."""
        watch: _Watch = self._current.watch
        with self._lock:
            self._forget(watch)
            watch.socket, watch.late = sock, False
            watch.deadline = self.now + (READ_TIMEOUT if seconds is None else seconds)
            self._watches[sock] = watch
        return watch

    def _forget(self, watch: _Watch) -> None:
        if self._watches.get(watch.socket) is watch:
            del self._watches[watch.socket]

    def end(self, sock: Any) -> None:
        """Forget whoever used a connection before: it has its answer, and may not cut ours."""
        with self._lock:
            self._watches.pop(sock, None)

    def _run(self) -> None:
        while True:
            time.sleep(self.STEP)
            with self._lock:
                self.now += self.STEP
                for watch in [w for w in self._watches.values() if w.deadline < self.now]:
                    del self._watches[watch.socket]
                    watch.hang_up()


class _Watched:
    """A connection whose answers are under the watchdog's time limit."""

    sock: Any
    timeout: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        watchdog.end(self.sock)
        self.sock.settimeout(self.timeout)  # for each write

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            watchdog.end(self.sock)
        super().request(*args, **kwargs)  # type: ignore[misc]

    def getresponse(self) -> Any:
        watchdog.begin(self.sock)
        return super().getresponse()  # type: ignore[misc]


class _Reached(_Watched):
    """A connection that is made in time as well."""

    _dns_host: str
    port: int
    source_address: Any
    socket_options: Any

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers.

        urllib3 would wait for the name without a limit, and for each of its addresses anew. Here
        each gets its share of the time that is left.
        """
        deadline = watchdog.now + CONNECT_TIMEOUT
        failure: Exception = TimeoutError()
        addresses = _addresses(self._dns_host, self.port, deadline)
        for number, (*_, address) in enumerate(addresses):
            if (left := deadline - watchdog.now) <= 0:
                break
            try:
                sock = create_connection(
                    address[:2],
                    left / (len(addresses) - number),
                    self.source_address,
                    self.socket_options,
                )
            except OSError as exc:
                failure = exc
                continue
            # For TLS, whose handshake Python limits as a whole, and for a proxy's first answer.
            left = max(deadline - watchdog.now, watchdog.STEP)
            sock.settimeout(left)
            watchdog.begin(sock, left)
            return sock
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, "no connection in time") from failure
        raise NewConnectionError(self, "no connection") from failure  # type: ignore[arg-type]


def _addresses(host: str, port: int, deadline: float) -> list[Any]:
    """What getaddrinfo says. It takes as long as it likes, so a thread of its own waits for it.

    Raises OSError.
    """
    answer: SimpleQueue[Any] = SimpleQueue()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM))
        except Exception as exc:
            answer.put(exc)

    Thread(target=ask, name="http-resolver", daemon=True).start()
    while (left := deadline - watchdog.now) > 0:
        with suppress(Empty):
            found = answer.get(timeout=left)
            if isinstance(found, Exception):
                raise OSError("the name is not known") from found
            return list(found)
    raise TimeoutError("the name was not found in time")


def _pools(pools: dict[str, Any], way: type) -> dict[str, Any]:
    """Pools of the same kinds, by scheme, whose connections are watched or also made in time."""
    found = {}
    for scheme, pool in pools.items():
        connection = type("WatchedConnection", (way, pool.ConnectionCls), {})
        found[scheme] = type("WatchedPool", (pool,), {"ConnectionCls": connection})
    return found


_POOLS = _pools(
    {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}, _Reached
)


class TooLong(requests.RequestException):
    """An answer of more than MAX_BODY bytes."""


class DeadlineAdapter(HTTPAdapter):
    """Limits the time and size of a whole answer; requests limits only each read of it.

    Nor does a session follow a redirect then, which would carry credentials to another host.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        elif is_new:  # another library makes its connections
            manager.pool_classes_by_scheme = _pools(manager.pool_classes_by_scheme, _Watched)
        return manager

    def send(  # type: ignore[override]
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        **kwargs: Any,
    ) -> requests.Response:
        # No timeout of the socket's for reading: it would go on while this process sleeps.
        limits = (READ_TIMEOUT if timeout is None else timeout, None)
        with watchdog.watch() as watch:
            response = super().send(request, stream=True, timeout=limits, **kwargs)
            body = b""
            try:
                # read1, because iter_content returns a slow body only once it is whole.
                while chunk := response.raw.read1(8192, decode_content=True):
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise TooLong
                # An answer that came whole is never late. Its length or its last chunk shows
                # whether it did; without them, only that nobody has cut it off.
                is_known = response.raw.chunked or response.raw.length_remaining is not None
                if watch.late and not is_known:
                    raise requests.ReadTimeout
            except OSError:
                response.raw.close()
                raise
            except urllib3.exceptions.HTTPError as exc:
                response.raw.close()
                raise requests.ConnectionError(exc) from exc
        response.headers.pop("Location", None)
        response._content = body
        response._content_consumed = True  # type: ignore[attr-defined]
        return response


watchdog = _Watchdog()
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
    global _adapter, watchdog
    _adapter, watchdog = DeadlineAdapter(pool_maxsize=64, max_retries=0), _Watchdog()


os.register_at_fork(after_in_child=_forget_connections)


@lru_cache(maxsize=16)
def _proxies(origin: str) -> dict[str, str]:
    """The proxy that the environment names for an origin, respecting NO_PROXY."""
    return requests.utils.get_environ_proxies(origin)


class ProviderClient:
    """Base of a provider's HTTP client. A provider's file holds only what differs."""

    provider: str
    label: str = ""  # for the words of errors

    def _request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        try:
            return self._ask(method, url, **kwargs)
        except ProviderError as exc:
            exc.provider = self.label
            raise

    def _ask(
        self,
        method: str,
        url: str,
        *,
        auth: requests.auth.AuthBase | None = None,
        headers: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        json: Any = None,
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
        request.prepare_body(data, files=None, json=json)
        if auth is not None:
            request.prepare_auth(auth)
        try:
            proxies = _proxies(url[: url.index("/", 8)])
            response = _adapter.send(request, verify=_VERIFY, proxies=proxies)
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
        error = ProviderUnavailable if response.status_code >= 500 else InvalidProviderReply
        return error(provider_status=response.status_code)

    def _parse[Reply: BaseModel](self, model: type[Reply], response: requests.Response) -> Reply:
        """Trust nothing: wrong types, missing fields and HTML all raise InvalidProviderReply."""
        try:
            # Python's own parser, because it accepts half a surrogate pair in a name.
            return model.model_validate(json.loads(response.content))
        except (ValueError, RecursionError):  # pydantic's error is a ValueError, too
            event = {"event": f"{self.provider}.reply_unusable"}
            logger.warning("%s gave an unusable %s", self.provider, model.__name__, extra=event)
            # `from None`: the validation error carries the body, tokens and all.
            error = InvalidProviderReply(provider_status=response.status_code)
            error.provider = self.label
            raise error from None
