from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from .. import gear


class Gear(models.Model):
    """A bike, a pair of shoes or another thing that an athlete uses, as a provider knows it.

    Belongs to a link: disconnecting deletes it.
    """

    exported_as = "gear"

    class Kind(models.TextChoices):
        BIKE = gear.BIKE, _("Bike")
        SHOES = gear.SHOES, _("Shoes")
        OTHER = gear.OTHER, _("Other")

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="integrations_gear"
    )
    provider = models.CharField(max_length=16)
    provider_gear_id = models.CharField(max_length=64)
    kind = models.CharField(max_length=8, choices=Kind)
    name = models.CharField(max_length=255, blank=True)
    # Null until the provider has been asked for them.
    brand = models.CharField(max_length=255, blank=True, null=True)  # noqa: DJ001
    model = models.CharField(max_length=255, blank=True, null=True)  # noqa: DJ001
    distance = models.PositiveBigIntegerField(_("distance (m)"), default=0)
    primary = models.BooleanField(default=False)
    retired = models.BooleanField(default=False)
    first_seen_at = models.DateTimeField()
    # Null while the provider lists it: it was seen at the link's last sync, so a sync that finds
    # nothing new writes nothing here.
    last_seen_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("gear")
        verbose_name_plural = _("gear")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["user", "provider", "provider_gear_id"], name="gear_once_per_provider"
            )
        ]

    def __str__(self) -> str:
        return (
            self.name or f"{self.brand or ''} {self.model or ''}".strip() or self.provider_gear_id
        )
