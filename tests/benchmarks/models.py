"""The obvious Django, to measure against: the seed's twelve columns, the secrets as plain text."""

from django.conf import settings
from django.db import models


class Obvious(models.Model):
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+"
    )
    strava_client_id = models.TextField(null=True)  # noqa: DJ001 (the contract's null)
    strava_client_secret = models.TextField(null=True)  # noqa: DJ001
    # Indexed as ours is, or a look-up by it would be a scan, and anything faster than that.
    strava_state = models.TextField(null=True, unique=True)  # noqa: DJ001
    strava_token = models.TextField(null=True)  # noqa: DJ001
    strava_refresh_token = models.TextField(null=True)  # noqa: DJ001
    strava_token_expires_at = models.DateTimeField(null=True, db_index=True)
    strava_sync_gear = models.BooleanField(default=False)
    garminconnect_oauth1 = models.JSONField(null=True)
    garminconnect_oauth2 = models.JSONField(null=True)
    garminconnect_sync_gear = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"the obvious row of user {self.user_id}"
