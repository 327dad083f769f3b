import uuid

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)


class Belonging(models.Model):
    """A host's own, under the short names that the app leaves to it."""

    integrations = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="integrations"
    )
    gear = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="gear")
    login = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="garminconnect_login"
    )
    link = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="link")

    def __str__(self) -> str:
        return "a host's own"
