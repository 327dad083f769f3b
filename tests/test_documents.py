"""What the documents say by name: it has to be there, and to be called so."""

from __future__ import annotations

import re
from importlib import import_module

import pytest
from django.tasks import Task
from django.utils.module_loading import import_string

from integrations import providers
from integrations.oauth.provider import OAuthProvider

from .processes import BASE_DIR

DOCUMENTS = sorted([*BASE_DIR.glob("*.md"), *BASE_DIR.glob("docs/*.md")])
TEXTS = {path.relative_to(BASE_DIR).as_posix(): path.read_text() for path in DOCUMENTS}


@pytest.mark.parametrize("name", TEXTS)
def test_a_link_leads_to_a_file(name):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", TEXTS[name])
    assert not [each for each in links if not (BASE_DIR / name).parent.joinpath(each).exists()]


@pytest.mark.parametrize("name", TEXTS)
def test_a_test_that_is_named_as_proof_exists(name):
    named = set(re.findall(r"`(?:tests/)?((?:\w+/)?test_\w+\.py)`", TEXTS[name]))
    assert not [each for each in named if not (BASE_DIR / "tests" / each).exists()]


def test_addresses_and_scopes_are_those_of_the_code():
    page = TEXTS["docs/providers.md"]
    said = dict(re.findall(r"^\| `(\w+_URL)` \| `(\S+)`", page, re.M))
    scopes = dict(re.findall(r"^\| (\S+) \|.*\| `([^`]+)` \|$", page, re.M))
    built_in = [each for each in providers.known().values() if isinstance(each, OAuthProvider)]

    names = ("OAUTH_URL", "AUTHORIZE_URL", "TOKEN_URL", "REVOKE_URL", "API_URL")
    assert said == {
        f"{provider.name.upper()}_{name}": address
        for provider in built_in
        for name in names
        if (address := getattr(provider, name.lower(), ""))
    }
    assert {name: re.split("[, ]", text) for name, text in scopes.items()} == {
        provider.label: list(provider.scopes or provider.known_scopes) for provider in built_in
    }


def test_a_clock_of_ones_own_finds_what_it_has_to_run():
    page = TEXTS["docs/your-project.md"]
    rows = re.findall(r"^\| every .* \| `(integrations\.[\w.]+)` \| (\w+) \|$", page, re.M)
    assert rows
    for path, kind in rows:
        work = import_string(path)
        assert kind == ("task" if isinstance(work, Task) else "function")
    for provider in providers.known().values():
        for path, _every in provider.jobs:
            module, name = path.rsplit(".", 1)
            assert hasattr(import_module(module), name)
            assert f"{module.rsplit('.', 1)[1]}.{name}`" in page
