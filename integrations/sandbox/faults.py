"""What can go wrong between a client and a provider, on demand.

Nothing here knows a provider. A fault either replaces the answer, or does
something to the connection that carries it.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

#: Fault name → what it does, as the index page shows it.
FAULTS: dict[str, str] = {
    "500": "500 with the provider's own JSON error",
    "502_html": "502 with an HTML page, as a proxy in front would send",
    "200_html": "200 with an HTML page where JSON is expected",
    "empty": "200 with an empty body",
    "half_json": "200 with JSON that stops in the middle",
    "wrong_types": "200 with JSON in which every field has the wrong type",
    "flood": "200 with JSON of 400 MB",
    "redirect": "307 to another host, which takes whatever comes",
    "429": "rate limit exceeded",
    "401_client": "the application's credentials are refused",
    "403_inactive": "the application is inactive",
    "403_limit": "the application has too many connected athletes",
    "reset_before": "the connection is reset, the request was not processed",
    "reset_after": "the request is processed, then the connection is reset",
    "silence": "no answer for some seconds, then the connection closes; not processed",
    "drip": "the normal answer, its body a byte at a time",
    "delay": "the normal answer, some seconds late",
}

#: Default of `seconds` for the faults that have a duration (for drip: the pause between bytes).
SECONDS = {"silence": 30.0, "drip": 1.0, "delay": 1.0}

_HTML = "<!doctype html><title>Bad gateway</title><h1>502 Bad gateway</h1><p>Please try again.</p>"

# One object that is wrong for every endpoint: a number instead of a string, an object instead of a
# list, and so on.
_WRONG_TYPES = (
    b'{"token_type": 7, "access_token": ["not", "a", "string"], "refresh_token": {"a": 1},'
    b' "expires_at": "soon", "expires_in": [], "athlete": "somebody", "id": [],'
    b' "firstname": 1, "bikes": {"b": true}, "shoes": 7, "name": {}, "distance": "far",'
    b' "brand_name": [], "errors": 1, "message": null, "callback_url": 3}'
)

_FLOOD = 400_000_000


class ConnectionReset(Exception):
    """The connection has to end with a TCP reset instead of an answer."""


class ConnectionClosed(Exception):
    """The connection has to end quietly, without an answer."""


@dataclass
class Fault:
    """One fault that is switched on. `remaining` is None for "until cleared"."""

    endpoint: str
    name: str
    seconds: float
    remaining: int | None

    def as_dict(self) -> dict[str, object]:
        return {
            "endpoint": self.endpoint,
            "fault": self.name,
            "times": self.remaining,
            "seconds": self.seconds,
        }


class Faults:
    """The faults of one provider, by endpoint name; `*` stands for every endpoint.

    `sleep` is the sandbox's own, which returns early when the sandbox stops.
    """

    def __init__(self, sleep: Callable[[float], object]) -> None:
        self._sleep = sleep
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Fault]] = {}

    def add(
        self, endpoint: str, name: str, times: int | None = None, seconds: float | None = None
    ) -> None:
        """Switch a fault on, for the next `times` calls or until cleared.

        Faults of one endpoint queue up, so a sequence can be set in advance. A fault without an end
        would block later ones, so they replace it.

        Raises ValueError for an unknown fault or a nonsensical count.
        """
        if name not in FAULTS:
            raise ValueError(f"no such fault: {name!r}")
        if times is not None and times < 1:
            raise ValueError("times must be at least 1")
        if seconds is None:
            seconds = SECONDS.get(name, 0.0)
        if not 0 <= seconds <= 3600:
            raise ValueError("seconds must be between 0 and 3600")
        with self._lock:
            queue = self._queues.setdefault(endpoint, deque())
            if queue and queue[-1].remaining is None:
                queue.pop()
            queue.append(Fault(endpoint, name, seconds, times))

    def take(self, endpoint: str) -> Fault | None:
        """Use the next fault for this endpoint once, if there is one."""
        if not self._queues:  # the common case costs no lock
            return None
        with self._lock:
            for key in (endpoint, "*"):
                queue = self._queues.get(key)
                if not queue:
                    continue
                fault = queue[0]
                if fault.remaining is not None:
                    fault.remaining -= 1
                    if fault.remaining == 0:
                        queue.popleft()
                return fault
        return None

    def clear(self) -> None:
        with self._lock:
            self._queues.clear()

    def as_list(self) -> list[dict[str, object]]:
        with self._lock:
            return [fault.as_dict() for queue in self._queues.values() for fault in queue]

    def perform(
        self,
        fault: Fault,
        answer: Callable[[], HttpResponseBase],
        canned: Callable[[str], HttpResponse],
        elsewhere: str,
    ) -> HttpResponseBase:
        """Answer with the fault. `answer` processes the request, `canned` knows the provider.

        `elsewhere` is where a redirect leads.

        Raises ConnectionReset or ConnectionClosed if there is to be no answer.
        """
        match fault.name:
            case "reset_before":
                raise ConnectionReset
            case "reset_after":
                answer()
                raise ConnectionReset
            case "silence":
                self._sleep(fault.seconds)
                raise ConnectionClosed
            case "delay":
                self._sleep(fault.seconds)
                return answer()
            case "drip":
                return self._drip(answer(), fault.seconds)
            case "502_html":
                return HttpResponse(_HTML, status=502)
            case "200_html":
                return HttpResponse(_HTML)
            case "empty":
                return HttpResponse(b"", content_type="application/json")
            case "half_json":
                body = b'{"token_type": "Bearer", "access_token": "0123456789abc'
                return HttpResponse(body, content_type="application/json")
            case "wrong_types":
                return HttpResponse(_WRONG_TYPES, content_type="application/json")
            case "flood":
                return self._flood()
            case "redirect":
                return HttpResponse(status=307, headers={"Location": elsewhere})
            case name:
                return canned(name)

    def _flood(self) -> HttpResponseBase:
        piece = b" " * 50_000
        pieces = itertools.chain([b"{"], itertools.repeat(piece, _FLOOD // len(piece)), [b"}"])
        response = StreamingHttpResponse(pieces, content_type="application/json")
        response["Content-Length"] = str(_FLOOD + 2)
        return response

    def _drip(self, response: HttpResponseBase, seconds: float) -> HttpResponseBase:
        """Send a normal answer so slowly that no single read of it ever times out."""
        if not isinstance(response, HttpResponse):
            return response
        content = response.content

        def drops() -> Iterator[bytes]:
            for index in range(len(content)):
                self._sleep(seconds)
                yield content[index : index + 1]

        slow = StreamingHttpResponse(drops(), status=response.status_code)
        for header, value in response.items():
            slow[header] = value
        slow["Content-Length"] = str(len(content))
        return slow
