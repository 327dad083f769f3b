"""The registry: every provider that the site knows, by its name."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from django.utils.module_loading import import_string

from . import conf
from .exceptions import UnknownProvider
from .links import Provider
from .oauth.provider import OAuthProvider


@lru_cache(maxsize=8)
def _load(paths: tuple[str, ...]) -> dict[str, Provider]:
    loaded = [import_string(path)() for path in paths]
    return {provider.name: provider for provider in loaded}


def known() -> dict[str, Provider]:
    """The providers of the setting INTEGRATIONS_PROVIDERS, in its order."""
    return _load(conf.provider_paths())


def get(name: str) -> Provider:
    """Raises UnknownProvider."""
    try:
        return known()[name]
    except KeyError:
        raise UnknownProvider from None


def with_gear() -> list[Provider]:
    return [provider for provider in known().values() if provider.has_gear]


def label(name: str) -> str:
    """What people call a provider, even one that the site has no more."""
    return known()[name].label if name in known() else name


def authorization_origins() -> list[str]:
    """Where browsers are sent to consent, for a Content-Security-Policy: Chromium holds form-action
    against the redirect that follows a submitted form, too."""
    urls = [
        provider.endpoints().authorize_url
        for provider in known().values()
        if isinstance(provider, OAuthProvider) and provider.is_shown()
    ]
    return list(dict.fromkeys(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}" for url in urls))
