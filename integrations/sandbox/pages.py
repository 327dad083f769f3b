"""The sandbox's few HTML pages, rendered without the project's template settings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine

_HERE = Path(__file__).resolve().parent


@cache
def _engine() -> Engine:
    return Engine(dirs=[str(_HERE / "templates")], autoescape=True)


def page(
    template: str, context: dict[str, Any], *, status: int = 200, form_action: str = ""
) -> HttpResponse:
    """Render a page under a policy that allows its stylesheet and its form, and nothing else.

    `form_action` names the origin that a submitted form is redirected to:
    Chromium holds form-action against that redirect too.
    """
    # Localized numbers and the project's time zone do not belong here.
    html = _engine().get_template(template).render(Context(context, use_l10n=False, use_tz=False))
    response = HttpResponse(html, status=status)
    response["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
        f"frame-ancestors 'none'; form-action 'self' {form_action}".rstrip()
    )
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"
    response["X-Content-Type-Options"] = "nosniff"
    return response


@cache
def _css() -> bytes:
    return (_HERE / "static" / "sandbox.css").read_bytes()


def stylesheet(request: HttpRequest) -> HttpResponse:
    return HttpResponse(_css(), content_type="text/css; charset=utf-8")


def favicon(request: HttpRequest) -> HttpResponse:
    # Browsers ask for one on every page; without an answer each page logs an error.
    return HttpResponse(status=204)
