"""Reading what a client sent, distrustfully."""

from __future__ import annotations

from django.http import HttpRequest

from ..oauth.params import one
from .demo import App
from .errors import bad_request, wrong_client
from .state import StravaState

# Not `code` or `state`: their place is the query of the redirect.
_SECRETS = ("client_secret", "refresh_token", "token", "access_token")


def parameter(request: HttpRequest, name: str, resource: str = "Request") -> str:
    """One parameter of the form or, failing that, of the query; empty if missing.

    Raises Refusal (400) if it comes twice (parsers differ on that), if it has control characters,
    or if it is absurdly long.
    """
    value = one(request.POST.getlist(name) + request.GET.getlist(name))
    if value is None:
        raise bad_request(resource, name)
    return value


def flag_secrets_in_query(strava: StravaState, request: HttpRequest) -> None:
    """Note secrets in a URL: Strava takes them there, and every log on the way keeps them."""
    names = [name for name in _SECRETS if name in request.GET]
    if names:
        strava.note_violation(
            f"{request.method} {request.path_info}: {', '.join(names)} in the query"
        )


def authenticate_client(strava: StravaState, request: HttpRequest) -> App:
    """The app of `client_id` and `client_secret`.

    Raises Refusal: 400 for an unknown client, 401 for a wrong secret.
    """
    app = strava.apps.get(parameter(request, "client_id", "Application"))
    if app is None:
        raise bad_request("Application", "client_id")
    if parameter(request, "client_secret", "Application") != app.client_secret:
        raise wrong_client()
    return app
