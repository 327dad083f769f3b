"""The settings page, the status URL, and what every provider's views share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.contrib import messages
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from . import conf, services
from .exceptions import IntegrationsError
from .garminconnect.forms import GarminConnectLoginForm, GarminConnectMfaForm
from .models import LinkStatus
from .strava import scopes
from .strava.forms import StravaClientForm


class AthleteRequest(HttpRequest):
    """A request that has passed athlete_view (for the type checker)."""

    user: AbstractBaseUser  # type: ignore[assignment]


def wants_json(request: HttpRequest) -> bool:
    """Whether the caller is a program: browsers ask for HTML first."""
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"


def error_response(code: str, message: str, status: int) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)


def athlete_view(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Every page of an athlete: logged in, never cached, and outside ATOMIC_REQUESTS, because
    providers are asked. A program that is not logged in gets a 401 instead of a redirect.
    """
    for_people = login_required(view)

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated and wants_json(request):
            return error_response("login_required", _("Please log in first."), 401)
        return for_people(request, *args, **kwargs)

    return never_cache(transaction.non_atomic_requests(wrapper))


def done(
    request: HttpRequest, message: str, *, level: int = messages.SUCCESS, status: int = 200
) -> HttpResponse:
    """Say what has happened, on the page or, with a status code, to a program."""
    if wants_json(request):
        return JsonResponse({"message": message}, status=status)
    messages.add_message(request, level, message)
    return redirect("integrations:settings")


def failed(request: HttpRequest, error: IntegrationsError) -> HttpResponse:
    """Say what went wrong, on the page or to a program."""
    if wants_json(request):
        return error_response(error.code, error.user_message, error.status_code)
    messages.error(request, error.user_message)
    return redirect("integrations:settings")


@athlete_view
@require_GET
def settings_page(request: AthleteRequest) -> HttpResponse:
    """What is linked, how it fares, and the one thing to press."""
    login = services.get_garminconnect_login(request.user.pk)
    row = services.get_integrations_or_default(request.user.pk)
    status = services.describe_integrations(row, login)
    granted = row.strava_scopes
    context = {
        "strava": status["strava"]
        | {
            "linked_at": row.strava_linked_at,
            "refreshed_at": row.strava_refreshed_at,
            "uses_own_app": row.has_secret("strava_client_id"),
            "site_has_app": conf.strava_client() is not None,
            "permissions": [scopes.label(scope) for scope in granted],
            "missing": [
                {"label": scopes.label(scope), "cost": scopes.cost(scope)}
                for scope in conf.strava_scopes()
                if scope not in granted
            ]
            if granted
            else [],
            # Strava compares the host alone, without a port.
            "callback_domain": urlsplit(f"//{request.get_host()}").hostname,
            "form": StravaClientForm(),
        },
        "garminconnect": status["garminconnect"]
        | {
            "linked_at": row.garminconnect_linked_at,
            "refreshed_at": row.garminconnect_refreshed_at,
            "is_cn": login.is_cn if login else row.garminconnect_is_cn,
            "was_linked": login is not None and row.garminconnect_status == LinkStatus.LINKED,
            "poll": status["garminconnect"]["status"] == LinkStatus.LINKING,
            "codes_left": services.codes_left(login) if login else 0,
            "form": GarminConnectLoginForm(),
            "mfa_form": GarminConnectMfaForm(),
        },
    }
    return render(request, "integrations/settings.html", context)


@athlete_view
@require_GET
def status(request: AthleteRequest) -> HttpResponse:
    """The state of both providers as JSON, without secrets."""
    return JsonResponse(services.get_integrations_status(request.user.pk))
