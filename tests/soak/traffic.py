"""Two dozen athletes, two tabs each, who press every button there is."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import requests

from integrations.sandbox import Sandbox
from integrations.sandbox.garmin import MFA_CODE, PASSWORD
from integrations.sandbox.garmin.demo import Gear as GarminGear

from ..processes import Athlete
from .fleet import Fleet

PEOPLE = 24
BIKES = 3
# A token is renewed once less than five minutes of it are left: about every half minute.
TOKEN_LIFETIME = 330  # seconds
GARMIN_TOKEN_LIFETIME = 20 * 60 + 60  # a session is renewed once less than 20 minutes are left
SIGN_INS = 4  # of five that a user has within an hour


class Tally:
    """What has happened so far; may be added to from any thread."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, what: str, count: int = 1) -> None:
        with self._lock:
            self._counts[what] += count

    def items(self) -> list[tuple[str, int]]:
        with self._lock:
            return sorted(self._counts.items())

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {what}" for what, count in self.items())


@dataclass
class Person:
    user: Any
    athlete_id: int
    email: str
    sign_ins: int = 0


def set_up(sandbox: Sandbox) -> list[Person]:
    sandbox.strava.limit_rate(overall=(10**9, 10**9), read=(10**9, 10**9))
    sandbox.strava.token_lifetime = TOKEN_LIFETIME
    sandbox.garmin.token_lifetime = GARMIN_TOKEN_LIFETIME
    return [add_person(sandbox, number) for number in range(PEOPLE)]


def add_person(sandbox: Sandbox, number: int) -> Person:
    """A user, with an account and gear at both providers; every other one has MFA."""
    from django.contrib.auth import get_user_model

    user = get_user_model().objects.create(username=f"athlete{number}")
    person = Person(user, 900_000 + number, f"athlete{number}@example.com")
    sandbox.strava.add_athlete(
        person.athlete_id,
        bikes=[
            {"id": f"b{person.athlete_id}{each}", "name": f"Bike {each}", "distance": 1000.0}
            for each in range(BIKES)
        ],
    )
    sandbox.garmin.add_account(
        person.email,
        gear=[
            GarminGear(100_000 + number * 10 + each, "Bike", f"Bike {each}", "Make", "Model")
            for each in range(BIKES)
        ],
        mfa_code=MFA_CODE if number % 2 else None,
    )
    return person


class Tab(Athlete):
    """One of an athlete's tabs. A press that gets no answer is counted and forgotten."""

    def __init__(self, fleet: Fleet, person: Person) -> None:
        super().__init__(fleet, person.user)
        self.person = person
        self.lock = threading.Lock()


def press_buttons(
    tabs: list[Tab], sandbox: Sandbox, tally: Tally, stop: threading.Event, rng: random.Random
) -> None:
    while not stop.wait(rng.uniform(0, 0.3)):
        tab = rng.choice(tabs)
        if not tab.lock.acquire(blocking=False):
            continue
        button = rng.choices(list(BUTTONS), list(BUTTONS.values()))[0]
        if button in COUNTED:
            tally.add(COUNTED[button])
        try:
            status = button(tab, sandbox, rng)
        except (requests.RequestException, LookupError):
            # A worker was killed at it, or it was an error instead of what was asked for.
            tally.add("presses that led nowhere")
        else:
            if status is not None:
                tally.add("requests")
                tally.add(f"answers {status // 100}xx")
                if status == 500:
                    tally.add("answers 500")
        finally:
            tab.lock.release()


# --- The buttons: each returns the status of the last answer, or None for nothing to press -------


def look(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    return tab.session.get(f"{tab.site.url}/settings/integrations/", timeout=30).status_code


def poll(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    return tab.session.get(f"{tab.site.url}/integrations/status/", timeout=30).status_code


def connect_strava(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    if tab.status("strava")["status"] == "linked" and rng.random() < 0.8:
        return None
    begun = tab.post("/integrations/strava/connect/")
    if begun.status_code != 200:
        return begun.status_code
    code = sandbox.strava.grant(tab.person.athlete_id)
    if rng.random() < 0.1:  # abandoned at the consent page
        return begun.status_code
    return tab.session.get(
        f"{tab.site.url}/integrations/strava/callback/",
        params={"state": begun.json()["state"], "code": code, "scope": "read,profile:read_all"},
        headers={"Accept": "application/json"},
        timeout=60,
    ).status_code


def sync_strava(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    return tab.post("/integrations/strava/gear/sync/").status_code


def sync_garmin(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    return tab.post("/integrations/garminconnect/gear/sync/").status_code


def prefer(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    provider = rng.choice(["strava", "garminconnect"])
    fields = {"sync_gear": "on"} if rng.random() < 0.8 else {}
    return tab.post(f"/integrations/{provider}/preferences/", **fields).status_code


def sign_in_to_garmin(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    status = tab.status("garminconnect")["status"]
    if status == "mfa_required":
        code = MFA_CODE if rng.random() < 0.9 else "999999"
        return tab.post("/integrations/garminconnect/mfa/", code=code).status_code
    if status not in ("not_linked", "relink_required") or tab.person.sign_ins >= SIGN_INS:
        return None
    tab.person.sign_ins += 1
    fields = {"email": tab.person.email, "password": PASSWORD}
    return tab.post("/integrations/garminconnect/connect/", **fields).status_code


def cancel_garmin(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    return tab.post("/integrations/garminconnect/cancel/").status_code


def disconnect_strava(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    return tab.post("/integrations/strava/disconnect/").status_code


def disconnect_garmin(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    if tab.person.sign_ins >= SIGN_INS:  # or nobody would be left at the end
        return None
    return tab.post("/integrations/garminconnect/disconnect/").status_code


def revoke_at_strava(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    sandbox.strava.revoke_as_athlete(tab.person.athlete_id)
    return None


def forge_event(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    sandbox.strava.send_event(tab.person.athlete_id, updates={"authorized": "false"})
    return None


def export(tab: Tab, sandbox: Sandbox, rng: random.Random) -> int | None:
    return tab.session.get(f"{tab.site.url}/integrations/export/", timeout=30).status_code


BUTTONS = {
    poll: 20,
    look: 10,
    connect_strava: 12,
    sync_strava: 6,
    sync_garmin: 4,
    prefer: 4,
    sign_in_to_garmin: 12,
    export: 2,
    forge_event: 2,
    disconnect_strava: 0.1,
    revoke_at_strava: 0.1,
    disconnect_garmin: 0.1,
    cancel_garmin: 0.1,
}
# What ends a link by itself, or may.
COUNTED = {
    disconnect_strava: "presses of “Disconnect” for Strava",
    revoke_at_strava: "revocations at Strava",
    disconnect_garmin: "presses of “Disconnect” for Garmin",
}
