from typing import Any

from django.urls import path

from ..oauth.urls import patterns as oauth_patterns
from .webhook import webhook


def patterns(provider: Any) -> list[Any]:
    return [
        *oauth_patterns(provider),
        path("webhook/", webhook, name="strava_webhook"),
        path("webhook/<slug:secret>/", webhook),
        # For a URL copied without its last slash: a redirect would lose the event.
        path("webhook", webhook),
        path("webhook/<slug:secret>", webhook),
    ]
