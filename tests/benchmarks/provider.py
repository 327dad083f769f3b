"""A provider that takes its time and next to no CPU: `/oauth/token`, fifty milliseconds later.

The sandbox could do the same with its `delay` fault, but it is a threaded server that checks
every parameter: on two cores it would take the CPU from what is being measured. This one checks
nothing, and waits for any number of requests at once in one thread.
"""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median
from urllib.parse import urlsplit

_numbers = count(1)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as a client that behaves needs it."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        _, _, length = head.lower().partition(b"content-length:")
        if len(body) < int(length.partition(b"\r\n")[0] or 0):
            return
        self.received = b""
        asyncio.get_running_loop().call_later(self.latency, self.answer)

    def answer(self) -> None:
        number = next(_numbers)
        body = (
            f'{{"token_type":"Bearer","access_token":"access-{number:033}","expires_in":21600,'
            f'"refresh_token":"refresh-{number:032}","expires_at":{int(time.time()) + 21600}}}'
        )
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
            b"X-RateLimit-Limit: 1000000,1000000\r\nX-RateLimit-Usage: 1,1\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body.encode())
        )


async def _serve(latency: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(latency), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def running(latency: float) -> Iterator[str]:
    """The base URL of a provider in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(latency)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def measured_latency(url: str, requests: int = 40) -> float:
    """Seconds that one request takes on a connection that stays open, as nobody else asks."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    times = []
    for _ in range(requests):
        started = time.perf_counter()
        connection.request("POST", "/oauth/token", body=b"grant_type=refresh_token")
        connection.getresponse().read()
        times.append(time.perf_counter() - started)
    connection.close()
    return median(times)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
