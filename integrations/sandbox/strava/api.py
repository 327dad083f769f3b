"""The two calls of Strava's API that a gear sync makes.

Source: https://developers.strava.com/docs/reference/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

from ..oauth import Pair, bearer_token
from ..provider import Refusal
from . import errors
from .demo import Athlete, Gear
from .params import flag_secrets_in_query
from .state import StravaState

_SUMMARY = ("id", "primary", "name", "distance", "retired")


def _limited(
    strava: StravaState, request: HttpRequest, view: Callable[[Pair, Athlete], dict[str, Any]]
) -> HttpResponse:
    """Answer for a token's owner; the headers say how much of the limits is used."""
    strava.allow(request, "GET", "HEAD")
    flag_secrets_in_query(strava, request)
    # A token in the query or the form is ignored.
    pair = strava.find_access_token(bearer_token(request))
    athlete = strava.athletes.get(pair.athlete_id) if pair is not None else None
    if pair is None or athlete is None:
        raise errors.bad_access_token()
    within, headers = strava.rate_limits.spend(pair.client_id, is_read=True)
    try:
        if not within:
            raise errors.rate_limited()
        if not strava.apps[pair.client_id].active:
            raise errors.inactive()
        response: HttpResponse = JsonResponse(view(pair, athlete))
    except Refusal as refusal:
        response = refusal.response
    for name, value in headers.items():
        response[name] = value
    return response


def _summary(gear: Gear) -> Gear:
    return {key: gear[key] for key in _SUMMARY if key in gear} | {"resource_state": 2}


def athlete(strava: StravaState, request: HttpRequest) -> HttpResponse:
    def view(pair: Pair, athlete: Athlete) -> dict[str, Any]:
        if not {"read", "profile:read_all"} & set(pair.scope):
            raise errors.scope_missing("read")
        if "profile:read_all" not in pair.scope:
            return athlete.summary()
        return athlete.summary(resource_state=3) | {
            "bikes": [_summary(bike) for bike in athlete.bikes],
            "shoes": [_summary(shoes) for shoes in athlete.shoes],
        }

    return _limited(strava, request, view)


def gear(strava: StravaState, request: HttpRequest, gear_id: str) -> HttpResponse:
    """One of the athlete's own gear; another's is not found.

    Strava documents no scope for it. The sandbox is strict: a client that may not list gear should
    not read its details.
    """

    def view(pair: Pair, athlete: Athlete) -> dict[str, Any]:
        if "profile:read_all" not in pair.scope:
            raise errors.scope_missing("profile:read_all")
        for each in (*athlete.bikes, *athlete.shoes):
            if each["id"] == gear_id:
                return each | {"resource_state": 3}
        raise errors.not_found("Gear")

    return _limited(strava, request, view)
