"""The sweep over many users of whom a few are due, in a process of its own."""

from __future__ import annotations

import json
import os
import queue
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from . import provider
from .table import Line

WORKERS = 32
LATENCY = 0.05  # seconds
DUE, DUE_FEW = 2_000, 500
FEW = 10_000
REPEATS = 3
MEMORY = 150  # MB


def measure(many: int) -> Iterator[Line]:
    with provider.running(LATENCY) as url:
        latency = provider.measured_latency(url)
        few = _fastest("sweep", FEW, DUE, url)
        sweep = _fastest("sweep", many, DUE, url)
        bare = _fastest("bare", many, DUE, url)
        short = _fastest("sweep", many, DUE_FEW, url)

    best = WORKERS / latency
    among = f"of {many:,}, {WORKERS} workers"
    # Each sweep has a process of its own, so the first connections and threads count, too; among
    # fewer rows they weigh more.
    for due, run, bound in ((DUE, sweep, 0.85), (DUE_FEW, short, 0.75)):
        rate = due / run["seconds"]
        yield Line(
            f"sweep, {due:,} due {among}",
            f"{rate:,.0f} refreshes/s",
            f"at best {best:,.0f}/s ({WORKERS} ÷ {latency * 1e3:.1f} ms)",
            f"{rate / best:.0%}",
            f"≥ {bound:.0%}",
            rate / best >= bound,
        )
    bare_rate = DUE / bare["seconds"]
    yield Line(
        f"sweep, {DUE:,} due {among}: CPU",
        f"{sweep['cpu'] / DUE * 1e3:.2f} ms a refresh",
        f"bare threads {bare['cpu'] / DUE * 1e3:.2f} ms, {bare_rate:,.0f}/s "
        f"({bare_rate / best:.0%} of best)",
        f"{sweep['cpu'] / bare['cpu']:.2f}",
    )
    yield Line(
        f"sweep, {DUE:,} due {among}: time",
        f"{sweep['seconds']:.2f} s",
        f"{few['seconds']:.2f} s over {FEW:,} users",
        f"{sweep['seconds'] / few['seconds']:.2f}",
        "≤ 1.2",
        sweep["seconds"] / few["seconds"] <= 1.2,
    )
    peak = sweep["peak"] / 1e6
    yield Line(
        f"sweep, {DUE:,} due {among}: peak memory",
        f"{peak:.0f} MB",
        f"{sweep['at_start'] / 1e6:.0f} MB before the sweep",
        f"{sweep['peak'] / sweep['at_start']:.2f}",
        f"< {MEMORY} MB",
        peak < MEMORY,
    )


def _fastest(how: str, users: int, due: int, url: str) -> dict[str, Any]:
    """The fastest of a few runs, because what else a machine does only ever adds; and the highest
    peak of them."""
    from . import data  # which needs Django, and that is what a process of ours measures

    data.grow_to(users)
    runs = []
    for _ in range(REPEATS):
        data.make_due(due, users)
        runs.append(_in_a_process(how, url))
        assert runs[-1]["refreshed"] == due, runs[-1]
    return min(runs, key=lambda run: run["seconds"]) | {"peak": max(run["peak"] for run in runs)}


def _in_a_process(how: str, url: str) -> dict[str, Any]:
    """Run as cron would; gives the seconds of the sweep alone, and the process's peak."""
    output = subprocess.check_output(
        [sys.executable, "-m", __name__, how],
        env={**os.environ, "STRAVA_OAUTH_URL": f"{url}/oauth"},
        text=True,
    )
    return json.loads(output)


def _peak_memory() -> int:
    """Bytes of this process at its largest.

    Not `ru_maxrss` where it can be helped: Linux hands it on from whoever started the process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _bare() -> int:
    """What plain threads can do on this machine: the same requests, secrets and statements,
    without a lease, an ORM, an HTTP library or a look at the answer."""
    import http.client
    from urllib.parse import urlsplit

    from cryptography.fernet import Fernet
    from django.conf import settings
    from django.db import connection, connections
    from django.utils import timezone
    from fernet_fields import hkdf

    from integrations import conf

    fernet = Fernet(hkdf.derive_fernet_key(conf.fernet_keys()[0]))
    address = urlsplit(settings.STRAVA_OAUTH_URL).netloc
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    opened = fernet.encrypt(b"r" * 40)
    done = []

    def worker() -> None:
        provider = http.client.HTTPConnection(address)
        with connection.cursor() as cursor:
            while (pk := waiting.get()) is not None:
                fernet.decrypt(opened)
                provider.request("POST", "/oauth/token", b"grant_type=refresh_token")
                tokens = json.loads(provider.getresponse().read())
                sealed = [
                    fernet.encrypt(tokens[name].encode())
                    for name in ("access_token", "refresh_token")
                ]
                cursor.execute(
                    "UPDATE users_integrations SET strava_token = %s, strava_refresh_token = %s, "
                    "strava_token_expires_at = %s WHERE id = %s",
                    [*sealed, timezone.now() + timedelta(hours=6), pk],
                )
                done.append(pk)
        provider.close()
        connections.close_all()

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM users_integrations WHERE strava_token_expires_at < %s",
            [timezone.now() + timedelta(hours=1)],
        )
        for (pk,) in cursor.fetchall():
            waiting.put(pk)
    threads = [threading.Thread(target=worker) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
        waiting.put(None)
    for thread in threads:
        thread.join()
    return len(done)


def main(how: str) -> None:
    import django

    django.setup()
    from integrations.services.sweep import sweep_tokens

    at_start, started, cpu = _peak_memory(), time.perf_counter(), time.process_time()
    refreshed = _bare() if how == "bare" else sweep_tokens(workers=WORKERS).refreshed
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    found = {"refreshed": refreshed, "seconds": seconds, "cpu": cpu}
    print(json.dumps({**found, "peak": _peak_memory(), "at_start": at_start}))


if __name__ == "__main__":
    main(sys.argv[1])
