from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from .link import name_of


class LinkEvent(models.Model):
    """One line of the trail: what happened to a link, when, and by whom. Never a secret."""

    exported_as = "activity"

    class Event(models.TextChoices):
        LINKED = "linked", _("Connected")
        RELINKED = "relinked", _("Reconnected")
        UNLINKED = "unlinked", _("Disconnected")
        RELINK_REQUIRED = "relink_required", _("Connection ended by the provider")
        REFRESHED = "refreshed", _("Access refreshed by hand")
        REFRESH_FAILED = "refresh_failed", _("Access could not be refreshed")
        SYNCED = "synced", _("Gear synced")
        SYNC_FAILED = "sync_failed", _("Gear could not be synced")
        LOGIN_FAILED = "login_failed", _("Sign-in failed")
        KEYS_ROTATED = "keys_rotated", _("Encryption keys rotated")

    class Actor(models.TextChoices):
        ATHLETE = "athlete", _("The athlete")
        STAFF = "staff", _("Staff of this site")
        SYSTEM = "system", _("This site")
        PROVIDER = "provider", _("The provider")

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", null=True
    )
    provider = models.CharField(max_length=16, blank=True)
    event = models.CharField(max_length=24, choices=Event)
    code = models.CharField(max_length=64, blank=True)
    actor = models.CharField(max_length=16, choices=Actor)
    actor_user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, related_name="+", null=True
    )
    at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("link event")
        verbose_name_plural = _("link events")
        indexes: ClassVar = [models.Index(fields=["user", "-at"], name="link_event_user")]

    def __str__(self) -> str:
        return f"{self.event} {self.provider} of {name_of(self)}"
