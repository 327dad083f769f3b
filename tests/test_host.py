"""The app in a project of somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys

from .processes import BASE_DIR

TWO_DATABASES = """
from tests.host.settings import *
DATABASES["elsewhere"] = DATABASES["default"] | {"NAME": ":memory:"}
"""
ATOMIC_VIEWS = """
import django
django.setup()
from django.contrib import admin
from django.core.handlers.base import BaseHandler
from integrations import urls
from integrations.models import UsersIntegrations

def views(patterns):
    for each in patterns:
        yield from views(each.url_patterns) if hasattr(each, "url_patterns") else [each]

found = [*views(urls.urlpatterns)]
found += [each for each in views(admin.site._registry[UsersIntegrations].urls)
          if (each.name or "").endswith("_changelist")]
assert len(found) > 15
handler = BaseHandler()
print([each.name for each in found if handler.make_view_atomic(each.callback) is not each.callback])
"""


def test_a_host_whose_users_have_uuids(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.host"],
        cwd=BASE_DIR,
        env={**os.environ, "HOST_DATABASE": str(tmp_path / "host.sqlite3")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_no_page_that_asks_a_provider_is_a_transaction_on_any_database(tmp_path):
    (tmp_path / "two.py").write_text(TWO_DATABASES)
    done = subprocess.run(
        [sys.executable, "-c", ATOMIC_VIEWS],
        cwd=BASE_DIR,
        env={
            **os.environ,
            "HOST_DATABASE": str(tmp_path / "host.sqlite3"),
            "PYTHONPATH": f"{BASE_DIR}:{tmp_path}",
            "DJANGO_SETTINGS_MODULE": "two",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
