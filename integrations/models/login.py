from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from .. import fields


class GarminConnectLogin(fields.KeepsSecretsSealed):
    """A sign-in to Garmin under way; one per user, deleted when it ends.

    The password, and later the code, wait here for the worker, encrypted, for less than a minute.
    The statement that hands them to the worker also empties them.
    """

    exported_as = "garmin_sign_in"

    class Step(models.TextChoices):
        QUEUED = "queued"  # the password waits for a worker
        RUNNING = "running"  # a worker is signing in
        MFA_REQUIRED = "mfa_required"  # the athlete has to enter a code
        MFA_QUEUED = "mfa_queued"  # the code waits for a worker
        MFA_RUNNING = "mfa_running"  # a worker is answering with the code

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="integrations_garminconnect_login",
    )
    # A new attempt replaces the one before: a late worker finds another number here.
    attempt = fields.InternalUUIDField()
    step = models.CharField(max_length=16, choices=Step.choices)
    step_until = models.DateTimeField()
    is_cn = models.BooleanField(default=False)
    email = fields.EncryptedTextField(null=True)
    password = fields.EncryptedTextField(null=True)
    # The library's state between password and code, with session cookies.
    client_state = fields.EncryptedJSONField(null=True)
    mfa_code = fields.EncryptedTextField(null=True)
    mfa_until = models.DateTimeField(null=True)
    wrong_codes = models.PositiveSmallIntegerField(default=0)

    class Meta:
        verbose_name = _("Garmin sign-in")
        verbose_name_plural = _("Garmin sign-ins")

    def __str__(self) -> str:
        return f"Garmin sign-in of user {self.user_id}"


class GarminConnectAttempt(models.Model):
    """One password sent to Garmin, for the limit that keeps accounts from being locked."""

    exported_as = "garmin_attempts"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    email_hash = fields.InternalCharField(max_length=64)  # keyed, so it does not reveal the address
    at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["user", "at"], name="garmin_attempt_user"),
            models.Index(fields=["email_hash", "at"], name="garmin_attempt_email"),
        ]

    def __str__(self) -> str:
        return f"Garmin sign-in attempt of user {self.user_id}"
