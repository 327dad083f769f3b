"""Real browsers. In CI they have to be there; elsewhere their tests are skipped without them.

`page` is Playwright's, in Chromium. `window` is the same window in Chromium and in Firefox, and a
test that asks for it runs in both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_django
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, Page, sync_playwright

from integrations.sandbox import Sandbox
from integrations.sandbox.strava import CLIENT_ID, CLIENT_SECRET

from ..processes import Site
from .desk import OTHERS, Desk
from .firefox import Firefox
from .windows import ChromiumWindow, Window

CHROMIUM = os.environ.get("CHROMIUM", shutil.which("chromium") or "/usr/bin/chromium")
FIREFOX = os.environ.get("FIREFOX", shutil.which("firefox-esr") or "/usr/bin/firefox-esr")


def needed(executable: str, name: str) -> str:
    """The browser's executable; without it, CI fails and everybody else skips the test."""
    if not os.access(executable, os.X_OK):
        if os.environ.get("CI"):
            pytest.fail(f"CI needs {name}: install it, or name it in {name.upper()}.")
        pytest.skip(f"no {name}: install it, or name it in {name.upper()}")
    return executable


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the session: while it is open its event loop runs in this thread, and whatever
    # turns async code into sync code refuses to.
    chromium = needed(CHROMIUM, "Chromium")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright runs an event loop in this thread, and Django then refuses its ORM here.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",  # CI runs as root
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        # Those of this event loop: nobody else would find them any more.
        connections.close_all()
        browser.close()


@pytest.fixture(scope="session")
def firefox() -> Iterator[Firefox]:
    firefox = Firefox(needed(FIREFOX, "Firefox"))
    yield firefox
    firefox.close()


@pytest.fixture(params=["chromium", "firefox"])
def window(request: pytest.FixtureRequest) -> Iterator[Window]:
    """A new window, once in each browser."""
    if request.param == "firefox":
        window: Window = request.getfixturevalue("firefox").window()
    else:
        window = ChromiumWindow(request.getfixturevalue("browser"))
    yield window
    window.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console complained of, a violated policy among it."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 360, "height": 800})
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.on(
        "console",
        lambda message: message.type in ("error", "warning") and complaints.append(message.text),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()


def session_of(user: Any) -> str:
    """The cookie of somebody who has logged in: tests hash passwords as the site does not."""
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


@pytest.fixture
def site(alice: Any, garmin: Any, strava: Any, sandbox: Any, page: Page) -> Iterator[Site]:
    """The site as it runs in production, a worker beside it, and Alice logged in."""
    site = Site(
        INTEGRATIONS_SANDBOX="on", INTEGRATIONS_SANDBOX_URL=sandbox.url, TASKS_BACKEND="database"
    )
    site.web(workers=2)
    worker = site.worker()
    page.context.add_cookies([{"name": "sessionid", "value": session_of(alice), "url": site.url}])
    yield site
    worker.kill()  # it may wait for an answer that a test has had Garmin keep to itself
    site.stop()


@pytest.fixture(scope="module")
def transactional_db(
    django_db_setup: None, django_db_blocker: pytest_django.DjangoDbBlocker
) -> Iterator[None]:
    """A database that stands for a whole module, and is emptied once, when its sites are gone.

    To empty it after each test takes as long as the test. A test that has pytest-django's mark
    gets that all the same; one without it has a user of its own, who goes with all that is theirs.
    """
    with django_db_blocker.unblock():
        yield
        call_command("flush", verbosity=0, interactive=False)
        connections.close_all()


@pytest.fixture(scope="module")
def start_site(transactional_db: None, running_sandbox: Sandbox) -> Iterator[Callable[..., Site]]:
    """Start a site that stands for a whole module."""
    sites = []

    def start_site(**env: str) -> Site:
        site = Site(
            **{
                "INTEGRATIONS_SANDBOX": "on",
                "INTEGRATIONS_SANDBOX_URL": running_sandbox.url,
                "STRAVA_OAUTH_URL": f"{running_sandbox.url}/oauth",
                "STRAVA_API_URL": f"{running_sandbox.url}/api/v3",
                "STRAVA_CLIENT_ID": CLIENT_ID,
                "STRAVA_CLIENT_SECRET": CLIENT_SECRET,
                "TASKS_BACKEND": "database",
                **OTHERS,
                **env,
            }
        )
        sites.append(site)
        site.web(workers=1)
        return site

    yield start_site
    for site in sites:
        site.stop()


@pytest.fixture(scope="module")
def standing_site(start_site: Callable[..., Site]) -> Site:
    """A site with an app of its own at every provider, and a worker."""
    site = start_site()
    site.hurried_worker()
    return site


@pytest.fixture(scope="module")
def standing_site_without_app(start_site: Callable[..., Site]) -> Site:
    return start_site(STRAVA_CLIENT_ID="", STRAVA_CLIENT_SECRET="")


@pytest.fixture
def desk(
    window: Window,
    link: Callable[..., Any],
    sandbox: Sandbox,
    standing_site: Site,
    standing_site_without_app: Site,
) -> Iterator[Desk]:
    """Alice, logged in at both sites: the port is none of a cookie's business."""
    alice = get_user_model().objects.create_user("alice", "alice@example.com", "alice-demo")
    window.set_cookie(standing_site.url, "sessionid", session_of(alice))
    desk = Desk(window, alice, link, sandbox, standing_site, standing_site_without_app)
    yield desk
    desk.start_over()
    alice.delete()


@pytest.fixture
def assert_accessible(page: Page) -> Any:
    def assert_accessible() -> None:
        """Nothing that axe calls serious or critical, in light and in dark."""
        for scheme in ("light", "dark"):
            # Without motion, or a color that is still changing would be measured.
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found = Axe().run(page).response["violations"]
            assert [
                (violation["id"], [node["html"] for node in violation["nodes"]])
                for violation in found
                if violation["impact"] in ("serious", "critical")
            ] == []

    return assert_accessible
