"""Invented people with Garmin accounts. No name, number or password here belongs to anybody."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

#: The password of every account. It is good nowhere else.
PASSWORD = "sandbox-garmin-password"
#: The code that the MFA accounts would get by e-mail.
MFA_CODE = "123456"

#: Signs in with only the password; two bikes, a pair of shoes, a pair of skis.
ALICE = "alice@example.com"
#: Signs in with only the password; the gear that breaks things.
BJORN = "bjorn@example.com"
#: Signs in with only the password; no gear at all.
CHIDI = "chidi@example.com"
#: Needs a code after the password.
MFA = "mfa@example.com"
LOCKED = "locked@example.com"
CAPTCHA = "captcha@example.com"
#: 429 whatever it asks for.
THROTTLED = "throttled@example.com"
#: Answers to the password take their time.
SLOW = "slow@example.com"
#: 403 from Garmin's front at the app's way in; the widget's lets it pass.
BLOCKED = "blocked@example.com"
#: Has to give a phone number before anything else.
PHONE = "phone@example.com"
#: The API does not know the tokens that were issued a moment ago.
INACTIVE = "inactive@example.com"
#: Lives at garmin.cn, and is unknown at garmin.com.
CHINA = "china@example.com"

WAYS = ("mobile", "widget", "portal")
GEAR_TYPES = ("Bike", "Shoes", "Other")


@dataclass
class Gear:
    """One piece of gear: distances in meters, dates as ISO days.

    `type` is one of GEAR_TYPES, the only names that the older endpoint has:
    skis are "Other". `removed` gear is still listed, but its statistics are a 404. Gear that is not
    `listed` has a make or model that Garmin's own list lacks.
    """

    pk: int
    type: str
    name: str | None = None
    make: str | None = None
    model: str | None = None
    distance: float = 0.0
    activities: int = 0
    first_use: str = "2024-03-01"
    retired_on: str | None = None
    maximum: float = 0.0
    removed: bool = False
    listed: bool = True

    def __post_init__(self) -> None:
        if self.type not in GEAR_TYPES:
            raise ValueError(f"the types of gear are {', '.join(GEAR_TYPES)}")

    @property
    def uuid(self) -> str:
        """The uuid with dashes, as in gear-service v2; the older endpoints omit them."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"sandbox:gear:{self.pk}"))


@dataclass
class Account:
    """A person at Garmin. What goes wrong for them can be changed at any time.

    `blocked` names the ways in (WAYS) at which the front answers 403 to them;
    `delay` (seconds) is how late the answer to a password comes; `wants` is
    what Garmin asks for after the right password or code, a
    `responseStatus.type`; the API refuses every token of an `inactive` account.
    """

    email: str
    full_name: str
    profile_id: int
    domain: str = "garmin.com"
    password: str = PASSWORD
    display_name: str | None = ""
    measurement_system: str = "metric"
    mfa_code: str | None = None
    mfa_method: str = "email"
    locked: bool = False
    captcha: bool = False
    throttled: bool = False
    inactive: bool = False
    wants: str = ""
    blocked: tuple[str, ...] = ()
    delay: float = 0.0
    gear: list[Gear] = field(default_factory=list)
    wrong_passwords: int = 0

    def __post_init__(self) -> None:
        if self.display_name == "":
            # Garmin gives a random one to users who choose none.
            self.display_name = self.guid

    @property
    def guid(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"sandbox:account:{self.email}"))

    def public(self) -> dict[str, Any]:
        traits = [
            name for name in ("locked", "captcha", "throttled", "inactive") if getattr(self, name)
        ]
        if self.mfa_code is not None:
            traits.append(f"code {self.mfa_code}")
        if self.wants:
            traits.append(self.wants)
        if self.blocked:
            traits.append(f"403 at {', '.join(self.blocked)}")
        if self.delay:
            traits.append(f"{self.delay:g} s late")
        return {
            "email": self.email,
            "password": self.password,  # invented: people copy it off the index page
            "full_name": self.full_name,
            "profile_id": self.profile_id,
            "domain": self.domain,
            "gear": len(self.gear),
            "traits": traits,
        }


def accounts() -> list[Account]:
    return [
        Account(
            ALICE,
            "Alice Archer",
            70001,
            display_name="alice.archer",
            gear=[
                Gear(41001, "Bike", "Road bike", "Canyonesque", "Endura 7", 4_217_300.0, 132),
                Gear(41002, "Bike", "Gravel", "Tresk", "Chekpoint", 812_440.5, 31),
                Gear(41003, "Shoes", "Trainers", "Asiks", "Nimble 26", 311_020.0, 44, maximum=8e5),
                Gear(41004, "Other", "Touring skis", "Fisher", "Transalp 90", 96_500.25, 7),
            ],
        ),
        Account(
            BJORN,
            "Bjørn Ångström 🚴",
            70002,
            display_name="bjørn/ångström ..",
            measurement_system="statute_us",
            gear=[
                Gear(42001, "Bike", "🚲💨 Blitz", "Ærø", "Øne", 99_999_999.9, 9999),
                Gear(42002, "Bike", "<b>Bold</b> & \"quoted\" 'bike'", "<i>", "</script>", 1.0, 1),
                Gear(42003, "Bike", None, "Old", "Faithful", 5.5e7, 1200, retired_on="2025-11-30"),
                Gear(42004, "Shoes", None, None, None),
                # With a right-to-left override.
                Gear(42005, "Shoes", "\u0646\u0639\u0627\u0644 \u202e\u0627\u0628", distance=120.5),
                Gear(42006, "Shoes", "Worn out", "Nikko", "Pegase", 1_200_000.0, 210, removed=True),
                Gear(42007, "Other", "x" * 250, "Fisher", "Speedmax", 5.0, 1),
            ],
        ),
        Account(CHIDI, "Chidi Okafor", 70003),
        Account(
            MFA,
            "Mira Factor",
            70004,
            mfa_code=MFA_CODE,
            gear=[Gear(44001, "Bike", "Commuter", "Koga", "Miyata", 77_000.0, 12)],
        ),
        Account(LOCKED, "Lock Outen", 70005, locked=True),
        Account(CAPTCHA, "Cap Tcha", 70006, captcha=True),
        Account(THROTTLED, "Thea Rottled", 70007, throttled=True),
        Account(SLOW, "Sven Slow", 70008, delay=3.0),
        Account(BLOCKED, "Bo Lockt", 70009, blocked=("mobile",)),
        Account(PHONE, "Fon Less", 70010, wants="UPDATE_PHONE_NUMBER"),
        Account(INACTIVE, "Ina Ktiv", 70011, inactive=True),
        Account(
            CHINA,
            "Chen Na",
            80001,
            domain="garmin.cn",
            gear=[Gear(51001, "Bike", "\u516c\u8def\u8f66", "Jiante", "TCR", 500_000.0, 20)],
        ),
    ]
