from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.urls import path

from .. import views as shared
from . import views

if TYPE_CHECKING:
    from .provider import OAuthProvider


def patterns(provider: OAuthProvider) -> list[Any]:
    """What every OAuth 2.0 provider has below its name."""
    which = {"provider": provider.name}
    found = [
        path("connect/", views.connect, which, name=f"{provider.name}_connect"),
        path("callback/", views.callback, which, name=f"{provider.name}_callback"),
        path("disconnect/", shared.disconnect, which, name=f"{provider.name}_disconnect"),
    ]
    return [*found, *shared.gear_patterns(provider)]
