"""The admin for staff: what is linked and what needs help, but never a secret.

Nothing here is editable, because an edit could only break a link. Staff help a link with the
actions, which call services.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import models
from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html_join
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

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

Rows = QuerySet[UsersIntegrations]


def _health(status: LinkStatus, code: str) -> str:
    """A code in a word or two, for a column."""
    if code:
        return code.replace("_", " ").capitalize()
    return "" if status == LinkStatus.NOT_LINKED else str(_("Good"))


_TEXT: Any = models.CharField | models.TextField


def _kept(model: Any) -> set[str]:
    """The columns that nobody may look at or ask for."""
    kept: Any = EncryptedTextField | Internal
    return {field.name for field in model._meta.fields if isinstance(field, kept)}


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


class LinkFilter(admin.SimpleListFilter):
    """By what is so of a provider's link: labels and conditions, by what the URL calls them."""

    offered: Mapping[str, tuple[Any, Q]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(value, label) for value, (label, _condition) in self.offered.items()]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        _label, condition = self.offered.get(str(self.value()), ("", Q()))
        return queryset.filter(condition)


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

    found: list[Any] = []

    def add(kind: Any, name: str, title: Any, **more: Any) -> None:
        attrs = {"parameter_name": name, "title": title, **more}
        found.append(type(kind.__name__, (kind,), attrs))

    for each in _known():
        states = each.home.conditions
        offered = {state.value: (state.label, _whose(each, states[state])) for state in states}
        none = LinkStatus.NOT_LINKED
        # It may be that there is no row.
        offered[none.value] = (none.label, ~_whose(each, ~states[none]))
        add(LinkFilter, each.name, each.label, offered=offered)
        if each.is_swept:
            words = _("%(provider)s token") % {"provider": each.label}
            ages = {
                "fresh": (_("Fresh"), _whose(each, each.home.q(token_expires_at__gt=Now()))),
                "expired": (_("Expired"), _whose(each, each.home.q(token_expires_at__lte=Now()))),
            }
            add(LinkFilter, f"{each.name}_token_age", words, offered=ages)
    titles = {"error": _("%(provider)s error"), "scope": _("%(provider)s scopes")}
    for each in _stored_here():
        for name in filter(each.home.has, titles):
            words = titles[name] % {"provider": each.short_label}
            add(StoredValuesFilter, each.home.column(name), words)
    return found


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that others write, to read and to search."""

    list_per_page = 100
    list_select_related: ClassVar[tuple[str, ...]] = ("user",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("user")  # a row's name shows the user

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        """By user too, whatever the host project's user model calls its fields."""
        user = get_user_model()
        names = {user.USERNAME_FIELD, user.get_email_field_name(), "first_name", "last_name"}
        texts = (each.name for each in user._meta.get_fields() if isinstance(each, _TEXT))
        return [*self.search_fields, *(f"user__{name}" for name in texts if name in names)]

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
        return (
            column not in _kept(self.model)
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
    search_fields = ("code",)
    ordering = ("-at", "-id")

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
    search_fields = ("name", "brand", "model")

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
        counted = rows.annotate(gear_count=Subquery(gear.values(count=Count("pk"))))
        rows = counted.defer(*_kept(self.model) - needed)
        if all(each.home.model is UsersIntegrations for each in _offered()):
            return rows
        return rows.prefetch_related("user__integrations_links")

    @method_decorator(outside_transactions)
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        # Its actions ask providers.
        with _as_staff(request):
            return super().changelist_view(request, extra_context)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with _as_staff(request):
            return super().delete_view(request, *args, **kwargs)

    def has_act_on_links_permission(self, request: HttpRequest) -> bool:
        """Who may use the actions: Django's change permission, though no form uses it."""
        return request.user.has_perm("integrations.change_usersintegrations")

    @admin.display(description=_("Elsewhere"))
    def more(self, row: UsersIntegrations) -> str:
        pages = {"linkevent": _("The trail"), "gear": _("Gear")}.items()
        links = (
            (reverse(f"admin:integrations_{name}_changelist"), row.user_id, words)
            for name, words in pages
        )
        return format_html_join(" · ", '<a href="{}?user={}">{}</a>', links)

    @admin.display(description=_("Gear"), ordering="gear_count")
    def gear_count(self, row: Any) -> int:
        return row.gear_count or 0

    # --- Actions --------------------------------------------------------------------------------

    def _refresh(self, request: HttpRequest, queryset: Rows, provider: Provider) -> None:
        unlinked = provider.home.conditions[LinkStatus.NOT_LINKED]

        def refresh(user_id: Any) -> None:
            if not provider.by_workers:
                services.refresh_link(user_id, provider.name)
            elif provider.home.of(user_id).exclude(unlinked):
                tasks.enqueue(tasks.refresh_link, user_id, provider.name, *trail.acting())
            else:
                raise provider.not_linked

        noted = _("%(short)s token refreshed by hand.")
        summary = ngettext_lazy("%d token refreshed.", "%d tokens refreshed.")
        if provider.by_workers:
            noted = _("Refresh of the %(short)s session started by hand.")
            summary = ngettext_lazy(
                "%d session will be refreshed.", "%d sessions will be refreshed."
            )
        self._for_each(request, queryset, refresh, summary, noted % _names(provider))

    def _disconnect(
        self, request: HttpRequest, queryset: Rows, provider: Provider
    ) -> HttpResponse | None:
        names = _names(provider)
        if "confirmed" not in request.POST:
            meaning = _(
                "The sessions and the gear that came from %(short)s are deleted here. To "
                "connect again, the athletes have to come back and enter their passwords."
            )
            if provider.revokes:
                meaning = _(
                    "Access is revoked at %(short)s, and the gear that came from there is deleted "
                    "here. To connect again, the athletes have to come back themselves."
                )
            title = _("Disconnect from %(provider)s") % names
            return self._confirm(request, queryset, title, meaning % names)
        self._for_each(
            request,
            queryset,
            lambda user_id: disconnect(user_id, provider.name),
            ngettext_lazy("%d athlete disconnected.", "%d athletes disconnected."),
            _("Disconnected from %(provider)s by hand.") % names,
        )
        return None

    @admin.action(description=_("Sync gear soon"), permissions=["act_on_links"])
    def sync_gear(self, request: HttpRequest, queryset: Rows) -> None:
        def enqueue(user_id: int) -> None:
            for provider in providers.with_gear():
                tasks.enqueue(tasks.sync_gear, user_id, provider.name, *trail.acting())

        summary = ngettext_lazy(
            "The gear of %d athlete will be synced.", "The gear of %d athletes will be synced."
        )
        self._for_each(request, queryset, enqueue, summary, _("Gear sync started by hand."))

    def _confirm(
        self, request: HttpRequest, queryset: Rows, title: str, meaning: str
    ) -> HttpResponse | None:
        """Ask before an action that cannot be undone; the answer is the same action, confirmed."""
        if self._are_too_many(request, queryset):
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "meaning": meaning,
            "opts": self.opts,
            "count": queryset.count(),
            "users": [row.user for row in queryset[:NAMED]],
            "action": request.POST["action"],
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
            "checkbox": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/integrations/confirm_action.html", context)

    def _are_too_many(self, request: HttpRequest, queryset: Rows) -> bool:
        if queryset.count() <= AT_ONCE:
            return False
        words = _("Choose at most %d: the provider is asked about each of them.") % AT_ONCE
        self.message_user(request, words, messages.ERROR)
        return True

    def _for_each(
        self,
        request: HttpRequest,
        queryset: Rows,
        service: Callable[[int], Any],
        summary: Any,
        noted: Any,
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
                service(row.user_id)
            except IntegrationsError as exc:
                failed.append(f"{row.user}: {services.staff_message(exc)}")
            else:
                count += 1
                self.log_change(request, row, str(noted))
        warnings, left = failed[:NAMED], len(rows) - count - len(failed)
        if (more := len(failed) - NAMED) > 0:
            warnings.append(_OTHERS % more)
        if left > 0:
            warnings.append(_LEFT_OUT % left)
        for words in warnings:
            self.message_user(request, words, messages.WARNING)
        if count:
            self.message_user(request, summary % count, messages.SUCCESS)


_OTHERS = ngettext_lazy("%d other failed too.", "%d others failed too.")
_LEFT_OUT = ngettext_lazy(
    "%d was left out, because this took too long. Nothing was changed there: choose it again.",
    "%d were left out, because this took too long. Nothing was changed there: choose them again.",
)


@contextmanager
def _as_staff(request: HttpRequest) -> Iterator[None]:
    with services.short_waits(), services.acting_as("staff", request.user.pk):
        yield


def _names(provider: Provider) -> dict[str, str]:
    return {"provider": provider.label, "short": provider.short_label}


def _columns(provider: Provider) -> dict[str, Any]:
    """What the list and a row's page say of a provider's link, by the names of the columns."""
    home = provider.home
    is_here = home.model is UsersIntegrations
    found: dict[str, Any] = {}

    def add(end: str, words: Any, tell: Callable[[Any], Any], by: str = "") -> None:
        def told(row: UsersIntegrations) -> str:
            links: Any = [row] if is_here else row.user.integrations_links.all()
            mine = (link for link in links if is_here or link.provider == provider.name)
            return next((str(tell(link)) for link in mine), "-")

        name = told.__name__ = f"{provider.name}{end}"
        ordering = home.column(by) if by and is_here else None
        found[name] = admin.display(told, description=words % _names(provider), ordering=ordering)

    def health(link: Any) -> str:
        return _health(home.status(link), status.link_error(provider, link))

    def app(link: Any) -> Any:
        if home.has_secret(link, "client_id"):
            return _("The athlete’s own")
        return _("The site’s") if home.is_linked(link) else ""

    def account(link: Any) -> Any:
        # Without Django's separators for numbers: an id is a name.
        return home.get(link, "account_id") or "-"

    # Under its name alone, a provider called Form would replace the admin's own `form`.
    add("_link", _("%(provider)s"), lambda link: home.status(link).label)
    add("_health", _("%(short)s health"), health, "error")
    add("_told", _("The athlete is told"), lambda link: status.link_message(provider, link) or "-")
    if home.has("account_id"):
        add("_athlete", _("Athlete id"), account, "account_id")
    if home.has("scope"):
        add("_scopes", _("Scopes"), lambda link: ", ".join(home.scopes(link)), "scope")
    if home.has("client_id"):
        add("_app", _("%(provider)s app"), app)
    return found


def _actions(provider: Provider) -> Iterator[Callable[..., Any]]:
    """What staff can do with the links to a provider."""
    refresh = _("Refresh %(short)s tokens now")
    if provider.by_workers:
        refresh = _("Refresh %(short)s sessions soon")
    for verb, words in (("refresh", refresh), ("disconnect", _("Disconnect from %(provider)s"))):

        def act(admin: Any, request: Any, queryset: Any, verb: str = verb) -> Any:
            return getattr(admin, f"_{verb}")(request, queryset, provider)

        act.__name__ = f"{verb}_{provider.name}"
        said = words % _names(provider)
        yield admin.action(act, description=said, permissions=["act_on_links"])


admin.site.register(UsersIntegrations, UsersIntegrationsAdmin)
