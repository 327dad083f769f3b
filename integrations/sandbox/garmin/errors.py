"""Garmin's error answers, as the garminconnect library describes and distinguishes them.

Garmin documents none of this. The parts that the library does not read are invented. Source:
https://github.com/cyberjunky/python-garminconnect
"""

from __future__ import annotations

from django.http import HttpResponse, JsonResponse

from ..provider import Refusal

_CHALLENGE = (
    "<!doctype html><title>Just a moment...</title><h1>sso.garmin.com</h1>"
    "<p>Checking if the site connection is secure. Cloudflare</p>"
)

# The library recognizes these two wherever they come from.
_FRONT = (427, 429)


def front(status: int) -> HttpResponse:
    """403, 427 or 429: Cloudflare, or what Garmin has in front, refuses this client or network."""
    if status in _FRONT:
        return HttpResponse("<!doctype html><title>Access denied</title>", status=status)
    return HttpResponse(_CHALLENGE, status=status)


def api(status: int, message: str, error: str = "") -> Refusal:
    """An error of connectapi."""
    body = {"message": message, "error": error or f"{message.replace(' ', '')}Exception"}
    return Refusal(JsonResponse(body, status=status))


def token_not_active() -> Refusal:
    return api(401, "Token is not active", "UnauthorizedException")


def oauth(status: int, error: str, description: str = "") -> Refusal:
    """An error of the DI token endpoint (RFC 6749, section 5.2)."""
    return Refusal(
        JsonResponse({"error": error, "error_description": description or error}, status=status)
    )


def method_not_allowed() -> Refusal:
    return api(405, "Method Not Allowed")


def canned(fault: str) -> HttpResponse:
    """The answer of a fault that is an error of Garmin's own."""
    match fault:
        case "429":
            return front(429)
        case "401_client":
            return oauth(401, "invalid_client", "Bad client credentials").response
        case "403_inactive":
            return front(403)
        case "403_limit":
            return front(427)
        case _:
            body = {"message": "Internal Server Error", "error": "InternalServerErrorException"}
            return JsonResponse(body, status=500)
