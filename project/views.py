from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from integrations import metrics

from .login import WINDOW


@never_cache
@require_safe
def prometheus(request: HttpRequest) -> HttpResponse:
    """The metrics, if PROMETHEUS is on; PROMETHEUS_TOKEN, if set, is required."""
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


async def healthz(request: HttpRequest) -> HttpResponseBase:
    """What project.health finds.

    Its libraries speak Redis and DNS, and take a fifth of a start: commands and workers, which
    nobody asks, do without.
    """
    from .health import HealthView

    response: HttpResponseBase = await HealthView.as_view()(request)
    return response


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Say in plain words that a form was too old, which is nearly always the cause."""
    message = _("This page was open for too long. Go back, reload it and try again.")
    return _refusal(request, 403, "csrf_failed", message)


def locked_out(request: HttpRequest, response: HttpResponse, credentials: Any) -> HttpResponse:
    """For AXES_LOCKOUT_CALLABLE: even the right password is refused, or guessing could go on until
    one is accepted."""
    message = _("Too many wrong passwords. Please try again in five minutes.")
    refusal = _refusal(request, 429, "too_many_requests", message)
    refusal["Retry-After"] = str(WINDOW)
    return refusal


def _refusal(request: HttpRequest, status: int, code: str, message: str) -> HttpResponse:
    if request.accepts("text/html"):
        context = {"message": message, "status": status}
        return render(request, "try_again.html", context, status=status)
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)
