"""What the gear of every provider becomes."""

from __future__ import annotations

from dataclasses import dataclass

BIKE, SHOES, OTHER = "bike", "shoes", "other"


@dataclass(frozen=True, slots=True)
class GearItem:
    """One piece of gear as a provider lists it. Distance in metres.

    `brand` and `model` are None where the provider has not been asked for them.
    """

    provider_gear_id: str
    kind: str
    name: str
    distance: int
    retired: bool = False
    primary: bool = False
    brand: str | None = None
    model: str | None = None


def clean_text(value: str | None, length: int = 255) -> str:
    """A provider's text as it can be stored and shown: any character but control ones."""
    text = "".join(char if char.isprintable() or char == " " else " " for char in value or "")
    return " ".join(text.split())[:length]
