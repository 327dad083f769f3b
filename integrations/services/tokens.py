"""A fresh token on demand, for every provider."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..exceptions import NotLinked, RelinkRequired
from ..links import Provider
from . import trail
from ._providers import oauth, of_provider
from ._single_flight import TokenKeeper
from .trail import Event


@cache
def keeper_of(provider: Provider) -> TokenKeeper:
    return TokenKeeper(provider)


@of_provider
def get_access_token(user_id: Any, provider: Provider) -> str:
    """An access token that is good for at least five more minutes, of any OAuth 2.0 provider.

    Refreshes it if needed. Threads, processes and machines that ask at the same time cause one
    request to the provider and get the same token. Not inside atomic(): a rollback would lose the
    rotated token.

    Raises UnknownProvider, NotLinked, RelinkRequired if the athlete has to connect again, or a
    ProviderError, which leaves the link as it is (`retry_after` in seconds where known).
    """
    keeper = keeper_of(oauth(provider))
    return str(keeper.fresh(user_id) or keeper.obtain(user_id))


@of_provider
def refresh_link(user_id: Any, provider: Provider) -> None:
    """Ask the provider for a fresh token now, however fresh the stored one is.

    A token that cannot be refreshed is tried out instead. Raises what get_access_token raises.
    """
    keeper_of(provider).obtain(user_id, asking=True)
    trail.note(user_id, provider.name, Event.REFRESHED)


@of_provider
def report_rejected_token(user_id: Any, provider: Provider, access_token: str) -> bool:
    """Say that the provider's API has answered 401 to a token; returns whether the link lives.

    Unless there is another token by now, the provider is asked once: for a fresh token, or with the
    token itself if nothing can refresh it. That is the only way to learn that such a token was
    revoked.

    Raises UnknownProvider, or a ProviderError if the provider could not say.
    """
    keeper = keeper_of(oauth(provider))
    try:
        # The host holds the token, so there is nothing that the time could give away.
        if keeper.stored(user_id) == access_token:
            keeper.obtain(user_id, asking=True)
    except (NotLinked, RelinkRequired):
        return False
    return True
