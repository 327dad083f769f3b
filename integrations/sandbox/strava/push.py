"""Push subscriptions: the handshake with a callback, and the events sent to it.

Source: https://developers.strava.com/docs/webhooks/
"""

from __future__ import annotations

import http.client
import json
import secrets
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.http import HttpRequest, HttpResponse, JsonResponse

from . import errors
from .errors import bad_request
from .params import authenticate_client, parameter
from .state import StravaState, Subscription

TIMEOUT = 2.0
TRIES = 3
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def _fetch(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Call a callback: no proxy, no redirect, no more than two seconds of silence.

    Returns status 0 if no answer came.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    headers = {"User-Agent": "sandbox"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(65536)
    except (OSError, http.client.HTTPException, UnicodeError):
        return 0, b""
    finally:
        connection.close()


def _callback_url(request: HttpRequest) -> str:
    """The callback, if it is plain HTTP on this very machine.

    Strava itself calls any public address; a sandbox that did so could be used to make this machine
    call out.
    """
    url = parameter(request, "callback_url", "PushSubscription")
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "http" and parts.hostname in _LOCAL and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "\\" in url or " " in url or not url.isascii():
        raise bad_request("PushSubscription", "callback url")
    return url


def _handshake(callback_url: str, verify_token: str) -> None:
    """Ask the callback to echo a challenge. Raises Refusal (400) unless it does."""
    challenge = secrets.token_hex(8)
    query = urlencode(
        {
            "hub.mode": "subscribe",
            "hub.challenge": challenge,
            "hub.verify_token": verify_token,
        }
    )
    separator = "&" if urlsplit(callback_url).query else "?"
    status, body = _fetch("GET", f"{callback_url.partition('#')[0]}{separator}{query}")
    if status != 200:
        # Strava's words. Source: https://github.com/erik/hotpot/issues/2
        problem = "GET to callback URL does not return 200"
        raise bad_request("PushSubscription", "callback url", problem)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or answer.get("hub.challenge") != challenge:
        raise bad_request("PushSubscription", "callback url", "not verifiable")


def push_subscriptions(
    strava: StravaState, request: HttpRequest, subscription_id: str = ""
) -> HttpResponse:
    """Create, list or delete an app's one subscription, with the app's credentials.

    Strava documents that GET and DELETE take the credentials in the query, so that is no violation
    here.
    """
    app = authenticate_client(strava, request)
    if not app.active:
        raise errors.inactive()
    if request.method == "GET" and not subscription_id:
        found = strava.subscriptions_of(app.client_id)
        return JsonResponse([_as_dict(each) for each in found], safe=False)
    if request.method == "DELETE" and subscription_id:
        known = subscription_id.isascii() and subscription_id.isdigit()
        known = known and len(subscription_id) < 19
        if not known or not strava.unsubscribe(int(subscription_id), app.client_id):
            raise errors.not_found("PushSubscription")
        return HttpResponse(status=204)
    if request.method != "POST" or subscription_id:
        raise errors.method_not_allowed()
    if "client_secret" in request.GET:
        strava.note_violation(f"POST {request.path_info}: client_secret in the query")
    callback_url = _callback_url(request)
    verify_token = parameter(request, "verify_token", "PushSubscription")
    if strava.subscriptions_of(app.client_id):
        raise bad_request("PushSubscription", None, "already exists")
    _handshake(callback_url, verify_token)
    subscription = strava.subscribe(app.client_id, callback_url)
    if subscription is None:  # a second request overtook this one during the handshake
        raise bad_request("PushSubscription", None, "already exists")
    return JsonResponse({"id": subscription.id}, status=201)


def _as_dict(subscription: Subscription) -> dict[str, Any]:
    return {
        "id": subscription.id,
        "resource_state": 2,
        "application_id": int(subscription.client_id),
        "callback_url": subscription.callback_url,
        "created_at": "2026-11-01T12:00:00Z",
        "updated_at": "2026-11-01T12:00:00Z",
    }


def send_event(
    strava: StravaState,
    athlete_id: int,
    client_id: str,
    *,
    object_type: str,
    object_id: int,
    aspect_type: str,
    updates: dict[str, str],
) -> list[int]:
    """POST an event to the app's callback until it answers 200, three times at most."""
    statuses: list[int] = []
    for subscription in strava.subscriptions_of(client_id):
        event = {
            "object_type": object_type,
            "object_id": object_id,
            "aspect_type": aspect_type,
            "updates": updates,
            "owner_id": athlete_id,
            "subscription_id": subscription.id,
            "event_time": int(strava.clock()),
        }
        for _try in range(TRIES):
            status, _body = _fetch("POST", subscription.callback_url, json.dumps(event).encode())
            statuses.append(status)
            if status == 200:
                break
    return statuses
