"""The settings page, the status URL, and what every provider's views share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.contrib import messages
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from . import conf, services, tasks
from .exceptions import (
    IntegrationsError,
    InvalidInput,
    ScopeMissing,
    TaskQueueUnavailable,
    TooManyRequests,
)
from .forms import PreferencesForm
from .garminconnect.forms import GarminConnectLoginForm, GarminConnectMfaForm
from .models import Gear, LinkStatus, Units, UsersIntegrations
from .strava import scopes
from .strava.forms import StravaClientForm
from .throttle import throttle

# Seconds. Strava counts by it: an athlete alone must not use up what all have together.
QUARTER_HOUR = 15 * 60


class AthleteRequest(HttpRequest):
    """A request that has passed athlete_view (for the type checker)."""

    user: AbstractBaseUser  # type: ignore[assignment]


def wants_json(request: HttpRequest) -> bool:
    """Whether the caller is a program: browsers ask for HTML first."""
    preferred = request.get_preferred_type(["text/html", "application/json"])
    if preferred == "application/json":
        return True
    # Django takes `application/json; charset=utf-8` for a type that nobody offers.
    accepted = [part.split(";")[0] for part in request.headers.get("Accept", "").lower().split(",")]
    named = {each.strip() for each in accepted}
    return "application/json" in named and "text/html" not in named


def error_response(code: str, message: str, status: int) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)


def at_most(
    times: int, per: int = 60, what: str = ""
) -> Callable[..., Callable[..., HttpResponse]]:
    """Answer one user no more often than that; goes below athlete_view.

    Views that do the same thing are counted together under its name.
    """

    def decorator(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @wraps(view)
        def wrapper(request: AthleteRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            try:
                action = what or f"{view.__module__}.{view.__qualname__}"
                throttle(request.user, action, times, per)
            except TooManyRequests as exc:
                if request.method == "GET" or wants_json(request):
                    response = error_response(exc.code, exc.user_message, exc.status_code)
                    response["Retry-After"] = str(exc.retry_after)
                    return response
                return failed(request, exc)
            return view(request, *args, **kwargs)

        return wrapper

    return decorator


def athlete_view(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Every page of an athlete: logged in, never cached, and outside ATOMIC_REQUESTS, because
    providers are asked. A program that is not logged in gets a 401 instead of a redirect.
    """
    for_people = login_required(view)

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated and wants_json(request):
            return error_response("login_required", _("Please log in first."), 401)
        if not request.user.is_authenticated and request.method not in ("GET", "HEAD"):
            # A press after the session has ended: the login should not lead back to a POST's URL.
            return redirect_to_login(reverse("integrations:settings"))
        with services.acting_as("athlete", request.user.pk):
            return for_people(request, *args, **kwargs)

    return never_cache(transaction.non_atomic_requests(wrapper))


def errors_as_json(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For a URL that programs ask, whatever they accept."""

    @wraps(view)
    def wrapper(request: AthleteRequest) -> HttpResponse:
        try:
            return view(request)
        except IntegrationsError as exc:
            return error_response(exc.code, exc.user_message, exc.status_code)

    return wrapper


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
    row, login = services.get_links(request.user.pk)
    gear = services.get_gear(request.user.pk)
    status = services.describe_integrations(row, login, Counter(item.provider for item in gear))
    granted = row.strava_scopes
    context: dict[str, Any] = {
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
            **_gear_context(row, "strava", gear),
        },
        "garminconnect": status["garminconnect"]
        | {
            "linked_at": row.garminconnect_linked_at,
            "refreshed_at": row.garminconnect_refreshed_at,
            "is_cn": login.is_cn if login else row.garminconnect_is_cn,
            "was_linked": login is not None and row.garminconnect_status == LinkStatus.LINKED,
            "codes_left": services.codes_left(login) if login else 0,
            "form": GarminConnectLoginForm(),
            "mfa_form": GarminConnectMfaForm(),
            **_gear_context(row, "garminconnect", gear),
        },
    }
    context["events"] = services.get_link_events(request.user.pk)
    context["strava"]["poll"] = context["strava"]["syncing"]
    context["garminconnect"]["poll"] = (
        context["garminconnect"]["syncing"]
        or context["garminconnect"]["status"] == LinkStatus.LINKING
    )
    return render(request, "integrations/settings.html", context)


def _gear_context(row: UsersIntegrations, provider: str, gear: list[Gear]) -> dict[str, Any]:
    """What the page tells of gear, distances in the athlete's units."""
    units = getattr(row, f"{provider}_units") or Units.METRIC
    metres = 1609.344 if units == Units.IMPERIAL else 1000
    items: list[dict[str, Any]] = [
        {"gear": item, "distance": round(item.distance / metres), "units": units}
        for item in gear
        if item.provider == provider
    ]
    syncing_until = getattr(row, f"{provider}_syncing_until")
    return {
        "gear_in_use": [item for item in items if not item["gear"].retired],
        "gear_retired": [item for item in items if item["gear"].retired],
        "synced_at": getattr(row, f"{provider}_synced_at"),
        "syncing": syncing_until is not None and syncing_until > timezone.now(),
        "sync_error": services.sync_message(row, provider),
    }


@athlete_view
@require_POST
@at_most(30)
def preferences(request: AthleteRequest, provider: str) -> HttpResponse:
    """Switch gear synchronisation on or off; on means that one starts now."""
    wanted = PreferencesForm(request.POST)
    try:
        if not wanted.is_valid():
            raise InvalidInput
        sync_gear = wanted.cleaned_data["sync_gear"]
        services.set_sync_gear(request.user.pk, provider, sync_gear)
    except IntegrationsError as exc:
        return failed(request, exc)
    if not sync_gear:
        return done(request, _("Gear is no longer synchronised. What is here stays as it is."))
    try:
        throttle(request.user, "gear_sync", 12, QUARTER_HOUR)
        _start_gear_sync(request.user.pk, provider)
    except ScopeMissing as exc:
        return done(request, exc.user_message, level=messages.WARNING)
    except IntegrationsError:  # not connected, under way, too often, or no worker to be had
        return done(request, _("Gear will be synchronised."))
    return done(request, _("Gear will be synchronised. The first time starts now."))


@athlete_view
@require_POST
@at_most(12, per=QUARTER_HOUR, what="gear_sync")
def gear_sync(request: AthleteRequest, provider: str) -> HttpResponse:
    """Start a gear synchronisation."""
    try:
        _start_gear_sync(request.user.pk, provider)
    except IntegrationsError as exc:
        return failed(request, exc)
    return done(request, _("Synchronising your gear …"), level=messages.INFO, status=202)


@athlete_view
@require_GET
@at_most(12)
@errors_as_json
def export(request: AthleteRequest) -> HttpResponse:
    """All that is stored about the athlete's links, as a JSON file, secrets left out."""
    response = JsonResponse(
        services.export_integrations(request.user.pk), json_dumps_params={"indent": 2}
    )
    response["Content-Disposition"] = 'attachment; filename="integrations.json"'
    return response


@athlete_view
@require_GET
@at_most(240)
@errors_as_json
def status(request: AthleteRequest) -> HttpResponse:
    """The state of both providers as JSON, without secrets."""
    return JsonResponse(services.get_integrations_status(request.user.pk))


def _start_gear_sync(user_id: int, provider: str) -> None:
    services.request_gear_sync(user_id, provider)
    try:
        tasks.enqueue(tasks.sync_gear, user_id, provider, *services.acting())
    except TaskQueueUnavailable:
        services.withdraw_gear_sync(user_id, provider)
        raise
