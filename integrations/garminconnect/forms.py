from __future__ import annotations

from django import forms
from django.core.validators import RegexValidator
from django.utils.translation import gettext_lazy as _


def _encodable(value: str) -> None:
    """Refuse half of a surrogate pair, which some charsets smuggle in."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise forms.ValidationError(_("This cannot be a password.")) from None


class GarminConnectLoginForm(forms.Form):
    """The athlete's Garmin login. The password is taken to the letter, spaces too."""

    email = forms.EmailField(label=_("Garmin e-mail address"), max_length=254)
    password = forms.CharField(
        label=_("Garmin password"), max_length=256, strip=False, validators=[_encodable]
    )
    is_cn = forms.BooleanField(label=_("My account is at Garmin China (garmin.cn)"), required=False)


class MfaCodeField(forms.CharField):
    """A number, which people type with spaces or dashes in it."""

    def to_python(self, value: object) -> str:
        return (super().to_python(value) or "").replace(" ", "").replace("-", "")


class GarminConnectMfaForm(forms.Form):
    """The code that Garmin has sent."""

    code = MfaCodeField(
        label=_("Code from Garmin"),
        max_length=12,
        validators=[RegexValidator(r"\A[0-9]{4,10}\Z", _("The code is a number."))],
    )
