"""How services take a provider: by its name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, cast

from .. import providers
from ..exceptions import InvalidProviderReply, UnknownProvider
from ..links import Provider
from ..oauth.provider import OAuthProvider
from ._rows import database_errors

logger = logging.getLogger("integrations.links")


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


@contextmanager
def reading(provider: Provider) -> Iterator[None]:
    """Raise InvalidProviderReply for what a provider's own code stumbles over.

    A host project's may take an answer for what its documentation says: a KeyError would leave a
    grant that nobody revokes, or a link that each sweep asks for again at once.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        at = exc.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = "" if at is None else f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
        event = {"event": f"{provider.name}.reply_unusable"}
        # Neither its words nor itself as the cause: they may carry what was answered.
        logger.error("%s: %s at %s", provider.name, type(exc).__name__, where, extra=event)
        raise InvalidProviderReply from None
