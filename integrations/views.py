"""The settings page, the status URL, and the views that all providers share."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.contrib import messages
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from . import conf, services, tasks
from .exceptions import (
    IntegrationsError,
    InvalidInput,
    ScopeMissing,
    SecretUnreadable,
    StravaRelinkRequired,
)
from .forms import PreferencesForm
from .garminconnect.forms import GarminConnectLoginForm, GarminConnectMfaForm
from .models import Gear, LinkEvent, LinkStatus, Units, UsersIntegrations
from .strava import scopes
from .strava.forms import StravaClientForm
from .throttle import throttle
from .web import (
    PROGRESS,
    AthleteRequest,
    Failure,
    at_most,
    athlete_view,
    done,
    errors_as_json,
    failed,
    forget_failure,
    take_failure,
    typed_before,
)

# Seconds. Strava counts by it, and one athlete must not use up the limit that all share.
QUARTER_HOUR = 15 * 60
# How long a worker's failure is shown as news.
NEWS = timedelta(minutes=10)
Event = LinkEvent.Event


@athlete_view
@require_GET
def settings_page(request: AthleteRequest) -> HttpResponse:
    """What is linked, how well it works, and the one button to press."""
    row, login = services.get_links(request.user.pk)
    gear = services.get_gear(request.user.pk)
    events = services.get_link_events(request.user.pk)
    status = services.describe_integrations(row, login, Counter(item.provider for item in gear))
    news = _news(request)
    alert = take_failure(request) or (None if news else _unfinished(row, login, events))
    granted = row.strava_scopes

    def typed(provider: str) -> dict[str, str]:
        return typed_before(request, provider) if alert and alert.provider == provider else {}

    strava: dict[str, Any] = {
        "athlete_name": row.strava_athlete_name or row.strava_athlete_id,
        "uses_own_app": row.has_secret("strava_client_id"),
        "site_has_app": conf.strava_client() is not None,
        "permissions": [scopes.label(scope) for scope in granted],
        "missing": [
            {"label": scopes.label(scope), "cost": scopes.cost(scope)}
            for scope in conf.strava_scopes()
            if row.strava_scope is not None and scope not in granted
        ],
        "gear_missing": services.is_gear_missing(row, "strava"),
        # Strava compares only the host, without a port.
        "callback_domain": urlsplit(conf.public_url("/", request)).hostname,
        "form": StravaClientForm(initial=typed("strava"), auto_id="strava-%s"),
    }
    garminconnect: dict[str, Any] = {
        "athlete_name": row.garminconnect_athlete_name,
        "is_cn": login.is_cn if login else row.garminconnect_is_cn,
        "login_error": row.garminconnect_login_error,
        "was_linked": login is not None and row.garminconnect_status == LinkStatus.LINKED,
        "codes_left": services.codes_left(login) if login else 0,
        "form": GarminConnectLoginForm(initial=typed("garminconnect"), auto_id="garminconnect-%s"),
        "mfa_form": GarminConnectMfaForm(auto_id="garminconnect-%s"),
    }
    context: dict[str, Any] = {"alert": alert, "events": events}
    for provider, own in (("strava", strava), ("garminconnect", garminconnect)):
        link = status[provider] | own | _link_context(row, provider, gear)
        link["alert"] = alert if alert is not None and alert.provider == provider else None
        link["notice"] = _notice(row, provider, link)
        link["broken"] = (
            link["status"] == LinkStatus.LINKED and (link["error"] or {}).get("code") in _BROKEN
        )
        # Ask until the athlete has switched gear sync on or synced once.
        link["asks_about_gear"] = (
            link["status"] == LinkStatus.LINKED
            and not (link["sync_gear"] or link["synced_at"] or link["syncing"])
            and not link.get("gear_missing")
        )
        link["poll"] = link["syncing"] or link["status"] == LinkStatus.LINKING
        context[provider] = link
    # A message about a worker is shown while the worker is busy.
    context["tells_messages"] = (
        news or context["strava"]["poll"] or context["garminconnect"]["poll"]
    )
    if not context["tells_messages"]:
        list(messages.get_messages(request))
    for event in events:
        event.reason = services.event_reason(event)  # type: ignore[attr-defined]
    response = render(request, "integrations/settings.html", context)
    forget_failure(request, response)
    return response


def _news(request: AthleteRequest) -> bool:
    """Whether there is any message besides those that a worker has begun."""
    storage: Any = messages.get_messages(request)
    tags = [message.extra_tags for message in storage]
    storage.used = False
    return any(tag != PROGRESS for tag in tags)


def _unfinished(row: UsersIntegrations, login: Any, events: list[LinkEvent]) -> Failure | None:
    """A worker's recent failure, to be shown as news: one at most."""
    garmin = services.login_message(row)
    if login is not None:
        waits = services.login_status(login) == LinkStatus.MFA_REQUIRED
        return (
            Failure("garminconnect", row.garminconnect_login_error, garmin, field="code")
            if waits and garmin
            else None
        )
    told: set[str] = set()
    for event in events:  # newest first; only the newest of each provider counts
        if event.at < timezone.now() - NEWS:
            break
        if event.provider in told:
            continue
        told.add(event.provider)
        if event.event == Event.LOGIN_FAILED and garmin:
            return Failure("garminconnect", row.garminconnect_login_error, garmin)
        if event.event == Event.SYNC_FAILED and event.actor == LinkEvent.Actor.ATHLETE:
            link = services.link_message(row, event.provider)
            if message := services.sync_message(row, event.provider) or link:
                return Failure(event.provider, event.code, message)
    return None


def _notice(row: UsersIntegrations, provider: str, link: dict[str, Any]) -> dict[str, Any] | None:
    """What is wrong with a link, unless the alert says so already."""
    code, words = services.link_error(row, provider), services.link_message(row, provider)
    if link["status"] == LinkStatus.RELINK_REQUIRED:
        kind, code = "relink", code or StravaRelinkRequired.code
    elif provider == "garminconnect" and (failed_login := services.login_message(row)):
        code, words = row.garminconnect_login_error, failed_login
        kind = "kept" if link["status"] == LinkStatus.LINKED else "login"
    elif code:
        kind = "broken" if code in _BROKEN else "kept"
    elif link["sync_error"]:
        code, words, kind = getattr(row, f"{provider}_sync_error"), link["sync_error"], "gear"
        kind = "broken" if code in _BROKEN else kind
    else:
        return None
    alert: Failure | None = link["alert"]
    if alert is not None and (alert.code == code or alert.message == words):
        return None
    return {"kind": kind, "code": code, "message": words}


# Errors that do not go away by themselves.
_BROKEN = {"invalid_client", "client_changed", "application_inactive", SecretUnreadable.code}


def _link_context(row: UsersIntegrations, provider: str, gear: list[Gear]) -> dict[str, Any]:
    """The page's data on a link and its gear, with distances in the athlete's units."""
    units = getattr(row, f"{provider}_units") or Units.METRIC
    meters = 1609.344 if units == Units.IMPERIAL else 1000
    items: list[dict[str, Any]] = [
        {"gear": item, "distance": round(item.distance / meters), "units": units}
        for item in gear
        if item.provider == provider
    ]
    syncing_until = getattr(row, f"{provider}_syncing_until")
    return {
        "linked_at": getattr(row, f"{provider}_linked_at"),
        "refreshed_at": getattr(row, f"{provider}_refreshed_at"),
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
    """Switch gear sync on or off; on means that one starts now."""
    wanted = PreferencesForm(request.POST)
    try:
        if not wanted.is_valid():
            raise InvalidInput
        sync_gear = wanted.cleaned_data["sync_gear"]
        services.set_sync_gear(request.user.pk, provider, sync_gear)
    except IntegrationsError as exc:
        return failed(request, exc)
    if not sync_gear:
        return done(request, _("Gear no longer syncs. What is listed here stays as it is."))
    try:
        throttle(request.user, "gear_sync", 12, QUARTER_HOUR)
        tasks.start_gear_sync(request.user.pk, provider)
    except ScopeMissing:
        hint = _("Saved. Your gear will sync as soon as Strava has your permission for it.")
        return done(request, hint, level=messages.WARNING)
    except IntegrationsError:  # not connected, under way, too often, or no worker
        return done(request, _("Saved. Your gear will sync."))
    return done(request, _("Saved. Your gear is syncing now."))


@athlete_view
@require_POST
@at_most(12, per=QUARTER_HOUR, what="gear_sync")
def gear_sync(request: AthleteRequest, provider: str) -> HttpResponse:
    """Start a gear sync."""
    try:
        tasks.start_gear_sync(request.user.pk, provider)
    except IntegrationsError as exc:
        return failed(request, exc)
    return done(request, _("Syncing your gear …"), level=messages.INFO, status=202)


@athlete_view
@require_GET
@at_most(12)
@errors_as_json
def export(request: AthleteRequest) -> HttpResponse:
    """All that is stored about the athlete's links, as a JSON file without secrets."""
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
