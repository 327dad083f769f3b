from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class PushSubscription(models.Model):
    """The push subscription of the site's Strava app; one, or two while it is being replaced.

    The callback's path ends in a secret, of which only a digest is kept. It is empty for a
    subscription from before there were secrets. The id is null until Strava has said it.
    """

    subscription_id = models.BigIntegerField(null=True, unique=True)
    secret_digest = models.CharField(max_length=64, unique=True, blank=True)

    class Meta:
        verbose_name = _("push subscription")
        verbose_name_plural = _("push subscriptions")

    def __str__(self) -> str:
        return f"push subscription {self.subscription_id}"
