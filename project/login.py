"""Signing in, with a limit on guesses by django-axes and a line in the log: for athletes, and for
staff in the admin."""

from __future__ import annotations

import ipaddress
import logging
import re
import unicodedata
from contextlib import suppress
from typing import Any

from axes.handlers.cache import AxesCacheHandler
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth import views as auth_views
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.cache import cache
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac

from .proxy import is_trusted

logger = logging.getLogger("project.login")

WINDOW = 300  # seconds
# Wrong passwords allowed within it: for one name from one network, and from one network for any
# name.
MOST, MOST_FROM_NETWORK = 10, 50
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
    """A name for what was typed, which may be a password in the wrong field. Another spelling is
    not another name."""
    typed = unicodedata.normalize("NFKC", typed).casefold()
    return salted_hmac("project.login", typed, algorithm="sha256").hexdigest()[:16]


def _typed(credentials: dict[str, Any]) -> str:
    name = credentials.get("username") or credentials.get(get_user_model().USERNAME_FIELD)
    return str(name or "")


def _typed_user(credentials: dict[str, Any]) -> str:
    name = _typed(credentials)
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
    # axes has heard of it before, and set this for the one that is too many and those after it.
    locked_out = getattr(request, "axes_locked_out", False)
    note("login.limited" if locked_out else "login.failed", _typed_user(credentials), request)


def counted_name(request: HttpRequest, credentials: dict[str, Any] | None = None) -> str:
    """For AXES_USERNAME_CALLABLE. All have one length, or somebody with a part of another's address
    could add the rest of it to a name."""
    return hashed(_typed(credentials or {}))


def most_failures(request: Any, credentials: dict[str, Any] | None = None) -> int:
    """For AXES_FAILURE_LIMIT. Where no network is known, it takes more to lock somebody out."""
    return MOST if request.axes_ip_address else MOST_FROM_NETWORK


class Handler(AxesCacheHandler):
    """For AXES_HANDLER: the limit for a name from a network is axes', the one for a network ours.

    A cache that is down keeps nobody out.
    """

    def is_allowed(self, request: Any, credentials: dict[str, Any] | None = None) -> bool:
        with suppress(Exception):
            if cache.get(f"login:{request.axes_ip_address}", 0) >= MOST_FROM_NETWORK:
                return False
            return bool(super().is_allowed(request, credentials))
        return True

    def user_login_failed(
        self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any
    ) -> None:
        with suppress(Exception):
            if request.axes_ip_address and not request.axes_locked_out:
                count(f"login:{request.axes_ip_address}")
            super().user_login_failed(sender, credentials, request, **kwargs)

    def user_logged_in(self, *args: Any, **kwargs: Any) -> None:
        with suppress(Exception):
            super().user_logged_in(*args, **kwargs)


class LoginView(auth_views.LoginView):
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs, can_reset=bool(settings.MAILERS))

    def form_invalid(self, form: Any) -> HttpResponse:
        if form.non_field_errors():
            for field in form.fields.values():
                field.widget.attrs |= {"aria-invalid": "true", "aria-describedby": "login-error"}
        return super().form_invalid(form)
