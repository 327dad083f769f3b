from __future__ import annotations

from typing import Any

from django import forms
from django.core.validators import RegexValidator
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from ..exceptions import InvalidInput, InvalidState

# Visible ASCII, as RFC 6749, appendix A, has it for all of these.
_VISIBLE = RegexValidator(r"\A[\x21-\x7e]+\Z", _("Only letters, digits and signs, no spaces."))


class StravaClientForm(forms.Form):
    """The athlete's own Strava app; both fields or neither."""

    client_id = forms.CharField(
        label=_("Client ID"), max_length=64, required=False, validators=[_VISIBLE]
    )
    client_secret = forms.CharField(
        label=_("Client Secret"), max_length=255, required=False, validators=[_VISIBLE]
    )


class AuthorizationResponseForm(forms.Form):
    """What Strava's redirect brings along (RFC 6749, sections 4.1.2 and 4.1.2.1)."""

    state = forms.CharField(max_length=255, validators=[_VISIBLE])
    code = forms.CharField(max_length=1024, required=False, validators=[_VISIBLE])
    scope = forms.CharField(max_length=1024, required=False)
    error = forms.CharField(max_length=255, required=False)

    def response(self) -> dict[str, Any]:
        """The redirect's parameters. Raises InvalidState or InvalidInput if they are unusable."""
        # A parameter must not be included more than once (RFC 6749, section 3.1).
        if isinstance(self.data, QueryDict) and any(
            len(self.data.getlist(name)) > 1 for name in self.fields
        ):
            raise InvalidInput
        if not self.is_valid():
            raise InvalidState if "state" in self.errors else InvalidInput
        given = {name: value or None for name, value in self.cleaned_data.items()}
        # Left out, it means what was asked for (RFC 6749, section 5.1); empty, it means nothing.
        given["scope"] = self.cleaned_data["scope"] if "scope" in self.data else None
        return given
