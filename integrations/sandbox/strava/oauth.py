"""Strava's /oauth: tokens and their revocation.

Source: https://developers.strava.com/docs/authentication/
"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse

from ..oauth import basic_client, bearer_token
from . import errors
from .demo import App
from .errors import bad_request
from .params import authenticate_client, flag_secrets_in_query, parameter
from .state import StravaState


def token(strava: StravaState, request: HttpRequest) -> HttpResponse:
    """Answer the code grant and the refresh grant (RFC 6749, sections 4.1.3 and 6)."""
    strava.allow(request, "POST")
    flag_secrets_in_query(strava, request)
    app = authenticate_client(strava, request)
    match parameter(request, "grant_type"):
        case "authorization_code":
            response = JsonResponse(_exchange(strava, request, app))
        case "refresh_token":
            # Works for an inactive app too. Source: stravalib issue 730.
            refresh_token = parameter(request, "refresh_token", "RefreshToken")
            pair = strava.refresh(refresh_token, app.client_id)
            if pair is None:
                raise bad_request("RefreshToken", "refresh_token")
            response = JsonResponse(pair)
        case _:
            raise bad_request("Request", "grant_type")  # Strava's wording is not known
    response["Cache-Control"] = "no-store"
    return response


def _exchange(strava: StravaState, request: HttpRequest, app: App) -> dict[str, object]:
    if not app.active:
        raise errors.inactive()
    code, fresh = strava.find_code(parameter(request, "code", "AuthorizationCode"), app.client_id)
    if code is None:
        raise bad_request("AuthorizationCode", "code")
    if not fresh:
        raise bad_request("AuthorizationCode", "", "expired")
    if strava.is_full(app, but_for=code.athlete_id):
        raise errors.athlete_limit()
    return strava.issue_tokens(code.athlete_id, app.client_id, ",".join(code.scope))


def revoke(strava: StravaState, request: HttpRequest) -> HttpResponse:
    """Kill the pair of a token, and every other pair of that athlete for this app (RFC 7009).

    Source: https://github.com/stravalib/stravalib/issues/738
    """
    strava.allow(request, "POST")
    flag_secrets_in_query(strava, request)
    app = basic_client(strava.apps, request)
    if app is None:
        response = errors.error(401, "Authorization Error")
        response["WWW-Authenticate"] = 'Basic realm="oauth"'
        return response
    value = parameter(request, "token")
    if not value:
        raise bad_request("Request", "token")
    pair = strava.find_any_token(value)
    # A token of another app counts as unknown, and an unknown token is no error.
    if pair is not None and pair.client_id == app.client_id:
        strava.revoke_grant(pair.athlete_id, app.client_id)
    return HttpResponse(b"", content_type="application/json")


def deauthorize(strava: StravaState, request: HttpRequest) -> HttpResponse:
    """The older revocation, which Strava ends on 2027-06-01."""
    strava.allow(request, "POST")
    flag_secrets_in_query(strava, request)
    pair = strava.find_access_token(bearer_token(request))
    if pair is None:
        raise errors.bad_access_token()
    strava.revoke_grant(pair.athlete_id, pair.client_id)
    return JsonResponse({"access_token": pair.access_token})
