"""What every stand-in shares: counting calls, and wrapping each view."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern

from .faults import Faults

View = Callable[..., HttpResponseBase]

# A benchmark makes calls by the hundred thousand; only the newest are kept.
_KEPT_REQUESTS = 10_000


class Refusal(Exception):
    """A provider's error answer, which any code may raise."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__(response.status_code)
        self.response = response


class Provider:
    """One provider's stand-in: its state, its URLs, its faults.

    `endpoint` names are the vocabulary of `calls`, `requests` and `fail`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    endpoints: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        #: Seconds by which the provider's clock is fast.
        self.ahead = 0.0
        self._clock = clock
        self.faults = Faults(sleep)
        # Held for dictionary work only, never across a delay or a socket.
        self._lock = threading.RLock()
        self._amendments: dict[str, Callable[[Any], Any]] = {}
        self._calls: Counter[str] = Counter()
        self._requests: deque[dict[str, Any]] = deque(maxlen=_KEPT_REQUESTS)

    # What a test asks

    @property
    def calls(self) -> Counter[str]:
        """How often each endpoint was called since the last reset, refused calls included."""
        with self._lock:
            return Counter(self._calls)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The newest calls, oldest first, without secrets. `status` is None if none was sent."""
        with self._lock:
            return [dict(record) for record in self._requests]

    # What a test does

    def fail(
        self,
        endpoint: str,
        fault: str,
        times: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Switch a fault on for one endpoint, or `*`, for `times` calls or until `recover()`.

        Raises ValueError for an endpoint or a fault that does not exist.
        """
        if endpoint != "*" and endpoint not in self.endpoints:
            raise ValueError(f"no such endpoint: {endpoint!r}")
        self.faults.add(endpoint, fault, times=times, seconds=seconds)

    def amend(self, endpoint: str, edit: Callable[[Any], Any]) -> None:
        """Have the JSON of an endpoint's good answers edited before it is sent, until `recover()`.

        For an answer that is odd in one place and otherwise fine.
        """
        if endpoint not in self.endpoints:
            raise ValueError(f"no such endpoint: {endpoint!r}")
        self._amendments[endpoint] = edit

    def recover(self) -> None:
        """Switch off every fault and every amendment."""
        self.faults.clear()
        self._amendments.clear()

    def reset(self) -> None:
        """Forget everything that happened."""
        self.recover()
        self.ahead = 0.0
        with self._lock:
            self._calls.clear()
            self._requests.clear()

    # What a provider has

    def clock(self) -> float:
        """The provider's current time, in epoch seconds."""
        return self._clock() + self.ahead

    # What a provider fills in

    def urlpatterns(self) -> list[URLPattern]:
        raise NotImplementedError

    def controls(self) -> Mapping[str, Callable[..., object]]:
        """Actions offered under /_sandbox/NAME/: JSON fields are the keyword arguments."""
        return {}

    def canned(self, fault: str) -> HttpResponse:
        """The provider's own wording of a fault that is an error answer."""
        return JsonResponse({"message": fault}, status=500)

    def describe(self, request: HttpRequest) -> dict[str, Any]:
        """What is worth noting of a call; never a secret."""
        return {}

    def overview(self) -> dict[str, Any]:
        """What the index page and /_sandbox/state show."""
        return {}

    def endpoint(self, name: str, view: View) -> View:
        """Wrap a view: count the call, apply a fault, turn refusals into answers."""

        def answer(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            record: dict[str, Any] = {
                "endpoint": name,
                "method": request.method,
                "path": request.path_info,
                "fault": None,
                "status": None,
            }
            with self._lock:
                self._calls[name] += 1
                self._requests.append(record)
            # Parsing the body may raise: then the call is counted, and no fault is spent.
            details = self.describe(request)
            fault = self.faults.take(name)

            def process() -> HttpResponseBase:
                try:
                    return self._amended(name, view(request, **kwargs))
                except Refusal as refusal:
                    return refusal.response

            with self._lock:
                record.update(details, fault=fault.name if fault else None)
            if fault:
                response = self.faults.perform(
                    fault, process, self.canned, self._elsewhere(request)
                )
            else:
                response = process()
            with self._lock:
                record["status"] = response.status_code
            return response

        return answer

    def _elsewhere(self, request: HttpRequest) -> str:
        return f"http://localhost:{request.get_port()}/_sandbox/elsewhere/{self.name}"

    def stray(self, request: HttpRequest) -> HttpResponse:
        """Take what a redirect has led to another host. Counted among the calls as "elsewhere"."""
        with self._lock:
            self._calls["elsewhere"] += 1
        return HttpResponse(b"{}", content_type="application/json")

    def _amended(self, endpoint: str, response: HttpResponseBase) -> HttpResponseBase:
        edit = self._amendments.get(endpoint)
        if edit is not None and isinstance(response, JsonResponse):
            response.content = json.dumps(edit(json.loads(response.content))).encode()
        return response
