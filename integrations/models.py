from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from . import gear
from .fields import EncryptedJSONField, EncryptedTextField, KeepsSecretsSealed, Sealed


class LinkStatus(models.TextChoices):
    """The state of a link, as named on the page, the status URL and the admin."""

    NOT_LINKED = "not_linked", _("Not connected")
    LINKED = "linked", _("Connected")
    RELINK_REQUIRED = "relink_required", _("Needs reconnecting")
    # While a sign-in is under way:
    LINKING = "linking", _("Connecting")
    MFA_REQUIRED = "mfa_required", _("Waiting for a code")


class Units(models.TextChoices):
    """How an athlete wants distances, as set at the provider."""

    METRIC = "metric", _("Kilometers")
    IMPERIAL = "imperial", _("Miles")


def _conditions(linked: Q, alive: Q) -> dict[LinkStatus, Q]:
    return {
        LinkStatus.NOT_LINKED: ~linked,
        LinkStatus.LINKED: linked & alive,
        LinkStatus.RELINK_REQUIRED: linked & ~alive,
    }


# `UsersIntegrations.strava_status` and `garminconnect_status` as conditions of a query, which
# cannot see that a key was lost.
LINK_CONDITIONS: dict[str, dict[LinkStatus, Q]] = {
    "strava": _conditions(
        linked=Q(strava_token__isnull=False), alive=Q(strava_relink_required_at__isnull=True)
    ),
    "garminconnect": _conditions(
        linked=Q(garminconnect_oauth1__isnull=False) | Q(garminconnect_oauth2__isnull=False),
        alive=Q(garminconnect_relink_required_at__isnull=True),
    ),
}


def _name_of(row: Any) -> str:
    """The owner, by name if the user is loaded already: this makes no query."""
    return str(row.user) if "user" in row._state.fields_cache else f"user {row.user_id}"


_LINK_SECRETS = {
    "strava": (
        "strava_client_id",
        "strava_client_secret",
        "strava_token",
        "strava_refresh_token",
    ),
    "garminconnect": ("garminconnect_oauth1", "garminconnect_oauth2"),
}


class UsersIntegrations(KeepsSecretsSealed):
    """What one user has linked. One row per user; only services write it."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="users_integrations"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    # The database's time when a service read the row (see clock.dated); no column.
    read_at: datetime

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
    strava_state = models.TextField(null=True, blank=True)  # noqa: DJ001 (the contract's null)
    strava_state_expires_at = models.DateTimeField(null=True, blank=True)
    strava_pending_client_id = EncryptedTextField(null=True, blank=True)
    strava_pending_client_secret = EncryptedTextField(null=True, blank=True)
    # Browsers may deliver a redirect twice. So these keep digests of the state that made this link,
    # and of the state whose code is being exchanged, until the time below.
    strava_spent_state = models.CharField(max_length=64, blank=True, default="", db_default="")
    strava_exchanging_state = models.CharField(max_length=64, blank=True, default="", db_default="")
    strava_exchanging_until = models.DateTimeField(null=True, blank=True)
    strava_exchanging_error = models.CharField(max_length=64, blank=True, default="", db_default="")

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
    strava_lease = models.UUIDField(null=True, blank=True)
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
    garminconnect_lease = models.UUIDField(null=True, blank=True)
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
        return f"integrations of {_name_of(self)}"

    @property
    def strava_status(self) -> LinkStatus:
        return self._status("strava")

    @property
    def garminconnect_status(self) -> LinkStatus:
        return self._status("garminconnect")

    def _status(self, provider: str) -> LinkStatus:
        if not self.is_linked(provider):
            return LinkStatus.NOT_LINKED
        if self.has_ended(provider) or not self.is_readable(provider):
            return LinkStatus.RELINK_REQUIRED
        return LinkStatus.LINKED

    def is_linked(self, provider: str) -> bool:
        """Whether there is a link, alive or not."""
        if provider == "strava":
            return self.has_secret("strava_token")
        return self.has_secret("garminconnect_oauth1") or self.has_secret("garminconnect_oauth2")

    def has_ended(self, provider: str) -> bool:
        """Whether the provider has ended the link."""
        return getattr(self, f"{provider}_relink_required_at") is not None

    def is_readable(self, provider: str) -> bool:
        """Whether the current keys can open a link's secrets; decrypts nothing.

        Deferred fields are not checked.
        """
        loaded = (self.__dict__.get(name) for name in _LINK_SECRETS[provider])
        return all(each.is_readable() for each in loaded if isinstance(each, Sealed))

    @property
    def strava_scopes(self) -> list[str]:
        return [scope for scope in (self.strava_scope or "").split(",") if scope]


class GarminConnectLogin(KeepsSecretsSealed):
    """A sign-in to Garmin under way; one per user, deleted when it ends.

    The password, and later the code, wait here for the worker, encrypted, for less than a minute.
    The statement that hands them to the worker also empties them.
    """

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
    attempt = models.UUIDField()
    step = models.CharField(max_length=16, choices=Step.choices)
    step_until = models.DateTimeField()
    is_cn = models.BooleanField(default=False)
    email = EncryptedTextField(null=True)
    password = EncryptedTextField(null=True)
    # The library's state between password and code, with session cookies.
    client_state = EncryptedJSONField(null=True)
    mfa_code = EncryptedTextField(null=True)
    mfa_until = models.DateTimeField(null=True)
    wrong_codes = models.PositiveSmallIntegerField(default=0)

    class Meta:
        verbose_name = _("Garmin sign-in")
        verbose_name_plural = _("Garmin sign-ins")

    def __str__(self) -> str:
        return f"Garmin sign-in of user {self.user_id}"


class GarminConnectAttempt(models.Model):
    """One password sent to Garmin, for the limit that keeps accounts from being locked."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    email_hash = models.CharField(max_length=64)  # keyed, so it does not reveal the address
    at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["user", "at"], name="garmin_attempt_user"),
            models.Index(fields=["email_hash", "at"], name="garmin_attempt_email"),
        ]

    def __str__(self) -> str:
        return f"Garmin sign-in attempt of user {self.user_id}"


class Gear(models.Model):
    """A bike, a pair of shoes or another thing that an athlete uses, as a provider knows it.

    Belongs to a link: disconnecting deletes it.
    """

    class Provider(models.TextChoices):
        STRAVA = "strava", _("Strava")
        GARMINCONNECT = "garminconnect", _("Garmin Connect")

    class Kind(models.TextChoices):
        BIKE = gear.BIKE, _("Bike")
        SHOES = gear.SHOES, _("Shoes")
        OTHER = gear.OTHER, _("Other")

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="integrations_gear"
    )
    provider = models.CharField(max_length=16, choices=Provider)
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


class FernetCanary(KeepsSecretsSealed):
    """One encrypted row without content, by which a wrong FERNET_KEYS is noticed at start."""

    value = EncryptedTextField()

    class Meta:
        verbose_name = _("key canary")
        verbose_name_plural = _("key canaries")

    def __str__(self) -> str:
        return "key canary"


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


class LinkEvent(models.Model):
    """One line of the trail: what happened to a link, when, and by whom. Never a secret."""

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
    provider = models.CharField(max_length=16, choices=Gear.Provider, blank=True)
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
        return f"{self.event} {self.provider} of {_name_of(self)}"
