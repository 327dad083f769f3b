"""Strava's error answers, each as it is documented or was seen.

Sources: https://developers.strava.com/docs/authentication/,
https://github.com/glandais/strava-auth-proxy/blob/main/docs/STRAVA-CONTRACT.md
"""

from __future__ import annotations

from django.http import HttpResponse, JsonResponse

from ..provider import Refusal

#: Every scope there is, in the order of Strava's documentation.
SCOPES: dict[str, str] = {
    "read": "View public profile, routes and segments",
    "read_all": "View private routes, segments and events",
    "profile:read_all": "View your complete profile, with your bikes and shoes",
    "profile:write": "Change your weight and FTP, star segments",
    "activity:read": "View activities that Followers can see",
    "activity:read_all": "View all activities, private ones included",
    "activity:write": "Upload and change activities",
}


def error(
    status: int, message: str, resource: str = "", field: str | None = "", code: str = ""
) -> HttpResponse:
    errors = [{"resource": resource, "field": field, "code": code}] if resource else []
    return JsonResponse({"message": message, "errors": errors}, status=status)


def bad_request(resource: str, field: str | None, code: str = "invalid") -> Refusal:
    return Refusal(error(400, "Bad Request", resource, field, code))


def wrong_client() -> Refusal:
    return Refusal(error(401, "Authorization Error", "Application", "", "invalid"))


def bad_access_token() -> Refusal:
    return Refusal(error(401, "Authorization Error", "Athlete", "access_token", "invalid"))


def scope_missing(scope: str) -> Refusal:
    return Refusal(
        error(401, "Authorization Error", "AccessToken", f"{scope}_permission", "missing")
    )


def inactive() -> Refusal:
    return Refusal(error(403, "Forbidden", "Application", "Status", "Inactive"))


def athlete_limit() -> Refusal:
    # Only the status and Strava's page are known; field and code are invented.
    return Refusal(error(403, "Forbidden", "Application", "connected athletes", "exceeded"))


def rate_limited() -> Refusal:
    return Refusal(error(429, "Rate Limit Exceeded", "Application", "rate limit", "exceeded"))


def not_found(resource: str) -> Refusal:
    return Refusal(error(404, "Record Not Found", resource, "id", "invalid"))


def method_not_allowed() -> Refusal:
    return Refusal(error(405, "Method Not Allowed"))


def canned(fault: str) -> HttpResponse:
    """The answer of a fault that is an error of Strava's own."""
    match fault:
        case "429":
            response = rate_limited().response
            response["X-RateLimit-Limit"], response["X-RateLimit-Usage"] = "200,2000", "201,1500"
            response["X-ReadRateLimit-Limit"] = "100,1000"
            response["X-ReadRateLimit-Usage"] = "101,800"
            return response
        case "401_client":
            return wrong_client().response
        case "403_inactive":
            return inactive().response
        case "403_limit":
            return athlete_limit().response
        case _:
            return error(500, "Internal Server Error")
