"""What people read has no gaps, whatever has gone wrong and at whichever provider."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from integrations import exceptions, providers, services
from integrations.services import status
from integrations.services.words import event_reason, health_message

GAP = re.compile(r"%\W|%[sd]|\{\w*\}|None")


def all_errors():
    found = [exceptions.IntegrationsError]
    for each in found:  # the loop adds to it
        found += each.__subclasses__()
    return sorted(set(found), key=lambda each: f"{each.__module__}.{each.__qualname__}")


ERRORS = all_errors()


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: each.__qualname__)
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_no_error_tells_an_athlete_or_staff_words_with_a_gap(error, named):
    raised = error()
    if named and not raised.provider:
        raised.provider = "Polar & 100%"
    for told in (raised.user_message, str(raised), services.staff_message(raised)):
        assert told.strip()
        assert not GAP.search(told.replace("100%", "")), told
    if named and "%(provider)s" in str(error.default_message):
        assert raised.provider in raised.user_message


@pytest.mark.parametrize("name", providers.known())
def test_no_stored_error_is_told_in_words_with_a_gap(db, alice, name):
    provider = providers.get(name)
    row = status._unsaved(provider, alice.pk)
    codes = {each.code for each in ERRORS} | provider.words.keys() | {"of a later release"}
    for code in sorted(codes):
        for retried in (True, False):
            told = health_message(provider, row, code, retried=retried)
            assert told.strip()
            assert not GAP.search(told), (code, told)
        if code in provider.reasons or code == "internal_error":
            event = SimpleNamespace(event="login_failed", provider=name, code=code)
            assert not GAP.search(event_reason(event)), code
        if provider.home.has("login_error"):
            setattr(row, provider.home.column("login_error"), code)
            told = provider.failed_attempt(row)[1]
            assert told.strip()
            assert not GAP.search(told), (code, told)
