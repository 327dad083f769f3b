"""Changing a password, and getting a new one by e-mail when it is forgotten."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.admin.forms import AdminPasswordChangeForm
from django.contrib.auth import get_user_model
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import PasswordChangeForm, PasswordResetForm
from django.contrib.auth.tokens import default_token_generator
from django.core import signing
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.tasks import task
from django.template.loader import render_to_string
from django.urls import reverse, reverse_lazy
from django.utils import translation
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from integrations import conf
from integrations.exceptions import IntegrationsError
from integrations.tasks import enqueue

from .login import MOST, client_network, count, hashed, note

logger = logging.getLogger("project.passwords")

HOUR = 3600  # seconds
SALT = "project.passwords.send_password_reset"
# Messages sent within it to one address, and asked for by one network. Beyond them the answer is
# the same and nothing is sent. Those that were sent work, so nobody is kept out by it.
MOST_TO_ADDRESS, MOST_FROM_NETWORK = 3, 20


class ThrottledPasswordChangeForm(PasswordChangeForm):
    """Counts wrong old passwords: an unattended browser must not help to guess one."""

    def clean_old_password(self) -> str:
        key = f"password:{self.user.pk}"
        throttled = False
        with suppress(Exception):  # a cache that is down keeps nobody out
            throttled = count(key) > MOST
        if throttled:
            raise ValidationError(
                _("Too many wrong passwords. Please try again in five minutes."), code="throttled"
            )
        password = super().clean_old_password()
        with suppress(Exception):
            cache.delete(key)
        return password

    def save(self, commit: bool = True) -> Any:
        user = super().save(commit)
        note("password.changed", f"user {user.pk}")
        return user


class ThrottledAdminPasswordChangeForm(ThrottledPasswordChangeForm, AdminPasswordChangeForm):
    """For `admin.site.password_change_form`."""


class PasswordChangeView(auth_views.PasswordChangeView):
    """Set another password. Django ends all the user's other sessions."""

    form_class = ThrottledPasswordChangeForm
    template_name = "account_form.html"
    title = gettext_lazy("Change your password")
    extra_context = {"submit": gettext_lazy("Change password")}
    success_url = reverse_lazy("integrations:settings")

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        words = _("Your password is changed. You are signed out everywhere but here.")
        messages.success(self.request, words)
        return response


class QueuedPasswordResetForm(PasswordResetForm):
    """Has a worker send the message, so that the answer takes no longer if there is a user."""

    def save(self, *, request: HttpRequest, **options: Any) -> None:  # type: ignore[override]
        email = self.cleaned_data["email"]
        users = list(self.get_users(email))
        allowed = _counts(email, client_network(request))
        who = ", ".join(f"user {user.pk}" for user in users) or f"nobody, {hashed(email)}"
        note("password.reset_asked" if allowed else "password.reset_limited", who, request)
        links = [[str(user.pk), _address(user, request)] for user in users if allowed]
        # Signed, or whoever can write to the queue could send a link to a site of their own.
        asked = signing.dumps([links, translation.get_language()], salt=SALT)
        enqueue(send_password_reset, asked)


def _counts(email: str, network: str) -> bool:
    """Count a message that was asked for; whether it may be sent."""
    limits = {f"reset:{network}": MOST_FROM_NETWORK} if network else {}
    limits[f"reset:{hashed(email)}"] = MOST_TO_ADDRESS
    with suppress(Exception):  # a cache that is down keeps nobody out
        return all(count(key, HOUR) <= most for key, most in limits.items())
    return True


def _address(user: Any, request: HttpRequest) -> str:
    """Where the user can set a new password, but for the token."""
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    return conf.public_url(reverse("password_reset_confirm", args=[uid]), request)


@task(priority=50)
def send_password_reset(asked: str) -> None:
    """Send each user, by id, the address of the form. A task, because a mail server may keep one
    waiting. The token is made only here: a queue would keep it."""
    links, language = signing.loads(asked, salt=SALT, max_age=HOUR)
    users = {
        str(user.pk): user
        for user in get_user_model()._default_manager.filter(
            pk__in=[pk for pk, _address in links], is_active=True
        )
    }
    with translation.override(language):
        for pk, address in links:
            if user := users.get(pk):
                address = f"{address}?token={default_token_generator.make_token(user)}"
                context = {"address": address, "user": user}
                text = render_to_string("password_reset_email.txt", context)
                try:
                    send_mail(_("A new password"), text, None, [user.email])
                except Exception as exc:  # whose message may show the address
                    event = {"event": "password.reset_not_sent"}
                    words = "no message was sent to user %s: %s"
                    logger.warning(words, pk, type(exc).__name__, extra=event)


class PasswordResetView(auth_views.PasswordResetView):
    """Ask for a link by e-mail. Whether there is such a user is told to nobody."""

    form_class = QueuedPasswordResetForm
    template_name = "account_form.html"
    title = gettext_lazy("Forgot your password?")
    extra_context = {
        "lead": gettext_lazy("We will send you a link to set a new one."),
        "submit": gettext_lazy("Send the link"),
    }
    success_url = reverse_lazy("login")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.MAILERS:
            raise Http404
        return super().dispatch(request, *args, **kwargs)

    def form_valid(self, form: Any) -> HttpResponse:
        try:
            response = super().form_valid(form)
        except IntegrationsError as exc:  # no broker takes the task
            form.add_error(None, str(exc.user_message))
            response = self.form_invalid(form)
            response.status_code = exc.status_code
            return response
        words = _(
            "If there is an account with this e-mail address, a message with a link is on its way. "
            "The link works for one hour."
        )
        messages.info(self.request, words)
        return response


class PasswordResetConfirmView(auth_views.PasswordResetConfirmView):
    """Set a new password by the link. Django ends all the user's sessions, and the link's use.

    The token comes in the query and not in the path, because no log line shows a query. It goes on
    in the session.
    """

    template_name = "account_form.html"
    title = gettext_lazy("Set a new password")
    extra_context = {"submit": gettext_lazy("Set the password")}
    success_url = reverse_lazy("login")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        token = request.GET.get("token") or self.reset_url_token
        return super().dispatch(request, *args, **kwargs, token=token)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        if not self.validlink:
            context |= {
                "title": _("This link no longer works"),
                "lead": _("It has been used, or it is older than an hour. Please ask for another."),
                "again": True,
            }
        return context

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        note("password.reset_done", f"user {form.user.pk}", self.request)
        messages.success(self.request, _("Your new password is set. Sign in with it."))
        return response
