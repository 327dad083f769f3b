"""The database lost in the middle of every service, at each of its statements; and busy.

A service is run again and again: the first time its first statement fails, then its second, and
so on until none is left to fail. Each time the caller gets the contract's error, and a snapshot
of every table says that nothing is half written, but for what a service documents as a write of
its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatch
from importlib import import_module
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.signals import connection_created
from django.test import override_settings
from django.utils import timezone

from integrations import conf, ending, services
from integrations.exceptions import (
    IntegrationsDatabaseError,
    IntegrationsError,
    ProviderError,
    StravaRelinkRequired,
)
from integrations.fields import keep_sealed
from integrations.garminconnect import login
from integrations.garminconnect.login import (
    begin_login,
    cancel_login,
    forget_dead_logins,
    run_login,
    run_mfa,
    submit_code,
    withdraw_code,
    withdraw_login,
)
from integrations.models import (
    GarminConnectLogin,
    LinkEvent,
    LinkStatus,
    UsersIntegrations,
)
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import MFA, MFA_CODE, PASSWORD
from integrations.sandbox.strava import ALICE, BJORN, CLIENT_ID
from integrations.schemas import UsersIntegrationsUpdate
from integrations.services import _single_flight, _spool
from integrations.services.gear import (
    count_gear,
    is_gear_sync_taken,
    iterate_wanting_gear,
    request_gear_sync,
    take_due_gear_syncs,
    wants_gear,
    withdraw_gear_sync,
)
from integrations.services.keys import plant_fernet_canary, rotate_fernet_keys
from integrations.services.oauth import forget_abandoned_authorizations
from integrations.services.status import get_links
from integrations.services.sweep import sweep_tokens
from integrations.services.trail import forget_old_link_events, get_link_events
from integrations.strava import push
from integrations.strava.client import StravaClient, StravaTokens
from integrations.strava.push import (
    confirm_revocation,
    create_subscription,
    delete_subscriptions,
    is_webhook,
    learn_subscription,
    list_subscriptions,
    take_due_checks,
    take_revocation_hint,
)

from .conftest import a_moment_ago
from .processes import wait_until
from .test_strava_webhook import event

pytestmark = pytest.mark.django_db(transaction=True)

INTERNALS = "relation users_integrations at 10.0.0.5: s3cret"

# --- What a service starts from -----------------------------------------------------------------


@dataclass
class World:
    """One athlete, made anew for each run, and the providers."""

    strava: Any
    garmin: Any
    user: Any
    state: str = ""
    attempt: Any = None
    link: tuple[Any, ...] = ()

    @property
    def id(self):
        return self.user.pk

    @property
    def row(self):
        return UsersIntegrations.objects.get(user=self.user)


def nothing(world):
    """No row."""


def a_row(world):
    services.create_user_integrations(world.id)


def strava_link(world, expires_in=21600):
    a_row(world)
    tokens = StravaTokens(**world.strava.issue_tokens(ALICE, expires_in=expires_in))
    services.link_strava_account(world.row, tokens)
    UsersIntegrations.objects.update(
        strava_scope="read,profile:read_all",
        strava_site_client_id=CLIENT_ID,
        strava_sync_gear=True,
        strava_sync_due_at=a_moment_ago() - timedelta(minutes=1),
    )


def strava_link_known(world):
    strava_link(world)
    world.link = (world.row.strava_token,)


def strava_link_expired(world):
    strava_link(world, expires_in=-60)


def strava_link_with_gear(world):
    strava_link(world)
    services.sync_strava_gear(world.id)
    bikes, shoes = world.strava.athletes[ALICE].bikes, world.strava.athletes[ALICE].shoes
    bikes[0]["distance"] += 1000
    shoes.pop()


def strava_link_revoked(world):
    strava_link(world)
    world.strava.revoke_grant(ALICE)
    take_revocation_hint(event())


def waiting_at_strava(world):
    world.state = services.begin_authorization(world.id, "strava", "http://testserver/cb").state
    world.link = world.row, world.strava.issue_tokens(ALICE)


def garmin_link(world, expires_in=None):
    a_row(world)
    more = {} if expires_in is None else {"expires_in": expires_in}
    session = world.garmin.issue_session(GARMIN_ALICE, **more)
    services.link_garminconnect_account(world.id, None, session)


def garmin_link_lapsing(world):
    garmin_link(world, expires_in=300)


def garmin_link_refused(world):
    """The token is good by its date, and Garmin answers it with a 401."""
    garmin_link(world)
    world.garmin.expire(GARMIN_ALICE)


def garmin_sign_in(world, email=GARMIN_ALICE):
    world.attempt = begin_login(world.id, email, PASSWORD)


def garmin_sign_in_over(world):
    garmin_sign_in(world)
    GarminConnectLogin.objects.update(step_until=a_moment_ago() - timedelta(seconds=1))


def garmin_code_wanted(world):
    garmin_sign_in(world, MFA)
    assert run_login(world.id, world.attempt) == "mfa_required"


def garmin_code_given(world):
    garmin_code_wanted(world)
    submit_code(world.id, MFA_CODE)


def garmin_link_and_sign_in(world):
    garmin_link(world)
    garmin_sign_in(world)


def old_events(world):
    strava_link(world)
    LinkEvent.objects.update(at=timezone.now() - timedelta(days=10_000))


def secrets_of_two_models(world):
    a_row(world)
    services.set_user_strava_client(world.id, "10", "secret")
    garmin_sign_in(world)


def rotate(world):
    with override_settings(
        FERNET_KEYS=["a-newer-key-0123456789-abcdefghijklmn", *conf.fernet_keys()]
    ):
        rotate_fernet_keys()


def strava_link_dead(world):
    strava_link_expired(world)
    world.strava.revoke_grant(ALICE)


def strava_authorization_abandoned(world):
    services.begin_authorization(world.id, "strava", "http://testserver/cb", CLIENT_ID, "s3cret")
    UsersIntegrations.objects.update(strava_state_expires_at=a_moment_ago())


def strava_link_in_doubt(world):
    strava_link(world)
    UsersIntegrations.objects.update(strava_check_due_at=a_moment_ago())


def ask_of_the_dead(world):
    with suppress(StravaRelinkRequired):
        services.get_strava_access_token(world.id)


def in_trouble(world, service=services.get_strava_access_token):
    world.strava.fail("token", "500")
    world.strava.fail("athlete", "500")
    try:
        with suppress(ProviderError):
            service(world.id)
    finally:
        world.strava.recover()


def confirm(world):
    # It returns the code of an error that left the question open.
    if confirm_revocation(world.id) == IntegrationsDatabaseError.code:
        raise IntegrationsDatabaseError


def subscribed(world):
    world.strava.subscribe(CLIENT_ID, "https://example.com/integrations/strava/webhook/")
    list_subscriptions()


def subscribed_anew(world):
    """With another secret than the one that is known here."""
    subscribed(world)
    [old] = world.strava.subscriptions_of(CLIENT_ID)
    world.strava.unsubscribe(old.id, CLIENT_ID)
    world.strava.subscribe(CLIENT_ID, f"{old.callback_url}{'x' * 43}/")


@override_settings(STRAVA_WEBHOOK_VERIFY_TOKEN="verify-me")
def subscribe(world):
    with patch.object(StravaClient, "create_subscription", return_value=7):
        create_subscription("https://example.com/integrations/strava/webhook/")


@override_settings(STRAVA_WEBHOOK_VERIFY_TOKEN="verify-me")
def learn(world):
    # It returns whether it has learned.
    if not learn_subscription():
        raise IntegrationsDatabaseError


# --- The services -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    given: Callable[[World], object]
    run: Callable[[World], object]
    # What a failure may leave behind: tables, or columns of users_integrations, that the service
    # documents as writes of their own; and why.
    leaves: frozenset[str] = frozenset()
    why: str = ""
    # Where one statement may fail and the service succeed all the same; and why.
    survives: str = ""


def leaves(*names):
    return frozenset(names)


STRAVA_TOKENS = leaves(
    "strava_token", "strava_refresh_token", "strava_token_expires_at", "strava_refreshed_at"
)
GARMIN_TOKENS = leaves(
    "garminconnect_oauth2", "garminconnect_token_expires_at", "garminconnect_refreshed_at"
)
SYNC_NOTED = leaves(
    "garminconnect_sync_due_at",
    "garminconnect_sync_error",
    "garminconnect_sync_failures",
    "integrations_linkevent",
)
LEASE = leaves("strava_lease", "strava_lease_until")
GARMIN_LEASE = leaves("garminconnect_lease", "garminconnect_lease_until")
STATE = leaves("strava_state", "strava_state_expires_at", "strava_exchanging_*")
LEASE_RUNS_OUT = "the lease is taken first, and frees the way when it runs out"
HELD = "a provider's answer is held, and stored once the database is back; " + LEASE_RUNS_OUT
ASKS_AGAIN = "a provider's answer is worth a link: the database is asked again for a while"

CASES: dict[str, Case] = {
    "get_user_integrations_by_user_id": Case(
        a_row, lambda w: services.get_user_integrations_by_user_id(w.id)
    ),
    "get_user_integrations_by_strava_state": Case(
        waiting_at_strava, lambda w: services.get_user_integrations_by_strava_state(w.state)
    ),
    "create_user_integrations": Case(nothing, lambda w: services.create_user_integrations(w.id)),
    "edit_user_integrations": Case(
        strava_link,
        lambda w: services.edit_user_integrations(
            UsersIntegrationsUpdate(strava_token="t", strava_sync_gear=False), w.id
        ),
        leaves("strava_token", "strava_sync_gear"),
        "it writes, and then reads what it returns: a read that fails undoes no write",
    ),
    "set_user_strava_client": Case(
        a_row, lambda w: services.set_user_strava_client(w.id, "10", "secret")
    ),
    "set_user_strava_state": Case(a_row, lambda w: services.set_user_strava_state(w.id, "s")),
    "set_user_strava_sync_gear": Case(
        a_row, lambda w: services.set_user_strava_sync_gear(w.id, True)
    ),
    "set_user_garminconnect_sync_gear": Case(
        a_row, lambda w: services.set_user_garminconnect_sync_gear(w.id, True)
    ),
    "link_strava_account": Case(
        waiting_at_strava,
        lambda w: services.link_strava_account(*w.link),
        leaves("strava_*", "integrations_linkevent"),
        "the link is committed, and then the instance is brought up to date",
    ),
    "unlink_strava_account": Case(
        strava_link_with_gear, lambda w: services.unlink_strava_account(w.id)
    ),
    "link_garminconnect_account": Case(
        a_row, lambda w: services.link_garminconnect_account(w.id, None, {"di_token": "d"})
    ),
    "unlink_garminconnect_account": Case(
        garmin_link, lambda w: services.unlink_garminconnect_account(w.id)
    ),
    "begin_authorization": Case(
        strava_link, lambda w: services.begin_authorization(w.id, "strava", "http://testserver/cb")
    ),
    "begin_authorization: first": Case(
        nothing,
        lambda w: services.begin_authorization(w.id, "strava", "http://testserver/cb"),
        leaves("users_integrations"),
        "an empty row is made where there is none, and is as good as none",
    ),
    "complete_authorization": Case(
        waiting_at_strava,
        lambda w: services.complete_authorization(
            w.id, "strava", state=w.state, code=w.strava.grant(ALICE), scope="read"
        ),
        STATE,
        "the state is spent before anything else happens",
    ),
    "disconnect": Case(strava_link_with_gear, lambda w: services.disconnect(w.id, "strava")),
    "get_strava_access_token": Case(
        strava_link_expired,
        lambda w: services.get_strava_access_token(w.id),
        LEASE | STRAVA_TOKENS,
        HELD,
        survives=ASKS_AGAIN,
    ),
    "get_strava_access_token: dead": Case(
        strava_link_dead,
        ask_of_the_dead,
        LEASE,
        LEASE_RUNS_OUT,
    ),
    "refresh_link": Case(
        strava_link_expired,
        lambda w: services.refresh_link(w.id, "strava"),
        LEASE | STRAVA_TOKENS,
        "a token that was rotated is stored at once; its line in the trail comes after",
        survives=ASKS_AGAIN,
    ),
    "sweep_tokens": Case(
        strava_link_expired,
        lambda w: sweep_tokens(workers=1),
        LEASE | STRAVA_TOKENS,
        "row by row: one that is refreshed is stored, whatever becomes of the next",
        survives=ASKS_AGAIN,
    ),
    "take_revocation_hint": Case(strava_link, lambda w: take_revocation_hint(event())),
    "forget_abandoned_authorizations": Case(
        strava_authorization_abandoned, lambda w: forget_abandoned_authorizations()
    ),
    "is_webhook": Case(subscribed, lambda w: is_webhook("")),
    "create_subscription": Case(
        nothing,
        subscribe,
        leaves("integrations_pushsubscription"),
        "the secret is noted first, because Strava calls it; `list` learns the id",
    ),
    "list_subscriptions": Case(subscribed_anew, lambda w: list_subscriptions()),
    "delete_subscriptions": Case(subscribed, lambda w: delete_subscriptions()),
    "learn_subscription": Case(subscribed_anew, learn),
    "take_due_checks": Case(
        strava_link_in_doubt,
        lambda w: take_due_checks(),
        leaves("strava_check_due_at", "strava_checks_until"),
        "they are put off for ten minutes first, so that each is given to one caller only",
    ),
    "confirm_revocation": Case(
        strava_link_revoked,
        confirm,
        LEASE | leaves("strava_error", "strava_relink_required_at", "integrations_linkevent"),
        "the link is declared dead first, and cleared then: both say the truth",
    ),
    "get_garminconnect_client": Case(
        garmin_link_lapsing,
        lambda w: services.get_garminconnect_client(w.id),
        GARMIN_LEASE | GARMIN_TOKENS,
        HELD,
        survives=ASKS_AGAIN,
    ),
    "refresh_link: Garmin": Case(
        garmin_link,
        lambda w: services.refresh_link(w.id, "garminconnect"),
        GARMIN_LEASE | GARMIN_TOKENS,
        "a session that was rotated is stored at once; its line in the trail comes after",
        survives=ASKS_AGAIN,
    ),
    "disconnect: Garmin": Case(
        garmin_link_and_sign_in,
        lambda w: services.disconnect(w.id, "garminconnect"),
    ),
    "begin_login": Case(
        a_row,
        lambda w: begin_login(w.id, GARMIN_ALICE, PASSWORD),
        leaves("integrations_garminconnectattempt"),
        "an attempt is counted before Garmin is asked, so that none too many gets through",
    ),
    "run_login": Case(
        garmin_sign_in,
        lambda w: run_login(w.id, w.attempt),
        leaves("integrations_garminconnectlogin"),
        "the worker takes the password out of the row first; its time runs out within a minute",
    ),
    "submit_code": Case(
        garmin_code_wanted,
        lambda w: submit_code(w.id, MFA_CODE),
    ),
    "withdraw_login": Case(
        garmin_sign_in,
        lambda w: withdraw_login(w.id, w.attempt),
    ),
    "withdraw_code": Case(
        garmin_code_given,
        lambda w: withdraw_code(w.id, w.attempt),
    ),
    "run_mfa": Case(
        garmin_code_given,
        lambda w: run_mfa(w.id, w.attempt),
        leaves("integrations_garminconnectlogin"),
        "the worker takes the code out of the row first; it can be entered again",
    ),
    "cancel_login": Case(garmin_sign_in, lambda w: cancel_login(w.id)),
    "forget_dead_logins": Case(garmin_sign_in_over, lambda w: forget_dead_logins()),
    "get_integrations_status": Case(
        garmin_sign_in_over,
        lambda w: services.get_integrations_status(w.id),
        leaves("garminconnect_login_error", "integrations_garmin*", "integrations_linkevent"),
        "a sign-in whose time has run out is settled, and then the rows are read",
    ),
    "get_links": Case(
        garmin_sign_in_over,
        lambda w: get_links(w.id),
        leaves("garminconnect_login_error", "integrations_garmin*", "integrations_linkevent"),
        "a sign-in whose time has run out is settled, and then the rows are read",
    ),
    "get_link_events": Case(strava_link, lambda w: get_link_events(w.id)),
    "forget_old_link_events": Case(
        old_events,
        lambda w: forget_old_link_events(),
        leaves("integrations_linkevent"),
        "a thousand at a time; what is forgotten is forgotten",
    ),
    "export_integrations": Case(strava_link, lambda w: services.export_integrations(w.id)),
    "sync_strava_gear": Case(strava_link_with_gear, lambda w: services.sync_strava_gear(w.id)),
    "sync_garminconnect_gear": Case(
        garmin_link,
        lambda w: services.sync_garminconnect_gear(w.id),
        SYNC_NOTED,
        "that it failed is noted, and when to try again",
    ),
    "sync_garminconnect_gear: renewed in use": Case(
        garmin_link_refused,
        lambda w: services.sync_garminconnect_gear(w.id),
        GARMIN_LEASE | GARMIN_TOKENS | SYNC_NOTED,
        "a session that was rotated is stored at once, and the failure of the gear is noted",
        survives=ASKS_AGAIN,
    ),
    "sync_gear": Case(strava_link_with_gear, lambda w: services.sync_gear(w.id, "strava")),
    "wants_gear": Case(strava_link, lambda w: wants_gear(w.id, "strava")),
    "get_access_token": Case(strava_link, lambda w: services.get_access_token(w.id, "strava")),
    "report_rejected_token": Case(
        strava_link_known,
        lambda w: services.report_rejected_token(w.id, "strava", w.link[0]),
        LEASE | STRAVA_TOKENS,
        HELD,
        survives=ASKS_AGAIN,
    ),
    "request_gear_sync": Case(strava_link, lambda w: request_gear_sync(w.id, "strava")),
    "withdraw_gear_sync": Case(
        strava_link, lambda w: withdraw_gear_sync(w.id, "strava", "unavailable")
    ),
    "set_sync_gear": Case(a_row, lambda w: services.set_sync_gear(w.id, "strava", True)),
    "get_gear": Case(strava_link_with_gear, lambda w: services.get_gear(w.id)),
    "count_gear": Case(strava_link_with_gear, lambda w: count_gear(w.id)),
    "iterate_wanting_gear": Case(strava_link, lambda w: list(iterate_wanting_gear("strava"))),
    "take_due_gear_syncs": Case(
        strava_link,
        lambda w: take_due_gear_syncs("strava"),
        leaves("strava_sync_due_at"),
        "they are put off for an hour first, so that each is given to one caller only",
    ),
    "is_gear_sync_taken": Case(
        strava_link, lambda w: is_gear_sync_taken(w.id, "strava", timezone.now())
    ),
    "get_strava_access_token: Strava in trouble": Case(
        strava_link_expired,
        in_trouble,
        LEASE,
        LEASE_RUNS_OUT,
    ),
    "sync_strava_gear: Strava in trouble": Case(
        strava_link_with_gear, lambda w: in_trouble(w, services.sync_strava_gear)
    ),
    "fernet_keys_open_secrets": Case(nothing, lambda w: services.fernet_keys_open_secrets()),
    "plant_fernet_canary": Case(nothing, lambda w: plant_fernet_canary(anew=True)),
    "rotate_fernet_keys": Case(
        secrets_of_two_models,
        rotate,
        leaves("strava_*", "integrations_garminconnectlogin", "integrations_fernetcanary"),
        "may be stopped anywhere and run again: row by row",
    ),
}

MODULES = ("export", "gear", "keys", "links", "oauth", "seed", "status", "sweep", "tokens", "trail")


def services_of(module):
    """Its public functions that name a database's failure."""
    return {
        name
        for name, found in vars(module).items()
        if getattr(found, "__module__", "") == module.__name__
        and hasattr(found, "__wrapped__")
        and not name.startswith("_")
    }


def test_every_service_is_here():
    modules = [import_module(f"integrations.services.{name}") for name in MODULES]
    expected = set().union(*map(services_of, [*modules, push, login]))
    assert len(expected) > 50
    assert expected - {"acting_as", "keeper_of"} <= {name.split(":")[0] for name in CASES}


def test_what_is_left_is_explained():
    for name, case in CASES.items():
        assert bool(case.leaves) == bool(case.why), name


# --- The fault ----------------------------------------------------------------------------------


class Breaker:
    """Fails the n-th statement or commit of the whole process, and perhaps all that follow."""

    def __init__(self, number, error, lasting):
        self.number, self.error, self.lasting = number, error, lasting
        self.lock = threading.Lock()
        self.seen = 0
        self.broke = ""

    def pass_through(self, what):
        with self.lock:
            self.seen += 1
            if self.seen == self.number or (self.lasting and self.seen > self.number):
                self.broke = self.broke or what
                raise self.error(INTERNALS)

    def __call__(self, execute, sql, params, many, context):
        self.pass_through(sql)
        return execute(sql, params, many, context)

    def install(self, connection, **kwargs):
        if self not in connection.execute_wrappers:
            connection.execute_wrappers.append(self)


@contextmanager
def broken(number, error, lasting):
    """For this thread's connection, and for those that other threads open meanwhile."""
    breaker, patch = Breaker(number, error, lasting), pytest.MonkeyPatch()
    ours = connections["default"]
    commit = type(ours)._commit

    def failing_commit(self):
        try:
            breaker.pass_through("COMMIT")
        except error:
            self._rollback()  # what a server does with a transaction whose client is gone
            raise
        return commit(self)

    patch.setattr(type(ours), "_commit", failing_commit)
    ours.execute_wrappers.append(breaker)
    connection_created.connect(breaker.install, weak=False)
    try:
        yield breaker
    finally:
        connection_created.disconnect(breaker.install)
        ours.execute_wrappers.remove(breaker)
        breaker.number, breaker.lasting = 0, False  # a thread may have a connection with it
        patch.undo()


# --- Before and after ---------------------------------------------------------------------------

MODELS = list(apps.get_app_config("integrations").get_models())


@pytest.fixture
def begin_anew(sandbox, strava, garmin):
    """Another athlete, in an empty database."""
    numbers = count()

    def begin_anew():
        sandbox.reset()
        users = get_user_model().objects.all()
        for model in sorted(MODELS, key=lambda model: model is UsersIntegrations):
            model.objects.all()._raw_delete(model.objects.db)
        users._raw_delete(users.db)
        plant_fernet_canary(anew=True)
        return World(strava, garmin, users.create(username=f"athlete{next(numbers)}"))

    return begin_anew


def snapshot():
    """Every row of every table; secrets by their ciphertext."""
    with keep_sealed():
        return {
            model._meta.db_table: {row["id"]: row for row in model.objects.values()}
            for model in MODELS
        }


def differences(before, after):
    """Tables that are not as they were; of users_integrations, the columns."""
    found = set()
    for table in before:
        old, new = before[table], after[table]
        if table != UsersIntegrations._meta.db_table or set(old) != set(new):
            found |= {table} if old != new else set()
            continue
        for pk in old:
            found |= {name for name in old[pk] if old[pk][name] != new[pk][name]}
    return found


KINDS = {
    "lost for good": (OperationalError, True),
    "lost once": (OperationalError, False),
    "closed once": (InterfaceError, False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_a_database_lost_at_any_statement_leaves_nothing_half_written(
    name, kind, begin_anew, monkeypatch
):
    monkeypatch.setattr(_single_flight, "STORE_FOR", 0.3)
    case, (error, lasting) = CASES[name], KINDS[kind]
    wrong = []
    for number in count(1):
        world = begin_anew()
        case.given(world)
        before, raised = snapshot(), None
        with broken(number, error, lasting) as breaker:
            if name == "sweep_tokens" and lasting:
                # Nothing else ends a sweep that has an answer to store.
                monkeypatch.setattr(ending, "told", lambda breaker=breaker: bool(breaker.broke))
            try:
                case.run(world)
            except Exception as exc:
                raised = exc
        if not breaker.broke:
            break
        wait_until(lambda: not _spool._in_hand.answers, 30, 0.02)
        where = f"statement {number}: {breaker.broke[:70]}"
        if raised is None:
            if lasting or not case.survives:
                wrong.append(f"{where}: nobody was told")
            continue
        if not (isinstance(raised, IntegrationsError) and raised.status_code == 500):
            wrong.append(f"{where}: {raised!r}")
        if INTERNALS in f"{raised!r} {raised}":
            wrong.append(f"{where}: tells of internals")
        left = [
            name
            for name in sorted(differences(before, snapshot()))
            if not any(fnmatch(name, pattern) for pattern in case.leaves)
        ]
        if left:
            wrong.append(f"{where}: left {left}")
    assert raised is None  # the last run, which nothing has disturbed
    assert number > 1  # and which asks the database at all
    assert not wrong, "\n".join([name, *wrong])


# --- Busy ---------------------------------------------------------------------------------------

# Seconds. How long a statement waits for another's lock, here.
PATIENCE = 0.3


@pytest.fixture
def impatient_database():
    """This thread's connection waits for a lock no longer than PATIENCE."""
    connection = connections["default"]

    def wait(seconds):
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                cursor.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
            else:
                cursor.execute(f"SET lock_timeout = '{round(seconds * 1000)}ms'")

    wait(PATIENCE)
    yield wait
    wait(20 if connection.vendor == "sqlite" else 0)


def busy_elsewhere(user_id, seconds=None):
    """Another connection holds what a writer of this row needs; for so long, or to the end."""
    row = UsersIntegrations.objects.filter(user_id=user_id)
    return held_elsewhere(lambda: row.update(user_id=user_id), seconds)


@contextmanager
def held_elsewhere(lock, seconds=None):
    """Another connection holds what `lock` has locked; for so long, or to the end."""
    held, free = threading.Event(), threading.Event()

    def hold():
        other = connections["default"]
        try:
            with transaction.atomic():
                lock()
                held.set()
                free.wait(seconds if seconds is not None else 30)
        finally:
            other.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    try:
        yield
    finally:
        free.set()
        thread.join()


def test_after_a_lost_connection_the_next_statement_gets_a_new_one(begin_anew):
    ours = connections["default"]
    if ours.vendor != "postgresql":
        pytest.skip("a file has no connection to lose")
    world = begin_anew()
    strava_link(world)
    with ours.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    other = ours.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    finally:
        other.close()

    with pytest.raises(IntegrationsDatabaseError):
        services.get_strava_access_token(world.id)

    # in the same request, or by the worker that has to note how its task ended
    assert services.get_strava_access_token(world.id)


WRITERS = {
    "one statement": lambda w: services.set_user_strava_sync_gear(w.id, False),
    "a transaction": lambda w: services.unlink_strava_account(w.id),
    "gear": lambda w: services.sync_strava_gear(w.id),
    "a lease": lambda w: services.refresh_link(w.id, "strava"),
    "a state": lambda w: services.begin_authorization(w.id, "strava", "http://testserver/cb"),
}


@pytest.fixture
def lose_at(monkeypatch):
    """Lose a connection for good at the next statement that has these words, in any thread or in
    any but this one."""
    ours, wanted, lost = connections["default"], [], []
    here, rollback = threading.current_thread(), type(ours)._rollback

    def check(connection):
        if connection.connection in lost:
            connection.errors_occurred = True
            raise OperationalError(INTERNALS)

    def lose(execute, sql, params, many, context):
        for words, elsewhere in wanted:
            if words in str(sql) and not (elsewhere and threading.current_thread() is here):
                wanted.clear()
                lost.append(context["connection"].connection)
        check(context["connection"])
        return execute(sql, params, many, context)

    def install(connection, **kwargs):
        if lose not in connection.execute_wrappers:
            connection.execute_wrappers.append(lose)

    def failing_rollback(self):
        check(self)
        rollback(self)

    monkeypatch.setattr(type(ours), "is_usable", lambda self: self.connection not in lost)
    monkeypatch.setattr(type(ours), "_rollback", failing_rollback)
    connection_created.connect(install)
    install(ours)
    yield lambda words, elsewhere=False: wanted.append((words, elsewhere))
    connection_created.disconnect(install)
    ours.execute_wrappers.remove(lose)
    assert len(lost) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_met_the_lost_connection_may_call_again(name, begin_anew, lose_at):
    world = begin_anew()
    strava_link_with_gear(world)
    lose_at("UPDATE ")

    with pytest.raises(IntegrationsDatabaseError):
        WRITERS[name](world)

    WRITERS[name](world)


def test_a_rotated_token_is_stored_on_a_new_connection_if_need_be(begin_anew, lose_at):
    world = begin_anew()
    strava_link_expired(world)
    lose_at(connections["default"].ops.quote_name("strava_token") + " = ")

    token = services.get_strava_access_token(world.id)

    assert world.strava.is_alive(token)
    assert world.row.strava_token == token
    assert world.strava.calls["token"] == 1


def test_a_sweep_goes_on_after_a_connection_that_was_lost(alice, bob, link, strava, lose_at):
    link(alice, expires_in=60)
    link(bob, BJORN, expires_in=120)
    lose_at("UPDATE ", elsewhere=True)

    counts = sweep_tokens(workers=1).as_dict()

    assert (counts["failed"], counts["refreshed"]) == (1, 1)
    assert strava.calls["token"] == 1
    assert strava.is_alive(UsersIntegrations.objects.get(user=bob).strava_refresh_token)


def test_a_failure_undoes_nothing_of_a_host_that_commits_by_itself(begin_anew):
    """Django's way to try a connection would close this one, because it has no autocommit."""
    world = begin_anew()
    a_row(world)
    transaction.set_autocommit(False)
    try:
        services.set_user_strava_sync_gear(world.id, True)
        with broken(1, OperationalError, lasting=False), pytest.raises(IntegrationsDatabaseError):
            services.set_user_garminconnect_sync_gear(world.id, True)
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert world.row.strava_sync_gear


@pytest.mark.parametrize("name", WRITERS)
def test_a_database_busy_for_too_long_is_the_contracts_error(name, begin_anew, impatient_database):
    world = begin_anew()
    strava_link_with_gear(world)
    before = snapshot()

    with busy_elsewhere(world.id):
        started = time.monotonic()
        with pytest.raises(IntegrationsDatabaseError) as caught:
            WRITERS[name](world)
        took = time.monotonic() - started

    assert caught.value.status_code == 500
    assert "lock" not in f"{caught.value!r}"
    assert PATIENCE * 0.8 < took < 10
    assert differences(before, snapshot()) == set()


@pytest.mark.parametrize("name", WRITERS)
def test_a_database_busy_for_a_moment_is_waited_for(name, begin_anew, impatient_database):
    world = begin_anew()
    strava_link_with_gear(world)
    before = snapshot()
    impatient_database(10)

    with busy_elsewhere(world.id, seconds=0.4):
        started = time.monotonic()
        WRITERS[name](world)

    assert time.monotonic() - started > 0.3
    assert differences(before, snapshot())


def test_a_rotated_token_outlasts_a_database_that_is_busy_for_longer(
    begin_anew, impatient_database, monkeypatch
):
    """Strava has answered, and the old refresh token is dead: the answer may not be dropped."""
    world = begin_anew()
    strava_link_expired(world)
    ask = StravaClient.refresh_access_token
    busy = ExitStack()

    def asked(self, refresh_token):
        tokens = ask(self, refresh_token)
        busy.enter_context(busy_elsewhere(world.id, seconds=4 * PATIENCE))
        return tokens

    monkeypatch.setattr(StravaClient, "refresh_access_token", asked)
    with busy:
        token = services.get_strava_access_token(world.id)

    assert token == world.row.strava_token
    assert world.strava.is_alive(world.row.strava_refresh_token)
    assert world.row.strava_status == LinkStatus.LINKED
    assert world.strava.calls["token"] == 1
