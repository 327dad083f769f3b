"""Machines that disagree about the time: what one notes, another goes by, and the database's clock
is right. Each test has another process do a part, whose clock is off."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.db.models import F
from django.db.models.functions import Now
from django.test import RequestFactory
from django.utils import timezone
from django_tasks_db.models import DBTaskResult

from integrations import exceptions, services, web
from integrations.garminconnect import login as garminconnect_login
from integrations.garminconnect.login import (
    begin_login,
    forget_dead_logins,
    run_login,
    run_mfa,
    submit_code,
)
from integrations.models import GarminConnectAttempt, GarminConnectLogin, UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import MFA, MFA_CODE, PASSWORD
from integrations.sandbox.strava import ALICE
from integrations.services.gear import is_gear_sync_taken, request_gear_sync, take_due_gear_syncs
from integrations.services.oauth import forget_abandoned_authorizations
from integrations.services.sweep import sweep_tokens
from integrations.services.trail import get_link_events
from integrations.strava.push import take_due_checks, take_revocation_hint

from .clock import Clock
from .conftest import a_moment_ago, row_of
from .processes import BASE_DIR, PYTHON, Athlete, Site, environment, wait_until
from .test_strava_webhook import event

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        not shutil.which("cc") and not os.environ.get("CI"), reason="needs a C compiler"
    ),
]

MINUTE, DAY = 60, 24 * 60 * 60
OFF_BY = (-DAY, 10 * MINUTE)
every_clock = pytest.mark.parametrize(
    "elsewhere",
    [-DAY, -10 * MINUTE, -MINUTE, 40, 10 * MINUTE, DAY],
    ids="{:+} seconds".format,
    indirect=True,
)

# Calls services as told on standard input; answers in JSON, an error by its name and wait.
SERVANT = """
import importlib, json, sys, django
django.setup()
from django.conf import settings
from django.db import connections
from integrations.garminconnect import watch
from integrations.sandbox.garmin import hook
hook.point_library_at(settings.INTEGRATIONS_SANDBOX_URL, pauses=False)
watch.TICKET_PAUSES = (0, 0)
for line in sys.stdin:
    name, args, kwargs = json.loads(line)
    module, _, name = name.rpartition(".")
    try:
        answer = getattr(importlib.import_module(module), name)(*args, **kwargs)
    except Exception as exc:
        answer = {"error": type(exc).__name__, "retry_after": getattr(exc, "retry_after", None)}
    connections.close_all()
    print(json.dumps(getattr(answer, "as_dict", lambda: answer)(), default=str), flush=True)
"""


PLACES = {
    "": "integrations.services",
    "garmin": "integrations.garminconnect.login",
    "gear": "integrations.services.gear",
    "push": "integrations.strava.push",
    "sweep": "integrations.services.sweep",
    "trail": "integrations.services.trail",
}


def path_of(name):
    """The path of a service, such as sync_strava_gear or sweep.sweep_tokens."""
    place, _, name = name.rpartition(".")
    return f"{PLACES.get(place, place)}.{name}"


class Elsewhere:
    """A process on a machine with a clock of its own."""

    def __init__(self, sandbox_url: str) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock(Path(self.directory.name))
        self.process = subprocess.Popen(
            [PYTHON, "-c", SERVANT],
            env=environment(INTEGRATIONS_SANDBOX_URL=sandbox_url, **self.clock.env),
            cwd=BASE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, name, *args, **kwargs):
        name = path_of(name)
        self.process.stdin.write(json.dumps([name, args, kwargs], default=str) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.directory.cleanup()


@pytest.fixture(scope="module")
def kept():
    """One process serves all tests: its clock can jump."""
    found = []
    yield found
    for each in found:
        each.stop()


@pytest.fixture
def machine(kept, strava, garmin, sandbox):
    if not kept:
        kept.append(Elsewhere(sandbox.url))
    yield kept[0]
    kept[0].clock.set(0)


@pytest.fixture(params=OFF_BY, ids="{:+} seconds".format)
def elsewhere(request, machine):
    machine.clock.set(request.param)
    off_by = machine("time.time") - time.time()
    assert abs(off_by - request.param) < 20
    return machine


# --- Strava -------------------------------------------------------------------------------------


@every_clock
def test_a_state_is_good_on_every_machine(alice, strava, elsewhere):
    url = "http://testserver/"
    state = services.begin_authorization(alice.pk, "strava", url).state
    there = elsewhere(
        "complete_authorization", alice.pk, "strava", state=state, code=strava.grant(ALICE)
    )
    assert "error" not in there

    elsewhere("begin_authorization", alice.pk, "strava", url)
    services.complete_authorization(
        alice.pk, "strava", state=row_of(alice).strava_state, code=strava.grant(ALICE)
    )
    elsewhere("begin_authorization", alice.pk, "strava", url)
    assert forget_abandoned_authorizations() == 0
    assert row_of(alice).strava_state


def test_an_old_state_is_old_on_every_machine(alice, strava, elsewhere):
    state = services.begin_authorization(alice.pk, "strava", "http://testserver/").state
    UsersIntegrations.objects.update(strava_state_expires_at=a_moment_ago())
    answer = elsewhere(
        "complete_authorization", alice.pk, "strava", state=state, code=strava.grant(ALICE)
    )
    assert answer["error"] == "InvalidState"


@every_clock
@pytest.mark.parametrize("left", [4 * MINUTE + 50, 5 * MINUTE + 30])
def test_a_token_is_handed_out_with_five_minutes_left(alice, link, strava, elsewhere, left):
    strava.token_lifetime = 30 * MINUTE
    link(alice, expires_in=left)

    elsewhere("get_strava_access_token", alice.pk)

    assert strava.calls["token"] == (left < 5 * MINUTE)
    assert row_of(alice).strava_token_expires_at > timezone.now() + timedelta(minutes=5)


def test_a_token_that_another_machine_got_is_as_good_as_it_is(alice, expired, strava, elsewhere):
    elsewhere("get_strava_access_token", alice.pk)
    lasts = row_of(alice).strava_token_expires_at - timezone.now()
    assert abs(lasts.total_seconds() - strava.token_lifetime) < MINUTE
    services.get_strava_access_token(alice.pk)
    assert strava.calls["token"] == 1


def test_a_failure_puts_a_sweep_off_for_as_long_as_it_says(alice, expired, strava, elsewhere):
    strava.fail("token", "500", times=1)
    assert elsewhere("get_strava_access_token", alice.pk)["error"] == "ProviderUnavailable"
    assert sweep_tokens().due == 0  # put off for a minute, on every machine
    assert elsewhere("sweep.sweep_tokens")["due"] == 0
    UsersIntegrations.objects.update(
        strava_retry_at=F("strava_retry_at") - timedelta(seconds=2 * MINUTE)
    )
    assert sweep_tokens().refreshed == 1


def test_a_limit_holds_on_every_machine_until_it_ends(alice, expired, strava, elsewhere):
    if window_left() < 5:
        time.sleep(5)  # it would turn in the middle
    strava.fail("token", "429", times=1)
    there = elsewhere("get_strava_access_token", alice.pk)
    assert there["error"] == "RateLimited"
    left = (row_of(alice).strava_limited_until - timezone.now()).total_seconds()
    assert -5 < left - window_left() < 5
    for ask in (elsewhere, here):
        again = ask("get_strava_access_token", alice.pk)
        assert again["error"] == "RateLimited"
        assert abs(again["retry_after"] - window_left()) < 5
    assert strava.calls["token"] == 1


def test_a_sweep_anywhere_puts_no_other_off(alice, link, strava, elsewhere):
    link(alice, expires_in=5 * MINUTE)
    assert elsewhere("sweep.sweep_tokens")["refreshed"] == 1
    UsersIntegrations.objects.update(strava_token_expires_at=timezone.now())
    strava.expire(ALICE)
    assert sweep_tokens().refreshed == 1
    UsersIntegrations.objects.update(strava_token_expires_at=timezone.now())
    strava.expire(ALICE)
    assert elsewhere("sweep.sweep_tokens")["refreshed"] == 1
    assert elsewhere("sweep.sweep_tokens")["due"] == 0


def test_gear_is_synced_when_it_is_due(alice, linked, strava, elsewhere):
    elsewhere("set_sync_gear", alice.pk, "strava", True)
    taken, _until = take_due_gear_syncs("strava")
    assert taken == [alice.pk]
    assert take_due_gear_syncs("strava")[0] == []
    assert elsewhere("gear.take_due_gear_syncs", "strava")[0] == []

    elsewhere("gear.request_gear_sync", alice.pk, "strava")
    for ask in (elsewhere, here):  # it is under way
        assert ask("gear.request_gear_sync", alice.pk, "strava")["error"] == "SyncInProgress"
    elsewhere("sync_strava_gear", alice.pk)
    due_in = row_of(alice).strava_sync_due_at - timezone.now()
    assert timedelta(hours=5) < due_in < timedelta(hours=7)

    services.set_sync_gear(alice.pk, "strava", True)
    taken, until = elsewhere("gear.take_due_gear_syncs", "strava")
    assert taken == [alice.pk]
    assert is_gear_sync_taken(alice.pk, "strava", datetime.fromisoformat(until))
    assert take_due_gear_syncs("strava")[0] == []
    strava.fail("athlete", "500", times=1)
    elsewhere("sync_strava_gear", alice.pk)
    due_in = row_of(alice).strava_sync_due_at - timezone.now()
    assert timedelta(minutes=5) < due_in < timedelta(minutes=11)


def test_push_events_cause_as_many_checks_as_elsewhere(alice, linked, strava, elsewhere):
    asked = [
        ask("push.take_revocation_hint", event()) for ask in (elsewhere, here, elsewhere, here)
    ]
    assert asked == [alice.pk] * 3 + [None]  # three at once, then one in a quarter of an hour
    for ask in (elsewhere, here):
        assert ask("push.take_due_checks") == []
    UsersIntegrations.objects.update(
        strava_check_due_at=F("strava_check_due_at") - timedelta(minutes=15)
    )
    assert elsewhere("push.take_due_checks") == [alice.pk]
    assert take_due_checks() == []


def here(name, *args):
    """What Elsewhere does, in this process."""
    try:
        module, _, name = path_of(name).rpartition(".")
        return getattr(importlib.import_module(module), name)(*args)
    except exceptions.IntegrationsError as exc:
        return {"error": type(exc).__name__, "retry_after": getattr(exc, "retry_after", None)}


def window_left():
    return 15 * MINUTE - time.time() % (15 * MINUTE)


# --- Garmin -------------------------------------------------------------------------------------


@every_clock
def test_a_worker_elsewhere_finishes_a_sign_in(alice, garmin, elsewhere):
    attempt = begin_login(alice.pk, MFA, PASSWORD)
    assert elsewhere("garmin.run_login", alice.pk, attempt) == "mfa_required"
    for settle in (forget_dead_logins, lambda: elsewhere(SETTLE)):
        assert settle() == 0
    attempt = submit_code(alice.pk, "999999")
    assert elsewhere("garmin.run_mfa", alice.pk, attempt) == "invalid_mfa_code"
    assert forget_dead_logins() == 0
    attempt = submit_code(alice.pk, MFA_CODE)
    assert elsewhere("garmin.run_mfa", alice.pk, attempt) == "linked"
    services.get_garminconnect_client(alice.pk)
    assert garmin.calls["token"] == 1  # the session is as fresh here


SETTLE = "garmin.forget_dead_logins"


def test_a_sign_in_begun_elsewhere_is_finished_here(alice, garmin, elsewhere):
    attempt = elsewhere("garmin.begin_login", alice.pk, MFA, PASSWORD)
    assert run_login(alice.pk, attempt) == "mfa_required"
    attempt = elsewhere("garmin.submit_code", alice.pk, MFA_CODE)
    assert run_mfa(alice.pk, attempt) == "linked"


def test_what_nobody_came_for_is_erased_by_any_machine(alice, garmin, elsewhere):
    elsewhere("garmin.begin_login", alice.pk, GARMIN_ALICE, PASSWORD)
    GarminConnectLogin.objects.update(step_until=F("step_until") - garminconnect_login.PICK_UP)
    assert elsewhere(SETTLE) == 1
    assert not GarminConnectLogin.objects.exists()


def test_sign_ins_are_counted_over_an_hour(alice, garmin, elsewhere):
    def begin(ask):
        answer = ask("garmin.begin_login", alice.pk, GARMIN_ALICE, PASSWORD)
        GarminConnectLogin.objects.all().delete()
        return answer

    for ask in (elsewhere, here, elsewhere, here, elsewhere):
        assert "error" not in str(begin(ask))
    elsewhere(SETTLE)
    for ask in (here, elsewhere):
        refused = begin(ask)
        assert refused["error"] == "TooManyAttempts"
        assert 59 * MINUTE < refused["retry_after"] <= 60 * MINUTE
    GarminConnectAttempt.objects.update(at=F("at") - timedelta(hours=1))
    for ask in (here, elsewhere):
        assert "error" not in str(begin(ask))


def test_a_session_is_rotated_when_it_has_to_be(alice, garmin, elsewhere):
    services.create_user_integrations(alice.pk)
    session = garmin.issue_session(GARMIN_ALICE, expires_in=19 * MINUTE)
    services.link_garminconnect_account(alice.pk, None, session)
    elsewhere("sync_garminconnect_gear", alice.pk)
    assert garmin.calls["token"] == 1
    elsewhere("sync_garminconnect_gear", alice.pk)
    services.get_garminconnect_client(alice.pk)
    assert garmin.calls["token"] == 1


# --- The trail and the page ---------------------------------------------------------------------


def test_the_trail_is_in_the_databases_time(alice, linked, strava, elsewhere):
    elsewhere("refresh_link", alice.pk, "strava")
    services.refresh_link(alice.pk, "strava")
    elsewhere("refresh_link", alice.pk, "strava")
    events = get_link_events(alice.pk)
    assert all(abs(each.at - timezone.now()) < timedelta(minutes=1) for each in events)
    assert [each.pk for each in events] == sorted((each.pk for each in events), reverse=True)
    assert elsewhere("trail.forget_old_link_events") == 0


def test_the_page_tells_what_a_worker_elsewhere_failed_at_and_once(
    alice, alice_client, linked, strava, elsewhere
):
    strava.fail("athlete", "500", times=1)
    elsewhere("gear.request_gear_sync", alice.pk, "strava")
    assert status_of(alice_client)["strava"]["error"] is None
    elsewhere(f"{__name__}.sync_as_athlete", alice.pk)
    assert page_alert(alice_client) == "provider_unavailable"
    alice_client.post("/integrations/strava/preferences/")
    assert page_alert(alice_client) is None  # for there is news
    assert page_alert(alice_client) is None  # and then what is older is none


def sync_as_athlete(user_id):
    with services.acting_as("athlete", user_id), suppress(exceptions.ProviderUnavailable):
        services.sync_strava_gear(user_id)


def page_alert(client):
    alert = client.get(PAGE).context["alert"]
    return alert and alert.code


def status_of(client):
    return client.get("/integrations/status/").json()


PAGE = "/settings/integrations/"


def test_a_machine_elsewhere_tells_what_went_wrong_here(alice, alice_client, elsewhere):
    alice_client.post(f"{GARMIN}/connect/", {"email": "not-an-email", "password": "x"})
    sealed = alice_client.cookies["integrations_failure"].value
    assert elsewhere(f"{__name__}.alert_of", alice.pk, sealed) == "invalid_input"


def alert_of(user_id, sealed):
    request = RequestFactory(headers={"Cookie": f"integrations_failure={sealed}"}).get("/")
    request.user = get_user_model().objects.get(pk=user_id)
    failure = web.take_failure(request)
    return failure and failure.code


# --- A clock that was set back ------------------------------------------------------------------

TOMORROW = Now() + timedelta(days=1)


@pytest.mark.parametrize(
    "left",
    [
        {"strava_lease": uuid.uuid4(), "strava_lease_until": TOMORROW},
        {"strava_refreshed_at": TOMORROW},
        {"strava_retry_at": TOMORROW + timedelta(hours=1)},
        {"strava_limited_until": TOMORROW + timedelta(hours=1)},
    ],
    ids=lambda left: [*left][-1],
)
def test_no_sweep_is_put_off_until_the_clock_was_right(alice, expired, strava, left):
    UsersIntegrations.objects.update(**left)
    assert sweep_tokens().refreshed == 1


@pytest.mark.parametrize("column", ["sync_due_at", "syncing_until", "limited_until"])
def test_no_gear_waits_until_the_clock_was_right(alice, linked, strava, column):
    services.set_sync_gear(alice.pk, "strava", True)
    UsersIntegrations.objects.update(**{f"strava_{column}": TOMORROW + timedelta(hours=1)})
    assert take_due_gear_syncs("strava")[0] == [alice.pk]
    request_gear_sync(alice.pk, "strava")
    services.sync_strava_gear(alice.pk)


def test_no_password_waits_until_the_clock_was_right(alice, garmin):
    for _ in range(5):
        begin_login(alice.pk, GARMIN_ALICE, PASSWORD)
        GarminConnectLogin.objects.update(step_until=TOMORROW)
    GarminConnectAttempt.objects.update(at=TOMORROW)

    begin_login(alice.pk, GARMIN_ALICE, PASSWORD)
    GarminConnectLogin.objects.update(step_until=TOMORROW)
    assert forget_dead_logins() == 1
    assert not GarminConnectLogin.objects.exists()


def test_no_check_and_no_client_waits_until_the_clock_was_right(alice, linked, strava):
    assert take_revocation_hint(event()) == alice.pk
    UsersIntegrations.objects.update(strava_check_due_at=TOMORROW, strava_checks_until=TOMORROW)
    assert take_due_checks() == [alice.pk]

    services.begin_authorization(alice.pk, "strava", "http://testserver/")
    UsersIntegrations.objects.update(strava_state_expires_at=TOMORROW)
    assert forget_abandoned_authorizations() == 1


def test_a_scheduler_whose_clock_jumps_goes_on(db, tmp_path):
    clock = Clock(tmp_path)
    site = Site(TASKS_BACKEND="database", **clock.env)
    swept = DBTaskResult.objects.filter(task_path__contains="refresh_due")
    try:
        site.start("-m", "project.schedule")
        for times, off_by in enumerate((0, DAY, 0), start=1):
            clock.set(off_by)
            wait_until(lambda times=times: swept.count() >= times)
    finally:
        site.stop()


# --- Processes as they run ----------------------------------------------------------------------


def test_a_site_whose_machines_disagree(alice, sandbox, garmin, strava, tmp_path):
    """Two of them serve pages, one works and one schedules."""
    sites = []

    def machine(off_by):
        clock = Clock(tmp_path, off_by)
        site = Site(
            INTEGRATIONS_SANDBOX="on",
            INTEGRATIONS_SANDBOX_URL=sandbox.url,
            TASKS_BACKEND="database",
            **clock.env,
        )
        sites.append(site)
        return site

    try:
        machine(-DAY).hurried_worker()
        athletes = []
        for off_by in (10 * MINUTE, -10 * MINUTE):
            site = machine(off_by)
            site.web(workers=1)
            athletes.append(Athlete(site, alice))
        here, there = athletes
        garmin.fail("mobile_page", "delay", times=1, seconds=5)

        assert here.post(f"{GARMIN}/connect/", email=MFA, password=PASSWORD).status_code == 202
        wait_until(lambda: garmin.calls["mobile_page"])
        machine(DAY).start("-m", "project.schedule")
        # The first that it does is to end what is over.
        swept = DBTaskResult.objects.filter(task_path__contains="refresh_due")
        wait_until(swept.exists)
        wait_until(lambda: there.status("garminconnect")["status"] == "mfa_required")
        assert there.post(f"{GARMIN}/mfa/", code=MFA_CODE).status_code == 202
        wait_until(lambda: here.status("garminconnect")["status"] == "linked")
        assert garmin.attempts[MFA] == 1

        state = services.begin_authorization(alice.pk, "strava", "http://testserver/").state
        answer = there.session.get(
            f"{there.site.url}/integrations/strava/callback/",
            params={"state": state, "code": strava.grant(ALICE), "scope": "read"},
            timeout=30,
        )
        assert answer.status_code == 200
        assert here.status("strava")["status"] == "linked"
    finally:
        for site in sites:
            site.stop()


GARMIN = "/integrations/garminconnect"
