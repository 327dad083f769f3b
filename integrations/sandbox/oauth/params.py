"""Reading what a client sent, distrustfully, and refusing it in the words of RFC 6749."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, JsonResponse

from ..provider import Refusal
from .records import App

_LONGEST = 4096


def oauth_error(status: int, error: str, description: str = "") -> Refusal:
    """An error answer of RFC 6749, section 5.2."""
    body = {"error": error} | ({"error_description": description} if description else {})
    return Refusal(JsonResponse(body, status=status))


def one(values: list[Any]) -> str | None:
    """The one value of a parameter, empty if it is missing.

    None if it comes twice (parsers differ on that), if it has control characters, or if it is
    absurdly long.
    """
    value = str(values[0]) if values else ""
    if len(values) > 1 or len(value) > _LONGEST or not value.isprintable():
        return None
    return value


def form(request: HttpRequest) -> dict[str, str]:
    """The form's fields, but for those that come twice, and never the query."""
    sent = ((name, one(values)) for name, values in request.POST.lists())
    return {str(name): value for name, value in sent if value is not None}


def fields(request: HttpRequest) -> dict[str, str]:
    """The form's fields, or the texts in a JSON object."""
    if request.content_type != "application/json":
        return form(request)
    try:
        sent = json.loads(request.body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(sent, dict):
        return {}
    return {name: value for name, value in sent.items() if isinstance(value, str)}


def basic_client[P: App](apps: Mapping[str, P], request: HttpRequest) -> P | None:
    """The app of HTTP Basic credentials, or None."""
    method, _, value = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if method.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    client_id, _, client_secret = decoded.partition(":")
    app = apps.get(client_id)
    return app if app is not None and app.client_secret == client_secret else None


def bearer_token(request: HttpRequest) -> str:
    method, _, value = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return value.strip() if method.lower() == "bearer" else ""
