"""The sweep: every token that is due, once, of whichever provider."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from integrations import services
from integrations.exceptions import UnknownProvider
from integrations.models import LinkStatus
from integrations.sandbox import strava as strava_sandbox
from integrations.sandbox import wahoo as wahoo_sandbox
from integrations.services.sweep import sweep_tokens

from .kit import Kit

pytestmark = pytest.mark.django_db(transaction=True)
NOTHING = {"due": 0, "refreshed": 0, "failed": 0, "skipped": 0}


@pytest.fixture
def athletes():
    """Link that many users, whose tokens expire soon; returns them."""

    def athletes(kit, count, left=600):
        made = []
        for number in range(count):
            user = get_user_model().objects.create(username=f"athlete{number}-{kit.name}")
            who = type(kit.stand_in).id_type(900_000 + number)
            kit.stand_in.add_athlete(who)
            kit.link(user, who)
            if kit.stand_in.token_lifetime is not None:
                kit.stand_in.expire(who, expires_in=left)
                kit.set(user, token_expires_at=timezone.now() + timedelta(seconds=left))
            made.append(user)
        return made

    return athletes


def refresh(*names, **options):
    out = StringIO()
    chosen = [f"--provider={name}" for name in names]
    call_command("refresh_tokens", *chosen, "--json", stdout=out, **options)
    return json.loads(out.getvalue().splitlines()[-1])


def test_what_is_due_is_refreshed_and_nothing_else(renewing, alice, athletes):
    due = athletes(renewing, 4)
    renewing.link(alice)  # whose token is fresh
    before = renewing.get(alice, "token")
    renewing.set(alice, token_expires_at=timezone.now() + timedelta(hours=2))

    assert refresh(renewing.name) == NOTHING | {"due": 4, "refreshed": 4}

    assert renewing.stand_in.refreshes == 4
    for user in due:
        row = renewing.stored(user)
        assert row["token_expires_at"] > timezone.now() + timedelta(minutes=30)
        assert row["lease"] is None
        assert renewing.stand_in.is_alive(row["token"])
        assert renewing.stand_in.is_alive(row["refresh_token"])
    assert renewing.get(alice, "token") == before


def test_what_nothing_can_refresh_is_not_due(lasting, athletes):
    users = athletes(lasting, 3)
    calls = lasting.stand_in.calls

    assert refresh(lasting.name) == NOTHING
    assert refresh() == NOTHING

    assert lasting.stand_in.calls == calls
    assert {lasting.status(user) for user in users} == {LinkStatus.LINKED}


def test_what_has_run_out_and_cannot_be_refreshed_is_noticed(lasting, athletes, heard):
    gone, good = athletes(lasting, 2)
    lasting.lapse(gone)
    heard.clear()
    assert refresh() == NOTHING
    assert heard == [("relink_required", gone.pk, lasting.name)]
    assert lasting.get(gone, "error") == "relink_required"
    assert lasting.status(good) == LinkStatus.LINKED
    refresh()
    assert len(heard) == 1


def test_one_provider_can_be_swept_alone(renewing, athletes, polar, intervals):
    athletes(renewing, 2)
    others = [name for name in ("strava", "wahoo") if name != renewing.name]
    assert refresh(*others) == NOTHING
    assert renewing.stand_in.refreshes == 0
    assert refresh(renewing.name, *others) == NOTHING | {"due": 2, "refreshed": 2}
    with pytest.raises(CommandError):
        refresh("garminconnect")
    with pytest.raises(UnknownProvider):
        sweep_tokens(names=["nobody"])


def test_one_failure_stops_no_other(renewing, athletes):
    users = athletes(renewing, 4)
    renewing.revoke(users[1])
    renewing.stand_in.fail("token", "500", times=1)

    assert refresh(renewing.name, workers=1) == NOTHING | {"due": 4, "refreshed": 2, "failed": 2}

    states = [renewing.status(user) for user in users]
    assert states.count(LinkStatus.RELINK_REQUIRED) == 1
    assert states[1] == LinkStatus.RELINK_REQUIRED
    calls = renewing.stand_in.refreshes  # what is dead or put off is not asked again
    assert refresh(renewing.name) == NOTHING
    assert renewing.stand_in.refreshes == calls


def test_a_limit_stops_this_provider_and_no_other(renewing, athletes, strava, wahoo, ownclub):
    athletes(renewing, 3)
    renewing.stand_in.fail("token", "429", times=1)
    counts = refresh(workers=1)
    assert counts == NOTHING | {"due": 3, "failed": 1, "skipped": 2}
    assert renewing.stand_in.refreshes == 1
    with pytest.raises(CommandError, match="Nothing could be attempted"):
        refresh(renewing.name)
    assert renewing.stand_in.refreshes == 1


def test_a_provider_that_is_silent_leaves_the_others_their_time(
    athletes, strava, wahoo, settings, http
):
    """Strava comes first, and its links would keep a sweep busy for longer than it lasts."""
    first = Kit("strava", strava, strava_sandbox, http, settings)
    second = Kit("wahoo", wahoo, wahoo_sandbox, http, settings)
    athletes(first, 6)
    athletes(second, 2)
    strava.fail("token", "delay", seconds=0.5)

    counts = sweep_tokens(workers=1, lasts=1)

    assert not counts.is_over
    assert 0 < strava.refreshes < 6
    assert wahoo.refreshes > 0


def test_without_the_sites_app_nothing_is_attempted_and_nothing_ends(renewing, athletes):
    [user] = athletes(renewing, 1)
    with renewing.without_app(), pytest.raises(CommandError, match="Nothing could be attempted"):
        refresh(renewing.name)
    assert renewing.stand_in.refreshes == 0
    assert renewing.status(user) == LinkStatus.LINKED


def test_two_sweeps_at_once_refresh_each_token_once(renewing, athletes):
    users = athletes(renewing, 14)
    renewing.stand_in.fail("token", "delay", seconds=0.03)
    counts = []

    def sweep():
        counts.append(sweep_tokens(workers=3, names=[renewing.name]))
        connection.close()

    threads = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert renewing.stand_in.refreshes == len(users)
    assert sum(each.refreshed for each in counts) == len(users)
    assert sum(each.failed for each in counts) == 0
    for user in users:
        assert renewing.stand_in.is_alive(renewing.get(user, "refresh_token"))


def test_a_sweep_and_an_athlete_share_one_refresh(renewing, athletes):
    [user] = athletes(renewing, 1, left=-60)
    renewing.stand_in.fail("token", "delay", seconds=0.4)
    got = []

    def ask():
        got.append(services.get_access_token(user.pk, renewing.name))
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    sweep_tokens(names=[renewing.name])
    thread.join()

    assert renewing.stand_in.refreshes == 1
    assert got == [renewing.get(user, "token")]


def test_the_old_name_is_for_its_provider_alone(renewing, athletes):
    athletes(renewing, 1)
    out = StringIO()
    call_command("refresh_strava_tokens", "--json", stdout=out)
    refreshed = json.loads(out.getvalue().splitlines()[-1])["refreshed"]
    assert refreshed == (renewing.name == "strava")
