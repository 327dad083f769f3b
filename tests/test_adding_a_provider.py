"""docs/adding-a-provider.md, followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from django.core.management import get_commands, load_command_class

from integrations.garminconnect.provider import GarminConnect
from integrations.intervals.provider import Intervals
from integrations.links import Provider
from integrations.oauth.provider import OAuthProvider
from integrations.polar.provider import Polar
from integrations.strava.provider import Strava
from integrations.wahoo.provider import Wahoo

from .processes import BASE_DIR

PAGE = (BASE_DIR / "docs/adding-a-provider.md").read_text()
BLOCKS = dict(re.findall(r"^```python\n# (mysite/\w+\.py)\n(.*?)^```$", PAGE, re.M | re.S))
ROWS = re.findall(r"^\| (`.*?) \| .*? \|(.*)\|$", PAGE, re.M)
BUILT_IN = {
    "Strava": Strava,
    "Garmin": GarminConnect,
    "Polar": Polar,
    "Wahoo": Wahoo,
    "Intervals.icu": Intervals,
}


def names_in(cell):
    return re.findall(r"`(\w+)", cell)


def is_hook(name):
    """Whether the engine knows what a provider says by this name."""
    declared = Provider.__annotations__ | OAuthProvider.__annotations__
    return name in declared or hasattr(OAuthProvider, name)


def test_a_newcomer_who_follows_the_page_has_a_provider_that_keeps_every_promise(tmp_path):
    site = tmp_path / "mysite"
    site.mkdir()
    (site / "__init__.py").touch()
    for path, code in BLOCKS.items():
        # The settings of a project that is there already; its own come last.
        before = "from tests.settings import *\n" if path.endswith("settings.py") else ""
        (tmp_path / path).write_text(before + code)

    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nomigrations",
            "-c", "pyproject.toml", "--rootdir", ".", "--ds", "mysite.settings",
            "tests/tempo_promises.py", str(site / "test_tempo.py"),
        ],
        cwd=BASE_DIR,
        # On SQLite whatever this run is on: two runs would make the same database of a server's.
        env=os.environ | {
            "PYTHONPATH": str(tmp_path), "TEST_DATABASE_URL": "sqlite:///unused.sqlite3",
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert set(BLOCKS) == {
        f"mysite/{name}.py" for name in ("tempo", "settings", "tempo_sandbox", "test_tempo")
    }


def test_the_commands_on_the_page_are_commands():
    lines = re.findall(r"^python manage.py (\w+)(.*)$", PAGE, re.M)

    for name, arguments in lines:
        app = get_commands()[name]
        command = app if not isinstance(app, str) else load_command_class(app, name)
        parser = command.create_parser("manage.py", name)
        parser.parse_args(arguments.replace("&", "").split())
    assert [name for name, _ in lines] == ["sandbox", "runserver"]


@pytest.mark.parametrize(("said", "shown"), ROWS, ids=[names_in(said)[0] for said, _ in ROWS])
def test_a_hook_is_there_and_its_example_has_it(said, shown):
    examples = [kind for label, kind in BUILT_IN.items() if label in shown]

    assert bool(examples) == bool(shown.strip())
    for name in names_in(said):
        assert is_hook(name)
        for example in examples:
            assert name in vars(example)
            assert name != "client_class" or "error_for" in vars(example.client_class)


@pytest.mark.parametrize("kind", [Polar, Wahoo, Intervals], ids=lambda kind: kind.name)
def test_whatever_a_built_in_provider_of_this_kind_says_is_explained(kind):
    explained = {name for said, _ in ROWS for name in names_in(said)}
    explained |= set(re.findall(r"^    (\w+) = ", BLOCKS["mysite/tempo.py"], re.M))

    said = {name for name in vars(kind) if is_hook(name) and not name.startswith("_")}

    assert said
    assert said <= explained


@pytest.mark.parametrize("kind", [Polar, Wahoo, Intervals], ids=lambda kind: kind.name)
def test_a_provider_is_eighty_lines_at_most(kind):
    folder = BASE_DIR / "integrations" / kind.name

    lines = sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))

    assert lines <= 80
