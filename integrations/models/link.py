from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from .. import fields
from ..clock import read_at


class LinkStatus(models.TextChoices):
    """The state of a link, as named on the page, the status URL and the admin."""

    NOT_LINKED = "not_linked", _("Not connected")
    LINKED = "linked", _("Connected")
    RELINK_REQUIRED = "relink_required", _("Needs reconnecting")
    # While a sign-in is under way:
    LINKING = "linking", _("Connecting")
    MFA_REQUIRED = "mfa_required", _("Waiting for your code")


class Units(models.TextChoices):
    """How an athlete wants distances, as set at the provider."""

    METRIC = "metric", _("Kilometers")
    IMPERIAL = "imperial", _("Miles")


def name_of(row: Any) -> str:
    """The owner, by name if the user is loaded already: this makes no query."""
    return str(row.user) if "user" in row._state.fields_cache else f"user {row.user_id}"


class Link(fields.KeepsSecretsSealed):
    """One user's link to one provider; those of UsersIntegrations alone are stored there.

    The secrets and the health of a link are in one row, so that one guarded statement writes them.
    """

    exported_as = "links"

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="integrations_links"
    )
    provider = models.CharField(max_length=16)
    created_at = models.DateTimeField(auto_now_add=True)
    # The database's time when a service read the row (see clock.dated); no column.
    read_at: datetime

    # The link. Without an expiry, the token lives until it is revoked. Scopes are comma-separated:
    # a lone comma if nothing was granted, empty if unknown.
    token = fields.EncryptedTextField(null=True, blank=True)
    refresh_token = fields.EncryptedTextField(null=True, blank=True)
    token_expires_at = models.DateTimeField(_("token expires"), null=True, blank=True)
    scope = models.TextField(blank=True, default="")
    account_id = models.CharField(_("account id"), max_length=255, null=True, blank=True)  # noqa: DJ001
    account_name = models.CharField(_("account"), max_length=255, blank=True, default="")
    # The site's app that made the link: tokens work only with their own client.
    site_client_id = models.CharField(max_length=255, blank=True, default="")
    linked_at = models.DateTimeField(_("connected since"), null=True, blank=True)

    # An authorization in progress, and what its redirect's second delivery has to know (see
    # UsersIntegrations).
    state = fields.InternalTextField(null=True, blank=True, unique=True)
    state_expires_at = models.DateTimeField(null=True, blank=True)
    redirect_uri = fields.InternalTextField(blank=True, default="")
    spent_state = fields.InternalCharField(max_length=64, blank=True, default="")
    exchanging_state = fields.InternalCharField(max_length=64, blank=True, default="")
    exchanging_until = fields.InternalDateTimeField(null=True, blank=True)
    exchanging_error = fields.InternalCharField(max_length=64, blank=True, default="")

    # Health.
    refreshed_at = models.DateTimeField(_("last refreshed"), null=True, blank=True)
    relink_required_at = models.DateTimeField(_("needs reconnecting since"), null=True, blank=True)
    error = models.CharField(_("error"), max_length=64, blank=True, default="")
    failures = models.PositiveIntegerField(_("failures in a row"), default=0)
    retry_at = models.DateTimeField(_("not tried again before"), null=True, blank=True)
    limited_until = models.DateTimeField(null=True, blank=True)
    limited_reads = models.BooleanField(default=False)

    # The right to refresh, held by one refresher at a time.
    lease = fields.InternalUUIDField(null=True, blank=True)
    lease_until = fields.InternalDateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("link")
        verbose_name_plural = _("links")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "provider"], name="link_once_per_provider"),
            models.UniqueConstraint(
                fields=["provider", "account_id"], name="link_once_per_account"
            ),
        ]
        indexes: ClassVar = [
            # For a sweep, and for links that have run into their app's rate limit.
            models.Index(fields=["provider", "token_expires_at"], name="link_due"),
            models.Index(fields=["provider", "limited_until"], name="link_limited"),
        ]

    def __str__(self) -> str:
        return f"{self.provider} of {name_of(self)}"


@dataclass(eq=False)
class Home:
    """Where a provider's links are stored: a model, the columns in it, and a condition on its rows.

    Columns are called by the names that Link gives them, whatever they are called in the table.
    `tokens` are the secrets without which there is no link.
    """

    model: Any
    prefix: str = ""
    tokens: tuple[str, ...] = ("token",)
    names: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The model's fields that belong to a link, by their names here."""
        by_name = {field.name: field for field in self.model._meta.concrete_fields}
        found = {
            name.removeprefix(self.prefix): field
            for name, field in by_name.items()
            if name.startswith(self.prefix) and not field.primary_key and not field.is_relation
        }
        return found | {name: by_name[column] for name, column in self.names.items()}

    @cached_property
    def secrets(self) -> list[str]:
        """The encrypted fields of a link; not those of an authorization in progress."""
        return [
            name
            for name, field in self.fields.items()
            if isinstance(field, fields.EncryptedTextField) and not name.startswith("pending_")
        ]

    def has(self, name: str) -> bool:
        """Whether links of this home have such a column."""
        return name in self.fields

    def column(self, name: str) -> str:
        """A column's name in the table; it may have a lookup at its end."""
        base, separator, lookup = name.partition("__")
        return self.names.get(base, self.prefix + base) + separator + lookup

    def columns(self, **values: Any) -> dict[str, Any]:
        """Values by column. What this home has no column for is left out."""
        return {
            self.column(name): value
            for name, value in values.items()
            if name.partition("__")[0] in self.fields
        }

    def q(self, **conditions: Any) -> Q:
        return Q(**{self.column(name): value for name, value in conditions.items()})

    def rows(self) -> Any:
        return self.model.objects.filter(**self.where)

    def of(self, user_id: Any) -> Any:
        """The rows of one user: one at most."""
        return self.model.objects.filter(user_id=user_id, **self.where)

    def write(self, user_id: Any, only_if: Q, /, **values: Any) -> bool:
        """Write one user's row in one statement, if it is so; returns whether it was."""
        return bool(self.of(user_id).filter(only_if).update(**self.columns(**values)))

    def loaded(self) -> Any:
        """The rows without the secrets of other links in them, which need not be loaded."""
        mine = {field.name for field in self.fields.values()}
        others = [
            field.name
            for field in self.model._meta.concrete_fields
            if isinstance(field, fields.EncryptedTextField) and field.name not in mine
        ]
        return self.rows().defer(*others)

    def get(self, row: Any, name: str) -> Any:
        return getattr(row, self.column(name))

    def sealed(self, row: Any, name: str) -> Any:
        """An encrypted value as it is stored: Sealed, or None."""
        return row.sealed(self.column(name))

    def has_secret(self, row: Any, name: str) -> bool:
        return name in self.fields and self.sealed(row, name) is not None

    # --- The state of a link --------------------------------------------------------------------

    def is_linked(self, row: Any) -> bool:
        """Whether there is a link, alive or not."""
        return any(self.has_secret(row, name) for name in self.tokens)

    def has_ended(self, row: Any) -> bool:
        """Whether the provider has ended the link, or its token, which nothing renews."""
        if self.get(row, "relink_required_at") is not None:
            return True
        if not self.where or self.has_secret(row, "refresh_token"):
            return False
        expires_at = self.get(row, "token_expires_at")
        return expires_at is not None and expires_at <= read_at(row)

    def is_readable(self, row: Any) -> bool:
        """Whether the current keys can open a link's secrets; decrypts nothing.

        Deferred fields are not checked.
        """
        loaded = (row.__dict__.get(self.column(name)) for name in self.secrets)
        return all(each.is_readable() for each in loaded if isinstance(each, fields.Sealed))

    def status(self, row: Any) -> LinkStatus:
        if not self.is_linked(row):
            return LinkStatus.NOT_LINKED
        if self.has_ended(row) or not self.is_readable(row):
            return LinkStatus.RELINK_REQUIRED
        return LinkStatus.LINKED

    @cached_property
    def conditions(self) -> dict[LinkStatus, Q]:
        """`status` as conditions of a query, which cannot see that a key was lost."""
        linked = Q()
        for name in self.tokens:
            linked |= self.q(**{f"{name}__isnull": False})
        alive = self.q(relink_required_at__isnull=True)
        if self.where:
            alive &= ~self.q(refresh_token__isnull=True, token_expires_at__lte=Now())
        return {
            LinkStatus.NOT_LINKED: ~linked,
            LinkStatus.LINKED: linked & alive,
            LinkStatus.RELINK_REQUIRED: linked & ~alive,
        }

    def scopes(self, row: Any) -> list[str]:
        """What was granted, as far as it is known."""
        return [scope for scope in (self.get(row, "scope") or "").split(",") if scope]
