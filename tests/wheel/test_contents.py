"""What is in the wheel, and what it says of itself."""

from __future__ import annotations

import subprocess
import zipfile
from email import message_from_bytes

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..processes import BASE_DIR

EXTRAS = {"garmin", "celery", "prometheus", "health", "mysql", "all"}


@pytest.fixture(scope="module")
def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(files):
    (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(files[name])


@pytest.fixture(scope="module")
def requirements(metadata):
    return [Requirement(line) for line in metadata.get_all("Requires-Dist")]


def test_the_wheel_has_the_app_and_nothing_else(files):
    tracked = subprocess.check_output(
        ["git", "ls-files", "integrations"], cwd=BASE_DIR, text=True
    ).splitlines()
    assert {name for name in files if ".dist-info/" not in name} == set(tracked)


def test_types_templates_static_files_migrations_and_the_sandbox_are_inside(files):
    assert files.keys() >= {
        "integrations/py.typed",
        "integrations/templates/integrations/settings.html",
        "integrations/static/integrations/integrations.css",
        "integrations/migrations/0001_initial.py",
        "integrations/sandbox/templates/consent.html",
        "integrations/sandbox/static/sandbox.css",
    }


def test_the_license_travels(files, metadata):
    assert metadata["License-Expression"] == "MIT"
    (name,) = (name for name in files if name.endswith("/licenses/LICENSE"))
    assert files[name] == (BASE_DIR / "LICENSE").read_bytes()


def test_it_says_what_it_is(metadata):
    assert metadata["Name"] == "django-athlete-integrations"
    assert metadata["Requires-Python"] == ">=3.12"
    assert set(metadata.get_all("Provides-Extra")) == EXTRAS
    classifiers = metadata.get_all("Classifier")
    for version in ("6.0", "6.1"):
        assert f"Framework :: Django :: {version}" in classifiers
    for version in ("3.12", "3.13", "3.14"):
        assert f"Programming Language :: Python :: {version}" in classifiers


def test_the_base_brings_nothing_of_an_extra(requirements):
    base = {each.name for each in requirements if not each.marker}
    assert base.isdisjoint(each.name for each in requirements if each.marker)


def test_the_pins_of_the_site_are_within_the_ranges(requirements):
    lines = (BASE_DIR / "requirements.txt").read_text().splitlines()
    pins = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
    pinned = {canonicalize_name(each.name): str(each.specifier)[2:] for each in pins}
    for each in requirements:
        name = canonicalize_name(each.name)
        if name != "mysqlclient":  # the site here has none
            assert pinned[name] in each.specifier, each
