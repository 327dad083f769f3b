"""The admin for staff: what is linked and what needs help, but never a secret.

Nothing here is editable, because an edit could only break a link. Staff help a link with the
actions, which call services.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import models, transaction
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html_join
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from . import services, tasks
from .exceptions import GarminConnectNotLinked, IntegrationsError
from .fields import EncryptedTextField
from .models import LINK_CONDITIONS, Gear, LinkEvent, LinkStatus, UsersIntegrations

# Rows for one run of an action, and seconds after which it begins with none any more: a provider
# that is silent takes ten for each.
AT_ONCE = 200
BUDGET = 5
NAMED = 20  # rows that a message names


def _health(status: LinkStatus, code: str) -> str:
    """A code in a word or two, for a column."""
    if code:
        return code.replace("_", " ").capitalize()
    return "" if status == LinkStatus.NOT_LINKED else str(_("Good"))


def _user_search_fields() -> list[str]:
    user = get_user_model()
    names = {user.USERNAME_FIELD, user.get_email_field_name(), "first_name", "last_name"}
    return [
        f"user__{field.name}"
        for field in user._meta.get_fields()
        if field.name in names and isinstance(field, models.CharField | models.TextField)
    ]


class StatusFilter(admin.SimpleListFilter):
    """By the state of a provider's link."""

    parameter_name: str

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(status.value, status.label) for status in LINK_CONDITIONS[self.parameter_name]]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        for status, condition in LINK_CONDITIONS[self.parameter_name].items():
            if status == self.value():
                return queryset.filter(condition)
        return queryset


class StravaStatusFilter(StatusFilter):
    title = _("Strava")
    parameter_name = "strava"


class GarminConnectStatusFilter(StatusFilter):
    title = _("Garmin Connect")
    parameter_name = "garminconnect"


class StravaExpiryFilter(admin.SimpleListFilter):
    title = _("Strava token")
    parameter_name = "strava_token_age"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("fresh", _("Fresh")), ("expired", _("Expired"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        now = timezone.now()
        match self.value():
            case "fresh":
                return queryset.filter(strava_token_expires_at__gt=now)
            case "expired":
                return queryset.filter(strava_token_expires_at__lte=now)
        return queryset


class StoredValuesFilter(admin.SimpleListFilter):
    """By the values that a column has. Finding them reads every row, so that is done once a minute
    at most, not for each page."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        key = f"integrations:admin:{self.parameter_name}"
        try:
            values: Any = cache.get_or_set(key, self.values, 60)
        except Exception:  # a cache that is down breaks no page
            values = self.values()
        return [(value, value.strip(",").replace(",", ", ") or _("none")) for value in values]

    def values(self) -> list[str]:
        column = str(self.parameter_name)
        stored = UsersIntegrations.objects.filter(**{f"{column}__gt": ""}).order_by(column)
        return list(stored.values_list(column, flat=True).distinct()[:50])

    def has_output(self) -> bool:
        # Django ignores a filter that has nothing to offer, even if the URL asks for it: once an
        # error has healed, the list of those who have it would show everybody.
        return True

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        return queryset.filter(**{str(self.parameter_name): value}) if value else queryset


class StravaErrorFilter(StoredValuesFilter):
    title = _("Strava error")
    parameter_name = "strava_error"


class GarminConnectErrorFilter(StoredValuesFilter):
    title = _("Garmin error")
    parameter_name = "garminconnect_error"


class StravaScopeFilter(StoredValuesFilter):
    title = _("Strava scopes")
    parameter_name = "strava_scope"


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that others write, to read and to search."""

    list_per_page = 100
    list_select_related: ClassVar[tuple[str, ...]] = ("user",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("user")  # a row's name shows the user

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Whether the URL may narrow the list so.

        Through the list a state that is still open could be guessed, letter by letter. To look up
        an encrypted column, a broken pattern, a year beyond the calendar or a NUL is a crash.
        """
        column, _separator, comparison = lookup.partition("__")
        sealed = {field.name for field in self.opts.fields if isinstance(field, EncryptedTextField)}
        return (
            column not in sealed
            and not column.startswith("strava_state")
            and comparison in ("", "exact", "isnull", "gt", "gte", "lt", "lte")
            and "\0" not in str(value)
            and super().lookup_allowed(lookup, value, request)
        )


class GoesWithItsUser(ReadOnlyAdmin):
    """Rows that are deleted only with their user; Django asks for that permission here, too."""

    ordering: ClassVar[tuple[str, ...]] = ("-id",)
    actions = None

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        match = request.resolver_match
        own = f"{self.opts.app_label}_{self.opts.model_name}_"
        if match is None or (match.url_name or "").startswith(own):
            return False
        return super().has_delete_permission(request, obj)


@admin.register(LinkEvent)
class LinkEventAdmin(GoesWithItsUser):
    """The trail."""

    list_display = ("at", "user", "provider", "event", "code", "by")
    list_filter = ("event", "provider", "actor", "at")
    list_select_related = ("user", "actor_user")
    ordering = ("-at", "-id")

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        return ["code", *_user_search_fields()]

    @admin.display(description=_("By"), ordering="actor")
    def by(self, event: LinkEvent) -> str:
        who = str(event.get_actor_display())
        named = event.actor_user is not None and event.actor != LinkEvent.Actor.ATHLETE
        return f"{who}: {event.actor_user}" if named else who


@admin.register(Gear)
class GearAdmin(GoesWithItsUser):
    """Gear as the providers list it; each sync would undo an edit."""

    list_display = ("__str__", "user", "provider", "kind", "kilometers", "primary", "retired")
    list_filter = ("provider", "kind", "retired", "primary")

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        return ["name", "brand", "model", *_user_search_fields()]

    @admin.display(description=_("km"), ordering="distance")
    def kilometers(self, gear: Gear) -> str:
        return f"{gear.distance / 1000:,.0f}"


@admin.register(UsersIntegrations)
class UsersIntegrationsAdmin(ReadOnlyAdmin):
    list_display = (
        "user",
        "strava",
        "strava_health",
        "garminconnect",
        "garminconnect_health",
        "gear_count",
        "strava_token_expires_at",
        "scopes",
    )
    list_filter = (
        StravaStatusFilter,
        GarminConnectStatusFilter,
        StravaExpiryFilter,
        StravaErrorFilter,
        GarminConnectErrorFilter,
        StravaScopeFilter,
    )
    ordering = ("-id",)
    actions = (
        "refresh_strava",
        "disconnect_strava",
        "refresh_garminconnect",
        "disconnect_garminconnect",
        "sync_gear",
    )
    fieldsets = (
        (None, {"fields": ("user", "created_at", "more")}),
        (
            _("Strava"),
            {
                "fields": (
                    "strava",
                    "strava_health",
                    "strava_told",
                    "strava_athlete",
                    "scopes",
                    "strava_app",
                    "strava_linked_at",
                    "strava_refreshed_at",
                    "strava_token_expires_at",
                    "strava_relink_required_at",
                    "strava_failures",
                    "strava_retry_at",
                    "strava_sync_gear",
                    "strava_synced_at",
                    "strava_sync_error",
                    "strava_sync_due_at",
                )
            },
        ),
        (
            _("Garmin Connect"),
            {
                "fields": (
                    "garminconnect",
                    "garminconnect_health",
                    "garminconnect_told",
                    "garminconnect_login_error",
                    "garminconnect_is_cn",
                    "garminconnect_linked_at",
                    "garminconnect_refreshed_at",
                    "garminconnect_token_expires_at",
                    "garminconnect_relink_required_at",
                    "garminconnect_failures",
                    "garminconnect_retry_at",
                    "garminconnect_sync_gear",
                    "garminconnect_synced_at",
                    "garminconnect_sync_error",
                    "garminconnect_sync_due_at",
                )
            },
        ),
    )

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        """By user, whatever the host project's user model calls its fields."""
        return _user_search_fields()

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsersIntegrations]:
        # A second lock on the door: what is never loaded can never be shown. Of the tokens, the
        # page only needs to know whether they exist.
        rows: QuerySet[UsersIntegrations] = super().get_queryset(request)
        gear = Gear.objects.filter(user=OuterRef("user")).order_by().values("user")
        return rows.annotate(gear_count=Subquery(gear.values(count=Count("pk")))).defer(
            "strava_client_secret",
            "strava_state",
            "strava_pending_client_id",
            "strava_pending_client_secret",
            "strava_refresh_token",
        )

    def delete_model(self, request: HttpRequest, obj: UsersIntegrations) -> None:
        with services.acting_as("staff", request.user.pk):
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]) -> None:
        with services.acting_as("staff", request.user.pk):
            super().delete_queryset(request, queryset)

    @method_decorator(transaction.non_atomic_requests)
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        # Its actions ask providers.
        with services.short_waits():
            return super().changelist_view(request, extra_context)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        with services.short_waits():
            return super().delete_view(request, object_id, extra_context)

    def has_act_on_links_permission(self, request: HttpRequest) -> bool:
        """Who may use the actions: Django's change permission, though no form uses it."""
        return request.user.has_perm("integrations.change_usersintegrations")

    @admin.display(description=_("Elsewhere"))
    def more(self, row: UsersIntegrations) -> str:
        return format_html_join(
            " · ",
            '<a href="{}?user={}">{}</a>',
            (
                (reverse(f"admin:integrations_{name}_changelist"), row.user_id, label)
                for name, label in (("linkevent", _("The trail")), ("gear", _("Gear")))
            ),
        )

    @admin.display(description=_("Strava"))
    def strava(self, row: UsersIntegrations) -> str:
        return str(row.strava_status.label)

    @admin.display(description=_("Garmin Connect"))
    def garminconnect(self, row: UsersIntegrations) -> str:
        return str(row.garminconnect_status.label)

    @admin.display(description=_("Strava health"), ordering="strava_error")
    def strava_health(self, row: UsersIntegrations) -> str:
        return _health(row.strava_status, services.link_error(row, "strava"))

    @admin.display(description=_("The athlete is told"))
    def strava_told(self, row: UsersIntegrations) -> str:
        return services.link_message(row, "strava") or "-"

    @admin.display(description=_("Garmin health"), ordering="garminconnect_error")
    def garminconnect_health(self, row: UsersIntegrations) -> str:
        return _health(row.garminconnect_status, services.link_error(row, "garminconnect"))

    @admin.display(description=_("The athlete is told"))
    def garminconnect_told(self, row: UsersIntegrations) -> str:
        return services.link_message(row, "garminconnect") or "-"

    @admin.display(description=_("Gear"), ordering="gear_count")
    def gear_count(self, row: Any) -> int:
        return row.gear_count or 0

    @admin.display(description=_("Scopes"), ordering="strava_scope")
    def scopes(self, row: UsersIntegrations) -> str:
        return ", ".join(row.strava_scopes)

    @admin.display(description=_("Athlete id"), ordering="strava_athlete_id")
    def strava_athlete(self, row: UsersIntegrations) -> str:
        # Without Django's separators for numbers: an id is a name.
        return "-" if row.strava_athlete_id is None else str(row.strava_athlete_id)

    @admin.display(description=_("Strava app"))
    def strava_app(self, row: UsersIntegrations) -> str:
        if row.has_secret("strava_client_id"):
            return str(_("The athlete’s own"))
        return str(_("The site’s")) if row.is_linked("strava") else ""

    @admin.action(description=_("Refresh Strava tokens now"), permissions=["act_on_links"])
    def refresh_strava(self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]) -> None:
        self._for_each(
            request,
            queryset,
            services.refresh_strava_access_token,
            lambda n: ngettext("%d token refreshed.", "%d tokens refreshed.", n) % n,
            _("Strava token refreshed by hand."),
        )

    @admin.action(description=_("Disconnect from Strava"), permissions=["act_on_links"])
    def disconnect_strava(
        self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]
    ) -> HttpResponse | None:
        if "confirmed" not in request.POST:
            meaning = _(
                "Access is revoked at Strava, and the gear that came from there is deleted here. "
                "To connect again, the athletes have to come back themselves."
            )
            return self._confirm(request, queryset, meaning)
        self._for_each(
            request,
            queryset,
            services.disconnect_strava,
            lambda n: ngettext("%d athlete disconnected.", "%d athletes disconnected.", n) % n,
            _("Disconnected from Strava by hand."),
        )
        return None

    @admin.action(description=_("Refresh Garmin sessions soon"), permissions=["act_on_links"])
    def refresh_garminconnect(
        self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]
    ) -> None:
        def enqueue(user_id: int) -> None:
            # Only workers ask Garmin.
            row = services.get_user_integrations_by_user_id(user_id)
            if not row.is_linked("garminconnect"):
                raise GarminConnectNotLinked
            tasks.enqueue(tasks.refresh_garminconnect_session, user_id, *services.acting())

        self._for_each(
            request,
            queryset,
            enqueue,
            lambda n: (
                ngettext("%d session will be refreshed.", "%d sessions will be refreshed.", n) % n
            ),
            _("Refresh of the Garmin session started by hand."),
        )

    @admin.action(description=_("Disconnect from Garmin Connect"), permissions=["act_on_links"])
    def disconnect_garminconnect(
        self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]
    ) -> HttpResponse | None:
        if "confirmed" not in request.POST:
            meaning = _(
                "The sessions and the gear that came from Garmin are deleted here. To connect "
                "again, the athletes have to come back and enter their passwords."
            )
            return self._confirm(request, queryset, meaning)
        self._for_each(
            request,
            queryset,
            services.disconnect_garminconnect,
            lambda n: ngettext("%d athlete disconnected.", "%d athletes disconnected.", n) % n,
            _("Disconnected from Garmin Connect by hand."),
        )
        return None

    @admin.action(description=_("Sync gear soon"), permissions=["act_on_links"])
    def sync_gear(self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]) -> None:
        def enqueue(user_id: int) -> None:
            for provider in services.PROVIDERS:
                tasks.enqueue(tasks.sync_gear, user_id, provider, *services.acting())

        self._for_each(
            request,
            queryset,
            enqueue,
            lambda n: (
                ngettext(
                    "The gear of %d athlete will be synced.",
                    "The gear of %d athletes will be synced.",
                    n,
                )
                % n
            ),
            _("Gear sync started by hand."),
        )

    def _confirm(
        self, request: HttpRequest, queryset: QuerySet[UsersIntegrations], meaning: Any
    ) -> HttpResponse | None:
        """Ask before an action that cannot be undone; the answer is the same action, confirmed."""
        if self._are_too_many(request, queryset):
            return None
        action = request.POST["action"]
        context = {
            **self.admin_site.each_context(request),
            "title": getattr(self, action).short_description,
            "meaning": meaning,
            "opts": self.opts,
            "count": queryset.count(),
            "users": [row.user for row in queryset[:NAMED]],
            "action": action,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
            "checkbox": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/integrations/confirm_action.html", context)

    def _are_too_many(self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]) -> bool:
        if queryset.count() <= AT_ONCE:
            return False
        words = _("Choose at most %d: the provider is asked about each of them.") % AT_ONCE
        self.message_user(request, words, messages.ERROR)
        return True

    def _for_each(
        self,
        request: HttpRequest,
        queryset: QuerySet[UsersIntegrations],
        service: Callable[[int], Any],
        summary: Callable[[int], str],
        trail: Any,
    ) -> None:
        """Run a service for each row; name those that fail, and go on with the others for BUDGET
        seconds; say how many were left out.
        """
        if self._are_too_many(request, queryset):
            return
        count, failed = 0, []
        rows = list(queryset)
        give_up = time.monotonic() + BUDGET
        for row in rows:
            if time.monotonic() > give_up:
                break
            try:
                with services.acting_as("staff", request.user.pk):
                    service(row.user_id)
            except IntegrationsError as exc:
                failed.append(f"{row.user}: {services.staff_message(exc)}")
            else:
                count += 1
                self.log_change(request, row, str(trail))
        for words in failed[:NAMED]:
            self.message_user(request, words, messages.WARNING)
        if (more := len(failed) - NAMED) > 0:
            others = ngettext("%d other failed too.", "%d others failed too.", more) % more
            self.message_user(request, others, messages.WARNING)
        if (left := len(rows) - count - len(failed)) > 0:
            words = ngettext(
                "%d was left out, because this took too long. Nothing was changed there: choose it "
                "again.",
                "%d were left out, because this took too long. Nothing was changed there: choose "
                "them again.",
                left,
            )
            self.message_user(request, words % left, messages.WARNING)
        if count:
            self.message_user(request, summary(count), messages.SUCCESS)
