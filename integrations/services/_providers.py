"""How services take a provider: by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, cast

from .. import providers
from ..exceptions import UnknownProvider
from ..links import Provider
from ..oauth.provider import OAuthProvider
from ._rows import database_errors


def of_provider[**P, R](
    service: Callable[Concatenate[Any, Any, P], R],
) -> Callable[Concatenate[Any, str, P], R]:
    """Give a service the provider that its second argument names, and its errors the provider's
    name. Raises UnknownProvider."""

    guarded = database_errors(service)

    @wraps(service)
    def wrapper(user_id: Any, provider: str, *args: P.args, **kwargs: P.kwargs) -> R:
        found = providers.get(provider)
        with found.named():
            return guarded(user_id, found, *args, **kwargs)

    return cast("Callable[Concatenate[Any, str, P], R]", wrapper)


def oauth(provider: Provider) -> OAuthProvider:
    """Raises UnknownProvider if a provider has no OAuth 2.0."""
    if not isinstance(provider, OAuthProvider):
        raise UnknownProvider
    return provider
