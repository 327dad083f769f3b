"""Signing in to Garmin: the real library against the sandbox, step by step."""

from __future__ import annotations

import subprocess
import time
import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from integrations import exceptions, services
from integrations.clock import later
from integrations.garminconnect import login as garminconnect_login
from integrations.garminconnect.login import (
    begin_login,
    cancel_login,
    forget_dead_logins,
    run_login,
    run_mfa,
    withdraw_login,
)
from integrations.models import (
    GarminConnectAttempt,
    GarminConnectLogin,
    LinkStatus,
    UsersIntegrations,
)
from integrations.sandbox.garmin import (
    ALICE,
    BLOCKED,
    CAPTCHA,
    CHINA,
    LOCKED,
    MFA,
    MFA_CODE,
    PASSWORD,
    SLOW,
    THROTTLED,
)
from integrations.signals import account_linked

from .conftest import a_moment_ago, messages_of, row_of
from .processes import BASE_DIR, PYTHON, environment

CONNECT = "/integrations/garminconnect/connect/"
MFA_URL = "/integrations/garminconnect/mfa/"
CANCEL = "/integrations/garminconnect/cancel/"
DISCONNECT = "/integrations/garminconnect/disconnect/"
JSON = {"accept": "application/json"}


def connect(client, email=ALICE, password=PASSWORD, **more):
    return client.post(CONNECT, {"email": email, "password": password, **more}, headers=JSON)


def status(client):
    return client.get("/integrations/status/").json()["garminconnect"]


@pytest.fixture
def queued(settings):
    """Tasks wait in a queue that no worker reads: the test is the worker."""
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}


def the_login(user):
    return GarminConnectLogin.objects.get(user=user)


def test_the_paths_of_the_contract():
    names = {"connect": CONNECT, "mfa": MFA_URL, "cancel": CANCEL, "disconnect": DISCONNECT}
    for name, path in names.items():
        assert reverse(f"integrations:garminconnect_{name}") == path


def test_a_password_is_enough(alice, alice_client, garmin):
    response = connect(alice_client)

    assert response.status_code == 202
    assert status(alice_client)["status"] == "linked"
    row = row_of(alice)
    assert garmin.is_alive(row.garminconnect_oauth2["di_token"])
    assert set(row.garminconnect_oauth2) == {"di_token", "di_refresh_token", "di_client_id"}
    assert row.garminconnect_oauth1 is None
    assert row.garminconnect_token_expires_at > timezone.now() + timedelta(hours=20)
    assert row.garminconnect_linked_at is not None
    assert not GarminConnectLogin.objects.exists()
    assert garmin.attempts[ALICE] == 1


def test_a_browser_is_sent_to_the_page(alice_client, garmin):
    response = alice_client.post(CONNECT, {"email": ALICE, "password": PASSWORD})
    assert response["Location"] == reverse("integrations:settings")
    # The worker was quicker than the browser, so the page says what has come of it.
    assert messages_of(alice_client) == ["Garmin Connect is connected."]


@pytest.mark.django_db(transaction=True)
def test_host_projects_are_told(alice, alice_client, garmin):
    heard = []

    def receiver(sender, signal, **rest):
        heard.append(rest)

    account_linked.connect(receiver)
    try:
        connect(alice_client)
    finally:
        account_linked.disconnect(receiver)
    assert heard == [{"user_id": alice.pk, "provider": "garminconnect"}]


def test_the_form_answers_before_garmin_is_asked(alice, alice_client, garmin, queued):
    connect(alice_client)

    assert status(alice_client)["status"] == "linking"
    assert not garmin.calls
    page = alice_client.get("/settings/integrations/").content.decode()
    assert 'data-provider="garminconnect"' in page
    assert 'data-status="linking"' in page
    assert PASSWORD not in page


def test_the_password_is_emptied_the_moment_the_worker_has_it(
    alice, alice_client, garmin, queued, monkeypatch
):
    connect(alice_client)
    login = the_login(alice)
    assert login.password == PASSWORD
    at_work = []

    def look(email, password, is_cn):
        at_work.append(the_login(alice))
        raise exceptions.GarminConnectUnavailable

    monkeypatch.setattr(garminconnect_login.client, "sign_in", look)
    run_login(alice.pk, login.attempt)

    [during] = at_work
    assert (during.step, during.email, during.password) == ("running", None, None)
    assert not GarminConnectLogin.objects.exists()


ENDINGS = {
    "wrong": (ALICE, "wrong", "invalid_credentials", 1),
    "unknown": ("nobody@example.com", "wrong", "invalid_credentials", 1),
    "locked": (LOCKED, PASSWORD, "account_locked", 1),
    "captcha": (CAPTCHA, PASSWORD, "captcha_required", 1),
    "throttled": (THROTTLED, PASSWORD, "rate_limited", 0),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_an_ending_is_said_plainly_and_no_password_is_sent_twice(alice, alice_client, garmin, name):
    email, password, code, attempts = ENDINGS[name]

    connect(alice_client, email, password)

    now = status(alice_client)
    assert now["status"] == "not_linked"
    assert now["error"]["code"] == code
    page = alice_client.get("/settings/integrations/").content.decode()
    assert now["error"]["message"][:20] in page
    assert garmin.attempts[email] <= max(attempts, 1)
    assert not GarminConnectLogin.objects.exists()


def test_a_front_that_turns_a_client_away_unseen_is_passed_by_another_way(
    alice, alice_client, garmin
):
    connect(alice_client, BLOCKED)
    assert status(alice_client)["status"] == "linked"


def test_china_is_another_world(alice, alice_client, garmin):
    connect(alice_client, CHINA)
    assert status(alice_client)["error"]["code"] == "invalid_credentials"

    connect(alice_client, CHINA, is_cn="on")

    assert status(alice_client)["status"] == "linked"
    assert row_of(alice).garminconnect_is_cn is True
    assert services.get_garminconnect_client(alice.pk).client.domain == "garmin.cn"


def test_a_bug_in_a_library_leaves_nothing_behind(alice, alice_client, garmin, monkeypatch, caplog):
    def crash(email, password, is_cn):
        raise RuntimeError(f"told all: {password}")

    monkeypatch.setattr(garminconnect_login.client, "sign_in", crash)
    connect(alice_client)

    assert status(alice_client)["error"]["code"] == "login_interrupted"
    assert PASSWORD not in caplog.text
    assert not GarminConnectLogin.objects.exists()


# --- MFA ----------------------------------------------------------------------------------------


@pytest.fixture
def asked(alice_client, garmin):
    """A sign-in of Alice's that waits for the code."""
    connect(alice_client, MFA)
    assert status(alice_client)["status"] == "mfa_required"


def answer(client, code=MFA_CODE):
    return client.post(MFA_URL, {"code": code}, headers=JSON)


def test_a_code_finishes_the_sign_in(alice, alice_client, garmin, asked):
    login = the_login(alice)
    assert (login.email, login.password, login.mfa_code) == (None, None, None)
    assert login.client_state["cookies"]
    left = login.mfa_until - timezone.now()
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)

    assert answer(alice_client).status_code == 202

    assert status(alice_client)["status"] == "linked"
    assert not GarminConnectLogin.objects.exists()


def test_people_type_codes_with_spaces(alice_client, garmin, asked):
    answer(alice_client, f" {MFA_CODE[:3]} {MFA_CODE[3:]}-")
    assert status(alice_client)["status"] == "linked"


def test_a_wrong_code_can_be_corrected_three_times(alice, alice_client, garmin, asked):
    for wrong in ("000001", "000002", "000003"):
        answer(alice_client, wrong)
        now = status(alice_client)
        assert now["status"] == "mfa_required"
        assert now["error"]["code"] == "invalid_mfa_code"
    assert the_login(alice).mfa_code is None

    answer(alice_client)

    assert status(alice_client)["status"] == "linked"
    assert status(alice_client)["error"] is None


def test_a_code_that_is_wrong_too_often_ends_the_sign_in(alice_client, garmin, asked):
    for wrong in ("000001", "000002", "000003", "000004"):
        answer(alice_client, wrong)
    assert status(alice_client)["status"] == "not_linked"
    assert status(alice_client)["error"]["code"] == "too_many_mfa_codes"
    assert not GarminConnectLogin.objects.exists()


@pytest.mark.parametrize("fault", ["500", "502_html", "reset_before", "429"])
def test_a_garmin_in_trouble_costs_no_try(alice, alice_client, garmin, asked, fault):
    garmin.fail("mfa", fault)
    answer(alice_client)
    assert status(alice_client)["status"] == "mfa_required"
    assert status(alice_client)["error"]["code"] in ("provider_unavailable", "rate_limited")
    assert the_login(alice).wrong_codes == 0

    garmin.recover()
    answer(alice_client)
    assert status(alice_client)["status"] == "linked"


def test_a_code_that_comes_too_late_for_garmin_ends_the_sign_in(alice_client, garmin, asked):
    garmin.end_mfa(MFA)
    answer(alice_client)
    assert status(alice_client)["status"] == "not_linked"
    assert status(alice_client)["error"]["code"] == "login_expired"


def test_a_sign_in_that_waits_too_long_is_over(alice, alice_client, garmin, asked):
    GarminConnectLogin.objects.update(
        step_until=a_moment_ago() - timedelta(seconds=1),
        mfa_until=timezone.now() - timedelta(seconds=1),
    )
    response = answer(alice_client)

    assert response.status_code == 409
    assert response.json()["error"]["code"] == "no_login_in_progress"
    assert status(alice_client)["error"]["code"] == "login_expired"
    assert not GarminConnectLogin.objects.exists()


def test_another_users_sign_in_is_out_of_reach(alice, alice_client, bob_client, garmin, asked):
    assert answer(bob_client).status_code == 409
    assert bob_client.post(CANCEL, headers=JSON).status_code == 409
    assert status(bob_client)["status"] == "not_linked"
    assert status(alice_client)["status"] == "mfa_required"


def test_a_code_sent_twice_is_checked_once(alice, alice_client, garmin, asked, queued):
    assert answer(alice_client).status_code == 202
    second = answer(alice_client, "999999")
    assert (second.status_code, second.json()["error"]["code"]) == (409, "login_in_progress")

    attempt = the_login(alice).attempt
    outcomes = [run_mfa(alice.pk, attempt) for _ in range(3)]

    assert outcomes == ["linked", "superseded", "superseded"]
    assert status(alice_client)["status"] == "linked"


@pytest.mark.parametrize("code", ["", "abc", "1", "1" * 50, "\0", "--", "12 34 5x"])
def test_garbage_for_a_code_is_refused_and_costs_no_try(alice, alice_client, garmin, asked, code):
    response = answer(alice_client, code)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_input")
    assert the_login(alice).wrong_codes == 0
    assert status(alice_client)["status"] == "mfa_required"


# --- Twice, late, and half ----------------------------------------------------------------------


def test_a_second_tab_is_told_that_a_sign_in_runs(alice, alice_client, garmin, queued):
    connect(alice_client)
    second = connect(alice_client)
    assert (second.status_code, second.json()["error"]["code"]) == (409, "login_in_progress")
    assert GarminConnectAttempt.objects.count() == 1


def test_a_task_that_runs_twice_signs_in_once(alice, alice_client, garmin, queued):
    connect(alice_client)
    attempt = the_login(alice).attempt
    outcomes = [run_login(alice.pk, attempt) for _ in range(3)]
    assert outcomes == ["linked", "superseded", "superseded"]
    assert garmin.attempts[ALICE] == 1


def test_a_cancel_forgets_everything(alice, alice_client, garmin, queued):
    connect(alice_client)
    attempt = the_login(alice).attempt

    assert alice_client.post(CANCEL, headers=JSON).status_code == 200

    assert not GarminConnectLogin.objects.exists()
    assert status(alice_client)["status"] == "not_linked"
    assert run_login(alice.pk, attempt) == "superseded"
    assert not garmin.attempts
    assert alice_client.post(CANCEL, headers=JSON).status_code == 409


def test_a_cancel_while_garmin_is_asked_wins(alice, alice_client, garmin, queued, monkeypatch):
    connect(alice_client)
    sign_in = garminconnect_login.client.sign_in

    def cancelled_meanwhile(*args):
        session = sign_in(*args)
        cancel_login(alice.pk)
        return session

    monkeypatch.setattr(garminconnect_login.client, "sign_in", cancelled_meanwhile)

    assert run_login(alice.pk, the_login(alice).attempt) == "superseded"
    assert row_of(alice).garminconnect_status == LinkStatus.NOT_LINKED


def test_a_new_start_while_an_old_worker_is_at_it_wins(alice, alice_client, garmin, queued):
    connect(alice_client, password="wrong")
    first = the_login(alice).attempt
    GarminConnectLogin.objects.update(step_until=a_moment_ago())
    connect(alice_client)

    assert run_login(alice.pk, first) == "superseded"
    assert run_login(alice.pk, the_login(alice).attempt) == "linked"
    assert garmin.attempts[ALICE] == 1


@pytest.mark.parametrize("step", ["queued", "running"])
def test_a_worker_that_is_gone_leaves_the_athlete_able_to_start_again(
    alice, alice_client, garmin, queued, step
):
    connect(alice_client)
    login = the_login(alice)
    assert login.step_until - timezone.now() < timedelta(minutes=1)
    GarminConnectLogin.objects.update(step=step, step_until=a_moment_ago())

    now = status(alice_client)

    assert (now["status"], now["error"]["code"]) == ("not_linked", "login_interrupted")
    assert not GarminConnectLogin.objects.exists()  # with its password
    assert connect(alice_client).status_code == 202


@pytest.mark.parametrize("step", ["mfa_queued", "mfa_running"])
def test_a_worker_that_is_gone_with_the_code_lets_it_be_entered_again(
    alice, alice_client, garmin, asked, step
):
    GarminConnectLogin.objects.update(
        step=step, step_until=a_moment_ago(), mfa_code="000000" if step == "mfa_queued" else None
    )

    assert status(alice_client)["status"] == "mfa_required"
    assert the_login(alice).mfa_code is None
    answer(alice_client)
    assert status(alice_client)["status"] == "linked"


def test_a_worker_that_takes_long_says_that_it_lives(alice, garmin, monkeypatch):
    monkeypatch.setattr(garminconnect_login, "HEARTBEAT", 0.05)
    login = GarminConnectLogin(user=alice, attempt=uuid.uuid4(), step="running")
    login.step_until = timezone.now()
    beats = []

    class Rows:
        def update(self, **columns):
            beats.append(columns["step_until"])

    monkeypatch.setattr(garminconnect_login, "_mine", lambda login: Rows())
    with garminconnect_login._heartbeat(login):
        time.sleep(0.3)
    count = len(beats)
    time.sleep(0.2)

    assert count >= 2
    assert len(beats) == count
    assert beats[-1] == later(timedelta(seconds=30))  # by the database's clock


def test_dead_sign_ins_of_all_users_are_forgotten(alice, bob, garmin):
    for user in (alice, bob):
        begin_login(user.pk, ALICE, PASSWORD)
    GarminConnectLogin.objects.filter(user=bob).update(step_until=a_moment_ago())

    assert forget_dead_logins() == 1

    assert the_login(alice).password == PASSWORD
    assert not GarminConnectLogin.objects.filter(user=bob).exists()


# --- The limit before Garmin's ------------------------------------------------------------------


def test_twelve_wrong_passwords_reach_garmin_five_times(alice_client, garmin):
    codes = [connect(alice_client, password=f"wrong-{n}").status_code for n in range(12)]

    assert codes == [202] * 5 + [429] * 7
    assert garmin.attempts[ALICE] == 5


def test_the_message_says_when_to_try_again(alice, alice_client, garmin):
    for n in range(5):
        connect(alice_client, f"nobody{n}@example.com", "wrong")
    GarminConnectAttempt.objects.update(at=timezone.now() - timedelta(minutes=48))

    error = connect(alice_client).json()["error"]

    assert error["code"] == "too_many_attempts"
    assert error["message"] == (
        "You have tried five times within an hour. To keep Garmin from locking your account, "
        "please wait 12 minutes."
    )
    assert exceptions.TooManyAttempts(retry_after=59).user_message.endswith(" 1 minute.")
    assert garmin.attempts[ALICE] == 0
    GarminConnectAttempt.objects.update(at=timezone.now() - timedelta(minutes=61))
    assert connect(alice_client).status_code == 202


def test_the_limit_holds_for_a_garmin_account_too(alice_client, bob_client, garmin):
    for client in (alice_client, bob_client, alice_client, bob_client, alice_client):
        assert connect(client, password="wrong").status_code == 202
    assert connect(bob_client, ALICE.upper(), "wrong").status_code == 429
    assert garmin.attempts[ALICE] == 5


def given_up_by_the_queue(alice):
    assert withdraw_login(alice.pk, the_login(alice).attempt)


def canceled(alice):
    cancel_login(alice.pk)


def too_late(alice):
    GarminConnectLogin.objects.update(step_until=a_moment_ago())
    assert forget_dead_logins() == 1


@pytest.mark.parametrize("over", [given_up_by_the_queue, canceled, too_late])
def test_a_password_that_no_worker_was_given_does_not_count(alice, garmin, over):
    for _ in range(7):
        attempt = begin_login(alice.pk, ALICE, PASSWORD)
        over(alice)
        assert run_login(alice.pk, attempt) == "superseded"
    assert not GarminConnectAttempt.objects.exists()
    assert not garmin.attempts


@pytest.mark.parametrize("over", [canceled, too_late])
def test_a_password_that_a_worker_was_given_counts(alice, garmin, over):
    attempt = begin_login(alice.pk, ALICE, PASSWORD)
    GarminConnectLogin.objects.update(step="running")
    assert not withdraw_login(alice.pk, attempt)
    over(alice)
    assert GarminConnectAttempt.objects.count() == 1


def test_what_could_not_be_laid_ready_does_not_count(alice, garmin, monkeypatch):
    def full(*args, **kwargs):
        raise OperationalError("disk full")

    monkeypatch.setattr(GarminConnectLogin.objects, "bulk_create", full)
    with pytest.raises(exceptions.IntegrationsDatabaseError):
        begin_login(alice.pk, ALICE, PASSWORD)
    assert not GarminConnectAttempt.objects.exists()


def test_a_press_whose_answer_from_the_queue_was_lost_goes_on(alice_client, alice, monkeypatch):
    """A worker may be at work on what the site believes not to have been taken."""

    def taken(work, *args):
        GarminConnectLogin.objects.update(step="running")
        raise exceptions.TaskQueueUnavailable

    monkeypatch.setattr("integrations.tasks.enqueue", taken)
    assert connect(alice_client).status_code == 202
    assert the_login(alice).step == "running"


def test_the_limit_keeps_no_address(alice_client, garmin):
    connect(alice_client)
    assert ALICE not in repr(list(GarminConnectAttempt.objects.values()))


# --- Input and access ---------------------------------------------------------------------------

GARBAGE = ["", "\0", "x" * 5000, "é" * 300, "a@b", "not-an-address", "\ud7ff", " "]


@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name", ["email", "password", "is_cn"])
def test_garbage_to_the_form_is_harmless(alice_client, garmin, queued, name, value):
    fields = {"email": ALICE, "password": PASSWORD, name: value}
    assert alice_client.post(CONNECT, fields).status_code == 302
    assert alice_client.get("/settings/integrations/").status_code == 200


@pytest.mark.parametrize("url", [CONNECT, MFA_URL, CANCEL, DISCONNECT])
def test_only_a_post_by_an_athlete_with_a_csrf_token(alice, client, url):
    assert client.post(url)["Location"].startswith("/accounts/login/")
    assert client.post(url, headers=JSON).status_code == 401
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert strict.get(url).status_code == (302 if url == DISCONNECT else 405)
    assert strict.post(url).status_code == 403


# --- Leaving ------------------------------------------------------------------------------------


def test_disconnecting_forgets_everything(alice, alice_client, garmin):
    connect(alice_client)
    alice_client.post(DISCONNECT)

    assert "Garmin › Security" in messages_of(alice_client)[0]
    row, fresh = row_of(alice), UsersIntegrations(user=alice)
    for field in UsersIntegrations._meta.concrete_fields:
        if field.name.startswith("garminconnect"):
            assert getattr(row, field.name) == getattr(fresh, field.name), field.name
    assert alice_client.post(DISCONNECT, headers=JSON).status_code == 409


def test_disconnecting_ends_a_sign_in_too(alice_client, garmin, asked):
    assert alice_client.post(DISCONNECT, headers=JSON).status_code == 200
    assert not GarminConnectLogin.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_user_who_is_deleted_leaves_nothing(alice, alice_client, garmin, asked):
    alice.delete()
    for model in (GarminConnectLogin, GarminConnectAttempt, UsersIntegrations):
        assert not model.objects.exists()


# --- In place -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["wrong", "locked", "throttled"])
def test_signing_in_again_that_fails_leaves_the_link(alice, alice_client, garmin, ending):
    connect(alice_client)
    before = row_of(alice).garminconnect_oauth2

    connect(alice_client, *ENDINGS[ending][:2])

    assert row_of(alice).garminconnect_oauth2 == before
    assert status(alice_client)["status"] == "linked"
    assert status(alice_client)["error"]["code"] == ENDINGS[ending][2]


def test_signing_in_again_loses_nothing(alice, alice_client, garmin):
    connect(alice_client)
    services.set_user_garminconnect_sync_gear(alice.pk, True)
    UsersIntegrations.objects.update(
        garminconnect_relink_required_at=timezone.now(), garminconnect_error="relink_required"
    )
    assert status(alice_client)["status"] == "relink_required"

    connect(alice_client)

    assert status(alice_client)["status"] == "linked"
    assert status(alice_client)["error"] is None
    assert row_of(alice).garminconnect_sync_gear is True


# --- Weight -------------------------------------------------------------------------------------


def test_importing_the_app_does_not_import_the_library():
    script = (
        "import django, sys; django.setup(); from django.urls import reverse; "
        "reverse('integrations:settings'); import integrations.admin, integrations.tasks; "
        "print([name for name in sys.modules if name.startswith(('garminconnect', 'curl_cffi'))])"
    )
    output = subprocess.run(
        [PYTHON, "-c", script],
        env={**environment(), "INTEGRATIONS_SANDBOX": "off"},
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output == "[]\n"


def test_the_form_answers_without_waiting_for_garmin(alice, alice_client, garmin, settings):
    """Whatever Garmin does: nothing of it happens in the request."""
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    garmin.fail("*", "silence", seconds=30)
    forms, pages = [], []
    for _ in range(4):
        started = time.perf_counter()
        alice_client.get("/settings/integrations/")
        pages.append(time.perf_counter() - started)
        started = time.perf_counter()
        assert connect(alice_client, SLOW).status_code == 202
        forms.append(time.perf_counter() - started)
        cancel_login(alice.pk)

    assert not garmin.calls
    # On any machine that is not very slow at everything it does.
    assert min(forms) < max(0.3, 10 * min(pages))


# --- No worker to be had ------------------------------------------------------------------------


@pytest.fixture
def no_queue(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise ConnectionRefusedError("amqp://guest:s3cret@10.0.0.5")

    monkeypatch.setattr("django.tasks.backends.immediate.ImmediateBackend.enqueue", refuse)


def test_without_a_task_backend_no_password_is_left_waiting(alice, alice_client, garmin, no_queue):
    response = connect(alice_client)
    assert (response.status_code, response.json()["error"]["code"]) == (
        503,
        "task_queue_unavailable",
    )
    assert "s3cret" not in response.content.decode()
    assert not GarminConnectLogin.objects.exists()


def test_without_a_task_backend_the_code_can_be_entered_again(
    alice, alice_client, garmin, asked, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(
            "django.tasks.backends.immediate.ImmediateBackend.enqueue",
            lambda *args, **kwargs: 1 / 0,
        )
        assert answer(alice_client).status_code == 503
    GarminConnectLogin.objects.update(step_until=a_moment_ago())
    assert status(alice_client)["status"] == "mfa_required"
    answer(alice_client)
    assert status(alice_client)["status"] == "linked"


@pytest.mark.parametrize("provider", ["strava", "garminconnect"])
def test_without_a_task_backend_sync_now_says_so(
    alice, alice_client, linked, garmin, no_queue, provider
):
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session(ALICE))
    response = alice_client.post(f"/integrations/{provider}/gear/sync/", headers=JSON)
    assert response.status_code == 503
    assert getattr(row_of(alice), f"{provider}_syncing_until") is None
