"""The common form of every provider's gear."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

from .numbers import number

BIKE, SHOES, OTHER = "bike", "shoes", "other"
MAX_GEAR = 2000  # of one list

_SEPARATORS = re.compile(r"[\t-\r\x1c-\x1f\x85]+")  # the control characters that separate words
_UNWANTED = re.compile(
    # The other control characters, half surrogate pairs, and marks that set its direction.
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "none": False}


@dataclass(frozen=True, slots=True)
class GearItem:
    """One piece of gear as a provider lists it. Distance in meters.

    None means that the provider gave no usable value: the stored one stays. `brand` and `model` are
    None where the provider has not been asked for them.
    """

    provider_gear_id: str
    kind: str | None
    name: str | None
    distance: int | None
    retired: bool | None = False
    primary: bool | None = False
    brand: str | None = None
    model: str | None = None


@dataclass(slots=True)
class GearList:
    """A provider's list, read entry by entry: an odd entry must not lose the others."""

    items: list[GearItem] = field(default_factory=list)
    # How many entries were odd, by kind.
    odd: Counter[str] = field(default_factory=Counter)
    # Kinds that may have more gear than could be read: missing gear may still exist.
    partial: set[str] = field(default_factory=set)

    def add(
        self, item: GearItem | None, kind: str | None, may_be: Iterable[str], odd: bool = False
    ) -> None:
        """Take one entry; without an item, it `may_be` any known gear of these kinds."""
        if item is None:
            self.partial.update(may_be)
        else:
            self.items.append(item)
            odd = odd or None in (item.kind, item.name, item.retired, item.primary)
        if item is None or odd:
            self.odd[kind or OTHER] += 1


def gear_id(value: Any) -> str | None:
    """An id made of letters, digits, _ and -, as all known ids are; None for anything else.

    It becomes part of a URL, where a dot has a special meaning.
    """
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) else None


def text(value: Any) -> str | None:
    """A provider's text, "" if empty; None for anything but text or a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return clean_text(value) if isinstance(value, str | None) else None


def meters(value: Any) -> int | None:
    """A distance; None for a value that cannot be one."""
    distance = number(value)
    return round(distance) if distance is not None and 0 <= distance <= 1e12 else None


def flag(value: Any) -> bool | None:
    """True or false, false if the provider does not say; None for any other value."""
    return _FLAGS.get(str(value).lower()) if isinstance(value, str | int | None) else None


def clean_text(value: str | None, length: int = 255) -> str:
    """A provider's text made safe to store and show, otherwise as its owner typed it.

    Joiners, marks and characters that this Python does not know are part of names.
    """
    return _cut(_UNWANTED.sub("", _SEPARATORS.sub(" ", value or "")).strip(), length).strip()


def _cut(text: str, length: int) -> str:
    """As much of a text as fits, without cutting a character that is made of several."""
    if len(text) <= length:
        return text
    end = length
    while end and (text[end - 1] == "\u200d" or category(text[end]) in _JOINED):
        end -= 1
    return text[: end or length]


_JOINED = ("Mn", "Mc", "Me", "Cf", "Sk")  # marks, joiners, tags, skin tones
