"""That the table has no empty cell."""

from __future__ import annotations

from integrations import providers
from integrations.oauth.provider import OAuthProvider

from .conftest import LASTING, MODULES, NAMES, RENEWING


def test_every_oauth_provider_is_in_the_table(ownclub):
    known = [each.name for each in providers.known().values() if isinstance(each, OAuthProvider)]
    assert sorted(known) == sorted(NAMES) == sorted(MODULES)


def test_each_can_refresh_its_tokens_or_cannot(kit):
    assert kit.renews == (kit.name in RENEWING)
    assert sorted((*RENEWING, *LASTING)) == sorted(NAMES)
