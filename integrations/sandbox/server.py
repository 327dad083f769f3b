"""The sandbox as an HTTP server on loopback.

Django's threaded server carries it: one thread per connection, HTTP/1.1 with
keep-alive. Requests become Django's WSGIRequest and answers Django's
HttpResponse, but no middleware, database or setting of the project is involved.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIApplication

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.core.handlers.wsgi import WSGIRequest
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.http import HttpResponse, JsonResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.urls import Resolver404, URLResolver
from django.urls.resolvers import RegexPattern

from . import control
from .faults import ConnectionClosed, ConnectionReset
from .garmin import Garmin
from .intervals import Intervals
from .polar import Polar
from .provider import Provider
from .strava import Strava
from .wahoo import Wahoo

logger = logging.getLogger(__name__)

MAX_BODY = 1_000_000
# SO_LINGER on, zero seconds: close() sends a reset instead of a FIN.
_RESET = struct.pack("ii", 1, 0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Say whether a Host header, with or without a port, names this very machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if host != host.strip() or any(char in host for char in "/?#@\\,"):
            return False
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class _Server(ThreadedWSGIServer):
    request_queue_size = 128
    # A second sandbox on the same port should fail, not share its calls.
    allow_reuse_port = False

    def __init__(self, address: tuple[str, int], app: WSGIApplication) -> None:
        self._open_lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        # HTTPServer looks up the fully qualified name of its address, which may wait for a name
        # server.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._open_lock:
            self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)
        with contextlib.suppress(OSError):
            if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) == _RESET:
                self.close_request(request)  # the polite FIN of shutdown() would spoil the reset
                return
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End every connection that is still open, and wait for their threads."""
        with self._open_lock:
            still_open = list(self._open.items())
        for connection, _thread in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 3
        for _connection, thread in still_open:
            thread.join(max(0.0, deadline - time.monotonic()))


class _Handler(WSGIRequestHandler):
    timeout = 75  # of one read or write; also how long an idle connection is kept
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one go

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base names it
        """Log nothing here: the request line holds codes and secrets in its query."""

    def get_environ(self) -> dict[str, Any]:
        # Two lengths are no length.
        length = ",".join(self.headers.get_all("Content-Length", []))
        return super().get_environ() | {"CONTENT_LENGTH": length, "sandbox.handler": self}

    def handle(self) -> None:
        # Django's own ends with a FIN, which would spoil a reset.
        self.close_connection = False
        with contextlib.suppress(ConnectionError, TimeoutError):
            while not self.close_connection:
                self.handle_one_request()
                self.wfile.flush()


class Sandbox:
    """The running stand-ins.

        with Sandbox() as sandbox:
            requests.post(f"{sandbox.url}/oauth/token", ...)

    Port 0 takes any free port. It listens on 127.0.0.1 and nowhere else.
    `log`, if given, gets one line per request, without its query. `extra` are
    classes of further stand-ins.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        token_lifetime: int = 21600,
        clock: Callable[[], float] = time.time,
        log: Callable[[str], object] | None = None,
        extra: Iterable[type[Provider]] = (),
    ) -> None:
        self._port = port
        self._log = log
        self._stopping = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        # Event.wait is a sleep that ends when the sandbox stops.
        self.strava = Strava(token_lifetime=token_lifetime, clock=clock, sleep=self._stopping.wait)
        self.garmin = Garmin(clock=clock, sleep=self._stopping.wait)
        self.polar = Polar(clock=clock, sleep=self._stopping.wait)
        self.wahoo = Wahoo(clock=clock, sleep=self._stopping.wait)
        self.intervals = Intervals(clock=clock, sleep=self._stopping.wait)
        built_in = (self.strava, self.garmin, self.polar, self.wahoo, self.intervals)
        others = [kind(clock=clock, sleep=self._stopping.wait) for kind in extra]
        self.providers: dict[str, Provider] = {each.name: each for each in (*built_in, *others)}
        patterns = [*control.urlpatterns(self.providers)]
        for provider in self.providers.values():
            patterns += provider.urlpatterns()
        self._resolver = URLResolver(RegexPattern(r"^/"), patterns)

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the sandbox is not running")
        return self._server.server_port

    @property
    def url(self) -> str:
        """The origin, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Serve in a thread of its own. Raises OSError if the port is taken."""
        if self._server is not None:
            raise RuntimeError("the sandbox is running already")
        self._stopping.clear()
        self._server = _Server(("127.0.0.1", self._port), self.wsgi)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="sandbox",
            daemon=True,
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving, end every connection, wake every fault that sleeps."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping.set()
        server.shutdown()
        server.hang_up()
        server.server_close()
        if self._thread is not None:
            self._thread.join(3)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def reset(self) -> None:
        """Forget everything that happened, at every provider."""
        for provider in self.providers.values():
            provider.reset()

    def wsgi(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, or end its connection.

        The response is not handed over whole: its close() would send
        request_finished, on which the host project may close what it likes.
        """
        try:
            response = self.answer(environ)
        except (ConnectionReset, ConnectionClosed) as exc:
            handler = environ["sandbox.handler"]
            handler.close_connection = True
            if isinstance(exc, ConnectionReset):
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise ConnectionAbortedError from exc  # which the server takes without a word
        head = [*response.items()]
        head += [("Set-Cookie", each.OutputString()) for each in response.cookies.values()]
        start_response(f"{response.status_code} {response.reason_phrase}", head)
        return [response.content] if isinstance(response, HttpResponse) else iter(response)

    def answer(self, environ: dict[str, Any]) -> HttpResponseBase:
        """Answer one request.

        Raises ConnectionReset or ConnectionClosed if a fault wants no answer.
        """
        response = self._answer(environ)
        if self._log is not None:
            # repr() because the path is the caller's, and a terminal obeys escapes.
            path = repr(environ.get("PATH_INFO", ""))[1:-1]
            self._log(f"{environ['REQUEST_METHOD']} {path} {response.status_code}")
        return response

    def _answer(self, environ: dict[str, Any]) -> HttpResponseBase:
        # A page on the web can point its own name at 127.0.0.1 and then read
        # what is served here as if it were its own; its Host gives it away.
        if not is_loopback(environ.get("HTTP_HOST", "")):
            return _error(403, "The sandbox answers to loopback names only")
        length = environ.get("CONTENT_LENGTH") or "0"
        if "HTTP_TRANSFER_ENCODING" in environ:
            return _error(411, "Length Required")
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            return _error(400, "Bad Request")
        if int(length) > MAX_BODY:
            return _error(413, "Payload Too Large")
        if environ["REQUEST_METHOD"] not in _METHODS:
            return _error(405, "Method Not Allowed")
        try:
            request = WSGIRequest(environ)
            match = self._resolver.resolve(request.path_info)
            answer: HttpResponseBase = match.func(request, *match.args, **match.kwargs)
        except Resolver404:
            return _error(404, "Record Not Found")
        except (BadRequest, SuspiciousOperation, MultiPartParserError, UnreadablePostError):
            return _error(400, "Bad Request")
        except (ConnectionReset, ConnectionClosed):
            raise
        except Exception:
            logger.exception("sandbox: %s failed", environ["REQUEST_METHOD"])
            return _error(500, "The sandbox itself failed; see its log")
        return answer


def _error(status: int, message: str) -> HttpResponse:
    return JsonResponse({"message": message, "errors": []}, status=status)
