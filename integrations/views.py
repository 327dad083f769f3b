"""The settings page, the status URL, and the views that all providers share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.contrib.messages.storage.base import Message
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import path
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from . import providers, services, tasks
from .exceptions import (
    ApplicationInactive,
    IntegrationsError,
    InvalidClient,
    InvalidInput,
    NotLinked,
    RelinkRequired,
    ScopeMissing,
    SecretUnreadable,
    SiteClientChanged,
)
from .forms import PreferencesForm
from .links import Provider
from .models import Gear, LinkEvent, LinkStatus, Units
from .services import status as found_status
from .services import trail
from .services.gear import is_gear_missing
from .services.status import FoundLink
from .services.words import event_reason
from .throttle import throttle
from .web import (
    PROGRESS,
    AthleteRequest,
    Failure,
    asking_first,
    at_most,
    athlete_view,
    done,
    errors_as_json,
    failed,
    forget_failure,
    not_needed,
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
    links = found_status.get_links(request.user.pk)
    gear = services.get_gear(request.user.pk)
    events = trail.get_link_events(request.user.pk)
    counts = Counter(item.provider for item in gear)
    now = links[0].row.read_at if links else timezone.now()
    shown: list[Any] = list(messages.get_messages(request))
    news = any(message.extra_tags != PROGRESS for message in shown)
    failure = take_failure(request)
    since = max(now - NEWS, told_until(request))
    alert = failure or (None if news else _unfinished(links, events, since))
    cards = []
    for link in links:
        mine = alert is not None and alert.provider == link.provider.name
        card = found_status.describe_link(link, counts[link.provider.name])
        if alert is not None and mine and not _is_on_page(alert, link, card["status"]):
            alert = replace(alert, field="")
        typed = typed_before(request, link.provider.name) if mine else {}
        card |= link.provider.page_context(link.row, request, typed)
        card |= _card(link, card, gear, alert if mine else None)
        cards.append(card)
    polls = any(card["poll"] for card in cards)
    is_waiting = any(card["status"] == LinkStatus.MFA_REQUIRED for card in cards)
    if shown and not news and not polls:
        # The worker is done already, so say what has come of it.
        shown = [] if alert or is_waiting else _outcome(events)
    for event in events:
        event.reason = event_reason(event)  # type: ignore[attr-defined]
        event.label = providers.label(event.provider)  # type: ignore[attr-defined]
    context: dict[str, Any] = {card["provider"]: card for card in cards}
    context |= {  # last: a provider may be called Events
        "alert": alert,
        "events": events,
        "cards": cards,
        "messages": shown,
        "reloads": polls and not is_waiting,
    }
    response = render(request, "integrations/settings.html", context)
    forget_failure(request, response)
    if news or failure:
        note_told(request, response, now)
    return response


def _is_on_page(alert: Failure, link: FoundLink, status: str) -> bool:
    """Whether the card shows the form with the field that is to blame."""
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
            name = providers.label(event.provider) if event else ""
            return [Message(messages.SUCCESS, _("%(name)s is connected.") % {"name": name})]
    return []


def _unfinished(links: list[FoundLink], events: list[LinkEvent], since: datetime) -> Failure | None:
    """A worker's failure since then, to be shown as news: one at most."""
    for provider, row in links:
        status = provider.status(row)
        if status in (LinkStatus.LINKING, LinkStatus.MFA_REQUIRED):
            code, words = provider.failed_attempt(row)
            waits = status == LinkStatus.MFA_REQUIRED
            return Failure(provider.name, code, words, "code") if waits and words else None
    by_name = {link.provider.name: link for link in links}
    told: set[str] = set()
    for event in events:  # newest first; only the newest of each provider counts
        if event.at < since:
            break
        if event.provider in told or event.provider not in by_name:
            continue
        told.add(event.provider)
        provider, row = by_name[event.provider]
        code, words = provider.failed_attempt(row)
        if event.event == Event.LOGIN_FAILED and words:
            return Failure(provider.name, code, words)
        if _is_syncing(provider, row):
            continue  # the athlete has pressed again
        if event.event == Event.SYNC_FAILED and event.actor == LinkEvent.Actor.ATHLETE:
            link = found_status.link_message(provider, row)
            if message := found_status.sync_message(provider, row) or link:
                return Failure(event.provider, event.code, message)
    return None


def _notice(link: FoundLink, status: str, alert: Failure | None) -> dict[str, Any] | None:
    """What is wrong with a link, unless the alert says so already."""
    provider, row = link
    code, words = found_status.link_error(provider, row), found_status.link_message(provider, row)
    sync_code = found_status.sync_error(provider, row)
    attempt, attempt_words = provider.failed_attempt(row)
    if status == LinkStatus.RELINK_REQUIRED:
        kind, code = "relink", code or RelinkRequired.code
    elif code:
        kind = "broken" if code in _BROKEN else "kept"
    elif sync_code:
        code, words = sync_code, found_status.sync_message(provider, row)
        kind = "broken" if code in _BROKEN else "gear"
    elif attempt and alert is None:
        code, words = attempt, attempt_words
        kind = "kept" if status == LinkStatus.LINKED else "login"
    else:
        return None
    if alert is not None and (alert.code == code or alert.message == words):
        return None
    return {"kind": kind, "code": code, "message": words}


# Errors that do not go away by themselves.
_BROKEN = {
    each.code for each in (InvalidClient, SiteClientChanged, ApplicationInactive, SecretUnreadable)
}


def _is_syncing(provider: Provider, row: Any) -> bool:
    until = provider.home.get(row, "syncing_until") if provider.has_gear else None
    return until is not None and until > row.read_at


def _card(
    link: FoundLink, card: dict[str, Any], gear: list[Gear], alert: Failure | None
) -> dict[str, Any]:
    """The page's data on a link, besides what the status URL says of it."""
    provider, row = link
    home, linked = provider.home, card["status"] == LinkStatus.LINKED
    code = (card["error"] or {}).get("code", "")
    attempt, _words = provider.failed_attempt(row)
    notice = _notice(link, card["status"], alert)
    name = home.get(row, "account_name") if home.has("account_name") else ""
    account_id = home.get(row, "account_id") if home.has("account_id") else None
    return {
        "provider": provider.name,
        "label": provider.label,
        "short_label": provider.short_label,
        "template": provider.card,
        "account_page": provider.account_page,
        "athlete_name": name or account_id or "",
        "badge": provider.status(row).label,
        "linked_at": home.get(row, "linked_at"),
        "refreshed_at": home.get(row, "refreshed_at"),
        "alert": alert,
        "notice": notice,
        "code": code,
        "broken": linked and code in _BROKEN,
        "reconnect_helps": linked and code in (SiteClientChanged.code, SecretUnreadable.code),
        # Whether the error to show is that of an attempt to link.
        "attempt_failed": bool(attempt) and code == attempt,
        # One problem is told once.
        "tells_missing": linked
        and bool(card.get("missing"))
        and not (alert and alert.code == ScopeMissing.code),
        "has_gear": provider.has_gear,
        "app_works": code != SiteClientChanged.code
        and not (card.get("uses_own_app") and code in (InvalidClient.code, SecretUnreadable.code)),
        "poll": card["status"] == LinkStatus.LINKING or _is_syncing(provider, row),
        **(_gear_context(link, card, gear) if provider.has_gear else {}),
    }


def _gear_context(link: FoundLink, card: dict[str, Any], gear: list[Gear]) -> dict[str, Any]:
    """The page's data on a link's gear, with distances in the athlete's units."""
    provider, row = link
    home = provider.home
    units = home.get(row, "units") or Units.METRIC
    meters = 1609.344 if units == Units.IMPERIAL else 1000
    items: list[dict[str, Any]] = [
        {"gear": item, "distance": round(item.distance / meters), "units": units}
        for item in gear
        if item.provider == provider.name
    ]
    is_missing = is_gear_missing(provider, row)
    synced_at, syncing = home.get(row, "synced_at"), _is_syncing(provider, row)
    return {
        "gear_missing": is_missing,
        "gear_in_use": [item for item in items if not item["gear"].retired],
        "gear_retired": [item for item in items if item["gear"].retired],
        "synced_at": synced_at,
        "syncing": syncing,
        "sync_error": found_status.sync_message(provider, row),
        # Ask until the athlete has switched gear sync on or synced once.
        "asks_about_gear": (
            card["status"] == LinkStatus.LINKED
            and not (card["sync_gear"] or synced_at or syncing or is_missing)
            and home.get(row, "sync_due_at") is None
        ),
    }


def gear_patterns(provider: Provider) -> list[Any]:
    """The URL patterns of a provider that knows gear."""
    if not provider.has_gear:
        return []
    which = {"provider": provider.name}
    return [
        path("preferences/", preferences, which, name=f"{provider.name}_preferences"),
        path("gear/sync/", gear_sync, which, name=f"{provider.name}_gear_sync"),
    ]


@athlete_view
@asking_first
@at_most(30)
def disconnect(request: AthleteRequest, provider: str) -> HttpResponse:
    """End a link at its provider, and forget everything here."""
    found = providers.get(provider)
    name = {"name": found.label, "short": found.short_label}
    try:
        revoked = services.disconnect(request.user.pk, provider)
    except NotLinked as exc:
        return not_needed(request, exc)
    except IntegrationsError as exc:
        return failed(request, exc)
    if revoked:
        return done(request, _("%(name)s is disconnected.") % name)
    if not (found.revokes or found.account_page):
        words = _(
            "%(name)s is disconnected, and the stored session is deleted. To end the session at "
            "%(short)s too, open %(short)s › Security."
        )
        return done(request, words % name)
    words = _(
        "%(name)s is disconnected here and everything stored is deleted, but %(name)s could not be "
        "told. To end the access there as well, open %(page)s and press “Revoke access”."
    )
    page = found.account_page.removeprefix("https://").removeprefix("www.") or found.label
    return done(request, words % {**name, "page": page}, level=messages.WARNING)


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
        hint = _("Saved. Your gear will sync as soon as %(name)s has your permission for it.")
        name = {"name": providers.get(provider).label}
        return done(request, hint % name, level=messages.WARNING)
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
    """The state of every link as JSON, without secrets."""
    return JsonResponse(services.get_integrations_status(request.user.pk))
