"""The admin for staff: what is linked and what needs help, and never a secret.

Nothing here is editable, because no edit could do anything but break a link. What staff can do
about one are the two actions, which call services.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import models, transaction
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from . import services, tasks
from .exceptions import IntegrationsError
from .models import LINK_CONDITIONS, Gear, LinkEvent, LinkStatus, UsersIntegrations
from .services.status import health_message, link_error


def _health(status: LinkStatus, code: str) -> str:
    """In a word or two, for a column: the words of the code."""
    if code:
        return code.replace("_", " ").capitalize()
    return "" if status == LinkStatus.NOT_LINKED else str(_("Good"))


def _told(provider: str, code: str) -> str:
    """What the athlete is told of it."""
    return health_message(provider, code) if code else "-"


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
    """By the values that a column has. Which these are costs a look at every row, so they are
    looked up once a minute at most, and not for each page."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        key = f"integrations:admin:{self.parameter_name}"
        try:
            values: Any = cache.get_or_set(key, self.values, 60)
        except Exception:  # a cache that is down closes no page
            values = self.values()
        return [(value, value.replace(",", ", ")) for value in values]

    def values(self) -> list[str]:
        column = str(self.parameter_name)
        stored = UsersIntegrations.objects.exclude(**{column: ""}).order_by(column)
        return list(stored.values_list(column, flat=True).distinct()[:50])

    def has_output(self) -> bool:
        # Django drops a filter that has nothing to offer, also where it is asked for: a list of
        # those with an error that has healed would be a list of everybody.
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


@admin.register(LinkEvent)
class LinkEventAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The trail, to read and to search."""

    list_display = ("at", "user", "provider", "event", "code", "actor", "actor_user")
    list_filter = ("event", "provider", "actor", "at")
    list_select_related = ("user", "actor_user")
    list_per_page = 100
    show_full_result_count = False
    ordering = ("-at", "-id")
    actions = None

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        return ["code", *_user_search_fields()]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Only along with its user, about whose deletion Django asks here as well.
        match = request.resolver_match
        if match is None or (match.url_name or "").startswith("integrations_linkevent_"):
            return False
        return super().has_delete_permission(request, obj)


@admin.register(Gear)
class GearAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Gear as the providers list it; each synchronisation would undo an edit."""

    list_display = ("__str__", "user", "provider", "kind", "kilometres", "primary", "retired")
    list_filter = ("provider", "kind", "retired", "primary")
    list_select_related = ("user",)
    list_per_page = 100
    show_full_result_count = False
    ordering = ("-id",)
    actions = None

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        return ["name", "brand", "model", *_user_search_fields()]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description=_("km"), ordering="distance")
    def kilometres(self, gear: Gear) -> str:
        return f"{gear.distance / 1000:,.0f}"


@admin.register(UsersIntegrations)
class UsersIntegrationsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "user",
        "strava",
        "strava_health",
        "strava_token_expires_at",
        "scopes",
        "garminconnect",
        "garminconnect_health",
        "gear_count",
    )
    list_filter = (
        StravaStatusFilter,
        GarminConnectStatusFilter,
        StravaExpiryFilter,
        StravaErrorFilter,
        GarminConnectErrorFilter,
        StravaScopeFilter,
    )
    list_select_related = ("user",)
    list_per_page = 100
    show_full_result_count = False
    ordering = ("-id",)
    actions = (
        "refresh_strava",
        "disconnect_strava",
        "refresh_garminconnect",
        "disconnect_garminconnect",
        "sync_gear",
    )
    fieldsets = (
        (None, {"fields": ("user", "created_at")}),
        (
            _("Strava"),
            {
                "fields": (
                    "strava",
                    "strava_health",
                    "strava_told",
                    "strava_athlete_id",
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
        # A second lock on the door: what is never loaded can never be shown. Of the tokens
        # only whether they are there is needed.
        rows: QuerySet[UsersIntegrations] = super().get_queryset(request)
        gear = Gear.objects.filter(user=OuterRef("user")).order_by().values("user")
        return rows.annotate(gear_count=Subquery(gear.values(count=Count("pk")))).defer(
            "strava_client_secret",
            "strava_state",
            "strava_pending_client_id",
            "strava_pending_client_secret",
            "strava_refresh_token",
        )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: UsersIntegrations) -> None:
        with services.acting_as("staff", request.user.pk):
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]) -> None:
        with services.acting_as("staff", request.user.pk):
            super().delete_queryset(request, queryset)

    @method_decorator(transaction.non_atomic_requests)
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        # Its actions ask providers.
        return super().changelist_view(request, extra_context)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        # Or the list could be asked, letter by letter, for a state that is still open.
        return not lookup.startswith("strava_state") and super().lookup_allowed(
            lookup, value, request
        )

    def has_act_on_links_permission(self, request: HttpRequest) -> bool:
        """Who may use the actions: Django's change permission, though no form uses it."""
        return request.user.has_perm("integrations.change_usersintegrations")

    @admin.display(description=_("Strava"))
    def strava(self, row: UsersIntegrations) -> str:
        return str(row.strava_status.label)

    @admin.display(description=_("Garmin Connect"))
    def garminconnect(self, row: UsersIntegrations) -> str:
        return str(row.garminconnect_status.label)

    @admin.display(description=_("Health"), ordering="strava_error")
    def strava_health(self, row: UsersIntegrations) -> str:
        return _health(row.strava_status, link_error(row, "strava"))

    @admin.display(description=_("The athlete is told"))
    def strava_told(self, row: UsersIntegrations) -> str:
        return _told("strava", link_error(row, "strava"))

    @admin.display(description=_("Health"), ordering="garminconnect_error")
    def garminconnect_health(self, row: UsersIntegrations) -> str:
        return _health(row.garminconnect_status, link_error(row, "garminconnect"))

    @admin.display(description=_("The athlete is told"))
    def garminconnect_told(self, row: UsersIntegrations) -> str:
        return _told("garminconnect", link_error(row, "garminconnect"))

    @admin.display(description=_("Gear"), ordering="gear_count")
    def gear_count(self, row: Any) -> int:
        return row.gear_count or 0

    @admin.display(description=_("Scopes"), ordering="strava_scope")
    def scopes(self, row: UsersIntegrations) -> str:
        return ", ".join(row.strava_scopes)

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
    ) -> None:
        self._for_each(
            request,
            queryset,
            services.disconnect_strava,
            lambda n: ngettext("%d athlete disconnected.", "%d athletes disconnected.", n) % n,
            _("Disconnected from Strava by hand."),
        )

    @admin.action(description=_("Refresh Garmin sessions now"), permissions=["act_on_links"])
    def refresh_garminconnect(
        self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]
    ) -> None:
        self._for_each(
            request,
            queryset,
            services.refresh_garminconnect_session,
            lambda n: ngettext("%d session refreshed.", "%d sessions refreshed.", n) % n,
            _("Garmin session refreshed by hand."),
        )

    @admin.action(description=_("Disconnect from Garmin Connect"), permissions=["act_on_links"])
    def disconnect_garminconnect(
        self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]
    ) -> None:
        self._for_each(
            request,
            queryset,
            services.disconnect_garminconnect,
            lambda n: ngettext("%d athlete disconnected.", "%d athletes disconnected.", n) % n,
            _("Disconnected from Garmin Connect by hand."),
        )

    @admin.action(description=_("Synchronise gear soon"), permissions=["act_on_links"])
    def sync_gear(self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]) -> None:
        def enqueue(user_id: int) -> None:
            for provider in services.PROVIDERS:
                tasks.enqueue(tasks.sync_gear, user_id, provider, *services.acting())

        self._for_each(
            request,
            queryset,
            enqueue,
            lambda n: ngettext("%d athlete’s gear", "%d athletes’ gear", n) % n,
            _("Gear synchronisation started by hand."),
        )

    def _for_each(
        self,
        request: HttpRequest,
        queryset: QuerySet[UsersIntegrations],
        service: Callable[[int], Any],
        summary: Callable[[int], str],
        trail: Any,
    ) -> None:
        """Run a service for each row: one that fails is named and stops no other."""
        count = 0
        for row in queryset.select_related("user"):
            try:
                with services.acting_as("staff", request.user.pk):
                    service(row.user_id)
            except IntegrationsError as exc:
                self.message_user(request, f"{row.user}: {exc.user_message}", messages.WARNING)
            else:
                count += 1
                self.log_change(request, row, str(trail))
        if count:
            self.message_user(request, summary(count), messages.SUCCESS)
