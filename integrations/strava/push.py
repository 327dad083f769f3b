"""Strava's push subscription, and what its events may cause.

It is disputed whether events are signed, so an event is only a hint: Strava is asked before
anything is unlinked, and a forged event causes no more than that question. Nobody but Strava knows
where to send one, because the callback's path ends in a secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from django.db.models import F, Q
from django.db.models.functions import Coalesce, Greatest
from django.utils.crypto import constant_time_compare
from pydantic import ValidationError

from .. import conf, exceptions, providers
from ..clock import ahead, dated, later, over
from ..models import PushSubscription, UsersIntegrations
from ..models.integrations import STRAVA
from ..services import _limits, _rows, links, trail
from ..services._rows import database_errors
from ..services._single_flight import MAX_BACKOFF
from ..services.tokens import keeper_of
from .client import StravaAthlete, StravaSubscription

# Forged events must not use up the app's requests, which Strava counts per quarter of an hour. So
# each link gets CHECKS_AT_ONCE checks and then one per CHECK_EVERY, and only LINKS_AT_ONCE links
# are checked at once; the rest wait. Nor may they use up all the checks: whenever the scheduler
# asks, WAITING_AT_ONCE of those who wait get theirs. At worst that is half of an app's default
# limit.
CHECKS_AT_ONCE = 3
CHECK_EVERY = timedelta(minutes=15)
CHECKS_LAST = CHECKS_AT_ONCE * CHECK_EVERY
LINKS_AT_ONCE = 15
WAITING_AT_ONCE = 10
# When a check that a worker began but did not finish is due again.
CHECK_AGAIN = timedelta(minutes=10)


def _provider() -> Any:
    return providers.get("strava")


def _verify_token() -> str:
    """The token that Strava repeats in a push subscription's handshake; "" where none is set."""
    return str(conf.of_provider("strava", "WEBHOOK_VERIFY_TOKEN"))


def is_verify_token(token: str) -> bool:
    """Whether a handshake has the site's verify token; false if the site has none."""
    expected = _verify_token()
    return bool(expected) and constant_time_compare(token, expected)


@database_errors
def is_webhook(secret: str) -> bool:
    """Whether a callback's path is the site's, by its last part; "" for the path without a secret,
    which answers until there is a subscription with one.
    """
    if secret:
        return PushSubscription.objects.filter(secret_digest=_digest(secret)).exists()
    known = PushSubscription.objects.filter(subscription_id__isnull=False)
    return not known.exclude(secret_digest="").exists()


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest() if secret else ""


@database_errors
def take_revocation_hint(event: Any, secret: str = "") -> int | None:
    """The user whose link is revoked according to an event, if Strava is to be asked now.

    The row notes that a check is due, until confirm_revocation has the answer. None for any
    other event, one of another subscription than the one that is known by the path's secret, an
    unknown athlete, and one who was checked too often recently: Strava sends an event up to three
    times, and anybody can send any number. That check is put off.
    """
    athlete_id = _revoked_athlete_id(event)
    if athlete_id is None:
        return None
    ours = PushSubscription.objects.filter(secret_digest=_digest(secret))
    known = ours.values_list("subscription_id", flat=True).first()
    if known is not None and str(event.get("subscription_id")) != str(known):
        return None
    rows = UsersIntegrations.objects.filter(strava_athlete_id=athlete_id)
    row = dated(rows).values("user_id", "strava_checks_until", "read_at").first()
    if row is None:
        return None
    now = row["read_at"]
    # A bucket that leaks one check per CHECK_EVERY. Of simultaneous events, one gets in.
    until = max(row["strava_checks_until"] or now, now) + CHECK_EVERY
    if (
        until <= now + CHECKS_LAST
        and _links_left(strava_athlete_id=athlete_id)
        and rows.filter(strava_checks_until=row["strava_checks_until"]).update(
            strava_checks_until=until, strava_check_due_at=now + CHECK_AGAIN
        )
    ):
        user_id: int = row["user_id"]
        return user_id
    soon = now + CHECK_EVERY
    rows.filter(Q(strava_check_due_at=None) | Q(strava_check_due_at__gt=soon)).update(
        strava_check_due_at=soon
    )
    return None


def _links_left(**but: Any) -> int:
    """How many more links may be checked now."""
    recent = UsersIntegrations.objects.filter(ahead("strava_checks_until", CHECKS_LAST))
    recent = recent.exclude(**but)
    return LINKS_AT_ONCE - recent[:LINKS_AT_ONCE].count()


def _revoked_athlete_id(event: Any) -> int | None:
    """The athlete who has revoked access, if that is what an event says."""
    if not isinstance(event, dict) or event.get("object_type") != "athlete":
        return None
    updates = event.get("updates")
    if not isinstance(updates, dict) or str(updates.get("authorized")).lower() != "false":
        return None
    try:
        return StravaAthlete.model_validate({"id": event.get("owner_id")}).id
    except ValidationError:
        return None


@database_errors
def take_due_checks() -> list[int]:
    """User ids whose check did not finish, to confirm; each goes to one caller only.

    Skips those put off by trouble at Strava, and those whose app must wait for a rate limit. A
    limit of reads does not count: a revocation should not wait until midnight for it. Those who
    were never asked about, or not for the longest time, come first.
    """
    allowed = _limits.own_unlimited(STRAVA)
    if not _limits.site_limited_for(_provider()):
        allowed |= Q(strava_client_id=None)
    due = UsersIntegrations.objects.filter(
        allowed,
        over("strava_retry_at", timedelta(seconds=MAX_BACKOFF)),
        over("strava_check_due_at", CHECK_EVERY),
        strava_check_due_at__isnull=False,
    )
    until = later(CHECK_EVERY)
    counted = Greatest(Coalesce("strava_checks_until", until), until)
    taken, _ = _rows.take_due(
        due,
        "strava_check_due_at",
        CHECK_AGAIN,
        WAITING_AT_ONCE,
        first=[F("strava_checks_until").asc(nulls_first=True)],
        strava_checks_until=counted,
    )
    return taken


@database_errors
def confirm_revocation(user_id: int) -> str:
    """Ask Strava whether a link is still alive, and unlink it here if the athlete has ended it.

    Returns "settled" if no check is due, "unlinked", "alive", "not_linked", "relink_required" if
    there is no token to ask with, or the code of an error that left it open: then
    take_due_checks returns it again.
    """
    rows = UsersIntegrations.objects.filter(user_id=user_id)
    due_at = rows.values_list("strava_check_due_at", flat=True).first()
    if due_at is None:
        return "settled"  # by another task: hours without a worker leave many
    outcome = _confirm(user_id)
    if outcome in ("alive", "not_linked", exceptions.StravaRelinkRequired.code):
        # Unless another event has come meanwhile.
        rows.filter(strava_check_due_at=due_at).update(strava_check_due_at=None)
    return outcome


def ask_strava(user_id: Any) -> None:
    """Ask whether a link is alive. Raises what services.refresh_link raises; no line in the
    trail."""
    with _provider().named():
        keeper_of(_provider()).obtain(user_id, asking=True)


def _confirm(user_id: Any) -> str:
    try:
        ask_strava(user_id)
    except exceptions.StravaNotLinked:
        return "not_linked"
    except exceptions.StravaRelinkRequired as exc:
        if isinstance(exc.reason, exceptions.SecretUnreadable):
            return exc.reason.code
        if isinstance(exc.reason, exceptions.ProviderError) and exc.reason.provider_status is None:
            return exc.code  # there was no refresh token, so Strava was not asked
        # Strava's agreement requires deleting its data once access is revoked.
        with trail.acting_as("provider"):
            return "unlinked" if _unlink_if_dead(user_id) else exc.code
    except exceptions.IntegrationsError as exc:
        return exc.code
    return "alive"


def _unlink_if_dead(user_id: Any) -> bool:
    """Clear a link that Strava says is dead; leave one that was reconnected meanwhile alone."""
    dead = Q(strava_relink_required_at__isnull=False, strava_refresh_token__isnull=False)
    try:
        return links.unlink(_provider(), user_id, only_if=dead)
    except exceptions.IntegrationsNotFound:
        return False


@database_errors
def create_subscription(callback_url: str) -> int:
    """Subscribe the site's app, with a secret at the end of the callback's path; returns the id.

    From then on the path without a secret answers no more. Raises what StravaClient raises.
    """
    token = _verify_token()
    if not token:
        raise exceptions.ClientRequired("STRAVA_WEBHOOK_VERIFY_TOKEN is not set.")
    client = _provider().site_client()
    secret = secrets.token_urlsafe(32)
    # First, because Strava calls the path before it answers.
    ours = PushSubscription.objects.create(secret_digest=_digest(secret))
    try:
        created: int = client.create_subscription(f"{callback_url.rstrip('/')}/{secret}/", token)
    except exceptions.IntegrationsError:
        ours.delete()
        raise
    _note_subscriptions([(created, secret)])
    return created


@database_errors
def list_subscriptions() -> list[StravaSubscription]:
    """The subscription of the site's app, if it has one, which is then known here."""
    found: list[StravaSubscription] = _provider().site_client().list_subscriptions()
    _note_subscriptions((each.id, _secret_of(each.callback_url or "")) for each in found)
    return found


def learn_subscription() -> bool:
    """Ask Strava for the site's subscription, if there can be one: it may have been made before it
    was noted here, or elsewhere. Returns whether Strava has answered.
    """
    if not _provider().has_site_app() or not _verify_token():
        return False
    try:
        list_subscriptions()
    except exceptions.IntegrationsError:
        return False  # what is known stays
    return True


@database_errors
def delete_subscriptions() -> list[int]:
    """Delete the subscription of the site's app; returns the ids that are gone."""
    client = _provider().site_client()
    found = [subscription.id for subscription in client.list_subscriptions()]
    for subscription_id in found:
        client.delete_subscription(subscription_id)
    PushSubscription.objects.all().delete()
    return found


def _secret_of(callback_url: str) -> str:
    """The secret at the end of a callback's URL; "" if it has none."""
    parent, _slash, last = urlsplit(callback_url).path.rstrip("/").rpartition("/")
    noted = PushSubscription.objects.filter(secret_digest=_digest(last))
    # What stands before it is a proxy's matter, and so is a path without a secret.
    return last if parent.endswith("/webhook") or noted.exists() else ""


def _note_subscriptions(found: Iterable[tuple[int, str]]) -> None:
    """Note the ids and secrets of all subscriptions, and forget others.

    One without an id stays: it may be about to be made.
    """
    ids = {_digest(secret): subscription_id for subscription_id, secret in found}
    with _rows.atomic():
        known = PushSubscription.objects.filter(subscription_id__isnull=False)
        known.exclude(subscription_id__in=[*ids.values()], secret_digest__in=[*ids]).delete()
        for digest, subscription_id in ids.items():
            PushSubscription.objects.update_or_create(
                secret_digest=digest, defaults={"subscription_id": subscription_id}
            )
