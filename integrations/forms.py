from __future__ import annotations

import unicodedata
from typing import Any

from django import forms


def plain(value: Any) -> str:
    """What was pasted, without what nobody sees: wide digits made narrow, joiners and ends cut."""
    text = unicodedata.normalize("NFKC", str(value or ""))
    return "".join(char for char in text if unicodedata.category(char) != "Cf").strip()


class TypedField(forms.CharField):
    """What people copy from a page or a mail, and get more along with than they see."""

    def to_python(self, value: Any) -> str:
        return super().to_python(plain(value)) or ""


class PreferencesForm(forms.Form):
    """What an athlete wants of a link. An unchecked box is not sent at all."""

    sync_gear = forms.BooleanField(required=False)

    def clean_sync_gear(self) -> bool:
        # Programs say it in words.
        said = str(self.data.get("sync_gear", "")).strip().lower()
        return bool(self.cleaned_data["sync_gear"]) and said not in ("off", "no", "0")
