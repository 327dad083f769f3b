"""Signing in, with a limit on guesses and a line in the log: for athletes, and for staff in the
admin."""

from __future__ import annotations

import ipaddress
import logging
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import get_user_model
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _

from .proxy import is_trusted

logger = logging.getLogger("project.login")

WINDOW = 300  # seconds
# Wrong passwords allowed within it: for one name from one network; from one network for any name;
# for one name from anywhere. One network alone cannot reach the last limit, or anybody could lock
# anybody out.
MOST = (10, 50, 200)
# The port that some proxies append to an IPv4 address, or to one in brackets.
_PORT = re.compile(r"^(\[.*\]|[^:]*):\d+$")


def client_network(request: HttpRequest) -> str:
    """Where a request comes from: an IPv4 address, or the /48 that one customer may have of IPv6.

    The entry that a proxy appends to X-Forwarded-For counts if the proxy is one of TRUSTED_PROXIES,
    or at the other end of a socket file. Anybody can have written the entries before it. Empty if
    the address is unknown.
    """
    hops = [hop.strip() for hop in request.headers.get("X-Forwarded-For", "").split(",")]
    address = request.META.get("REMOTE_ADDR", "")
    while any(hops) and is_trusted(address):
        address = hops.pop()
        if "*" in settings.TRUSTED_PROXIES:
            break  # with "*" there is only one proxy
    try:
        parsed = ipaddress.ip_address(_PORT.sub(r"\1", address).strip("[]"))
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 48), strict=False))
    return str(parsed)


def count(key: str, window: int = WINDOW) -> int:
    """Count one more under this key; returns how many there were within these seconds."""
    cache.add(key, 0, window)
    return cache.incr(key)


def note(event: str, who: str, request: HttpRequest | None = None) -> None:
    """Leave a line about a log-in or a password: who it was, and from which network."""
    network = client_network(request) if request is not None else ""
    extra = {"event": event, "network": network}
    logger.info("%s: %s%s", event, who, f" from {network}" if network else "", extra=extra)


def hashed(typed: str) -> str:
    """A name for what was typed and belongs to no user: it may be a password in the wrong field."""
    return salted_hmac("project.login", typed, algorithm="sha256").hexdigest()[:16]


def _typed_user(name: str) -> str:
    try:
        return f"user {get_user_model()._default_manager.get_by_natural_key(name).pk}"
    except Exception:  # there is none, or the database cannot tell
        return f"nobody, {hashed(name)}"


@receiver(user_logged_in)
def note_login(request: HttpRequest, user: Any, **kwargs: Any) -> None:
    note("login.done", f"user {user.pk}", request)


@receiver(user_logged_out)
def note_logout(request: HttpRequest, user: Any, **kwargs: Any) -> None:
    if user is not None:
        note("logout.done", f"user {user.pk}", request)


@receiver(user_login_failed)
def note_failure(
    credentials: dict[str, Any], request: HttpRequest | None = None, **kwargs: Any
) -> None:
    name = credentials.get("username") or credentials.get(get_user_model().USERNAME_FIELD)
    note("login.failed", _typed_user(str(name or "")), request)


class ThrottledForm(AuthenticationForm):
    """Counts wrong passwords in Django's cache, and after too many refuses even the right one:
    otherwise guessing could go on until one is accepted."""

    throttled = False

    def clean(self) -> dict[str, Any]:
        if not self.cleaned_data.get("password"):
            return super().clean()  # no password, no guess
        keys = dict(self._keys())
        # Count first, then check the password: many at once must not all pass the limit. A cache
        # that is down keeps nobody out.
        with suppress(Exception):
            # The narrowest first: a try that it stops is not counted by the others.
            self.throttled = any(count(key) > most for key, most in keys.items())
        if self.throttled:
            note("login.limited", _typed_user(self.cleaned_data.get("username", "")), self.request)
            raise ValidationError(
                _("Too many wrong passwords. Please try again in five minutes."), code="throttled"
            )
        cleaned: dict[str, Any] = super().clean()
        # The password was right, so it does not count as wrong.
        with suppress(Exception):
            for key in keys:
                cache.decr(key)
            cache.delete(next(iter(keys)))
        return cleaned

    def _keys(self) -> Iterator[tuple[str, int]]:
        """The cache keys and their limits; the name with its network comes first."""
        name = unicodedata.normalize("NFKC", self.cleaned_data.get("username", "")).casefold()
        network = client_network(self.request) if self.request is not None else ""
        whom = [(name, network), ("", network), (name, "")]
        for who, most in zip(whom, MOST, strict=True):
            # Without a known network, all would share one count.
            if network or who is whom[-1]:
                yield "login:" + sha256(repr(who).encode(errors="replace")).hexdigest(), most


class ThrottledAdminForm(ThrottledForm, AdminAuthenticationForm):
    """For `admin.site.login_form`."""


class LoginView(auth_views.LoginView):
    authentication_form = ThrottledForm
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs, can_reset=bool(settings.MAILERS))

    def form_invalid(self, form: Any) -> HttpResponse:
        if form.non_field_errors():
            for field in form.fields.values():
                field.widget.attrs |= {"aria-invalid": "true", "aria-describedby": "login-error"}
        response = super().form_invalid(form)
        if form.throttled:
            response.status_code = 429
        return response
