from __future__ import annotations

import re
import unicodedata
from typing import Any

from django import forms
from django.core.validators import MaxLengthValidator, RegexValidator, validate_email
from django.utils.translation import gettext_lazy as _

from ..forms import TypedField


def _encodable(value: str) -> None:
    """Refuse half a surrogate pair, which some charsets let through."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise forms.ValidationError(
            _("This password has a character that cannot be sent. Please type it again.")
        ) from None


class GarminConnectLoginForm(forms.Form):
    """The athlete's Garmin login. The password is taken exactly as typed, spaces included."""

    comes_back: tuple[str, ...] = ("email", "is_cn")

    email = TypedField(
        label=_("Garmin e-mail address"),
        validators=[MaxLengthValidator(254), validate_email],
        error_messages={
            "required": _("Enter the e-mail address of your Garmin account."),
            "invalid": _(
                "This is not an e-mail address. It should look like name@example.com. Check it for "
                "typos."
            ),
            "max_length": _(
                "This e-mail address is too long: it has %(show_value)d characters, and "
                "%(limit_value)d are the most. Check what you pasted."
            ),
        },
    )
    password = forms.CharField(
        label=_("Garmin password"),
        max_length=256,
        strip=False,
        validators=[_encodable],
        error_messages={
            "required": _("Enter the password of your Garmin account."),
            "max_length": _(
                "This password is too long: it has %(show_value)d characters, and %(limit_value)d "
                "are the most. Check what you pasted."
            ),
        },
    )
    is_cn = forms.BooleanField(label=_("My account is at Garmin China (garmin.cn)"), required=False)


class MfaCodeField(TypedField):
    """A number, which people may type with spaces, dashes, or digits of other scripts."""

    def to_python(self, value: Any) -> str:
        return re.sub(
            r"[\W_]",
            "",
            "".join(str(unicodedata.decimal(char, char)) for char in super().to_python(value)),
        )


class GarminConnectMfaForm(forms.Form):
    """The code that Garmin has sent."""

    code = MfaCodeField(
        label=_("Code from Garmin"),
        error_messages={"required": _("Enter the code that Garmin sent you.")},
        validators=[
            RegexValidator(r"\A[0-9]{4,10}\Z", _("The code is a number of 4 to 10 digits."))
        ],
    )
