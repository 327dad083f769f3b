from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from .fields import EncryptedJSONField, EncryptedTextField, KeepsSecretsSealed


class LinkStatus(models.TextChoices):
    """The state of a link as the page, the status URL and the admin name it."""

    NOT_LINKED = "not_linked", _("Not connected")
    LINKED = "linked", _("Connected")
    RELINK_REQUIRED = "relink_required", _("Needs reconnecting")


# Conditions shared by queries and indexes, so that a query cannot drift off its index.
_STRAVA_TOKEN = Q(strava_token__isnull=False)
_STRAVA_ALIVE = Q(strava_relink_required_at__isnull=True)
STRAVA_STATUS: dict[str, Q] = {
    LinkStatus.NOT_LINKED: ~_STRAVA_TOKEN,
    LinkStatus.LINKED: _STRAVA_TOKEN & _STRAVA_ALIVE,
    LinkStatus.RELINK_REQUIRED: _STRAVA_TOKEN & ~_STRAVA_ALIVE,
}


class UsersIntegrationsQuerySet(models.QuerySet["UsersIntegrations"]):
    def with_strava_status(self, status: str) -> UsersIntegrationsQuerySet:
        return self.filter(STRAVA_STATUS[status])


class UsersIntegrations(KeepsSecretsSealed):
    """What one user has linked. One row a user; services are its only writers."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="integrations"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    # Strava: the link. The client is the athlete's own app; null where the site's app is used.
    strava_client_id = EncryptedTextField(null=True, blank=True)
    strava_client_secret = EncryptedTextField(null=True, blank=True)
    strava_token = EncryptedTextField(null=True, blank=True)
    strava_refresh_token = EncryptedTextField(null=True, blank=True)
    strava_token_expires_at = models.DateTimeField(_("token expires"), null=True, blank=True)
    strava_sync_gear = models.BooleanField(default=False)
    strava_athlete_id = models.BigIntegerField(null=True, blank=True)
    # What was granted, comma-separated as Strava sends it; never what was merely asked for.
    strava_scope = models.TextField(blank=True, default="")
    # The site's app that made the link: a refresh token is good for its own client only, so
    # that an operator's typo in STRAVA_CLIENT_ID must not look like a dead link.
    strava_site_client_id = models.CharField(max_length=255, blank=True, default="")
    strava_linked_at = models.DateTimeField(null=True, blank=True)

    # Strava: an authorization in progress. Its client waits apart until the exchange has
    # succeeded, so that a failed or abandoned relink leaves a working link as it was.
    strava_state = models.TextField(null=True, blank=True)  # noqa: DJ001 (the contract's null)
    strava_state_expires_at = models.DateTimeField(null=True, blank=True)
    strava_pending_client_id = EncryptedTextField(null=True, blank=True)
    strava_pending_client_secret = EncryptedTextField(null=True, blank=True)

    # Strava: the link's health.
    strava_refreshed_at = models.DateTimeField(null=True, blank=True)
    strava_relink_required_at = models.DateTimeField(null=True, blank=True)
    strava_error = models.CharField(_("Strava error"), max_length=64, blank=True, default="")
    strava_failures = models.PositiveIntegerField(default=0)
    strava_retry_at = models.DateTimeField(null=True, blank=True)

    # Strava: the right to refresh, held by one refresher at a time.
    strava_lease = models.UUIDField(null=True, blank=True)
    strava_lease_until = models.DateTimeField(null=True, blank=True)

    # Garmin Connect.
    garminconnect_oauth1 = EncryptedJSONField(null=True, blank=True)
    garminconnect_oauth2 = EncryptedJSONField(null=True, blank=True)
    garminconnect_sync_gear = models.BooleanField(default=False)

    objects = UsersIntegrationsQuerySet.as_manager()

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
            # What a sweep asks for: links that are alive, by expiry.
            models.Index(
                fields=["strava_token_expires_at"],
                condition=Q(strava_token_expires_at__isnull=False) & _STRAVA_ALIVE,
                name="users_integrations_strava_due",
            ),
        ]

    def __str__(self) -> str:
        return f"integrations of user {self.user_id}"

    @property
    def strava_status(self) -> LinkStatus:
        if not self.has_secret("strava_token"):
            return LinkStatus.NOT_LINKED
        if self.strava_relink_required_at is not None:
            return LinkStatus.RELINK_REQUIRED
        return LinkStatus.LINKED

    @property
    def garminconnect_status(self) -> LinkStatus:
        linked = self.has_secret("garminconnect_oauth1") or self.has_secret("garminconnect_oauth2")
        return LinkStatus.LINKED if linked else LinkStatus.NOT_LINKED

    @property
    def strava_scopes(self) -> list[str]:
        return [scope for scope in self.strava_scope.split(",") if scope]
