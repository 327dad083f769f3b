from __future__ import annotations

import unicodedata
from typing import Any

from django import forms


def plain(value: Any) -> str:
    """Pasted text cleaned up: wide digits made narrow, joiners and outer spaces removed."""
    text = unicodedata.normalize("NFKC", str(value or ""))
    return "".join(char for char in text if unicodedata.category(char) != "Cf").strip()


class TypedField(forms.CharField):
    """A field for text copied from a page or an e-mail, which may carry invisible characters."""

    def to_python(self, value: Any) -> str:
        return super().to_python(plain(value)) or ""


class PreferencesForm(forms.Form):
    """What an athlete wants of a link. An unchecked box is not sent at all."""

    sync_gear = forms.BooleanField(required=False)

    def clean_sync_gear(self) -> bool:
        # Programs send it as a word.
        said = str(self.data.get("sync_gear", "")).strip().lower()
        return bool(self.cleaned_data["sync_gear"]) and said not in ("off", "no", "0")
