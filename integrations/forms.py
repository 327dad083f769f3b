from django import forms


class PreferencesForm(forms.Form):
    """What an athlete wants of a link. An unticked box is not sent at all."""

    sync_gear = forms.BooleanField(required=False)

    def clean_sync_gear(self) -> bool:
        # Programs say it in words.
        said = str(self.data.get("sync_gear", "")).strip().lower()
        return bool(self.cleaned_data["sync_gear"]) and said not in ("off", "no", "0")
