from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.auth import views as auth_views
from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from integrations import metrics


@never_cache
@require_safe
def prometheus(request: HttpRequest) -> HttpResponse:
    """The metrics, where PROMETHEUS is on, for whoever knows PROMETHEUS_TOKEN if that is set."""
    if not settings.PROMETHEUS:
        raise Http404
    if settings.PROMETHEUS_TOKEN:
        scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
        known = constant_time_compare(token.strip(), settings.PROMETHEUS_TOKEN)
        if scheme.lower() != "bearer" or not known:
            # RFC 6750, section 3
            return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    body, content_type = metrics.exposition(request.headers.get("Accept", ""))
    return HttpResponse(body, content_type=content_type)


class ThrottledLoginView(auth_views.LoginView):
    """Ten wrong passwords for one name from one address, and both wait for five minutes.

    Counted in Django's cache, like the limits of the integrations.
    """

    redirect_authenticated_user = True
    MOST, WINDOW = 10, 300

    def key(self) -> str:
        name = self.request.POST.get("username", "").lower()
        who = f"{name}\0{self.request.META.get('REMOTE_ADDR', '')}"
        return "login:" + sha256(who.encode(errors="replace")).hexdigest()

    def form_valid(self, form: Any) -> HttpResponse:
        with suppress(Exception):  # a cache that is down keeps nobody out
            # Also with the right password: or guessing could go on and see when it is right.
            if cache.get(self.key(), 0) >= self.MOST:
                return self.too_many(form)
            cache.delete(self.key())
        return super().form_valid(form)

    def form_invalid(self, form: Any) -> HttpResponse:
        with suppress(Exception):
            cache.add(self.key(), 0, self.WINDOW)
            if cache.incr(self.key()) > self.MOST:
                return self.too_many(form)
        return super().form_invalid(form)

    def too_many(self, form: Any) -> HttpResponse:
        form.errors.clear()
        form.add_error(None, _("Too many wrong passwords. Please try again in five minutes."))
        return self.render_to_response(self.get_context_data(form=form), status=429)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Say in plain words that a form was too old, which is what it nearly always is."""
    message = _("This page was open for too long. Go back, reload it and try again.")
    if request.accepts("text/html"):
        return render(request, "csrf_failure.html", {"message": message}, status=403)
    return JsonResponse({"error": {"code": "csrf_failed", "message": message}}, status=403)
