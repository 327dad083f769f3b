"""Invented apps and athletes. No name, number or secret here belongs to anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import oauth

#: The app that a site registers for all its users. The secrets are good nowhere else.
CLIENT_ID = "10001"
CLIENT_SECRET = "sandbox-secret-of-the-site"

#: An app that a user brings along.
OTHER_CLIENT_ID = "10002"
OTHER_CLIENT_SECRET = "sandbox-secret-of-a-user"

#: Two bikes and two pairs of shoes, one of them without a name.
ALICE = 20001
#: Emoji, markup and right-to-left text for names; retired gear.
BJORN = 20002
#: No gear at all.
CHIDI = 20003
#: An id that does not fit 32 bits, a name that is markup, gear with fields missing.
DANA = 5_000_000_004

Gear = dict[str, Any]

_LOCAL = frozenset({"localhost", "127.0.0.1"})


@dataclass
class App(oauth.App):
    """An API application as registered at Strava.

    `athlete_limit` counts connected athletes; None is no limit.
    """

    callback_domain: str
    active: bool = True
    athlete_limit: int | None = None

    def allows(self, redirect_uri: str, host: str) -> bool:
        domain = self.callback_domain.lower()
        return host in _LOCAL or host == domain or host.endswith(f".{domain}")


@dataclass
class Athlete(oauth.Athlete):
    """A person at Strava. Gear is kept in full; `/athlete` shows a part of it."""

    bikes: Sequence[Gear] = ()
    shoes: Sequence[Gear] = ()

    def traits(self) -> list[str]:
        return [f"{len(self.bikes)} bikes", f"{len(self.shoes)} pairs of shoes"]

    def summary(self, resource_state: int = 2) -> dict[str, Any]:
        """The SummaryAthlete of the code grant, and the base of the detailed one."""
        return {
            "id": self.id,
            "username": None,
            "resource_state": resource_state,
            "firstname": self.firstname,
            "lastname": self.lastname,
            "city": "Sandbox",
            "state": None,
            "country": None,
            "sex": None,
            "premium": False,
            "summit": False,
            "created_at": "2020-02-29T12:00:00Z",
            "updated_at": "2026-11-01T12:00:00Z",
            "profile_medium": "avatar/athlete/medium.png",
            "profile": "avatar/athlete/large.png",
        }


def gear(gear_id: str, name: str | None, distance: float, **more: Any) -> Gear:
    """One gear in detail. Bikes (ids that begin with b) have a frame type."""
    detail: Gear = {
        "id": gear_id,
        "primary": False,
        "name": name,
        "distance": distance,
        "brand_name": "",
        "model_name": "",
        "description": "",
    }
    if gear_id.startswith("b"):
        detail["frame_type"] = 3
    return detail | more


def apps() -> list[App]:
    return [
        # "testserver" is the host of Django's test client; a site on localhost
        # or 127.0.0.1 needs no entry, at Strava neither.
        App(CLIENT_ID, CLIENT_SECRET, "Demo site", "testserver"),
        App(OTHER_CLIENT_ID, OTHER_CLIENT_SECRET, "Someone's own app", "example.org"),
    ]


def athletes() -> list[Athlete]:
    return [
        Athlete(
            ALICE,
            "Alice",
            "Archer",
            bikes=[
                gear(
                    "b1001",
                    "Road bike",
                    4_217_300.0,
                    primary=True,
                    brand_name="Canyonesque",
                    model_name="Endura 7",
                    description="Summer only",
                ),
                gear("b1002", "Gravel", 812_440.5, brand_name="Tresk", frame_type=5),
            ],
            shoes=[
                gear("g2001", "Trainers", 311_020.0, primary=True, brand_name="Asiks"),
                gear("g2002", "", 0.0, brand_name="Nikko", model_name="Pegase 41"),
            ],
        ),
        Athlete(
            BJORN,
            "Bjørn",
            "Ångström 🚴",
            bikes=[
                gear("b1101", "🚲💨 Blitz", 99_999_999.9, primary=True, brand_name="Ærø"),
                gear("b1102", "<b>Bold</b> & \"quoted\" 'bike'", 1.0, description="</script>"),
                gear("b1103", "Old faithful", 55_000_000.0, retired=True),
            ],
            shoes=[
                gear(
                    "g2101", "\u0646\u0639\u0627\u0644 \u202e\u0627\u0628\u062c\u062f", 120_500.0
                ),  # with a right-to-left override
                gear("g2102", "Worn out", 1_200_000.0, retired=True),
            ],
        ),
        Athlete(CHIDI, "Chidi", "Okafor"),
        Athlete(
            DANA,
            "Dana",
            "<script>alert(1)</script>",
            bikes=[gear("b1201", "x" * 250, 10.0, primary=True), gear("b1202", None, 0)],
            shoes=[gear("g2201", "<img src=x onerror=alert(1)>", 0.5, brand_name=None)],
        ),
    ]
