"""The registry: every provider that the site knows, by its name."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from . import conf
from .exceptions import UnknownProvider
from .links import Provider
from .oauth.provider import OAuthProvider

# The start of settings, of URL names up to the first underscore, and a column of 16 characters.
_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
# What can be said only of a provider whose links have a column for it: Link has neither.
_NEEDED = {"own_apps": "client_id", "has_gear": "sync_gear"}


def _made(path: str) -> Provider:
    try:
        found = import_string(path)
    except ImportError as exc:
        raise ImproperlyConfigured(
            f"INTEGRATIONS_PROVIDERS names {path}, which cannot be imported: {exc}"
        ) from exc
    if not (isinstance(found, type) and issubclass(found, Provider) and hasattr(found, "name")):
        raise ImproperlyConfigured(
            f"INTEGRATIONS_PROVIDERS names {path}, which is no provider with a name."
        )
    return found()


@lru_cache(maxsize=8)
def _load(paths: tuple[str, ...]) -> dict[str, Provider]:
    loaded: dict[str, Provider] = {}
    for path in paths:
        provider = _made(path)
        if not _NAME.fullmatch(provider.name):
            raise ImproperlyConfigured(
                f"{path} is named {provider.name!r}: use up to 16 small letters and digits, a "
                "letter first."
            )
        conf.require_valid(provider.name)
        for said, column in _NEEDED.items():
            if getattr(provider, said, False) and not provider.home.has(column):
                raise ImproperlyConfigured(
                    f"{path} says {said}, for which its links have no column: {column}."
                )
        if provider.name in loaded:
            raise ImproperlyConfigured(
                f"INTEGRATIONS_PROVIDERS has two providers named {provider.name!r}."
            )
        loaded[provider.name] = provider
    return loaded


def known() -> dict[str, Provider]:
    """The providers of the setting INTEGRATIONS_PROVIDERS, in its order."""
    return _load(conf.provider_paths())


def get(name: str) -> Provider:
    """Raises UnknownProvider."""
    if name not in known():
        raise UnknownProvider
    return known()[name]


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
