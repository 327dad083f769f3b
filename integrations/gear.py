"""What the gear of every provider becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from unicodedata import category

BIKE, SHOES, OTHER = "bike", "shoes", "other"

_SEPARATORS = re.compile(r"[\t-\r\x1c-\x1f\x85]+")  # the control characters that part words
_UNWANTED = re.compile(
    # The other control characters, half surrogate pairs, and what turns the direction of text.
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


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
    """A provider's text as it can be stored and shown, and otherwise as its owner has typed it.

    Joiners, marks and characters that this Python does not know are part of names.
    """
    return _cut(_UNWANTED.sub("", _SEPARATORS.sub(" ", value or "")).strip(), length).strip()


def _cut(text: str, length: int) -> str:
    """As much of a text as fits, without half of a character that is made of several."""
    if len(text) <= length:
        return text
    end = length
    while end and (text[end - 1] == "\u200d" or category(text[end]) in _JOINED):
        end -= 1
    return text[: end or length]


_JOINED = ("Mn", "Mc", "Me", "Cf", "Sk")  # marks, joiners, tags, skin tones
