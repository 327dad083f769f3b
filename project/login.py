"""Logging in, with a limit to guessing: for athletes, and for staff at the admin's own form."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import AuthenticationForm
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from .proxy import is_trusted

WINDOW = 300  # seconds
# So many wrong passwords within it: for one name from one network; from one network, whatever the
# name; for one name, wherever from. The last is out of reach for any one network alone, or anybody
# could lock anybody out.
MOST = (10, 50, 200)
# Some proxies write it behind an IPv4 address, or one in brackets.
_PORT = re.compile(r"^(\[.*\]|[^:]*):\d+$")


def client_network(request: HttpRequest) -> str:
    """Where a request comes from: an IPv4 address, or the /48 that one customer may have of IPv6.

    A proxy is believed what it appends to X-Forwarded-For if it is one of TRUSTED_PROXIES, or at
    the other end of a socket in the file system; what stands before that anybody can have
    written. Empty where nobody has said.
    """
    hops = [hop.strip() for hop in request.headers.get("X-Forwarded-For", "").split(",")]
    address = request.META.get("REMOTE_ADDR", "")
    while any(hops) and is_trusted(address):
        address = hops.pop()
        if "*" in settings.TRUSTED_PROXIES:
            break  # whoever is next, there is one proxy
    try:
        parsed = ipaddress.ip_address(_PORT.sub(r"\1", address).strip("[]"))
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 48), strict=False))
    return str(parsed)


def _count(key: str) -> int:
    cache.add(key, 0, WINDOW)
    return cache.incr(key)


class ThrottledForm(AuthenticationForm):
    """Counts wrong passwords in Django's cache, and from too many on accepts none, right or wrong:
    or guessing could go on and see when it is right."""

    throttled = False

    def clean(self) -> dict[str, Any]:
        if not self.cleaned_data.get("password"):
            return super().clean()  # nothing is tried
        keys = dict(self._keys())
        # Before the password is looked at, or many at once would all find that there is room left.
        # A cache that is down keeps nobody out.
        with suppress(Exception):
            # The narrower first: what it has stopped counts no further.
            self.throttled = any(_count(key) > most for key, most in keys.items())
        if self.throttled:
            raise ValidationError(
                _("Too many wrong passwords. Please try again in five minutes."), code="throttled"
            )
        cleaned: dict[str, Any] = super().clean()
        # It was right: none of the wrong ones.
        with suppress(Exception):
            for key in keys:
                cache.decr(key)
            cache.delete(next(iter(keys)))
        return cleaned

    def _keys(self) -> Iterator[tuple[str, int]]:
        """What to count under, and up to what; the name with its network first."""
        name = unicodedata.normalize("NFKC", self.cleaned_data.get("username", "")).casefold()
        network = client_network(self.request) if self.request is not None else ""
        whom = [(name, network), ("", network), (name, "")]
        for who, most in zip(whom, MOST, strict=True):
            # Where nobody has said which network it is, all would share one.
            if network or who is whom[-1]:
                yield "login:" + sha256(repr(who).encode(errors="replace")).hexdigest(), most


class ThrottledAdminForm(ThrottledForm, AdminAuthenticationForm):
    """For `admin.site.login_form`."""


class LoginView(auth_views.LoginView):
    authentication_form = ThrottledForm
    redirect_authenticated_user = True

    def form_invalid(self, form: Any) -> HttpResponse:
        if form.non_field_errors():
            for field in form.fields.values():
                field.widget.attrs |= {"aria-invalid": "true", "aria-describedby": "login-error"}
        response = super().form_invalid(form)
        if form.throttled:
            response.status_code = 429
        return response
