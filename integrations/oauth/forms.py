from __future__ import annotations

from typing import Any

from django import forms
from django.core.validators import MaxLengthValidator, RegexValidator
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from ..exceptions import InvalidInput, InvalidState
from ..forms import TypedField, plain

# Visible ASCII, as RFC 6749, appendix A, defines all of these.
_VISIBLE = r"\A[\x21-\x7e]+\Z"


class ClientForm(forms.Form):
    """The athlete's own app; both fields or neither.

    The Client ID goes into a URL, and so into the browser's history: nothing that could be a secret
    may get there.
    """

    comes_back: tuple[str, ...] = ("client_id",)

    client_id = TypedField(
        label=_("Client ID"),
        required=False,
        validators=[
            MaxLengthValidator(
                20,
                _(
                    "This is too long for a Client ID. Did you paste the Client Secret here? The "
                    "Client ID is the short number above it."
                ),
            ),
            RegexValidator(
                r"\A[0-9]+\Z",
                _("The Client ID is a number. Copy it from your app’s settings."),
            ),
        ],
    )
    client_secret = TypedField(
        label=_("Client Secret"),
        required=False,
        validators=[
            MaxLengthValidator(
                255, _("This is too long for a Client Secret. Copy it again from there.")
            ),
            RegexValidator(
                _VISIBLE,
                _(
                    "This is not a Client Secret: it has only letters and digits, and no spaces. "
                    "Copy it again from there."
                ),
            ),
        ],
    )

    def __init__(self, data: Any = None, **kwargs: Any) -> None:
        super().__init__(data, **kwargs)
        if len(plain(self.data.get("client_id"))) > 20:  # it may be a secret
            self.comes_back = ()


class AuthorizationResponseForm(forms.Form):
    """The parameters of a provider's redirect (RFC 6749, sections 4.1.2 and 4.1.2.1)."""

    state = forms.CharField(max_length=255, required=False, validators=[RegexValidator(_VISIBLE)])
    code = forms.CharField(max_length=1024, required=False, validators=[RegexValidator(_VISIBLE)])
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
        # Some providers say that the athlete has denied access, but not in which attempt.
        if not self.cleaned_data["state"] and not self.cleaned_data["error"]:
            raise InvalidState
        given = {name: value or None for name, value in self.cleaned_data.items()}
        given["state"] = self.cleaned_data["state"]
        # Missing, it means all that was requested (RFC 6749, section 5.1); empty, nothing.
        given["scope"] = self.cleaned_data["scope"] if "scope" in self.data else None
        return given
