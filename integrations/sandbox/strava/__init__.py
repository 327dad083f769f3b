"""Strava's two hosts in one: /oauth/… and /api/v3/….

`Strava` is what a test holds: mint codes and tokens without a browser, count
calls, make calls fail. Strava's OAuth errors, windows and oddities are
imitated as documented at https://developers.strava.com/docs/authentication/ and observed in
practice; invented details are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from django.http import HttpResponse
from django.urls import URLPattern, path

from ..provider import View
from . import api, oauth, push
from .demo import (
    ALICE,
    BJORN,
    CHIDI,
    CLIENT_ID,
    CLIENT_SECRET,
    DANA,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
    App,
    Athlete,
)
from .errors import SCOPES, canned
from .state import StravaState

__all__ = [
    "ALICE",
    "BJORN",
    "CHIDI",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "DANA",
    "OTHER_CLIENT_ID",
    "OTHER_CLIENT_SECRET",
    "SCOPES",
    "App",
    "Athlete",
    "Strava",
]


class Strava(StravaState):
    """Strava's stand-in. See StravaState for what a test can do with it."""

    name: ClassVar[str] = "strava"
    title: ClassVar[str] = "Strava"
    endpoints: ClassVar[tuple[str, ...]] = (
        "authorize",
        "token",
        "revoke",
        "deauthorize",
        "athlete",
        "gear",
        "push_subscriptions",
    )

    def urlpatterns(self) -> list[URLPattern]:
        view: dict[str, View] = {
            "token": oauth.token,
            "revoke": oauth.revoke,
            "deauthorize": oauth.deauthorize,
            "athlete": api.athlete,
            "gear": api.gear,
            "push_subscriptions": push.push_subscriptions,
        }
        at = {name: self.endpoint(name, partial(view[name], self)) for name in view}
        return [
            path("oauth/authorize", self.endpoint("authorize", self.authorize)),
            path("oauth/token", at["token"]),
            path("oauth/revoke", at["revoke"]),
            path("oauth/deauthorize", at["deauthorize"]),
            # Strava also answers these two below the API; its documentation shows the code grant
            # there, and stravalib deauthorizes there.
            path("api/v3/oauth/token", at["token"]),
            path("api/v3/oauth/deauthorize", at["deauthorize"]),
            path("api/v3/athlete", at["athlete"]),
            path("api/v3/gear/<str:gear_id>", at["gear"]),
            path("api/v3/push_subscriptions", at["push_subscriptions"]),
            path("api/v3/push_subscriptions/<str:subscription_id>", at["push_subscriptions"]),
        ]

    def canned(self, fault: str) -> HttpResponse:
        return canned(fault)

    def send_event(
        self,
        athlete_id: int,
        client_id: str = CLIENT_ID,
        *,
        object_type: str = "athlete",
        object_id: int | None = None,
        aspect_type: str = "update",
        updates: dict[str, str] | None = None,
    ) -> list[int]:
        """POST an event to the app's subscription, three times at most, and wait for it.

        Returns the status of each try, 0 for no answer in time; empty if the
        app has no subscription. Without `updates` it is a title change, which most apps ignore.
        """
        return push.send_event(
            self,
            athlete_id,
            client_id,
            object_type=object_type,
            object_id=athlete_id if object_id is None else object_id,
            aspect_type=aspect_type,
            updates={"title": "Sandbox"} if updates is None else updates,
        )

    def revoke_as_athlete(self, athlete_id: int, client_id: str = CLIENT_ID) -> list[int]:
        """Revoke as the athlete would on Strava's own page: tokens die, then the event goes out.

        Returns what `send_event` returns.
        """
        self.revoke_grant(athlete_id, client_id)
        return self.send_event(athlete_id, client_id, updates={"authorized": "false"})

    def controls(self) -> Mapping[str, Callable[..., object]]:
        def revoke(athlete_id: int, **fields: Any) -> object:
            return {"event": self.revoke_as_athlete(athlete_id, **fields)}

        def event(athlete_id: int, **fields: Any) -> object:
            return {"event": self.send_event(athlete_id, **fields)}

        return {**super().controls(), "revoke": revoke, "event": event}
