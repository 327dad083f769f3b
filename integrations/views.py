"""The settings page, the status URL, and the views that all providers share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.contrib import messages
from django.contrib.messages.storage.base import Message
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
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
    note_told,
    take_failure,
    told_until,
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
    shown: list[Any] = list(messages.get_messages(request))
    news = any(message.extra_tags != PROGRESS for message in shown)
    failure = take_failure(request)
    since = max(row.read_at - NEWS, told_until(request))
    alert = failure or (None if news else _unfinished(row, login, events, since))
    if alert and not _is_on_page(alert, status[alert.provider]["status"]):
        alert = replace(alert, field="")
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
            if row.strava_scope and scope not in granted
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
        "form": GarminConnectLoginForm(
            initial=typed("garminconnect") or {"is_cn": row.garminconnect_is_cn},
            auto_id="garminconnect-%s",
        ),
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
            and getattr(row, f"{provider}_sync_due_at") is None
            and not link.get("gear_missing")
        )
        link["poll"] = link["syncing"] or link["status"] == LinkStatus.LINKING
        context[provider] = link
    if shown and not news and not (context["strava"]["poll"] or context["garminconnect"]["poll"]):
        # The worker is done already, so say what has come of it.
        shown = [] if alert or login else _outcome(events)
    context["messages"] = shown
    for event in events:
        event.reason = services.event_reason(event)  # type: ignore[attr-defined]
    response = render(request, "integrations/settings.html", context)
    forget_failure(request, response)
    if news or failure:
        note_told(request, response, row.read_at)
    return response


def _is_on_page(alert: Failure, status: str) -> bool:
    """Whether the card shows the form with the field that is to blame."""
    if alert.provider != "garminconnect":
        return True
    if alert.field == "code":
        return status == LinkStatus.MFA_REQUIRED
    return status not in (LinkStatus.LINKING, LinkStatus.MFA_REQUIRED)


def _outcome(events: list[LinkEvent]) -> list[Message]:
    """The message for what a worker has just done."""
    event = events[0] if events else None
    match event.event if event else "":
        case Event.SYNCED:
            return [Message(messages.SUCCESS, _("Your gear is synced."))]
        case Event.LINKED | Event.RELINKED:
            name = event.get_provider_display() if event else ""
            return [Message(messages.SUCCESS, _("%(name)s is connected.") % {"name": name})]
    return []


def _unfinished(
    row: UsersIntegrations, login: Any, events: list[LinkEvent], since: datetime
) -> Failure | None:
    """A worker's failure since then, to be shown as news: one at most."""
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
        if event.at < since:
            break
        if event.provider in told:
            continue
        told.add(event.provider)
        if event.event == Event.LOGIN_FAILED and garmin:
            return Failure("garminconnect", row.garminconnect_login_error, garmin)
        syncing_until = getattr(row, f"{event.provider}_syncing_until", None)
        if syncing_until and syncing_until > row.read_at:
            continue  # the athlete has pressed again
        if event.event == Event.SYNC_FAILED and event.actor == LinkEvent.Actor.ATHLETE:
            link = services.link_message(row, event.provider)
            if message := services.sync_message(row, event.provider) or link:
                return Failure(event.provider, event.code, message)
    return None


def _notice(row: UsersIntegrations, provider: str, link: dict[str, Any]) -> dict[str, Any] | None:
    """What is wrong with a link, unless the alert says so already."""
    alert: Failure | None = link["alert"]
    code, words = services.link_error(row, provider), services.link_message(row, provider)
    if link["status"] == LinkStatus.RELINK_REQUIRED:
        kind, code = "relink", code or StravaRelinkRequired.code
    elif code:
        kind = "broken" if code in _BROKEN else "kept"
    elif link["sync_error"]:
        code, words = getattr(row, f"{provider}_sync_error"), link["sync_error"]
        kind = "broken" if code in _BROKEN else "gear"
    elif provider == "garminconnect" and alert is None and services.login_message(row):
        code, words = row.garminconnect_login_error, services.login_message(row)
        kind = "kept" if link["status"] == LinkStatus.LINKED else "login"
    else:
        return None
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
        "syncing": syncing_until is not None and syncing_until > row.read_at,
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
    return done(request, _("Saved. Your gear is syncing now."), progress=True)


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
