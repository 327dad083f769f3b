from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from .. import fields
from .link import Home, LinkStatus, Units, name_of


def _index(name: str, field: str, **condition: Any) -> models.Index:
    """Of the rows in which the field is set."""
    condition = {f"{field}__isnull": False} | condition
    return models.Index(fields=[field], condition=Q(**condition), name=f"users_integrations_{name}")


class UsersIntegrations(fields.KeepsSecretsSealed):
    """What one user has linked. One row per user; only services write it."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="users_integrations"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    # The database's time when a service read the row (see clock.dated); no column.
    read_at: datetime

    exported_as = "integrations"

    # Strava: the link. The client is the athlete's own app; null where the site's app is used.
    strava_client_id = fields.EncryptedTextField(null=True, blank=True)
    strava_client_secret = fields.EncryptedTextField(null=True, blank=True)
    strava_token = fields.EncryptedTextField(null=True, blank=True)
    strava_refresh_token = fields.EncryptedTextField(null=True, blank=True)
    strava_token_expires_at = models.DateTimeField(_("token expires"), null=True, blank=True)
    strava_sync_gear = models.BooleanField(_("gear sync"), default=False)
    strava_athlete_id = models.BigIntegerField(_("athlete id"), null=True, blank=True)
    # What was granted, comma-separated as Strava sends it; never what was merely requested. A lone
    # comma if nothing was granted, empty if unknown: the last release reads both as no scope. It
    # cannot read a null, so nobody may write one yet.
    strava_scope = models.TextField(null=True, blank=True, default="")  # noqa: DJ001
    # Columns that the last release does not know have a default in the database, for its inserts.
    strava_athlete_name = models.CharField(
        _("athlete"), max_length=255, blank=True, default="", db_default=""
    )
    # The site's app that made the link. A refresh token works only with its own client, and a typo
    # in STRAVA_CLIENT_ID must not look like a dead link.
    strava_site_client_id = models.CharField(max_length=255, blank=True, default="")
    strava_linked_at = models.DateTimeField(_("connected since"), null=True, blank=True)

    # Strava: gear. `due_at` is the time of the next sync, `syncing_until` is when a running sync
    # loses its claim.
    strava_units = models.CharField(max_length=16, choices=Units, blank=True, default="")
    strava_synced_at = models.DateTimeField(_("last synced"), null=True, blank=True)
    strava_sync_error = models.CharField(_("sync error"), max_length=64, blank=True, default="")
    strava_sync_failures = models.PositiveIntegerField(default=0)
    strava_sync_due_at = models.DateTimeField(_("next sync"), null=True, blank=True)
    strava_syncing_until = models.DateTimeField(null=True, blank=True)

    # Strava: an authorization in progress. Its client is kept apart until the exchange succeeds, so
    # a failed or abandoned reconnect leaves a working link as it was.
    strava_state = fields.InternalTextField(null=True, blank=True)
    strava_state_expires_at = models.DateTimeField(null=True, blank=True)
    strava_pending_client_id = fields.EncryptedTextField(null=True, blank=True)
    strava_pending_client_secret = fields.EncryptedTextField(null=True, blank=True)
    # Browsers may deliver a redirect twice. So these keep digests of the state that made this link,
    # and of the state whose code is being exchanged, until the time below.
    strava_spent_state = fields.InternalCharField(
        max_length=64, blank=True, default="", db_default=""
    )
    strava_exchanging_state = fields.InternalCharField(
        max_length=64, blank=True, default="", db_default=""
    )
    strava_exchanging_until = fields.InternalDateTimeField(null=True, blank=True)
    strava_exchanging_error = fields.InternalCharField(
        max_length=64, blank=True, default="", db_default=""
    )

    # Strava: the link's health.
    strava_refreshed_at = models.DateTimeField(_("last refreshed"), null=True, blank=True)
    strava_relink_required_at = models.DateTimeField(
        _("needs reconnecting since"), null=True, blank=True
    )
    strava_error = models.CharField(_("Strava error"), max_length=64, blank=True, default="")
    strava_failures = models.PositiveIntegerField(_("failures in a row"), default=0)
    strava_retry_at = models.DateTimeField(_("not tried again before"), null=True, blank=True)
    # Set when this link runs into its app's rate limit, so that the app's other links know. The
    # limit may cover only reads.
    strava_limited_until = models.DateTimeField(null=True, blank=True)
    strava_limited_reads = models.BooleanField(default=False, db_default=False)
    # After a push event says that the link is revoked: when to ask Strava if no worker has by then,
    # and until when the allowed checks are used up.
    strava_check_due_at = models.DateTimeField(null=True, blank=True)
    strava_checks_until = models.DateTimeField(null=True, blank=True)

    # Strava: the right to refresh, held by one refresher at a time.
    strava_lease = fields.InternalUUIDField(null=True, blank=True)
    strava_lease_until = models.DateTimeField(null=True, blank=True)

    # Garmin Connect: the link. A session belongs to garmin.com or to garmin.cn.
    garminconnect_oauth1 = fields.EncryptedJSONField(null=True, blank=True)
    garminconnect_oauth2 = fields.EncryptedJSONField(null=True, blank=True)
    garminconnect_is_cn = models.BooleanField(_("at garmin.cn"), default=False)
    garminconnect_token_expires_at = models.DateTimeField(_("token expires"), null=True, blank=True)
    garminconnect_sync_gear = models.BooleanField(_("gear sync"), default=False)
    garminconnect_linked_at = models.DateTimeField(_("connected since"), null=True, blank=True)
    garminconnect_athlete_name = models.CharField(
        _("athlete"), max_length=255, blank=True, default="", db_default=""
    )
    # Why the last sign-in failed. It says nothing about an existing link.
    garminconnect_login_error = models.CharField(
        _("sign-in error"), max_length=64, blank=True, default="", db_default=""
    )

    # Garmin Connect: gear.
    garminconnect_units = models.CharField(max_length=16, choices=Units, blank=True, default="")
    garminconnect_synced_at = models.DateTimeField(_("last synced"), null=True, blank=True)
    garminconnect_sync_error = models.CharField(
        _("sync error"), max_length=64, blank=True, default=""
    )
    garminconnect_sync_failures = models.PositiveIntegerField(default=0)
    garminconnect_sync_due_at = models.DateTimeField(_("next sync"), null=True, blank=True)
    garminconnect_syncing_until = models.DateTimeField(null=True, blank=True)

    # Garmin Connect: the link's health, and the right to refresh.
    garminconnect_refreshed_at = models.DateTimeField(_("last refreshed"), null=True, blank=True)
    garminconnect_relink_required_at = models.DateTimeField(
        _("needs reconnecting since"), null=True, blank=True
    )
    garminconnect_error = models.CharField(_("Garmin error"), max_length=64, blank=True, default="")
    garminconnect_failures = models.PositiveIntegerField(_("failures in a row"), default=0)
    garminconnect_retry_at = models.DateTimeField(
        _("not tried again before"), null=True, blank=True
    )
    garminconnect_limited_until = models.DateTimeField(null=True, blank=True)
    garminconnect_lease = fields.InternalUUIDField(null=True, blank=True)
    garminconnect_lease_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "users_integrations"
        verbose_name = _("user’s integrations")
        verbose_name_plural = _("users’ integrations")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=[field],
                condition=Q(**{f"{field}__isnull": False}),
                name=f"users_integrations_{name}",
            )
            for field, name in (
                ("strava_state", "strava_state"),
                ("strava_athlete_id", "strava_athlete"),
            )
        ]
        # The first is for a sweep, which looks for live links by expiry.
        indexes: ClassVar = [
            _index("strava_due", "strava_token_expires_at", strava_relink_required_at__isnull=True),
            _index("strava_lim", "strava_limited_until"),
            _index("strava_chk", "strava_check_due_at"),
            _index("strava_chks", "strava_checks_until"),
            *(
                models.Index(
                    fields=[f"{link}_sync_due_at"],
                    condition=Q(
                        **{f"{link}_sync_gear": True, f"{link}_relink_required_at__isnull": True}
                    ),
                    name=f"users_integrations_{name}_gear",
                )
                for link, name in (("strava", "strava"), ("garminconnect", "garmin"))
            ),
        ]

    def __str__(self) -> str:
        return f"integrations of {name_of(self)}"

    @property
    def strava_status(self) -> LinkStatus:
        return STRAVA.status(self)

    @property
    def garminconnect_status(self) -> LinkStatus:
        return GARMINCONNECT.status(self)


# The two links whose columns the seed names.
STRAVA = Home(
    UsersIntegrations,
    "strava_",
    names={"account_id": "strava_athlete_id", "account_name": "strava_athlete_name"},
)
GARMINCONNECT = Home(
    UsersIntegrations,
    "garminconnect_",
    tokens=("oauth1", "oauth2"),
    names={"account_name": "garminconnect_athlete_name"},
)
