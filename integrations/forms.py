from django import forms


class PreferencesForm(forms.Form):
    """What an athlete wants of a link. An unticked box is not sent at all."""

    sync_gear = forms.BooleanField(required=False)
