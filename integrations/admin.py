"""The admin for staff: what is linked and what needs help, but never a secret.

Nothing here is editable, because an edit could only break a link. Staff help a link with the
actions, which call services.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import models
from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html_join
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from . import providers, services, tasks
from .exceptions import IntegrationsError
from .fields import EncryptedTextField, Internal
from .links import Provider
from .models import Gear, LinkEvent, LinkStatus, UsersIntegrations
from .services import status, trail
from .services.links import disconnect
from .web import outside_transactions

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


def _known() -> list[Provider]:
    return list(providers.known().values())


def _whose(provider: Provider, condition: Q) -> Q:
    """The rows of UsersIntegrations whose link to a provider is so."""
    home = provider.home
    if home.model is UsersIntegrations:
        return condition
    return Q(Exists(home.rows().filter(condition, user=OuterRef("user"))))


def _offered() -> list[Provider]:
    """Those that the list has room for: what this site offers."""
    return [each for each in _known() if each.is_shown()]


def _stored_here() -> list[Provider]:
    return [each for each in _known() if each.home.model is UsersIntegrations]


class StatusFilter(admin.SimpleListFilter):
    """By the state of a provider's link."""

    parameter_name: str
    provider: Provider

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(status.value, status.label) for status in self.provider.home.conditions]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        conditions = self.provider.home.conditions
        value = self.value()
        if value not in conditions:
            return queryset
        if value == LinkStatus.NOT_LINKED:  # it may be that there is no row
            linked = ~conditions[LinkStatus.NOT_LINKED]
            return queryset.exclude(_whose(self.provider, linked))
        return queryset.filter(_whose(self.provider, conditions[LinkStatus(value)]))


class ExpiryFilter(admin.SimpleListFilter):
    """By the age of a provider's token."""

    parameter_name: str
    provider: Provider

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("fresh", _("Fresh")), ("expired", _("Expired"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        now, home = timezone.now(), self.provider.home
        match self.value():
            case "fresh":
                return queryset.filter(_whose(self.provider, home.q(token_expires_at__gt=now)))
            case "expired":
                return queryset.filter(_whose(self.provider, home.q(token_expires_at__lte=now)))
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


def _filters() -> list[type[admin.SimpleListFilter]]:
    """The filters of each provider's links, as far as they are in the row."""

    def filter_of(kind: Any, provider: Provider, name: str, title: Any) -> Any:
        attrs = {"provider": provider, "parameter_name": name, "title": title}
        return type(kind.__name__, (kind,), attrs)

    found = []
    for each in _known():
        found.append(filter_of(StatusFilter, each, each.name, each.label))
        if each.is_swept:
            words = _("%(provider)s token") % {"provider": each.label}
            found.append(filter_of(ExpiryFilter, each, f"{each.name}_token_age", words))
    for each in _stored_here():
        for name, title in (
            ("error", _("%(provider)s error")),
            ("scope", _("%(provider)s scopes")),
        ):
            if each.home.has(name):
                column = each.home.column(name)
                words = title % {"provider": each.short_label}
                found.append(filter_of(StoredValuesFilter, each, column, words))
    return found


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
        kept = {
            field.name
            for field in self.opts.fields
            if isinstance(field, EncryptedTextField | Internal)
        }
        return (
            column not in kept
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


class UsersIntegrationsAdmin(ReadOnlyAdmin):
    ordering = ("-id",)
    # Of a provider's columns, these are shown, where it has them.
    shown = (
        "linked_at",
        "refreshed_at",
        "token_expires_at",
        "relink_required_at",
        "failures",
        "retry_at",
        "is_cn",
        "login_error",
        "sync_gear",
        "synced_at",
        "sync_error",
        "sync_due_at",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for provider in _known():
            for name, column in _columns(provider).items():
                setattr(self, name, column)
        self.actions = [each for provider in _known() for each in _actions(provider)]
        self.actions.append("sync_gear")

    def get_list_display(self, request: HttpRequest) -> Any:
        states = [f"{each.name}{what}" for each in _offered() for what in ("_link", "_health")]
        more = [each.home.column("token_expires_at") for each in _stored_here() if each.is_swept]
        scopes = [f"{each.name}_scopes" for each in _stored_here() if each.home.has("scope")]
        return ["user", *states, "gear_count", *more, *scopes]

    def get_list_filter(self, request: HttpRequest) -> Any:
        return _filters()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        found: list[Any] = [(None, {"fields": ("user", "created_at", "more")})]
        for each in _known():
            fields = [*_columns(each)]
            if each.home.model is UsersIntegrations:
                fields += [each.home.column(name) for name in self.shown if each.home.has(name)]
            found.append((each.label, {"fields": fields}))
        return found

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        """By user, whatever the host project's user model calls its fields."""
        return _user_search_fields()

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsersIntegrations]:
        # A second lock on the door: what is never loaded can never be shown. Of the tokens, the
        # page only needs to know whether they exist.
        rows: QuerySet[UsersIntegrations] = super().get_queryset(request)
        gear = Gear.objects.filter(user=OuterRef("user")).order_by().values("user")
        needed = {
            each.home.column(name)
            for each in _stored_here()
            for name in (*each.home.tokens, "client_id")
        }
        kept = [
            field.name
            for field in self.opts.fields
            if isinstance(field, EncryptedTextField | Internal) and field.name not in needed
        ]
        counted = rows.annotate(gear_count=Subquery(gear.values(count=Count("pk"))))
        rows = counted.defer(*kept)
        if all(each.home.model is UsersIntegrations for each in _offered()):
            return rows
        return rows.prefetch_related("user__integrations_links")

    def delete_model(self, request: HttpRequest, obj: UsersIntegrations) -> None:
        with services.acting_as("staff", request.user.pk):
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]) -> None:
        with services.acting_as("staff", request.user.pk):
            super().delete_queryset(request, queryset)

    @method_decorator(outside_transactions)
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

    @admin.display(description=_("Gear"), ordering="gear_count")
    def gear_count(self, row: Any) -> int:
        return row.gear_count or 0

    # --- Actions --------------------------------------------------------------------------------

    def _refresh(
        self, request: HttpRequest, queryset: QuerySet[UsersIntegrations], provider: Provider
    ) -> None:
        def enqueue(user_id: Any) -> None:
            # Only workers ask this provider.
            if not provider.home.of(user_id).filter(
                ~provider.home.conditions[LinkStatus.NOT_LINKED]
            ):
                raise provider.not_linked
            tasks.enqueue(tasks.refresh_link, user_id, provider.name, *trail.acting())

        name = {"short": provider.short_label}
        if provider.by_workers:
            self._for_each(
                request,
                queryset,
                enqueue,
                lambda n: (
                    ngettext("%d session will be refreshed.", "%d sessions will be refreshed.", n)
                    % n
                ),
                _("Refresh of the %(short)s session started by hand.") % name,
            )
            return
        self._for_each(
            request,
            queryset,
            lambda user_id: services.refresh_link(user_id, provider.name),
            lambda n: ngettext("%d token refreshed.", "%d tokens refreshed.", n) % n,
            _("%(short)s token refreshed by hand.") % name,
        )

    def _disconnect(
        self, request: HttpRequest, queryset: QuerySet[UsersIntegrations], provider: Provider
    ) -> HttpResponse | None:
        name = {"provider": provider.label, "short": provider.short_label}
        if "confirmed" not in request.POST:
            meaning = (
                _(
                    "Access is revoked at %(short)s, and the gear that came from there is deleted "
                    "here. To connect again, the athletes have to come back themselves."
                )
                if provider.revokes
                else _(
                    "The sessions and the gear that came from %(short)s are deleted here. To "
                    "connect again, the athletes have to come back and enter their passwords."
                )
            )
            title = _("Disconnect from %(provider)s") % name
            return self._confirm(request, queryset, title, meaning % name)
        self._for_each(
            request,
            queryset,
            lambda user_id: disconnect(user_id, provider.name),
            lambda n: ngettext("%d athlete disconnected.", "%d athletes disconnected.", n) % n,
            _("Disconnected from %(provider)s by hand.") % name,
        )
        return None

    @admin.action(description=_("Sync gear soon"), permissions=["act_on_links"])
    def sync_gear(self, request: HttpRequest, queryset: QuerySet[UsersIntegrations]) -> None:
        def enqueue(user_id: int) -> None:
            for provider in providers.with_gear():
                tasks.enqueue(tasks.sync_gear, user_id, provider.name, *trail.acting())

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
        self,
        request: HttpRequest,
        queryset: QuerySet[UsersIntegrations],
        title: str,
        meaning: str,
    ) -> HttpResponse | None:
        """Ask before an action that cannot be undone; the answer is the same action, confirmed."""
        if self._are_too_many(request, queryset):
            return None
        action = request.POST["action"]
        context = {
            **self.admin_site.each_context(request),
            "title": title,
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


def _columns(provider: Provider) -> dict[str, Any]:
    """What the list and a row's page say of a provider's link, by the names of the columns."""
    home = provider.home

    def link_of(row: UsersIntegrations) -> Any:
        if home.model is UsersIntegrations:
            return row
        links = row.user.integrations_links.all()
        return next((link for link in links if link.provider == provider.name), None)

    def column(name: str, words: Any, tell: Callable[[Any], Any], ordering: str = "") -> Any:
        def told(row: UsersIntegrations) -> str:
            link = link_of(row)
            return "-" if link is None else str(tell(link))

        told.__name__ = name
        here = ordering and home.model is UsersIntegrations and home.has(ordering)
        return admin.display(
            told,
            description=words % {"provider": provider.label, "short": provider.short_label},
            ordering=home.column(ordering) if here else None,
        )

    def app(link: Any) -> Any:
        if home.has_secret(link, "client_id"):
            return _("The athlete’s own")
        return _("The site’s") if home.is_linked(link) else ""

    found = {
        # Under its name alone, a provider called Form would replace the admin's own `form`.
        "_link": (_("%(provider)s"), lambda link: home.status(link).label, ""),
        "_health": (
            _("%(short)s health"),
            lambda link: _health(home.status(link), status.link_error(provider, link)),
            "error",
        ),
        "_told": (
            _("The athlete is told"),
            lambda link: status.link_message(provider, link) or "-",
            "",
        ),
    }
    if home.has("account_id"):
        # Without Django's separators for numbers: an id is a name.
        found["_athlete"] = (
            _("Athlete id"),
            lambda link: home.get(link, "account_id") or "-",
            "account_id",
        )
    if home.has("scope"):
        found["_scopes"] = (_("Scopes"), lambda link: ", ".join(home.scopes(link)), "scope")
    if home.has("client_id"):
        found["_app"] = (_("%(provider)s app"), app, "")
    return {
        f"{provider.name}{end}": column(f"{provider.name}{end}", *what)
        for end, what in found.items()
    }


def _actions(provider: Provider) -> Iterator[Callable[..., Any]]:
    """What staff can do with the links to a provider."""
    name = {"provider": provider.label, "short": provider.short_label}
    refresh = _("Refresh %(short)s tokens now")
    if provider.by_workers:
        refresh = _("Refresh %(short)s sessions soon")
    for verb, work, words in (
        ("refresh", UsersIntegrationsAdmin._refresh, refresh),
        ("disconnect", UsersIntegrationsAdmin._disconnect, _("Disconnect from %(provider)s")),
    ):

        def act(admin: Any, request: Any, queryset: Any, work: Any = work) -> Any:
            return work(admin, request, queryset, provider)

        act.__name__ = f"{verb}_{provider.name}"
        yield admin.action(act, description=words % name, permissions=["act_on_links"])


admin.site.register(UsersIntegrations, UsersIntegrationsAdmin)
