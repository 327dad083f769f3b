"""The table: each promise of the contract's section on providers, for each OAuth provider.

A test that takes `kit` runs for all of them. One that takes `renewing` or `lasting` runs for those
whose tokens can be refreshed, or cannot; the other ones' half of the promise stands next to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib import admin
from django.urls import clear_url_caches

from integrations import conf, signals
from integrations.models import UsersIntegrations
from integrations.sandbox import intervals, polar, strava, wahoo

from .. import own_provider
from .kit import Kit

RENEWING = ("strava", "wahoo", "ownclub")
LASTING = ("polar", "intervals")
NAMES = ("strava", "polar", "wahoo", "intervals", "ownclub")
MODULES: dict[str, ModuleType] = {
    "strava": strava,
    "polar": polar,
    "wahoo": wahoo,
    "intervals": intervals,
    "ownclub": own_provider,
}


@pytest.fixture(scope="session")
def running_club() -> Iterator[own_provider.ClubSandbox]:
    with own_provider.ClubSandbox() as sandbox:
        yield sandbox


@pytest.fixture
def ownclub(running_club: Any, settings: Any) -> Iterator[own_provider.Club]:
    """A site that has a provider of its own beside the built-in ones."""
    before = conf.provider_paths()
    settings.INTEGRATIONS_PROVIDERS = [*before, "tests.own_provider.OwnClub"]
    for what in ("authorize", "token", "revoke"):
        setattr(settings, f"OWNCLUB_{what.upper()}_URL", f"{running_club.url}/oauth/{what}")
    settings.OWNCLUB_CLIENT_ID = own_provider.CLIENT_ID
    settings.OWNCLUB_CLIENT_SECRET = own_provider.CLIENT_SECRET
    start_anew()
    running_club.reset()
    yield running_club.club
    settings.INTEGRATIONS_PROVIDERS = before
    start_anew()


def start_anew() -> None:
    """Read the registry where that is done once for a process, when it starts."""
    import integrations.admin
    import integrations.urls
    import project.urls

    admin.site.unregister(UsersIntegrations)
    admin.site.register(UsersIntegrations, integrations.admin.UsersIntegrationsAdmin)
    for module in (integrations.urls, project.urls):
        importlib.reload(module)
    clear_url_caches()


def _kit(request: Any, settings: Any, http: Any) -> Kit:
    stand_in = request.getfixturevalue(request.param)
    request.getfixturevalue("in_one_window")
    return Kit(request.param, stand_in, MODULES[request.param], http, settings)


@pytest.fixture(params=NAMES)
def kit(request: Any, settings: Any, http: Any) -> Kit:
    return _kit(request, settings, http)


@pytest.fixture(params=RENEWING)
def renewing(request: Any, settings: Any, http: Any) -> Kit:
    return _kit(request, settings, http)


@pytest.fixture(params=LASTING)
def lasting(request: Any, settings: Any, http: Any) -> Kit:
    return _kit(request, settings, http)


@pytest.fixture
def linked(kit: Kit, alice: Any) -> Any:
    """Alice's link."""
    return kit.link(alice)


@pytest.fixture
def heard() -> Iterator[list[tuple[str, int, str]]]:
    """What host projects are told: signal, user, provider."""
    found: list[tuple[str, int, str]] = []
    receivers: list[tuple[Any, Callable[..., None]]] = []
    for name in ("account_linked", "account_unlinked", "relink_required"):

        def receive(user_id: int, provider: str, name: str = name, **rest: Any) -> None:
            assert rest.keys() == {"sender", "signal"}
            found.append((name, user_id, provider))

        signal = getattr(signals, name)
        signal.connect(receive, weak=False)
        receivers.append((signal, receive))
    yield found
    for signal, receive in receivers:
        signal.disconnect(receive)
