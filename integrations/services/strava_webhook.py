"""Strava's push subscription, and what its events may set in motion.

Whether events are signed is disputed, so an event is a hint: what it says is asked of Strava
itself before anything is unlinked, and a forged one does nothing but that.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from .. import conf
from ..exceptions import (
    ClientRequired,
    IntegrationsError,
    IntegrationsNotFound,
    ProviderError,
    SecretUnreadable,
    StravaNotLinked,
    StravaRelinkRequired,
)
from ..models import UsersIntegrations
from ..strava.client import StravaSubscription
from . import _rows, _trail, strava
from ._rows import database_errors
from .strava_tokens import refresh_strava_access_token

# Forged events must not be able to use up the app's requests.
CHECK_AT_MOST_EVERY = timedelta(minutes=1)


def is_strava_verify_token(token: str) -> bool:
    """Whether a handshake knows the site's verify token; never where the site has none."""
    expected = conf.strava_webhook_verify_token()
    return bool(expected) and constant_time_compare(token, expected)


@database_errors
def take_strava_revocation(event: Any) -> int | None:
    """The user whose link an event says is revoked, if it is to be asked about at Strava now.

    None for any other event, an unknown athlete, and one asked about a moment ago: Strava sends
    an event up to three times, and anybody can send any number.
    """
    if not isinstance(event, dict):
        return None
    updates = event.get("updates")
    athlete_id = event.get("owner_id")
    if event.get("object_type") != "athlete" or not isinstance(updates, dict):
        return None
    if str(updates.get("authorized")).lower() != "false":
        return None
    if not isinstance(athlete_id, int) or not 0 < athlete_id < 2**63:
        return None
    now = timezone.now()
    rows = UsersIntegrations.objects.filter(strava_athlete_id=athlete_id)
    user_id = rows.values_list("user_id", flat=True).first()
    # The write last: an event that is not taken has to count when Strava sends it again.
    if user_id is None or not rows.filter(
        Q(strava_checked_at=None) | Q(strava_checked_at__lt=now - CHECK_AT_MOST_EVERY)
    ).update(strava_checked_at=now):
        return None
    return user_id


@database_errors
def withdraw_strava_check(user_id: int) -> None:
    """Let the next event about this user count, where no worker could be told of this one."""
    _rows.update(user_id, strava_checked_at=None)


@database_errors
def confirm_strava_revocation(user_id: int) -> str:
    """Ask Strava whether a link still stands, and unlink it here if the athlete has ended it.

    Returns "unlinked", "alive", "not_linked", or the code of the error that left it open.
    """
    try:
        refresh_strava_access_token(user_id)
    except StravaNotLinked:
        return "not_linked"
    except StravaRelinkRequired as exc:
        if isinstance(exc.__cause__, SecretUnreadable):
            return exc.__cause__.code
        if isinstance(exc.__cause__, ProviderError) and exc.__cause__.provider_status is None:
            return exc.code  # there was no refresh token to ask with: that is not Strava's word
        # Strava's agreement wants what came from it deleted once access is revoked.
        try:
            with _trail.acting_as("provider"):
                strava.unlink_strava_account(user_id)
        except IntegrationsNotFound:
            return "not_linked"
        return "unlinked"
    except IntegrationsError as exc:
        return exc.code
    return "alive"


def create_strava_subscription(callback_url: str) -> int:
    """Subscribe the site's app; returns the id. Raises what StravaClient raises."""
    token = conf.strava_webhook_verify_token()
    if not token:
        raise ClientRequired("STRAVA_WEBHOOK_VERIFY_TOKEN is not set.")
    return strava.site_client().create_subscription(callback_url, token)


def list_strava_subscriptions() -> list[StravaSubscription]:
    """The subscription of the site's app, if it has one."""
    return strava.site_client().list_subscriptions()


def delete_strava_subscriptions() -> list[int]:
    """Delete the subscription of the site's app; returns the ids that are gone."""
    client = strava.site_client()
    found = [subscription.id for subscription in client.list_subscriptions()]
    for subscription_id in found:
        client.delete_subscription(subscription_id)
    return found
