"""Signing in to Garmin, with any number of workers.

A sign-in is a row that goes from step to step by conditional updates. The web process writes the
password, and later the code, into it; one statement lets the worker take and erase it. The row of a
killed worker expires. A worker that comes late, after a cancel or a new start, finds another
attempt there and changes nothing.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connections, router
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.crypto import salted_hmac

from .. import providers
from ..clock import MAY_WAIT, ahead, dated, later
from ..exceptions import (
    GarminConnectInvalidReply,
    GarminConnectRateLimited,
    GarminConnectUnavailable,
    InvalidMfaCode,
    LoginExpired,
    LoginInProgress,
    LoginInterrupted,
    NoLoginInProgress,
    ProviderError,
    SecretUnreadable,
    SignInUnfinished,
    TooManyAttempts,
    TooManyMfaCodes,
)
from ..metrics import count_failure
from ..models import GarminConnectAttempt, GarminConnectLogin, UsersIntegrations
from ..models.integrations import GARMINCONNECT
from ..services import _rows, links, trail
from ..services._rows import database_errors
from ..services.trail import Actor, Event
from . import client
from .client import MfaRequired, Session
from .provider import MAX_WRONG_CODES, MFA_LIFETIME, dead_logins

logger = logging.getLogger("integrations.garminconnect")

Step = GarminConnectLogin.Step

# How long a password or a code may wait for a worker. If the worker is gone, the athlete can start
# again within a minute.
PICK_UP = timedelta(seconds=50)
# A worker reports every HEARTBEAT; after ALIVE without a report it counts as gone.
HEARTBEAT = 8  # seconds
ALIVE = timedelta(seconds=30)
MAX_ATTEMPTS = 5
ATTEMPTS_PER = timedelta(hours=1)
# Sign-ins that fail after Garmin has accepted the password lock no account, so they are counted
# apart. Their limit stops endless tries.
MAX_UNFINISHED = 10
_UNFINISHED = "unfinished"  # stands in place of the hash
# None that is still to come, because the clock was set back since.
_RECENT = Q(at__gt=later(-ATTEMPTS_PER), at__lte=later(MAY_WAIT))
# After these, the same sign-in takes another code.
_CODE_AGAIN = (
    InvalidMfaCode,
    GarminConnectInvalidReply,
    GarminConnectRateLimited,
    GarminConnectUnavailable,
)


@database_errors
def begin_login(user_id: int, email: str, password: str, is_cn: bool = False) -> uuid.UUID:
    """Store a sign-in for a worker; returns the attempt, for run_login.

    An existing link goes on working until the sign-in has succeeded.

    Raises LoginInProgress if one is running, TooManyAttempts after five within an hour, by user or
    by e-mail (wait `retry_after` seconds), SignInUnfinished after ten that Garmin did not finish,
    GarminConnectUnavailable if the site lacks the library: then no password is stored.
    """
    if not providers.get("garminconnect").is_installed():
        raise GarminConnectUnavailable
    _rows.ensure_row(GARMINCONNECT, user_id)
    settle_dead_logins()
    if GarminConnectLogin.objects.filter(user_id=user_id).exclude(step=Step.MFA_REQUIRED).exists():
        raise LoginInProgress
    counted = _count_attempt(user_id, email)
    attempt = uuid.uuid4()
    login = GarminConnectLogin(
        user_id=user_id,
        attempt=attempt,
        step=Step.QUEUED,
        step_until=later(PICK_UP),
        is_cn=is_cn,
        email=email,
        password=password,
    )
    written = [each.name for each in login._meta.concrete_fields if each.name not in ("id", "user")]
    try:
        with _rows.atomic():  # so that no password waits without its attempt being returned
            # An upsert: of two tabs at once, the later one replaces the earlier.
            GarminConnectLogin.objects.bulk_create(
                [login], update_conflicts=True, unique_fields=["user"], update_fields=written
            )
            _rows.update(GARMINCONNECT, user_id, garminconnect_login_error="")
    except Exception:
        with suppress(DatabaseError):
            counted.delete()
        raise
    return attempt


@database_errors
def withdraw_login(user_id: int, attempt: uuid.UUID) -> bool:
    """Take back a sign-in, with its password, that could not be handed to a worker.

    It does not count among the five. Returns False if a worker has it all the same.
    """
    login = GarminConnectLogin.objects.filter(user_id=user_id, attempt=attempt).first()
    with _rows.atomic():
        return login is not None and _take_back(login)


@database_errors
def run_login(user_id: int, attempt: uuid.UUID) -> str:
    """Sign in to Garmin with the password that waits. For a worker: takes seconds to minutes.

    Returns how it ended: "linked", "mfa_required", "superseded", or the code of an error, which
    the row now holds. Never raises a provider's error: task backends store tracebacks.
    """
    forget_dead_logins()
    login = _claim(user_id, attempt, Step.QUEUED, Step.RUNNING, "email", "password")
    if login is None:
        return "superseded"

    def sign_in() -> Session | MfaRequired:
        return client.sign_in(login.email, login.password, login.is_cn)

    outcome = _ask_garmin(login, sign_in)
    if isinstance(outcome, Session):
        return _link(login, outcome)
    if isinstance(outcome, MfaRequired):
        waiting = _mine(login).update(
            step=Step.MFA_REQUIRED,
            step_until=later(MFA_LIFETIME),
            mfa_until=later(MFA_LIFETIME),
            client_state=outcome.client_state,
        )
        return "mfa_required" if waiting else "superseded"
    return _end(login, outcome.code)


@database_errors
def submit_code(user_id: int, code: str) -> uuid.UUID:
    """Store a code for a worker; returns the attempt, for run_mfa.

    Raises NoLoginInProgress if none waits for a code, LoginInProgress if one is being checked.
    """
    settle_dead_logins()
    logins = GarminConnectLogin.objects.filter(user_id=user_id)
    with _rows.atomic():  # so that no code waits without its attempt being returned
        if not logins.filter(step=Step.MFA_REQUIRED).update(
            step=Step.MFA_QUEUED, step_until=later(PICK_UP), mfa_code=code
        ):
            raise LoginInProgress if logins.exists() else NoLoginInProgress
        _rows.update(GARMINCONNECT, user_id, garminconnect_login_error="")
        attempt = logins.values_list("attempt", flat=True).first()
        if attempt is None:  # canceled at this moment
            raise NoLoginInProgress
    return attempt


@database_errors
def withdraw_code(user_id: int, attempt: uuid.UUID) -> bool:
    """Take back a code that could not be handed to a worker, so it can be entered again.

    Returns False if a worker has it all the same.
    """
    return bool(
        GarminConnectLogin.objects.filter(
            user_id=user_id, attempt=attempt, step=Step.MFA_QUEUED, mfa_until__isnull=False
        ).update(step=Step.MFA_REQUIRED, step_until=F("mfa_until"), mfa_code=None)
    )


@database_errors
def run_mfa(user_id: int, attempt: uuid.UUID) -> str:
    """Answer Garmin with the code that waits. For a worker, like run_login."""
    settle_dead_logins()
    login = _claim(user_id, attempt, Step.MFA_QUEUED, Step.MFA_RUNNING, "mfa_code")
    if login is None:
        return "superseded"

    def answer() -> Session:
        return client.answer_mfa(login.client_state, login.mfa_code, login.is_cn)

    outcome = _ask_garmin(login, answer)
    if isinstance(outcome, Session):
        return _link(login, outcome)
    wrong_codes = login.wrong_codes + isinstance(outcome, InvalidMfaCode)
    if wrong_codes >= MAX_WRONG_CODES:
        return _end(login, TooManyMfaCodes.code)
    if not isinstance(outcome, _CODE_AGAIN):
        return _end(login, outcome.code)
    with _rows.atomic():
        if not _mine(login).update(
            step=Step.MFA_REQUIRED, step_until=login.mfa_until, wrong_codes=wrong_codes
        ):
            return "superseded"
        _rows.update(GARMINCONNECT, user_id, garminconnect_login_error=outcome.code)
    count_failure("garminconnect", "sign_in", outcome.code)
    return outcome.code


@database_errors
def cancel_login(user_id: int) -> None:
    """Drop a sign-in under way, and all that it keeps. A worker still on it changes nothing.

    Raises NoLoginInProgress if there is none.
    """
    settle_dead_logins()
    logins = GarminConnectLogin.objects.filter(user_id=user_id)
    with _rows.atomic():
        login = logins.first()
        if login is None or not (_take_back(login) or logins.delete()[0]):
            raise NoLoginInProgress
        _rows.update(GARMINCONNECT, user_id, garminconnect_login_error="")


def _settle(user_id: int) -> None:
    """End a sign-in whose time has run out, and note why; leave a live one alone.

    If only the worker with the code is gone, the athlete can enter it again.
    """
    login: Any = dated(dead_logins()).filter(user_id=user_id).first()
    if login is None:
        return
    mine = dead_logins().filter(pk=login.pk, attempt=login.attempt, step=login.step)
    code = LoginExpired.code if login.step == Step.MFA_REQUIRED else LoginInterrupted.code
    with _rows.atomic():
        left = login.mfa_until - login.read_at if login.mfa_until else timedelta()
        if timedelta() < left <= MFA_LIFETIME:
            settled = mine.update(step=Step.MFA_REQUIRED, step_until=login.mfa_until, mfa_code=None)
        else:
            settled = _take_back(login) or mine.delete()[0]
        if settled:
            # Without an error if staff have deleted the row meanwhile: everybody settles this one.
            UsersIntegrations.objects.filter(user_id=user_id).update(garminconnect_login_error=code)
            trail.note(user_id, "garminconnect", Event.LOGIN_FAILED, code, Actor.SYSTEM)
            count_failure("garminconnect", "sign_in", code)


@database_errors
def forget_dead_logins() -> int:
    """Settle every sign-in whose time has run out, and forget old attempts; returns how many."""
    GarminConnectAttempt.objects.exclude(_RECENT).delete()
    return settle_dead_logins()


def settle_dead_logins() -> int:
    """End every sign-in whose time has run out, with its secrets; returns how many."""
    user_ids = list(dead_logins().values_list("user_id", flat=True)[:1000])
    for user_id in user_ids:
        _settle(user_id)
    return len(user_ids)


# --- The steps ----------------------------------------------------------------------------------


def _claim(
    user_id: int, attempt: uuid.UUID, waiting: str, running: str, *secrets: str
) -> GarminConnectLogin | None:
    """Take over a waiting sign-in and erase its secrets from the row; None if it is gone.

    Only this instance keeps them, in memory and sealed until they are read.
    """
    logins = GarminConnectLogin.objects.filter(
        ahead("step_until", MFA_LIFETIME), user_id=user_id, attempt=attempt, step=waiting
    )
    login = logins.first()
    if login is None:
        return None
    claimed = logins.filter(pk=login.pk).update(
        step=running, step_until=later(ALIVE), **dict.fromkeys(secrets)
    )
    login.step = running
    return login if claimed else None


def _take_back(login: GarminConnectLogin) -> bool:
    """Delete a sign-in if no worker has taken it, and do not count it: Garmin never heard of it."""
    waits = GarminConnectLogin.objects.filter(pk=login.pk, attempt=login.attempt, step=Step.QUEUED)
    if not waits.delete()[0]:
        return False
    with suppress(SecretUnreadable):  # then it counts for its hour
        counted = GarminConnectAttempt.objects.filter(
            user_id=login.user_id, email_hash=_email_hash(login.email)
        )
        newest = list(counted.order_by("-at", "-pk").values_list("pk", flat=True)[:1])
        counted.filter(pk__in=newest).delete()
    return True


def _mine(login: GarminConnectLogin) -> Any:
    """The row, if it is still at the attempt and the step that this worker took over."""
    return GarminConnectLogin.objects.filter(pk=login.pk, attempt=login.attempt, step=login.step)


def _ask_garmin[Answer](
    login: GarminConnectLogin, ask: Callable[[], Answer]
) -> Answer | ProviderError:
    """Ask with a heartbeat; return any error instead of raising it."""
    try:
        with _heartbeat(login):
            return ask()
    except ProviderError as exc:
        return exc
    except SecretUnreadable:
        return LoginInterrupted()
    except Exception as exc:
        # Only the type: the library's messages may contain its input.
        event = {"event": "garminconnect.sign_in_crashed"}
        logger.error("garminconnect failed with %s", type(exc).__name__, extra=event)
        return LoginInterrupted()


@contextmanager
def _heartbeat(login: GarminConnectLogin) -> Iterator[None]:
    """Report every few seconds that this worker is alive, while Garmin takes its time."""
    stop = threading.Event()

    def beat() -> None:
        connection = connections[router.db_for_write(GarminConnectLogin)]
        while not stop.wait(HEARTBEAT):
            try:
                _mine(login).update(step_until=later(ALIVE))
            except Exception as exc:  # the next one may get through
                event = {"event": "garminconnect.heartbeat_failed"}
                logger.warning("heartbeat failed: %s", type(exc).__name__, extra=event)
                connection.close()
        connection.close()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _link(login: GarminConnectLogin, session: Session) -> str:
    """Store the session and end the sign-in: both or neither."""
    with _rows.atomic():
        deleted, _ = _mine(login).delete()
        if not deleted:
            return "superseded"
        garmin: Any = providers.get("garminconnect")
        links.write_link(
            garmin,
            login.user_id,
            lambda replaced: {
                **garmin.session_values(session.tokens, replaced.read_at),
                "oauth1": None,
                "is_cn": session.is_cn,
                "account_name": "",  # it may be another athlete; a sync asks
                "linked_at": timezone.now(),
            },
            actor=Actor.ATHLETE,
        )
    return "linked"


def _end(login: GarminConnectLogin, code: str) -> str:
    """End the sign-in with an error; the link, if there is one, stays."""
    with _rows.atomic():
        deleted, _ = _mine(login).delete()
        if not deleted:
            return "superseded"
        _rows.update(GARMINCONNECT, login.user_id, garminconnect_login_error=code)
        trail.note(login.user_id, "garminconnect", Event.LOGIN_FAILED, code, Actor.ATHLETE)
        if code == SignInUnfinished.code:
            _count_apart(login.user_id)
    count_failure("garminconnect", "sign_in", code)
    return code


def _email_hash(email: str) -> str:
    return salted_hmac(
        "integrations.GarminConnectAttempt", email.strip().lower(), algorithm="sha256"
    ).hexdigest()


def _count_attempt(user_id: int, email: str) -> GarminConnectAttempt:
    """Count a sign-in before Garmin is asked. Raises TooManyAttempts, without counting it.

    Insert, then count: two at once may both be refused, never both allowed.
    """
    recent = GarminConnectAttempt.objects.filter(_RECENT)
    if recent.filter(user_id=user_id, email_hash=_UNFINISHED).count() >= MAX_UNFINISHED:
        raise SignInUnfinished
    email_hash = _email_hash(email)
    attempt = GarminConnectAttempt.objects.create(user_id=user_id, email_hash=email_hash, at=Now())
    for same in ({"user_id": user_id}, {"email_hash": email_hash}):
        times = list(
            recent.filter(**same)
            .exclude(email_hash=_UNFINISHED)
            .order_by("-at", "-pk")
            .values_list("at", Now())[: MAX_ATTEMPTS + 1]
        )
        if len(times) > MAX_ATTEMPTS:
            attempt.delete()
            at, now = times[MAX_ATTEMPTS]
            left = at + ATTEMPTS_PER - now
            raise TooManyAttempts(retry_after=max(1, round(left.total_seconds())))
    return attempt


def _count_apart(user_id: int) -> None:
    """Stop counting the newest sign-in among the five, because Garmin accepted its password."""
    attempts = GarminConnectAttempt.objects.filter(user_id=user_id).exclude(email_hash=_UNFINISHED)
    newest = list(attempts.order_by("-at", "-pk").values_list("pk", flat=True)[:1])
    GarminConnectAttempt.objects.filter(pk__in=newest).update(email_hash=_UNFINISHED)
