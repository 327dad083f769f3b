"""Signing in to Garmin over several web processes and workers, some of which are killed."""

from __future__ import annotations

import signal
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from integrations import services
from integrations.garminconnect.login import begin_login
from integrations.models import GarminConnectLogin
from integrations.sandbox.garmin import ALICE, MFA, MFA_CODE, PASSWORD

from .conftest import a_moment_ago, row_of
from .processes import Athlete, Site, wait_until
from .test_secrets import everything_stored

pytestmark = pytest.mark.django_db(transaction=True)

CONNECT = "/integrations/garminconnect/connect/"
MFA_URL = "/integrations/garminconnect/mfa/"


@pytest.fixture(scope="module")
def web(django_db_setup, running_sandbox):
    """Three web processes, which every test finds as a site's users would: running."""
    site = processes_at(running_sandbox)
    site.web(workers=3)
    yield site
    site.stop()


@pytest.fixture
def site(sandbox, db):
    """The workers, which each test has to itself."""
    site = processes_at(sandbox)
    yield site
    site.stop()


def processes_at(sandbox):
    return Site(
        INTEGRATIONS_SANDBOX="on", INTEGRATIONS_SANDBOX_URL=sandbox.url, TASKS_BACKEND="database"
    )


@pytest.fixture
def athlete(alice, web, site):
    return Athlete(web, alice)


def step(user):
    return GarminConnectLogin.objects.filter(user=user).values_list("step", flat=True).first()


def test_a_workers_start_ends_what_nobody_has_come_for(alice, site):
    """With nothing in the queue, and no clock and no web process that could look."""
    begin_login(alice.pk, ALICE, PASSWORD)
    GarminConnectLogin.objects.update(step_until=a_moment_ago() - timedelta(seconds=1))

    site.worker()

    wait_until(lambda: not GarminConnectLogin.objects.exists())
    assert row_of(alice).garminconnect_login_error == "login_interrupted"


def test_the_mfa_journey_over_three_web_processes_and_two_workers(
    alice, site, athlete, sandbox, garmin
):
    for _ in range(2):
        site.worker()

    assert athlete.post(CONNECT, email=MFA, password=PASSWORD).status_code == 202
    assert athlete.status("garminconnect")["status"] == "linking"
    wait_until(lambda: athlete.status("garminconnect")["status"] == "mfa_required")
    during = everything_stored()
    assert athlete.post(MFA_URL, code="999999").status_code == 202
    wait_until(lambda: athlete.status("garminconnect")["error"])
    assert athlete.status("garminconnect")["status"] == "mfa_required"
    assert athlete.post(MFA_URL, code=MFA_CODE).status_code == 202
    wait_until(lambda: athlete.status("garminconnect")["status"] == "linked")

    assert garmin.attempts[MFA] == 1
    tokens = row_of(alice).garminconnect_oauth2
    assert garmin.is_alive(tokens["di_token"])
    assert services.get_garminconnect_client(alice.pk).get_gear_list() is not None
    assert not GarminConnectLogin.objects.exists()
    for text in (during, everything_stored()):
        for secret in (PASSWORD, MFA, MFA_CODE, "999999", tokens["di_refresh_token"]):
            # A code is short enough to be part of a longer number.
            assert f'"{secret}"' not in text
            assert secret not in text.replace("\n", "") or secret.isdigit()


def test_a_worker_killed_at_every_step_leaves_the_athlete_able_to_start_again(
    alice, site, athlete, sandbox, garmin
):
    # while it signs in
    garmin.fail("mobile_page", "silence", seconds=60)
    worker = site.worker()
    athlete.post(CONNECT, email=MFA, password=PASSWORD)
    wait_until(lambda: garmin.calls["mobile_page"])
    assert step(alice) == "running"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    left = GarminConnectLogin.objects.get().step_until - timezone.now()
    assert left < timedelta(seconds=60)
    assert GarminConnectLogin.objects.get().password is None
    pass_time()
    assert athlete.status("garminconnect")["error"]["code"] == "login_interrupted"

    # before it has begun: nobody is there to pick it up
    garmin.recover()
    athlete.post(CONNECT, email=MFA, password=PASSWORD)
    assert step(alice) == "queued"
    pass_time()
    assert athlete.status("garminconnect")["status"] == "not_linked"

    # a new worker finds the old tasks, leaves them alone, and signs in anew
    worker = site.worker()
    athlete.post(CONNECT, email=MFA, password=PASSWORD)
    wait_until(lambda: athlete.status("garminconnect")["status"] == "mfa_required")
    assert garmin.attempts[MFA] == 1

    # while it checks the code
    garmin.fail("mfa", "silence", seconds=60)
    athlete.post(MFA_URL, code=MFA_CODE)
    wait_until(lambda: garmin.calls["mfa"])
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert step(alice) == "mfa_running"
    pass_time()
    assert athlete.status("garminconnect")["status"] == "mfa_required"
    garmin.recover()
    site.worker()
    athlete.post(MFA_URL, code=MFA_CODE)
    wait_until(lambda: athlete.status("garminconnect")["status"] == "linked")


def pass_time():
    """Let the minute pass in which a worker counts as alive, without waiting for it."""
    GarminConnectLogin.objects.update(step_until=a_moment_ago())


def test_workers_that_compete_sign_in_once(alice, site, athlete, garmin):
    for _ in range(2):
        site.worker()
    athlete.post(CONNECT, email=ALICE, password=PASSWORD)
    for _ in range(3):
        athlete.post(CONNECT, email=ALICE, password=PASSWORD)
    wait_until(lambda: athlete.status("garminconnect")["status"] == "linked")
    time.sleep(1)
    assert garmin.attempts[ALICE] == 1
