from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from ..fields import (
    EncryptedJSONField,
    EncryptedTextField,
    InternalCharField,
    InternalDateTimeField,
    InternalTextField,
    InternalUUIDField,
    KeepsSecretsSealed,
)
from .link import Home, LinkStatus, Units, name_of


class UsersIntegrations(KeepsSecretsSealed):
    """What one user has linked. One row per user; only services write it."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="users_integrations"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    # The database's time when a service read the row (see clock.dated); no column.
    read_at: datetime

    exported_as = "integrations"

    # Strava: the link. The client is the athlete's own app; null where the site's app is used.
    strava_client_id = EncryptedTextField(null=True, blank=True)
    strava_client_secret = EncryptedTextField(null=True, blank=True)
    strava_token = EncryptedTextField(null=True, blank=True)
    strava_refresh_token = EncryptedTextField(null=True, blank=True)
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
    strava_state = InternalTextField(null=True, blank=True)
    strava_state_expires_at = models.DateTimeField(null=True, blank=True)
    strava_pending_client_id = EncryptedTextField(null=True, blank=True)
    strava_pending_client_secret = EncryptedTextField(null=True, blank=True)
    # Browsers may deliver a redirect twice. So these keep digests of the state that made this link,
    # and of the state whose code is being exchanged, until the time below.
    strava_spent_state = InternalCharField(max_length=64, blank=True, default="", db_default="")
    strava_exchanging_state = InternalCharField(
        max_length=64, blank=True, default="", db_default=""
    )
    strava_exchanging_until = InternalDateTimeField(null=True, blank=True)
    strava_exchanging_error = InternalCharField(
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
    strava_lease = InternalUUIDField(null=True, blank=True)
    strava_lease_until = models.DateTimeField(null=True, blank=True)

    # Garmin Connect: the link. A session belongs to garmin.com or to garmin.cn.
    garminconnect_oauth1 = EncryptedJSONField(null=True, blank=True)
    garminconnect_oauth2 = EncryptedJSONField(null=True, blank=True)
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
    garminconnect_lease = InternalUUIDField(null=True, blank=True)
    garminconnect_lease_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "users_integrations"
        verbose_name = _("user’s integrations")
        verbose_name_plural = _("users’ integrations")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["strava_state"],
                condition=Q(strava_state__isnull=False),
                name="users_integrations_strava_state",
            ),
            models.UniqueConstraint(
                fields=["strava_athlete_id"],
                condition=Q(strava_athlete_id__isnull=False),
                name="users_integrations_strava_athlete",
            ),
        ]
        indexes: ClassVar = [
            # For a sweep, which looks for live links by expiry.
            models.Index(
                fields=["strava_token_expires_at"],
                condition=Q(
                    strava_token_expires_at__isnull=False, strava_relink_required_at__isnull=True
                ),
                name="users_integrations_strava_due",
            ),
            models.Index(
                fields=["strava_limited_until"],
                condition=Q(strava_limited_until__isnull=False),
                name="users_integrations_strava_lim",
            ),
            models.Index(
                fields=["strava_check_due_at"],
                condition=Q(strava_check_due_at__isnull=False),
                name="users_integrations_strava_chk",
            ),
            models.Index(
                fields=["strava_checks_until"],
                condition=Q(strava_checks_until__isnull=False),
                name="users_integrations_strava_chks",
            ),
            models.Index(
                fields=["strava_sync_due_at"],
                condition=Q(strava_sync_gear=True, strava_relink_required_at__isnull=True),
                name="users_integrations_strava_gear",
            ),
            models.Index(
                fields=["garminconnect_sync_due_at"],
                condition=Q(
                    garminconnect_sync_gear=True, garminconnect_relink_required_at__isnull=True
                ),
                name="users_integrations_garmin_gear",
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

    @property
    def strava_scopes(self) -> list[str]:
        return STRAVA.scopes(self)


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
