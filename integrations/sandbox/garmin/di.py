"""From a ticket to tokens, and from tokens to newer ones (diauth.garmin.com)."""

from __future__ import annotations

import base64
import binascii

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse

from ..provider import Refusal
from . import errors
from .state import GarminState

_TICKET_GRANT = "https://connectapi.garmin.com/di-oauth2-service/oauth/grant/service_ticket"
# All ids with this prefix: Garmin adds a client with most versions of its app.
_CLIENTS = "GARMIN_CONNECT_MOBILE_"


def _client_id(request: HttpRequest) -> str:
    """The public client of HTTP Basic credentials, which have an empty password.

    Raises Refusal (401) if there is none or the form names another.
    """
    method, _, value = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    try:
        decoded = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    client_id, _, _ = decoded.partition(":")
    named = request.POST.get("client_id")
    if method.lower() != "basic" or not client_id.startswith(_CLIENTS) or client_id != named:
        raise errors.oauth(401, "invalid_client", "Bad client credentials")
    return client_id


def token(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    """The token endpoint: exchange a ticket, or refresh (RFC 6749, section 6)."""
    if request.method != "POST":
        raise errors.method_not_allowed()
    client_id, domain = _client_id(request), f"garmin.{tld}"
    grant_type = request.POST.get("grant_type", "")
    if grant_type == _TICKET_GRANT:
        # The URL has to be Garmin's, but may differ from the ticket's: the library sends the app's
        # URL even if the web site verified the code.
        if f".{domain}/" not in f"{request.POST.get('service_url', '')}/":
            raise errors.oauth(400, "invalid_request", "service_url")
        account = garmin.spend_ticket(request.POST.get("service_ticket", ""), domain)
        if account is None:
            raise errors.oauth(400, "invalid_grant", "Invalid service ticket")
        return JsonResponse(garmin.start_session(account, client_id))
    if grant_type == "refresh_token":
        refresh_token = request.POST.get("refresh_token", "")
        if garmin.is_throttled(refresh_token):
            raise Refusal(errors.front(429))
        reply = garmin.refresh(refresh_token, domain, client_id)
        if reply is None:
            raise errors.oauth(400, "invalid_grant", "Invalid refresh token")
        return JsonResponse(reply)
    raise errors.oauth(400, "unsupported_grant_type")


def service(garmin: GarminState, request: HttpRequest, tld: str) -> HttpResponse:
    """Take a ticket as the web site does, and answer with the JWT_WEB cookie.

    The library comes here when the token endpoint fails.
    """
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed()
    account = garmin.spend_ticket(request.GET.get("ticket", ""), f"garmin.{tld}")
    if account is None:
        return HttpResponse("<!doctype html><title>Garmin Connect</title>")
    response = HttpResponseRedirect(request.path_info)
    response.set_cookie("JWT_WEB", garmin.start_web_session(account), path="/", httponly=True)
    return response
