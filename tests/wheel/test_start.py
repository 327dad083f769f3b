"""docs/start.md, followed to the letter on an empty project."""

from __future__ import annotations

import re
import time

import pytest
import requests

from ..processes import wait_until
from .conftest import BLOCKS, PASSWORD, USER

JSON = {"accept": "application/json"}
# In the newcomer's own Python, so that nothing of the site here is there.
IMPORT_ALL = """
import django, importlib, importlib.util, pkgutil
django.setup()
import integrations
for module in pkgutil.walk_packages(integrations.__path__, "integrations."):
    importlib.import_module(module.name)
extras = ("garminconnect", "curl_cffi", "celery", "prometheus_client", "health_check", "environ")
print([name for name in extras if importlib.util.find_spec(name)])
"""


@pytest.fixture
def browser(newcomer):
    """Somebody who has signed in."""
    session = requests.Session()
    page = f"{newcomer.site}/settings/integrations/"

    def answers():
        try:
            return session.get(page, timeout=30).ok
        except requests.ConnectionError:
            return False

    wait_until(answers)
    response = press(session, session.get(page).url, username=USER, password=PASSWORD)
    assert response.url == page
    return session


def press(session, url, **fields):
    fields["csrfmiddlewaretoken"] = session.cookies["csrftoken"]
    return session.post(url, fields, headers={"referer": url}, timeout=30)


def status_of(session, newcomer):
    return session.get(f"{newcomer.site}/integrations/status/", headers=JSON).json()


def test_a_strava_account_is_linked(newcomer, browser, capsys):
    consent = press(browser, f"{newcomer.site}/integrations/strava/connect/")
    assert consent.url.startswith(f"{newcomer.sandbox}/oauth/authorize")
    athlete = re.search(r'<option value="(\d+)"', consent.text)[1]
    scope = re.findall(r'name="scope" value="([^"]+)"', consent.text)
    chosen = {"athlete_id": athlete, "scope": scope, "decision": "authorize"}

    page = browser.post(consent.url, chosen, timeout=30)

    assert page.url == f"{newcomer.site}/settings/integrations/"
    assert status_of(browser, newcomer)["strava"]["status"] == "linked"
    seconds = time.monotonic() - newcomer.since
    with capsys.disabled():
        print(
            f"\nDjango {newcomer.run('python', '-m', 'django', '--version').strip()}: "
            f"{len(newcomer.lines)} lines, {seconds:.0f} s from pip install to the link"
        )

    (code,) = (block for _, block in BLOCKS if block.startswith("from integrations import"))
    user = "from django.contrib.auth.models import User\nuser = User.objects.get()\n"
    newcomer.run("python", "manage.py", "shell", "-c", f"{user}{code}\nassert token")

    # The worker has TASKS from the same lines.
    assert press(browser, f"{newcomer.site}/integrations/strava/gear/sync/").ok
    wait_until(lambda: status_of(browser, newcomer)["strava"]["gear"])


def test_garmin_is_not_offered_without_its_extra(newcomer, browser):
    page = browser.get(f"{newcomer.site}/settings/integrations/").text
    assert re.findall(r'data-provider="(\w+)"', page) == ["strava"]


def test_the_checks_name_the_extra_and_nothing_else(newcomer):
    told = newcomer.run("python", "manage.py", "check")
    assert re.findall(r"\(([\w.]+)\) ", told) == ["integrations.W004"]
    assert 'pip install "django-athlete-integrations[garmin]"' in told


def test_every_module_is_imported_with_the_base_alone(newcomer):
    newcomer.env["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    assert newcomer.run("python", "-c", IMPORT_ALL).strip() == "[]"


def test_nothing_is_left_to_migrate(newcomer):
    newcomer.run("python", "manage.py", "makemigrations", "--check", "--dry-run")
