"""The consent page, and the way back to the app (RFC 6749, sections 4.1.1 and 4.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlencode, urlsplit

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from ..pages import page
from .params import one

if TYPE_CHECKING:
    from .state import OAuthState


def authorize(provider: OAuthState[Any, Any], request: HttpRequest) -> HttpResponse:
    """Show the consent page, and send the athlete back with a code or with a refusal."""

    def query(name: str) -> str:
        # Only the query: the form repeats its own `scope` once per checked box.
        value = one(request.GET.getlist(name))
        if value is None:
            raise provider.bad_request(name)
        return value

    provider.allow(request, "GET", "HEAD", "POST")
    app = provider.apps.get(query("client_id"))
    if app is None:
        raise provider.bad_request("client_id")
    uri = query("redirect_uri")
    parts = _split(uri)
    if parts is None or not app.allows(uri, parts.hostname or ""):
        raise provider.bad_request("redirect_uri")
    if query("response_type") not in provider.response_types:
        raise provider.bad_request("response_type")
    try:
        asked = provider.asked(query("scope"))
    except ValueError as exc:
        raise provider.bad_request("scope") from exc
    state = {"state": query("state")} if "state" in request.GET else {}
    provider.check_authorization(app, query)
    if request.method == "POST":
        return _back(parts, _decision(provider, request, app.client_id, uri, asked, state))
    return page(
        "consent.html",
        {
            "app": app,
            "provider": provider.title,
            "host": parts.netloc,
            "athletes": [(str(each.id), each.full_name) for each in provider.athletes.values()][
                :50
            ],
            "scopes": [(name, provider.scopes[name], name in provider.fixed) for name in asked],
        },
        form_action=f"{parts.scheme}://{parts.netloc}",
    )


def _split(uri: str) -> SplitResult | None:
    """The parts of an address that a browser may be sent to, or None."""
    # Browsers read a backslash as a slash, which may end the host earlier.
    if not uri or "\\" in uri or " " in uri:
        return None
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018 - raises ValueError unless it is a number
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or parts.fragment or "@" in parts.netloc:
        return None
    return parts


def _decision(
    provider: OAuthState[Any, Any],
    request: HttpRequest,
    client_id: str,
    redirect_uri: str,
    asked: tuple[str, ...],
    state: dict[str, str],
) -> dict[str, str]:
    match request.POST.get("decision"):
        case "cancel":
            return provider.denied(state)
        case "authorize":
            ticked = provider.fixed.union(request.POST.getlist("scope"))
            granted = tuple(name for name in asked if name in ticked)
            try:
                athlete_id = type(provider).id_type(request.POST.get("athlete_id", ""))
                code = provider.grant(athlete_id, client_id, granted, redirect_uri)
            except (ValueError, LookupError) as exc:
                raise provider.bad_request("athlete_id") from exc
            return provider.redirected(state | {"code": code}, granted)
    raise provider.bad_request("decision")


def _back(parts: SplitResult, answer: dict[str, str]) -> HttpResponse:
    # Strava leaves the commas and colons of a scope as they are.
    added = urlencode(answer, safe=",:")
    query = f"{parts.query}&{added}" if parts.query else added
    response = HttpResponseRedirect(parts._replace(query=query).geturl())
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"
    return response
