"""Strava's /oauth: consent, tokens, revocation.

Source: https://developers.strava.com/docs/authentication/
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlencode, urlsplit

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse

from ..pages import page
from . import errors
from .demo import App
from .errors import SCOPES, bad_request
from .params import (
    authenticate_client,
    basic_client,
    bearer_token,
    flag_secrets_in_query,
    parameter,
)
from .state import StravaState, parse_scope

_LOCAL = frozenset({"localhost", "127.0.0.1"})


def _redirect_uri(request: HttpRequest, app: App) -> SplitResult:
    """The redirect URI, if its host is the app's callback domain, or local.

    Raises Refusal (400) otherwise: nothing may be redirected there.
    """
    refusal = bad_request("Application", "redirect_uri")
    uri = parameter(request, "redirect_uri", "Application")
    # Browsers read a backslash as a slash, which may end the host earlier.
    if not uri or "\\" in uri or " " in uri:
        raise refusal
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises ValueError unless it is a number
    except ValueError as exc:
        raise refusal from exc
    if parts.scheme not in ("http", "https") or parts.fragment or "@" in parts.netloc:
        raise refusal
    domain = app.callback_domain.lower()
    if host in _LOCAL or host == domain or host.endswith(f".{domain}"):
        return parts
    raise refusal


def _scopes(request: HttpRequest) -> tuple[str, ...]:
    try:
        asked = parse_scope(parameter(request, "scope", "Application"))
    except ValueError as exc:
        raise bad_request("Application", "scope") from exc
    if not asked:
        raise bad_request("Application", "scope")
    return asked


def authorize(strava: StravaState, request: HttpRequest) -> HttpResponse:
    """Show the consent page, and send the athlete back with a code or with a refusal."""
    if request.method not in ("GET", "HEAD", "POST"):
        raise errors.method_not_allowed()
    app = strava.apps.get(parameter(request, "client_id", "Application"))
    if app is None:
        raise bad_request("Application", "client_id")
    redirect_uri = _redirect_uri(request, app)
    # Only the query: the form repeats its own `scope` once per checked box.
    query = _QueryOnly(request)
    if parameter(query, "response_type", "Application") != "code":
        raise bad_request("Application", "response_type")
    if parameter(query, "approval_prompt") not in ("", "auto", "force"):
        raise bad_request("Application", "approval_prompt")
    asked = _scopes(query)
    state = parameter(query, "state", "Application")
    if strava.is_full(app):
        return page("limit.html", {"app": app}, status=403)
    if request.method == "POST":
        return _consent(strava, request, app, redirect_uri, asked, state)
    return page(
        "consent.html",
        {
            "app": app,
            "host": redirect_uri.netloc,
            "athletes": [
                (str(athlete.id), athlete.full_name) for athlete in strava.athletes.values()
            ][:50],
            "scopes": [(name, SCOPES[name]) for name in asked if name != "read"],
            "read": SCOPES["read"],
        },
        form_action=f"{redirect_uri.scheme}://{redirect_uri.netloc}",
    )


class _QueryOnly(HttpRequest):
    """A view on a request's query, without its form."""

    def __init__(self, request: HttpRequest) -> None:
        super().__init__()
        self.GET = request.GET


def _consent(
    strava: StravaState,
    request: HttpRequest,
    app: App,
    redirect_uri: SplitResult,
    asked: tuple[str, ...],
    state: str,
) -> HttpResponse:
    answer: dict[str, str] = {"state": state} if "state" in request.GET else {}
    match parameter(request, "decision"):
        case "cancel":
            answer["error"] = "access_denied"
        case "authorize":
            checked = {"read", *request.POST.getlist("scope")}
            granted = ["read", *(name for name in asked if name in checked and name != "read")]
            try:
                athlete_id = int(parameter(request, "athlete_id", "Athlete"))
                answer["code"] = strava.grant(athlete_id, app.client_id, ",".join(granted))
            except (ValueError, LookupError) as exc:
                raise bad_request("Athlete", "id") from exc
            answer["scope"] = ",".join(granted)
        case _:
            raise bad_request("Application", "decision")
    # Strava leaves the commas and colons of a scope as they are.
    added = urlencode(answer, safe=",:")
    query = f"{redirect_uri.query}&{added}" if redirect_uri.query else added
    response = HttpResponseRedirect(redirect_uri._replace(query=query).geturl())
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"
    return response


def token(strava: StravaState, request: HttpRequest) -> HttpResponse:
    """Answer the code grant and the refresh grant (RFC 6749, sections 4.1.3 and 6)."""
    if request.method != "POST":
        raise errors.method_not_allowed()
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
    if request.method != "POST":
        raise errors.method_not_allowed()
    flag_secrets_in_query(strava, request)
    app = basic_client(strava, request)
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
    if request.method != "POST":
        raise errors.method_not_allowed()
    flag_secrets_in_query(strava, request)
    pair = strava.find_access_token(bearer_token(request))
    if pair is None:
        raise errors.bad_access_token()
    strava.revoke_grant(pair.athlete_id, pair.client_id)
    return JsonResponse({"access_token": pair.access_token})
