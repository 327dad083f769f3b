"""What every operation does with every answer a provider can give: the whole table, cell by cell.

The table below is the documentation; the code under it turns each cell into a test. A fault is
switched on in the sandbox, the operation is done over real HTTP, and what is compared is what
the athlete is told, what is stored, how often the provider was asked, who tries again, and how
the same operation ends once the provider is well.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import re
import signal
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.urls import reverse
from django.utils import timezone
from urllib3.util.ssltransport import SSLTransport

from integrations import services
from integrations.exceptions import IntegrationsError, error_by_code
from integrations.http import _Watchdog
from integrations.models import GarminConnectLogin, Gear, LinkStatus, UsersIntegrations
from integrations.sandbox.faults import FAULTS
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import MFA, MFA_CODE, PASSWORD, hook
from integrations.sandbox.strava import ALICE, CLIENT_SECRET
from integrations.services.sweep import sweep_tokens
from integrations.strava import tasks as strava_tasks

from .conftest import a_moment_ago, begin, come_back, messages_of, row_of, told_on
from .test_strava_webhook import event, send

pytestmark = pytest.mark.usefixtures("in_one_window")

JSON = {"accept": "application/json"}
FULL = "read,profile:read_all"

# --- The table ----------------------------------------------------------------------------------

# Every answer of the sandbox's, and one that needs no sandbox. (Its "delay" is no fault: a slow
# answer is an answer.)
ANSWERS = (
    "500",
    "502_html",
    "200_html",
    "empty",
    "half_json",
    "wrong_types",
    "flood",
    "redirect",
    "429",
    "401_client",
    "403_inactive",
    "403_limit",
    "refused",
    "reset_before",
    "reset_after",
    "silence",
    "drip",
)


@dataclass(frozen=True)
class Cell:
    """What one answer does to one operation."""

    # The code of the error that the athlete is told; or "disconnected", "not told" (Strava, of a
    # disconnect), "no brand".
    says: str
    # What becomes of the link: "none" (there was none), "kept" (to the letter), "renewed" (a newer
    # session of the same link), "ended".
    link: str
    # Who tries again: "athlete" (told, and free to press again at once), "backoff" (`retry_at` is
    # set for the sweep), "sync" (`sync_due_at` is set), "code" (the same sign-in takes another
    # code, with no try spent), "nobody".
    later: str
    # How many requests reached the provider.
    calls: int = 1
    # What the same operation gives once the provider is well again: "works", or a code.
    then: str = "works"


NOT_GARMINS = "not Garmin's: at its sign-in there is no app whose credentials could be refused"

MATRIX: dict[str, dict[str, Cell | str]] = {
    # The state is spent in every case, and with it the code: the athlete starts again.
    "connect": {
        "500": Cell("provider_unavailable", "none", "athlete"),
        "502_html": Cell("provider_unavailable", "none", "athlete"),
        "200_html": Cell("invalid_provider_reply", "none", "athlete"),
        "empty": Cell("invalid_provider_reply", "none", "athlete"),
        "half_json": Cell("invalid_provider_reply", "none", "athlete"),
        "wrong_types": Cell("invalid_provider_reply", "none", "athlete"),
        "flood": Cell("invalid_provider_reply", "none", "athlete"),
        "redirect": Cell("invalid_provider_reply", "none", "athlete"),
        "429": Cell("rate_limited", "none", "athlete"),
        "401_client": Cell("invalid_client", "none", "athlete"),
        "403_inactive": Cell("application_inactive", "none", "athlete"),
        "403_limit": Cell("athlete_limit", "none", "athlete"),
        "refused": Cell("provider_unavailable", "none", "athlete", calls=0),
        "reset_before": Cell("provider_unavailable", "none", "athlete"),
        "reset_after": Cell("provider_unavailable", "none", "athlete"),
        "silence": Cell("provider_unavailable", "none", "athlete"),
        "drip": Cell("provider_unavailable", "none", "athlete"),
    },
    # Whatever Strava answers, the link that worked goes on working, with its own tokens.
    "relink": {
        "500": Cell("provider_unavailable", "kept", "athlete"),
        "502_html": Cell("provider_unavailable", "kept", "athlete"),
        "200_html": Cell("invalid_provider_reply", "kept", "athlete"),
        "empty": Cell("invalid_provider_reply", "kept", "athlete"),
        "half_json": Cell("invalid_provider_reply", "kept", "athlete"),
        "wrong_types": Cell("invalid_provider_reply", "kept", "athlete"),
        "flood": Cell("invalid_provider_reply", "kept", "athlete"),
        "redirect": Cell("invalid_provider_reply", "kept", "athlete"),
        "429": Cell("rate_limited", "kept", "athlete"),
        "401_client": Cell("invalid_client", "kept", "athlete"),
        "403_inactive": Cell("application_inactive", "kept", "athlete"),
        "403_limit": Cell("athlete_limit", "kept", "athlete"),
        "refused": Cell("provider_unavailable", "kept", "athlete", calls=0),
        "reset_before": Cell("provider_unavailable", "kept", "athlete"),
        "reset_after": Cell("provider_unavailable", "kept", "athlete"),
        "silence": Cell("provider_unavailable", "kept", "athlete"),
        "drip": Cell("provider_unavailable", "kept", "athlete"),
    },
    # No answer but Strava's own "this refresh token is dead" ends a link. Where Strava has rotated
    # and the answer was lost, the next refresh is what finds that out.
    "refresh": {
        "500": Cell("provider_unavailable", "kept", "backoff"),
        "502_html": Cell("provider_unavailable", "kept", "backoff"),
        "200_html": Cell("invalid_provider_reply", "kept", "backoff"),
        "empty": Cell("invalid_provider_reply", "kept", "backoff"),
        "half_json": Cell("invalid_provider_reply", "kept", "backoff"),
        "wrong_types": Cell("invalid_provider_reply", "kept", "backoff"),
        "flood": Cell("invalid_provider_reply", "kept", "backoff"),
        "redirect": Cell("invalid_provider_reply", "kept", "backoff"),
        "429": Cell("rate_limited", "kept", "backoff", then="rate_limited"),
        "401_client": Cell("invalid_client", "kept", "backoff"),
        "403_inactive": Cell("application_inactive", "kept", "backoff"),
        "403_limit": Cell("athlete_limit", "kept", "backoff"),
        "refused": Cell("provider_unavailable", "kept", "backoff", calls=0),
        "reset_before": Cell("provider_unavailable", "kept", "backoff"),
        "reset_after": Cell("provider_unavailable", "kept", "backoff", then="relink_required"),
        "silence": Cell("provider_unavailable", "kept", "backoff"),
        "drip": Cell("provider_unavailable", "kept", "backoff", then="relink_required"),
    },
    # As on demand; a row that has failed waits for its `retry_at`.
    "sweep": {
        "500": Cell("provider_unavailable", "kept", "backoff"),
        "502_html": Cell("provider_unavailable", "kept", "backoff"),
        "200_html": Cell("invalid_provider_reply", "kept", "backoff"),
        "empty": Cell("invalid_provider_reply", "kept", "backoff"),
        "half_json": Cell("invalid_provider_reply", "kept", "backoff"),
        "wrong_types": Cell("invalid_provider_reply", "kept", "backoff"),
        "flood": Cell("invalid_provider_reply", "kept", "backoff"),
        "redirect": Cell("invalid_provider_reply", "kept", "backoff"),
        "429": Cell("rate_limited", "kept", "backoff"),
        "401_client": Cell("invalid_client", "kept", "backoff"),
        "403_inactive": Cell("application_inactive", "kept", "backoff"),
        "403_limit": Cell("athlete_limit", "kept", "backoff"),
        "refused": Cell("provider_unavailable", "kept", "backoff", calls=0),
        "reset_before": Cell("provider_unavailable", "kept", "backoff"),
        "reset_after": Cell("provider_unavailable", "kept", "backoff", then="relink_required"),
        "silence": Cell("provider_unavailable", "kept", "backoff"),
        "drip": Cell("provider_unavailable", "kept", "backoff", then="relink_required"),
    },
    # One request, and no gear has changed. A limit of the app puts off whoever shares it, unasked.
    "gear sync": {
        "500": Cell("provider_unavailable", "kept", "sync"),
        "502_html": Cell("provider_unavailable", "kept", "sync"),
        "200_html": Cell("invalid_provider_reply", "kept", "sync"),
        "empty": Cell("invalid_provider_reply", "kept", "sync"),
        "half_json": Cell("invalid_provider_reply", "kept", "sync"),
        "wrong_types": Cell("invalid_provider_reply", "kept", "sync"),
        "flood": Cell("invalid_provider_reply", "kept", "sync"),
        "redirect": Cell("invalid_provider_reply", "kept", "sync"),
        "429": Cell("rate_limited", "kept", "sync", then="rate_limited"),
        "401_client": Cell("invalid_client", "kept", "sync"),
        "403_inactive": Cell("application_inactive", "kept", "sync"),
        "403_limit": Cell("athlete_limit", "kept", "sync"),
        "refused": Cell("provider_unavailable", "kept", "sync", calls=0),
        "reset_before": Cell("provider_unavailable", "kept", "sync"),
        "reset_after": Cell("provider_unavailable", "kept", "sync"),
        "silence": Cell("provider_unavailable", "kept", "sync"),
        "drip": Cell("provider_unavailable", "kept", "sync"),
    },
    # The gear is stored without what could not be had, which the next sync asks for. One
    # request for each, unless the first tells that the next will fare no better: a limit, or nobody
    # there. A 500 may be over that one piece.
    "gear details": {
        "500": Cell("no brand", "kept", "sync", calls=4),
        "502_html": Cell("no brand", "kept", "sync"),
        "200_html": Cell("no brand", "kept", "sync", calls=4),
        "empty": Cell("no brand", "kept", "sync", calls=4),
        "half_json": Cell("no brand", "kept", "sync", calls=4),
        "wrong_types": Cell("no brand", "kept", "sync", calls=4),
        "flood": Cell("no brand", "kept", "sync", calls=4),
        "redirect": Cell("no brand", "kept", "sync", calls=4),
        "429": Cell("no brand", "kept", "sync", then="rate_limited"),
        "401_client": Cell("no brand", "kept", "sync", calls=4),
        "403_inactive": Cell("no brand", "kept", "sync", calls=4),
        "403_limit": Cell("no brand", "kept", "sync", calls=4),
        "refused": Cell("provider_unavailable", "kept", "sync", calls=0),
        "reset_before": Cell("no brand", "kept", "sync"),
        "reset_after": Cell("no brand", "kept", "sync"),
        "silence": Cell("no brand", "kept", "sync"),
        "drip": Cell("no brand", "kept", "sync"),
    },
    # Everything here is gone either way. Of the answer the status alone counts (RFC 7009, section
    # 2.2), and Strava's own is empty: so an empty one, and a drip of nothing, is the good one.
    "disconnect": {
        "500": Cell("not told", "ended", "nobody", then="not_linked"),
        "502_html": Cell("not told", "ended", "nobody", then="not_linked"),
        "200_html": Cell("disconnected", "ended", "nobody", then="not_linked"),
        "empty": Cell("disconnected", "ended", "nobody", then="not_linked"),
        "half_json": Cell("disconnected", "ended", "nobody", then="not_linked"),
        "wrong_types": Cell("disconnected", "ended", "nobody", then="not_linked"),
        "flood": Cell("not told", "ended", "nobody", then="not_linked"),
        "redirect": Cell("not told", "ended", "nobody", then="not_linked"),
        "429": Cell("not told", "ended", "nobody", then="not_linked"),
        "401_client": Cell("not told", "ended", "nobody", then="not_linked"),
        "403_inactive": Cell("not told", "ended", "nobody", then="not_linked"),
        "403_limit": Cell("not told", "ended", "nobody", then="not_linked"),
        "refused": Cell("not told", "ended", "nobody", calls=0, then="not_linked"),
        "reset_before": Cell("not told", "ended", "nobody", then="not_linked"),
        "reset_after": Cell("not told", "ended", "nobody", then="not_linked"),
        "silence": Cell("not told", "ended", "nobody", then="not_linked"),
        "drip": Cell("disconnected", "ended", "nobody", then="not_linked"),
    },
    # Access was revoked, and Strava cannot say so: nobody is unlinked. The scheduler asks again.
    "webhook": {
        "500": Cell("provider_unavailable", "kept", "backoff"),
        "502_html": Cell("provider_unavailable", "kept", "backoff"),
        "200_html": Cell("invalid_provider_reply", "kept", "backoff"),
        "empty": Cell("invalid_provider_reply", "kept", "backoff"),
        "half_json": Cell("invalid_provider_reply", "kept", "backoff"),
        "wrong_types": Cell("invalid_provider_reply", "kept", "backoff"),
        "flood": Cell("invalid_provider_reply", "kept", "backoff"),
        "redirect": Cell("invalid_provider_reply", "kept", "backoff"),
        "429": Cell("rate_limited", "kept", "backoff"),
        "401_client": Cell("invalid_client", "kept", "backoff"),
        "403_inactive": Cell("application_inactive", "kept", "backoff"),
        "403_limit": Cell("athlete_limit", "kept", "backoff"),
        "refused": Cell("provider_unavailable", "kept", "backoff", calls=0),
        "reset_before": Cell("provider_unavailable", "kept", "backoff"),
        "reset_after": Cell("provider_unavailable", "kept", "backoff"),
        "silence": Cell("provider_unavailable", "kept", "backoff"),
        "drip": Cell("provider_unavailable", "kept", "backoff"),
    },
    # `calls` are passwords sent. A 403 is the front turning a client away unseen: the one answer
    # after which the library tries its other ways in. ("403_inactive" is Garmin's front with a
    # 403, "403_limit" its 427.)
    "garmin sign-in": {
        "500": Cell("provider_unavailable", "none", "athlete"),
        "502_html": Cell("provider_unavailable", "none", "athlete"),
        "200_html": Cell("invalid_provider_reply", "none", "athlete"),
        "empty": Cell("invalid_provider_reply", "none", "athlete"),
        "half_json": Cell("invalid_provider_reply", "none", "athlete"),
        "wrong_types": Cell("invalid_provider_reply", "none", "athlete"),
        "flood": Cell("invalid_provider_reply", "none", "athlete"),
        "redirect": Cell("invalid_provider_reply", "none", "athlete"),
        "429": Cell("rate_limited", "none", "athlete"),
        "401_client": NOT_GARMINS,
        "403_inactive": Cell("rate_limited", "none", "athlete", calls=5),
        "403_limit": Cell("rate_limited", "none", "athlete"),
        "refused": Cell("provider_unavailable", "none", "athlete", calls=0),
        "reset_before": Cell("provider_unavailable", "none", "athlete"),
        "reset_after": Cell("provider_unavailable", "none", "athlete"),
        "silence": Cell("provider_unavailable", "none", "athlete"),
        "drip": Cell("provider_unavailable", "none", "athlete"),
    },
    # The library posts a code at two addresses, unless the first has said no. No trouble of
    # Garmin's costs one of the four tries. A code that was taken, and its answer lost, ends the
    # sign-in at the next try.
    "garmin code": {
        "500": Cell("provider_unavailable", "none", "code"),
        "502_html": Cell("provider_unavailable", "none", "code", calls=2),
        "200_html": Cell("invalid_provider_reply", "none", "code", calls=2),
        "empty": Cell("invalid_provider_reply", "none", "code", calls=2),
        "half_json": Cell("invalid_provider_reply", "none", "code", calls=2),
        "wrong_types": Cell("invalid_provider_reply", "none", "code", calls=2),
        "flood": Cell("provider_unavailable", "none", "code", calls=2),
        "redirect": Cell("invalid_provider_reply", "none", "code", calls=2),
        "429": Cell("rate_limited", "none", "code", calls=2),
        "401_client": NOT_GARMINS,
        "403_inactive": Cell("rate_limited", "none", "code", calls=2),
        "403_limit": Cell("rate_limited", "none", "code", calls=2),
        "refused": Cell("provider_unavailable", "none", "code", calls=0),
        "reset_before": Cell("provider_unavailable", "none", "code", calls=2),
        "reset_after": Cell("provider_unavailable", "none", "code", calls=2, then="login_expired"),
        "silence": Cell("provider_unavailable", "none", "code", calls=2),
        "drip": Cell("provider_unavailable", "none", "code", calls=2, then="login_expired"),
    },
    # The password was taken: whatever comes of its ticket is no wrong password and no outage. One
    # that may not have been looked at is presented three times, any other as each of four clients.
    # The library takes anything for a token; we do not.
    "garmin ticket": {
        "500": Cell("sign_in_unfinished", "none", "athlete", calls=3),
        "502_html": Cell("sign_in_unfinished", "none", "athlete", calls=3),
        "200_html": Cell("sign_in_unfinished", "none", "athlete", calls=4),
        "empty": Cell("sign_in_unfinished", "none", "athlete", calls=4),
        "half_json": Cell("sign_in_unfinished", "none", "athlete", calls=4),
        "wrong_types": Cell("sign_in_unfinished", "none", "athlete"),
        "flood": Cell("sign_in_unfinished", "none", "athlete", calls=3),
        "redirect": Cell("sign_in_unfinished", "none", "athlete", calls=4),
        "429": Cell("sign_in_unfinished", "none", "athlete", calls=3),
        "401_client": Cell("sign_in_unfinished", "none", "athlete", calls=4),
        "403_inactive": Cell("sign_in_unfinished", "none", "athlete", calls=4),
        "403_limit": Cell("sign_in_unfinished", "none", "athlete", calls=4),
        "refused": Cell("provider_unavailable", "none", "athlete", calls=0),  # at its sign-in, too
        "reset_before": Cell("sign_in_unfinished", "none", "athlete", calls=3),
        "reset_after": Cell("sign_in_unfinished", "none", "athlete", calls=3),
        "silence": Cell("sign_in_unfinished", "none", "athlete", calls=3),
        "drip": Cell("sign_in_unfinished", "none", "athlete", calls=3),
    },
    # As with Strava: only "invalid_grant" ends a session.
    "garmin refresh": {
        "500": Cell("provider_unavailable", "kept", "backoff"),
        "502_html": Cell("provider_unavailable", "kept", "backoff"),
        "200_html": Cell("invalid_provider_reply", "kept", "backoff"),
        "empty": Cell("invalid_provider_reply", "kept", "backoff"),
        "half_json": Cell("invalid_provider_reply", "kept", "backoff"),
        "wrong_types": Cell("invalid_provider_reply", "kept", "backoff"),
        "flood": Cell("invalid_provider_reply", "kept", "backoff"),
        "redirect": Cell("invalid_provider_reply", "kept", "backoff"),
        "429": Cell("rate_limited", "kept", "backoff", then="rate_limited"),
        "401_client": Cell("invalid_provider_reply", "kept", "backoff"),
        "403_inactive": Cell("invalid_provider_reply", "kept", "backoff"),
        "403_limit": Cell("invalid_provider_reply", "kept", "backoff"),
        "refused": Cell("provider_unavailable", "kept", "backoff", calls=0),
        "reset_before": Cell("provider_unavailable", "kept", "backoff"),
        "reset_after": Cell("provider_unavailable", "kept", "backoff", then="relink_required"),
        "silence": Cell("provider_unavailable", "kept", "backoff"),
        "drip": Cell("provider_unavailable", "kept", "backoff", then="relink_required"),
    },
    # The library renews a session that gets a 401 and asks once more; the token endpoint has then
    # just said that the session lives, so that a second 401 cannot mean that it is dead.
    "garmin gear sync": {
        "500": Cell("provider_unavailable", "kept", "sync"),
        "502_html": Cell("provider_unavailable", "kept", "sync"),
        "200_html": Cell("invalid_provider_reply", "kept", "sync"),
        "empty": Cell("invalid_provider_reply", "kept", "sync"),
        "half_json": Cell("invalid_provider_reply", "kept", "sync"),
        "wrong_types": Cell("invalid_provider_reply", "kept", "sync"),
        "flood": Cell("invalid_provider_reply", "kept", "sync"),
        "redirect": Cell("invalid_provider_reply", "kept", "sync"),
        "429": Cell("rate_limited", "kept", "sync", then="rate_limited"),
        "401_client": Cell("invalid_provider_reply", "renewed", "sync", calls=2),
        "403_inactive": Cell("invalid_provider_reply", "kept", "sync"),
        "403_limit": Cell("invalid_provider_reply", "kept", "sync"),
        "refused": Cell("provider_unavailable", "kept", "sync", calls=0),
        "reset_before": Cell("provider_unavailable", "kept", "sync"),
        "reset_after": Cell("provider_unavailable", "kept", "sync"),
        "silence": Cell("provider_unavailable", "kept", "sync"),
        "drip": Cell("provider_unavailable", "kept", "sync"),
    },
}


# --- The operations -----------------------------------------------------------------------------


@dataclass
class World:
    """Who and what an operation is done with."""

    alice: object
    client: object
    strava: object
    garmin: object
    link: object

    @property
    def row(self):
        return row_of(self.alice)

    def error(self, provider):
        """What the status URL tells of a provider's trouble: a code and a message."""
        response = self.client.get(reverse("integrations:status"))
        assert response.status_code == 200
        found = response.json()[provider]["error"]
        return Seen(found["code"], found["message"]) if found else Seen("works")


@dataclass(frozen=True)
class Seen:
    """What the athlete, or the caller, was told."""

    code: str
    message: str = ""
    status: int | None = None


class Operation:
    provider = "strava"
    # Where the fault is switched on; the first one is counted.
    endpoints: tuple[str, ...] = ("token",)
    transactional = False  # whether it works in threads, with connections of their own

    def prepare(self, world):
        """Bring about what is there before the fault."""

    def act(self, world):
        """Do it, once; returns Seen."""
        raise NotImplementedError

    def asked(self, world):
        """How many requests have reached the endpoints so far."""
        provider = world.strava if self.provider == "strava" else world.garmin
        return sum(provider.calls[endpoint] for endpoint in self.endpoints)

    def again(self, world):
        """Do it once more, after the provider has recovered; returns "works" or a code."""
        return self.act(world).code


def seen(response, success):
    """What a program is told by one of our URLs."""
    body = response.json()
    if response.status_code < 300:
        return Seen(success, body.get("message", ""), response.status_code)
    return Seen(body["error"]["code"], body["error"]["message"], response.status_code)


def attempted(function, *arguments):
    """What a caller of a service is told."""
    try:
        function(*arguments)
    except IntegrationsError as exc:
        return Seen(exc.code, exc.user_message, exc.status_code)
    return Seen("works")


class Connect(Operation):
    """The callback of a first link; "works" once it has linked."""

    def prepare(self, world):
        self.state = begin(world.client)["state"]
        self.athlete = ALICE

    def query(self, world):
        return {"state": self.state, "code": world.strava.grant(self.athlete), "scope": FULL}

    def act(self, world):
        url = reverse("integrations:strava_callback")
        return seen(world.client.get(url, self.query(world), headers=JSON), "works")

    def page(self, world):
        return come_back(world.client, **self.query(world))

    def again(self, world):
        self.prepare(world)
        return super().again(world)


class Relink(Connect):
    """The callback where a link is there already and works."""

    def prepare(self, world):
        if not UsersIntegrations.objects.filter(strava_token__isnull=False).exists():
            world.link(world.alice)
        super().prepare(world)


class Refresh(Operation):
    """A token on demand, after the stored one has expired."""

    def prepare(self, world):
        world.link(world.alice)
        world.strava.expire(ALICE)
        UsersIntegrations.objects.update(
            strava_token_expires_at=timezone.now() - timedelta(minutes=1)
        )

    def act(self, world):
        return attempted(services.get_strava_access_token, world.alice.pk)


class Sweep(Refresh):
    """The same, as cron does it. An athlete who looks at the page is told."""

    transactional = True

    def act(self, world):
        UsersIntegrations.objects.update(strava_retry_at=None, strava_limited_until=None)
        counts = sweep_tokens(workers=2)
        told = world.error("strava")
        assert (counts.due, counts.failed) == (1, 0 if told.code == "works" else 1)
        return told


class GearSync(Operation):
    """ "Sync now", where gear is there already; the page tells how it ended."""

    endpoints = ("athlete",)

    def prepare(self, world):
        world.link(world.alice)
        services.sync_strava_gear(world.alice.pk)
        for bike in world.strava.athletes[ALICE].bikes:
            bike["distance"] += 1000  # something to write, if it were let

    def act(self, world):
        response = world.client.post(
            reverse(f"integrations:{self.provider}_gear_sync"), headers=JSON
        )
        if response.status_code != 202:
            return seen(response, "synced")
        return world.error(self.provider)

    def page(self, world):
        return world.client.post(reverse(f"integrations:{self.provider}_gear_sync"))


class GearDetails(Operation):
    """Brand and model of four new pieces of gear: the gear itself comes without them."""

    endpoints = ("gear",)

    def prepare(self, world):
        world.link(world.alice)

    def act(self, world):
        told = attempted(services.sync_strava_gear, world.alice.pk)
        if told.code != "works":
            return told
        assert Gear.objects.count() == 4
        missing = Gear.objects.filter(brand=None).count()
        return Seen("no brand" if missing == 4 else "works" if missing == 0 else f"{missing}")


class Disconnect(Operation):
    """The button: revoke there, clear here."""

    endpoints = ("revoke",)

    def prepare(self, world):
        world.link(world.alice)

    def act(self, world):
        response = world.client.post(reverse("integrations:strava_disconnect"), headers=JSON)
        told = seen(response, "disconnected")
        if "strava.com/settings/apps" in told.message:
            return Seen("not told", told.message, told.status)
        return told

    def page(self, world):
        return world.client.post(reverse("integrations:strava_disconnect"))


class Webhook(Operation):
    """An event says that the athlete has revoked access, and it is true."""

    def prepare(self, world):
        world.link(world.alice)
        world.strava.revoke_grant(ALICE)

    def act(self, world):
        assert send(world.client, event()).status_code == 200
        return world.error("strava")

    def again(self, world):
        # Nobody sends another event: the scheduler finds that the first is not settled.
        UsersIntegrations.objects.update(
            strava_check_due_at=a_moment_ago(), strava_retry_at=None, strava_limited_until=None
        )
        strava_tasks.confirm_due_strava_revocations.enqueue()
        assert world.row.strava_status == LinkStatus.NOT_LINKED
        return world.error("strava").code


class SignIn(Operation):
    """An e-mail and a password; the page tells how it ended."""

    provider = "garminconnect"
    endpoints = ("mobile_login", "widget_login", "portal_login")

    def asked(self, world):
        return world.garmin.attempts[GARMIN_ALICE]

    def act(self, world):
        response = world.client.post(
            reverse("integrations:garminconnect_connect"),
            {"email": GARMIN_ALICE, "password": PASSWORD},
            headers=JSON,
        )
        assert response.status_code == 202
        return world.error("garminconnect")

    def page(self, world):
        return world.client.post(
            reverse("integrations:garminconnect_connect"),
            {"email": GARMIN_ALICE, "password": PASSWORD},
        )


class Ticket(SignIn):
    """The same, where the password is taken and its ticket is not."""

    endpoints = ("token",)
    asked = Operation.asked


class MfaAnswer(Operation):
    """The right code."""

    provider = "garminconnect"
    endpoints = ("mfa",)

    def prepare(self, world):
        world.client.post(
            reverse("integrations:garminconnect_connect"), {"email": MFA, "password": PASSWORD}
        )
        assert GarminConnectLogin.objects.get().step == "mfa_required"

    def act(self, world):
        response = world.client.post(
            reverse("integrations:garminconnect_mfa"), {"code": MFA_CODE}, headers=JSON
        )
        if response.status_code != 202:
            return seen(response, "")
        return world.error("garminconnect")

    def page(self, world):
        return world.client.post(reverse("integrations:garminconnect_mfa"), {"code": MFA_CODE})


class SessionRefresh(Operation):
    """A session on demand, five minutes before it lapses."""

    provider = "garminconnect"

    def prepare(self, world):
        services.create_user_integrations(world.alice.pk)
        services.link_garminconnect_account(
            world.alice.pk, None, world.garmin.issue_session(GARMIN_ALICE, expires_in=300)
        )

    def act(self, world):
        return attempted(services.get_garminconnect_client, world.alice.pk)


class GarminGearSync(GearSync):
    provider = "garminconnect"
    endpoints = ("gear_list",)

    def prepare(self, world):
        services.create_user_integrations(world.alice.pk)
        services.link_garminconnect_account(
            world.alice.pk, None, world.garmin.issue_session(GARMIN_ALICE)
        )
        gear = world.garmin.accounts[GARMIN_ALICE].gear
        del gear[1:]  # a short answer: it may come a byte at a time
        services.sync_garminconnect_gear(world.alice.pk)
        gear[0].name = "Renamed"  # something to write, if it were let


OPERATIONS: dict[str, type[Operation]] = {
    "connect": Connect,
    "relink": Relink,
    "refresh": Refresh,
    "sweep": Sweep,
    "gear sync": GearSync,
    "gear details": GearDetails,
    "disconnect": Disconnect,
    "webhook": Webhook,
    "garmin sign-in": SignIn,
    "garmin code": MfaAnswer,
    "garmin ticket": Ticket,
    "garmin refresh": SessionRefresh,
    "garmin gear sync": GarminGearSync,
}

# --- From a cell to a test ----------------------------------------------------------------------

# Seconds: for 30, for a byte a second, and for the ten that a provider has.
SILENCE, DRIP, TIMEOUT = 1.5, 0.01, 0.5
SLOW = {"silence": SILENCE, "drip": DRIP}


@pytest.fixture
def world(alice, alice_client, strava, garmin, link):
    return World(alice, alice_client, strava, garmin, link)


@pytest.fixture
def nobody():
    """The address of a port where nobody listens, and nobody can begin to."""
    with contextlib.ExitStack() as held:
        while True:
            taken = held.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{taken.getsockname()[1]}"
            # garminconnect reads statuses out of messages that hold the address, too.
            if not re.search("401|403|427|429", address):
                yield address
                return


def become_impatient(patch):
    """Every deadline of a provider is half a second, the Garmin library's too."""
    patch.setattr("integrations.http.READ_TIMEOUT", TIMEOUT)
    patch.setattr("integrations.http.CONNECT_TIMEOUT", TIMEOUT)


@pytest.fixture
def trouble(world, settings, nobody, sandbox):
    """Switch an answer on, and off again."""
    patch = pytest.MonkeyPatch()

    def point_at(operation, old, new):
        if operation.provider == "strava":
            settings.STRAVA_OAUTH_URL, settings.STRAVA_API_URL = f"{new}/oauth", f"{new}/api/v3"
            return
        hook.point_library_at(new, pauses=False)
        for login in GarminConnectLogin.objects.all():  # what waits for its code names the address
            state = json.dumps(login.client_state).replace(old, new)
            GarminConnectLogin.objects.update(client_state=json.loads(state))

    def begins(operation, answer):
        if answer == "refused":
            point_at(operation, sandbox.url, nobody)
            return
        if answer in SLOW:
            become_impatient(patch)
        provider = sandbox.strava if operation.provider == "strava" else sandbox.garmin
        for endpoint in operation.endpoints:
            provider.fail(endpoint, answer, seconds=SLOW.get(answer))

    def ends(operation, answer):
        if answer == "refused":
            point_at(operation, nobody, sandbox.url)
        patch.undo()
        sandbox.strava.recover()
        sandbox.garmin.recover()

    yield SimpleNamespace(begins=begins, ends=ends)
    patch.undo()


def link_of(row, provider):
    """A link to the letter: all columns but those of its health and of what is under way."""
    passing = (
        "state", "state_expires_at", "pending_client_id", "pending_client_secret", "error",
        "failures", "retry_at", "lease", "lease_until", "relink_required_at", "limited_until",
        "check_due_at", "checks_until", "synced_at", "units", "sync_error", "sync_failures",
        "sync_due_at", "syncing_until", "login_error", "limited_reads", "exchanging_state",
        "exchanging_until", "exchanging_error", "athlete_name",
    )  # fmt: skip
    return {
        field.attname: getattr(row, field.attname)
        for field in UsersIntegrations._meta.concrete_fields
        if field.name.startswith(f"{provider}_")
        and field.name.removeprefix(f"{provider}_") not in passing
    }


# What each code is in words, from the operation itself or from the page afterwards.
WORDS = {
    "provider_unavailable": r"(cannot|could not) be reached",
    "invalid_provider_reply": r"an answer that we could not use",
    "rate_limited": r"limit for now|refusing sign-ins",
    "invalid_client": r"not your fault|does not accept this site’s Strava app",
    "application_inactive": r"inactive",
    "athlete_limit": r"as many athletes|could not be reached",
    "disconnected": r"Strava is disconnected\.",
    "sign_in_unfinished": r"Your password is right",
    "not told": r"strava\.com/settings/apps",
}
INTERNALS = re.compile(
    r"Traceback|Exception|Error\b|requests|urllib3|curl|pydantic|127\.0\.0\.1|sandbox|Bearer|<",
    re.I,
)


def secrets_of(row):
    found = [CLIENT_SECRET, PASSWORD, MFA_CODE, row.strava_token, row.strava_refresh_token]
    found += (row.garminconnect_oauth2 or {}).values()
    return [secret for secret in found if secret]


def row_or_none(world):
    return UsersIntegrations.objects.filter(user=world.alice).first()


def cells(*, of=OPERATIONS, answers=ANSWERS):
    for name, answer in itertools.product(of, answers):
        cell = MATRIX[name][answer]
        if isinstance(cell, str):
            continue
        marks = []
        if OPERATIONS[name].transactional:
            marks.append(pytest.mark.django_db(transaction=True))
        yield pytest.param(name, answer, id=f"{name}-{answer}", marks=marks)


@pytest.mark.parametrize(("name", "answer"), list(cells()))
def test_a_cell_of_the_matrix_holds(name, answer, world, trouble):
    cell, operation = MATRIX[name][answer], OPERATIONS[name]()
    operation.prepare(world)
    before = row_or_none(world)
    asked, gear = operation.asked(world), list(Gear.objects.order_by("pk").values())

    trouble.begins(operation, answer)
    told = operation.act(world)
    asked = operation.asked(world) - asked
    row = row_or_none(world)
    assert_told(cell, told)
    assert_page_is_whole(world, row)
    assert asked == cell.calls
    assert_stored(cell, operation.provider, before, row)
    assert_tried_again(cell, answer, operation.provider, before, row)
    if cell.link != "ended" and cell.says != "no brand":
        assert list(Gear.objects.order_by("pk").values()) == gear

    trouble.ends(operation, answer)
    asked = operation.asked(world)
    assert operation.again(world) == cell.then
    if cell.then in ("rate_limited", "not_linked"):
        assert operation.asked(world) == asked  # known without asking


@pytest.fixture(autouse=True)
def nobody_waits_for_ever():
    """A cell that hangs is a cell that fails."""

    def give_up(number, frame):
        raise AssertionError("this has taken 15 seconds")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(15)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def assert_told(cell, told):
    assert told.code == cell.says
    if told.status is not None:
        error = error_by_code(told.code, IntegrationsError)
        assert told.status == (200 if error is IntegrationsError else error.status_code)
    if told.code != "no brand":
        assert re.search(WORDS[told.code], told.message)
        assert not INTERNALS.search(told.message)


def assert_page_is_whole(world, row):
    for name in ("settings", "status"):
        response = world.client.get(reverse(f"integrations:{name}"))
        assert response.status_code == 200
        text = response.content.decode()
        assert "Traceback" not in text
        assert not [secret for secret in secrets_of(row) if secret in text]


def assert_stored(cell, provider, before, row):
    """The link is as the cell says, and nothing is half written."""
    status = LinkStatus.LINKED if cell.link in ("kept", "renewed") else LinkStatus.NOT_LINKED
    assert getattr(row, f"{provider}_status") == status
    if cell.link == "kept":
        assert link_of(row, provider) == link_of(before, provider)
    elif cell.link == "renewed":
        assert row.garminconnect_oauth2 != before.garminconnect_oauth2
    else:
        assert link_of(row, provider) == link_of(UsersIntegrations(), provider)
    for column in ("lease", "lease_until", "syncing_until", "relink_required_at"):
        assert getattr(row, f"{provider}_{column}") is None
    for column in ("state", "state_expires_at", "pending_client_id", "pending_client_secret"):
        assert getattr(row, f"strava_{column}") is None
    assert not GarminConnectLogin.objects.filter(password__isnull=False).exists()
    assert not GarminConnectLogin.objects.filter(mfa_code__isnull=False).exists()


def assert_tried_again(cell, answer, provider, before, row):
    """What is noted, and who looks at it again and when."""
    failed = {
        name: getattr(row, f"{provider}_{name}")
        for name in ("error", "failures", "sync_error", "sync_failures")
    }
    # A sign-in has no request that waits for its error: it is noted for the page.
    login_error = {} if provider == "strava" else {"login_error": row.garminconnect_login_error}
    failed |= login_error
    nothing = dict.fromkeys(failed, "") | {"failures": 0, "sync_failures": 0}
    retry_at = getattr(row, f"{provider}_retry_at")
    due_at = getattr(row, f"{provider}_sync_due_at")
    soon, latest = timezone.now() + timedelta(seconds=20), timezone.now() + timedelta(days=1)
    match cell.later:
        case "backoff":
            assert failed == nothing | {"error": cell.says, "failures": 1}
            assert soon < retry_at < latest or (cell.says == "rate_limited" and retry_at < latest)
        case "sync":
            noted = {"sync_error": cell.says, "sync_failures": 1}
            assert failed == nothing | ({} if cell.says == "no brand" else noted)
            assert soon < due_at < latest or (cell.says == "rate_limited" and due_at < latest)
            if cell.says != "no brand" and before.strava_synced_at:
                assert row.strava_synced_at == before.strava_synced_at
            assert retry_at is None
        case "code":
            login = GarminConnectLogin.objects.get()
            assert (login.step, login.wrong_codes) == ("mfa_required", 0)
            assert failed == nothing | {"login_error": cell.says}
        case "athlete" | "nobody":
            assert not GarminConnectLogin.objects.exists()
            noted = {"login_error": cell.says} if provider == "garminconnect" else {}
            assert failed == nothing | noted
            assert (retry_at, due_at) == (None, None)
    # Others who share the app are told of its limit, and of nothing else.
    is_limit = cell.later in ("backoff", "sync", "athlete") and (
        answer == "429" or (provider == "garminconnect" and cell.says == "rate_limited")
    )
    if provider == "garminconnect" and cell.later == "athlete":
        is_limit = False  # a limit of sign-ins alone
    assert (getattr(row, f"{provider}_limited_until") is not None) == is_limit


PAGES = [name for name, operation in OPERATIONS.items() if hasattr(operation, "page")]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        pytest.param(*param.values, id=param.id)
        for param in cells(of=PAGES, answers=[each for each in ANSWERS if each not in SLOW])
    ],
)
def test_the_page_says_it_in_words(name, answer, world, trouble):
    cell, operation = MATRIX[name][answer], OPERATIONS[name]()
    operation.prepare(world)
    messages_of(world.client)
    trouble.begins(operation, answer)

    response = operation.page(world)

    assert (response.status_code, response["Location"]) == (302, reverse("integrations:settings"))
    page = world.client.get(reverse("integrations:settings"))
    said = told_on(page)
    assert len(said) == 1
    assert not INTERNALS.search(said[0])
    error = page.context[operation.provider]["error"]
    assert re.search(WORDS[cell.says], f"{said[0]} {error['message'] if error else ''}")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n"
# Whatever may be sent for ever without an end: what comes at once, and what then comes bit by bit.
ENDLESS = {
    "head": (b"", OK + b"X-Long: " + b"a" * 500),
    "body": (OK + b"\r\n{", b" " * 500),
    "body of a length": (OK + b"Content-Length: 600\r\n\r\n{", b" " * 500),
    "size of a chunk": (CHUNKED + b"\r\n5;", b"a" * 500),
    "trailers": (CHUNKED + b"\r\n1\r\n{\r\n0\r\n", b"X: y\r\n" * 100),
    "empty blocks of gzip": (
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10],
        b"\0\0\0\xff\xff" * 100,
    ),
}


@contextlib.contextmanager
def bit_by_bit(at_once, rest):
    """Serve one answer whose rest comes a byte at a time; gives the address."""
    server = socket.create_server(("127.0.0.1", 0))

    def drip():
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(at_once)
            for byte in rest:
                connection.sendall(bytes([byte]))
                time.sleep(DRIP)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        thread.join()
        server.close()


@pytest.mark.parametrize("shape", ENDLESS)
def test_an_answer_that_never_ends_holds_nobody(shape, world, settings, monkeypatch):
    """The sandbox lets bodies drip; this is all else that may."""
    operation = Refresh()
    operation.prepare(world)
    become_impatient(monkeypatch)
    with bit_by_bit(*ENDLESS[shape]) as address:
        settings.STRAVA_OAUTH_URL = f"{address}/oauth"
        started = time.monotonic()
        told = operation.act(world)
        took = time.monotonic() - started

    assert told.code in ("provider_unavailable", "invalid_provider_reply")
    assert took < 3  # it is 5 seconds long
    assert world.row.strava_status == LinkStatus.LINKED
    assert world.row.strava_lease is None


def test_a_pair_that_came_whole_is_kept_though_what_follows_never_ends(
    world, settings, monkeypatch
):
    """The former refresh token is dead by then: to drop the new one is to lose the link."""
    operation = Refresh()
    operation.prepare(world)
    become_impatient(monkeypatch)
    pair = json.dumps(world.strava.issue_tokens(ALICE)).encode()
    answer = CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n" % (len(pair), pair)
    with bit_by_bit(answer, b"X: y\r\n" * 100) as address:
        settings.STRAVA_OAUTH_URL = f"{address}/oauth"
        assert operation.act(world).code == "works"

    assert world.row.strava_token == json.loads(pair)["access_token"]


def test_behind_tls_within_that_of_a_proxy_the_plain_socket_is_cut(monkeypatch):
    monkeypatch.setattr("integrations.http.READ_TIMEOUT", 0.1)
    ours, theirs = socket.socketpair()
    layered = SSLTransport.__new__(SSLTransport)
    layered.socket = ours
    watchdog = _Watchdog()
    with ours, theirs, watchdog.watch():
        watchdog.begin(layered)
        theirs.settimeout(5)
        assert theirs.recv(1) == b""  # hung up
        assert watchdog._thread.is_alive()


# --- The control, and the table itself ----------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.django_db(transaction=True)] if operation.transactional else [],
        )
        for name, operation in OPERATIONS.items()
    ],
)
def test_without_a_fault_the_operation_works(name, world):
    operation = OPERATIONS[name]()
    operation.prepare(world)
    asked = operation.asked(world)

    assert operation.act(world).code == ("disconnected" if name == "disconnect" else "works")

    # Otherwise a cell would prove nothing: the fault would be where nobody comes by.
    assert operation.asked(world) > asked


def test_the_matrix_has_no_empty_cell():
    # "delay" is slow and whole; "refused" is nobody at all, which takes no sandbox.
    assert set(ANSWERS) == set(FAULTS) - {"delay"} | {"refused"}
    assert list(MATRIX) == list(OPERATIONS)
    for name, answers in MATRIX.items():
        assert tuple(answers) == ANSWERS, name
        for answer, cell in answers.items():
            assert isinstance(cell, Cell) or cell == NOT_GARMINS, (name, answer)
            if cell == NOT_GARMINS:
                assert OPERATIONS[name].provider == "garminconnect"
                assert answer == "401_client"


def test_only_the_refresh_token_ends_a_link():
    """In words of the table: no cell ends a link but the button that is there to do it."""
    ends = {
        name
        for name, answers in MATRIX.items()
        for cell in answers.values()
        if isinstance(cell, Cell) and cell.link == "ended"
    }
    assert ends == {"disconnect"}
