"""Metrics for Prometheus: requests to providers and the health of links. No user in any label.

Nothing is counted, and `prometheus_client` need not be installed, unless the setting PROMETHEUS
is on. A host project serves `exposition()` from a view of its own.

Each process counts for itself. Where several serve one site (gunicorn's, and the task workers), set
PROMETHEUS_MULTIPROC_DIR to one empty directory per machine before they start: then any of them
answers with the sum. Gauges are read from the database, so every process reports the same.

Source: https://prometheus.github.io/client_python/multiprocess/
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache, wraps
from typing import TYPE_CHECKING

from django.apps import apps
from django.db import Error
from django.db.models import Case, Count, Max, Min, Q, When
from django.db.models.functions import Now
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, task_backends

from . import conf, providers
from .clock import later
from .exceptions import (
    IntegrationsDatabaseError,
    IntegrationsError,
    InvalidGrant,
    ProviderError,
    RelinkRequired,
)
from .links import Home, Provider
from .models import LinkStatus

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter
    from prometheus_client.core import GaugeMetricFamily

logger = logging.getLogger("integrations.metrics")

# The default window of a sweep.
DUE_WITHIN = timedelta(hours=1)

_lock = threading.Lock()


# --- Counting -----------------------------------------------------------------------------------


def count_refresh(provider: str, outcome: str) -> None:
    """Count a refresh: "refreshed", "failed", "ended" the link, or was "superseded"."""
    _count("refreshes", provider, outcome)


def count_failure(provider: str, operation: str, code: str) -> None:
    """Count a failure by its stable code. Operations are few and named in the code."""
    _count("failures", provider, operation, code)


def counts_refreshes[**P, R](refresh: Callable[P, R]) -> Callable[P, R]:
    """Count the outcome of a keeper's refresh, which returns None if it was superseded."""

    @wraps(refresh)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        provider: str = args[0].provider.name  # type: ignore[attr-defined]
        try:
            refreshed = refresh(*args, **kwargs)
        except IntegrationsError as exc:
            # "Relink required" is for the athlete; its reason says what went wrong.
            cause = (exc.reason or exc) if isinstance(exc, RelinkRequired) else exc
            if isinstance(cause, ProviderError) or cause is not exc:
                count_refresh(provider, "ended" if isinstance(cause, InvalidGrant) else "failed")
                count_failure(provider, "refresh", cause.code)
            else:
                count_refresh(provider, "superseded")  # disconnected meanwhile
            raise
        except Error:  # the provider's answer could not be stored
            count_refresh(provider, "failed")
            count_failure(provider, "refresh", IntegrationsDatabaseError.code)
            raise
        count_refresh(provider, "superseded" if refreshed is None else "refreshed")
        return refreshed

    return wrapper


def _count(name: str, *labels: str) -> None:
    if not conf.prometheus():
        return
    try:
        _registry_and_counters()[1][name].labels(*labels).inc()
    except Exception as exc:
        # A counter that fails, such as on a full disk, must never lose an athlete's token.
        logger.warning(
            "not counted: %s", type(exc).__name__, extra={"event": "metrics.not_counted"}
        )


@cache
def _own() -> tuple[CollectorRegistry, dict[str, Counter]]:
    # Imported this late because the client reads PROMETHEUS_MULTIPROC_DIR on import.
    from prometheus_client import CollectorRegistry, Counter

    registry = CollectorRegistry()
    return registry, {
        "refreshes": Counter(
            "integrations_refreshes",
            "Refreshes of tokens asked for at providers, by what came of them.",
            ["provider", "outcome"],
            registry=registry,
        ),
        "failures": Counter(
            "integrations_failures",
            "Operations that failed, by the code of the error.",
            ["provider", "operation", "code"],
            registry=registry,
        ),
    }


def _registry_and_counters() -> tuple[CollectorRegistry, dict[str, Counter]]:
    with _lock:  # otherwise two threads at the start could make two registries
        return _own()


# --- Telling ------------------------------------------------------------------------------------


def exposition(accept: str = "") -> tuple[bytes, str]:
    """All metrics in the format that an Accept header asks for, and its content type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector

    own, _counters = _registry_and_counters()
    registry = CollectorRegistry()
    registry.register(DatabaseCollector())
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(own)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class DatabaseCollector:
    """Gauges read from the database, at three queries per scrape."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            found = [*_link_gauges(), *_queue_gauges()]
        except Error as exc:
            # Counters must still be served while the database is down.
            logger.warning(
                "no gauges: %s", type(exc).__name__, extra={"event": "metrics.database_failed"}
            )
            return
        yield from found


def _link_gauges() -> list[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    links = GaugeMetricFamily(
        "integrations_links", "Links by their state.", labels=["provider", "state"]
    )
    due = 0
    homes = [(provider, provider.home) for provider in providers.known().values()]
    for model in dict.fromkeys(home.model for _, home in homes):
        mine = [(provider, home) for provider, home in homes if home.model is model]
        counts = model.objects.aggregate(**dict(_counts(mine)))
        for provider, _home in mine:
            for state in _STATES:
                links.add_metric([provider.name, state.value], counts[f"{provider.name}_{state}"])
            due += counts.get(f"{provider.name}_due", 0)
    return [
        links,
        GaugeMetricFamily(
            "integrations_due_tokens",
            "Tokens that a sweep would refresh now: they expire within the hour, or have.",
            value=due,
        ),
    ]


_STATES = (LinkStatus.LINKED, LinkStatus.RELINK_REQUIRED)


def _counts(of_one_model: list[tuple[Provider, Home]]) -> Iterator[tuple[str, Count]]:
    """What to count in one query, by name."""
    for provider, home in of_one_model:
        here = Q(**home.where)
        for state in _STATES:
            yield f"{provider.name}_{state}", Count("pk", filter=home.conditions[state] & here)
        if provider.is_swept:
            due = home.conditions[LinkStatus.LINKED] & here
            due &= home.q(retry_at=None) | home.q(retry_at__lte=Now())
            due &= home.q(token_expires_at__lt=later(DUE_WITHIN), refresh_token__isnull=False)
            yield f"{provider.name}_due", Count("pk", filter=due)


def _queue_gauges() -> list[GaugeMetricFamily]:
    """How far the workers of django_tasks_db are behind. Other backends keep their queue hidden."""
    if not apps.is_installed("django_tasks_db"):
        return []
    from django_tasks_db import DatabaseBackend
    from django_tasks_db.models import DBTaskResult, get_date_max
    from prometheus_client.core import GaugeMetricFamily

    if not isinstance(task_backends[DEFAULT_TASK_BACKEND_ALIAS], DatabaseBackend):
        return []
    oldest = DBTaskResult.objects.ready().aggregate(
        since=Min(
            # The latest possible time means "at once" here.
            Case(When(run_after=get_date_max(), then="enqueued_at"), default="run_after")
        ),
        now=Max(Now()),
    )
    age = (oldest["now"] - oldest["since"]).total_seconds() if oldest["since"] else 0
    return [
        GaugeMetricFamily(
            "integrations_queue_age_seconds",
            "For how long the oldest task that could run has been waiting for a worker.",
            value=max(0, age),
        )
    ]
