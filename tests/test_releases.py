"""The last release and this one side by side, as they are while a deployment lasts.

A migration may add what the last release can ignore. It may not take away or rename anything, nor
narrow a column: that comes one release later, when nobody reads or writes it any more. Nor may this
release write what the last one cannot read.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from integrations import services
from integrations.models import LinkStatus, UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import MFA, MFA_CODE, PASSWORD
from integrations.sandbox.strava import ALICE, BJORN, CLIENT_ID, CLIENT_SECRET

from . import visitor
from .conftest import row_of
from .processes import BASE_DIR, PYTHON, environment

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("in_one_window"),
]

FULL = "read,profile:read_all"


# Made by `git archive --format=tar.gz -o tests/last-release.tar.gz COMMIT integrations project
# manage.py`, because not every clone has the history.
ARCHIVE = BASE_DIR / "tests" / "last-release.tar.gz"


def last_release():
    """The commit of the newest release that the changelog names."""
    changelog = (BASE_DIR / "CHANGELOG.md").read_text()
    return re.search(r"^## [0-9.]+ .*commit ([0-9a-f]{40})\b", changelog, re.MULTILINE)[1]


@pytest.fixture(scope="session")
def last_release_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("last-release")
    with tarfile.open(ARCHIVE) as archive:
        # Git notes there of which commit it is.
        assert archive.pax_headers["comment"] == last_release()
        archive.extractall(path, filter="data")
    return path


class New:
    """This release, in this process."""

    def __getattr__(self, name):
        return getattr(visitor, name)


class Old:
    """The last release, in a process of its own, at the same database and the same providers."""

    def __init__(self, path, sandbox_url):
        self.process = subprocess.Popen(
            [PYTHON, "-P", str(BASE_DIR / "tests" / "visitor.py"), sandbox_url],
            env=environment(
                PYTHONPATH=str(path),
                STRAVA_CLIENT_ID=CLIENT_ID,
                STRAVA_CLIENT_SECRET=CLIENT_SECRET,
                STRAVA_OAUTH_URL=f"{sandbox_url}/oauth",
                STRAVA_API_URL=f"{sandbox_url}/api/v3",
            ),
            cwd=path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __getattr__(self, name):
        def call(*arguments):
            self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
            self.process.stdin.flush()
            came = json.loads(self.process.stdout.readline())
            assert "raised" not in came, came["raised"]
            return came["returned"]

        return call

    def stop(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def old_process(last_release_dir, running_sandbox, django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        old = Old(last_release_dir, running_sandbox.url)
    yield old
    old.stop()


@pytest.fixture
def old(old_process, strava, garmin):
    return old_process


@pytest.fixture
def new(strava, garmin):
    return New()


@pytest.fixture
def staff(django_user_model):
    return django_user_model.objects.create_superuser("root", "root@example.com", "root-demo")


@pytest.fixture
def schema_before(last_release_dir):
    """The database as the last release's migrations leave it, until the test migrates it."""
    names = sorted((last_release_dir / "integrations" / "migrations").glob("0*.py"))
    call_command("migrate", "integrations", names[-1].stem, verbosity=0)
    yield
    call_command("migrate", "integrations", verbosity=0)


class Column(NamedTuple):
    type: Any
    size: Any
    null_ok: bool
    has_default: bool


def columns():
    """What the database knows of the app's columns, by table and name."""
    found = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.django_table_names(only_existing=True):
            if table == "users_integrations" or table.startswith("integrations_"):
                for each in connection.introspection.get_table_description(cursor, table):
                    found[table, each.name] = Column(
                        each.type_code, each.display_size, each.null_ok, each.default is not None
                    )
    return found


def uniques():
    with connection.cursor() as cursor:
        return {
            (table, tuple(each["columns"]))
            for table in {table for table, _column in columns()}
            for each in connection.introspection.get_constraints(cursor, table).values()
            if each["unique"] or each["check"]
        }


def test_migrations_only_add_what_the_last_release_can_ignore(schema_before):
    columns_before, uniques_before = columns(), uniques()
    call_command("migrate", "integrations", verbosity=0)
    columns_now, uniques_now = columns(), uniques()

    changed = {
        column: (was, now)
        for column, was in columns_before.items()
        if (now := columns_now.get(column)) != was
        and now != was._replace(null_ok=True)
        and now != was._replace(has_default=True)
    }
    assert changed == {}
    tables_before = {table for table, _column in columns_before}
    left_out_by_inserts = {
        (table, name)
        for (table, name), column in columns_now.items()
        if table in tables_before
        and (table, name) not in columns_before
        and not (column.null_ok or column.has_default)
    }
    assert left_out_by_inserts == set()
    refused = {
        (table, names)
        for table, names in uniques_now - uniques_before
        if table in tables_before and any((table, name) in columns_before for name in names)
    }
    assert refused == set()


def expire(athlete_id, strava):
    strava.expire(athlete_id)
    past = timezone.now() - timedelta(minutes=1)
    UsersIntegrations.objects.filter(strava_athlete_id=athlete_id).update(
        strava_token_expires_at=past
    )


def test_what_one_begins_with_strava_the_other_carries_on(alice, old, new, strava):
    for one, other in ((old, new), (new, old)):
        state = one.connect(alice.pk)
        code = strava.grant(ALICE, scope=FULL)
        assert other.come_back(alice.pk, state, code, FULL) == "linked"
        assert one.look(alice.pk)["strava"]["scope"] == FULL.split(",")
        for renews, reads in ((one, other), (other, one)):
            expire(ALICE, strava)
            token = renews.token(alice.pk)
            assert strava.is_alive(token)
            assert reads.token(alice.pk) == token
            expire(ALICE, strava)
            assert renews.sweep()["refreshed"] == 1
            assert strava.is_alive(reads.token(alice.pk))
        other.want_gear(alice.pk, "strava")
        one.turn_keys()
        count = one.sync_gear(alice.pk, "strava")
        assert other.sync_gear(alice.pk, "strava") == count > 0
        assert one.disconnect(alice.pk, "strava") == "not_linked"
        assert other.look(alice.pk)["strava"]["status"] == "not_linked"


def test_both_at_once_cause_one_refresh(alice, expired, old, new, strava):
    strava.fail("token", "delay", seconds=1)
    with ThreadPoolExecutor(1) as thread:
        theirs = thread.submit(old.token, alice.pk)
        ours = new.token(alice.pk)
        assert theirs.result(30) == ours
    assert strava.calls["token"] == 1
    assert strava.is_alive(ours)


def test_a_link_without_scopes_opens_on_either_side(alice, bob, old, new, strava):
    for one, other in ((old, new), (new, old)):
        state = one.connect(alice.pk)
        one.come_back(alice.pk, state, strava.grant(ALICE, scope="read"), "")
        for each in (one, other):
            assert each.look(alice.pk)["strava"]["scope"] == []
            assert strava.is_alive(each.token(alice.pk))
        one.disconnect(alice.pk, "strava")
    services.create_user_integrations(bob.pk)
    services.link_strava_account(row_of(bob), strava.issue_tokens(BJORN))  # whose scope is unknown
    assert old.look(bob.pk)["strava"]["scope"] == new.look(bob.pk)["strava"]["scope"] == []


def test_what_one_begins_with_garmin_the_other_carries_on(alice, bob, old, new, staff):
    for one, other in ((old, new), (new, old)):
        assert one.sign_in(alice.pk, MFA, PASSWORD) == "mfa_required"
        assert other.look(alice.pk)["garminconnect"]["status"] == "mfa_required"
        assert other.answer(alice.pk, MFA_CODE) == "linked"
        assert one.ride(alice.pk) == other.ride(alice.pk)
        one.want_gear(alice.pk, "garminconnect")
        count = other.sync_gear(alice.pk, "garminconnect")
        assert one.sync_gear(alice.pk, "garminconnect") == count > 0
        one.sign_in(bob.pk, GARMIN_ALICE, "wrong")
        assert new.look(bob.pk)["garminconnect"]["error"]["code"] == "invalid_credentials"
        assert "Check both" in new.look(bob.pk)["garminconnect"]["error"]["message"]
        old.look(bob.pk)
        for each in (one, other):
            each.administer(staff.pk)
        assert other.disconnect(alice.pk, "garminconnect") == "not_linked"


def test_a_code_that_is_new_is_shown_by_the_last_release(alice, linked, old, new):
    names = ("strava_error", "strava_sync_error", "garminconnect_error", "garminconnect_sync_error")
    codes = set(new.codes()) - set(old.codes())
    for code in codes:
        UsersIntegrations.objects.update(**dict.fromkeys(names, code))
        for each in (old, new):
            assert each.look(alice.pk)["strava"]["error"]["code"]


def test_what_the_last_release_has_stored_is_migrated_while_it_serves(
    alice, bob, schema_before, old, new, strava
):
    for user, athlete_id in ((alice, ALICE), (bob, BJORN)):
        state = old.connect(user.pk)
        code = strava.grant(athlete_id, scope=FULL)
        # What was not granted, the last release did not tell from what it did not know.
        assert old.come_back(user.pk, state, code, FULL if user is alice else "") == "linked"
    assert old.sign_in(alice.pk, GARMIN_ALICE, PASSWORD) == "linked"
    old.sign_in(bob.pk, GARMIN_ALICE, "wrong")
    before = {user.pk: old.look(user.pk) for user in (alice, bob)}

    call_command("migrate", "integrations", verbosity=0)

    for user in (alice, bob):
        for each in (old, new):
            now = each.look(user.pk)
            assert now["strava"].items() >= before[user.pk]["strava"].items()
            assert now["garminconnect"]["status"] == before[user.pk]["garminconnect"]["status"]
            assert strava.is_alive(each.token(user.pk))
    assert new.look(bob.pk)["garminconnect"]["error"]["code"] == "invalid_credentials"
    assert row_of(alice).garminconnect_status == LinkStatus.LINKED


def test_workers_of_this_release_take_what_the_last_one_enqueued(old, new):
    enqueued = old.tasks()
    now = new.tasks(*enqueued)
    for name, parameters in enqueued.items():
        assert now.get(name, [])[: len(parameters)] == parameters
