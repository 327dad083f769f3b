"""Where Strava calls the site: the handshake of a push subscription, and its events.

Source: https://developers.strava.com/docs/webhooks/
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress

from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from .. import services, tasks
from ..exceptions import IntegrationsError, TaskQueueUnavailable
from ..web import outside_transactions
from . import push
from .tasks import confirm_strava_revocation

logger = logging.getLogger("integrations.strava")

MAX_EVENT = 16 * 1024  # bytes; a real one has a few hundred


@never_cache
@login_not_required
@csrf_exempt
@outside_transactions
@require_http_methods(["GET", "POST"])
def webhook(request: HttpRequest, secret: str = "") -> HttpResponse:
    try:
        with services.short_waits():
            if not push.is_webhook(secret):
                raise Http404
            return _handshake(request) if request.method == "GET" else _event(request, secret)
    except IntegrationsError as exc:
        # Strava tries again, and cannot help with our database.
        event = {"event": "strava.event_not_taken"}
        logger.error("strava event not taken: %s", exc.code, extra=event)
        return _answer(503)


def _handshake(request: HttpRequest) -> HttpResponse:
    """Echo the challenge if the verify token is right."""
    challenge = request.GET.get("hub.challenge", "")
    known = push.is_verify_token(request.GET.get("hub.verify_token", ""))
    if request.GET.get("hub.mode") != "subscribe" or not known:
        return JsonResponse({"error": {"code": "forbidden", "message": "Forbidden"}}, status=403)
    return JsonResponse({"hub.challenge": challenge[:255]})


def _event(request: HttpRequest, secret: str) -> HttpResponse:
    """Answer at once, within Strava's two seconds; a worker does the rest."""
    try:
        if int(request.headers.get("Content-Length") or 0) > MAX_EVENT:
            return _answer(413)
        body = _body(request)
        if body is None:
            return _answer(411)
        if len(body) > MAX_EVENT:
            return _answer(413)
        event = json.loads(body)
    except (ValueError, RecursionError, OSError):
        return _answer(400)
    user_id = push.take_revocation_hint(event, secret)
    if user_id is not None:
        # If no worker takes it now, the scheduler finds the due check in the row.
        with suppress(TaskQueueUnavailable):
            tasks.enqueue(confirm_strava_revocation, user_id)
    return _answer(200)


def _body(request: HttpRequest) -> bytes | None:
    """The body, or just over MAX_EVENT of it. None if only the server could read it.

    Tunnels send bodies in chunks without a length, and under WSGI Django reads those as empty; most
    servers mark their end. Source: https://code.djangoproject.com/ticket/35838
    """
    body: bytes = request.read(MAX_EVENT + 1)
    chunked = "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    if body or not chunked or request.headers.get("Content-Length"):
        return body
    if not request.META.get("wsgi.input_terminated"):
        return None
    try:
        return bytes(request.META["wsgi.input"].read(MAX_EVENT + 1))
    except Exception as exc:  # each server has its own error for malformed chunks
        raise OSError from exc


def _answer(status: int) -> HttpResponse:
    return HttpResponse(status=status, content_type="text/plain")
