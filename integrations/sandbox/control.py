"""The sandbox's own pages and JSON: controls for a test in another process, or a person.

Lives under /_sandbox/, a path that no provider has.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path

from .faults import FAULTS
from .pages import favicon, page, stylesheet
from .provider import Provider, Refusal

Providers = Mapping[str, Provider]


def urlpatterns(providers: Providers) -> list[URLPattern]:
    def own(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        return partial(_guarded, view, providers)

    return [
        path("", own(index)),
        path("favicon.ico", favicon),
        path("_sandbox/sandbox.css", stylesheet),
        path("_sandbox/state", own(state)),
        path("_sandbox/faults", own(faults)),
        path("_sandbox/reset", own(reset)),
        path("_sandbox/elsewhere/<slug:provider>", partial(elsewhere, providers)),
        path("_sandbox/<slug:provider>/<slug:action>", own(act)),
    ]


def _guarded(
    view: Callable[..., HttpResponse], providers: Providers, request: HttpRequest, **kwargs: str
) -> HttpResponse:
    # Browsers send Origin with every cross-site POST: only our own page may use these controls.
    origin = request.META.get("HTTP_ORIGIN")
    if origin is not None and origin != f"http://{request.META.get('HTTP_HOST', '')}":
        return _problem("cross-origin requests are refused", status=403)
    try:
        return view(providers, request, **kwargs)
    except Refusal as refusal:
        return refusal.response


def _problem(message: str, status: int = 400) -> HttpResponse:
    return JsonResponse({"error": message}, status=status)


def _allow(request: HttpRequest, *methods: str) -> None:
    if request.method not in methods:
        raise Refusal(_problem(f"use {' or '.join(methods)}", status=405))


def _fields(request: HttpRequest) -> dict[str, Any]:
    """The JSON object in the body; an empty body counts as an empty object."""
    if not request.body.strip():
        return {}
    try:
        fields = json.loads(request.body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise Refusal(_problem("a JSON object is expected"))
    return fields


def _call(action: Callable[..., object], fields: dict[str, Any]) -> object:
    """Call an action with JSON fields as its arguments; wrong ones are the caller's fault."""
    try:
        inspect.signature(action).bind(**fields)
        return action(**fields)
    except (TypeError, ValueError, LookupError, OverflowError) as exc:
        raise Refusal(_problem(str(exc) or type(exc).__name__)) from exc


def _state(providers: Providers) -> dict[str, Any]:
    return {
        name: {
            "calls": dict(provider.calls),
            "faults": provider.faults.as_list(),
            **provider.overview(),
        }
        for name, provider in providers.items()
    }


def index(providers: Providers, request: HttpRequest) -> HttpResponse:
    _allow(request, "GET", "HEAD")
    shown = [
        {
            "name": name,
            "title": provider.title,
            "endpoints": provider.endpoints,
            **provider.overview(),
        }
        for name, provider in providers.items()
    ]
    return page(
        "index.html",
        {"providers": shown, "faults": list(FAULTS.items()), "host": request.META["HTTP_HOST"]},
    )


def state(providers: Providers, request: HttpRequest) -> HttpResponse:
    """Show calls and counts. `requests=1` in the query adds the newest calls one by one."""
    _allow(request, "GET", "HEAD")
    shown = _state(providers)
    if request.GET.get("requests"):
        for name, provider in providers.items():
            shown[name]["requests"] = provider.requests
    return JsonResponse(shown)


def faults(providers: Providers, request: HttpRequest) -> HttpResponse:
    """Switch a fault on (`provider`, `endpoint`, `fault`, `times`, `seconds`), or all off.

    Answers with what is on now.
    """
    _allow(request, "GET", "POST", "DELETE")
    if request.method == "POST":
        fields = _fields(request)
        provider = providers.get(str(fields.pop("provider", "strava")))
        if provider is None:
            return _problem("no such provider", status=404)
        _call(provider.fail, fields)
    elif request.method == "DELETE":
        for provider in providers.values():
            provider.recover()
    on = {name: each.faults.as_list() for name, each in providers.items()}
    return JsonResponse({name: each for name, each in on.items() if each})


def reset(providers: Providers, request: HttpRequest) -> HttpResponse:
    _allow(request, "POST")
    for provider in providers.values():
        provider.reset()
    return JsonResponse({"reset": list(providers)})


def elsewhere(providers: Providers, request: HttpRequest, provider: str) -> HttpResponse:
    """Where the fault "redirect" leads: no control, so anyone may come here."""
    if provider not in providers:
        return _problem("no such provider", status=404)
    return providers[provider].stray(request)


def act(providers: Providers, request: HttpRequest, provider: str, action: str) -> HttpResponse:
    """Run one of a provider's own actions, like its in-process method of that name."""
    found = providers[provider].controls().get(action) if provider in providers else None
    if found is None:
        return _problem("no such action", status=404)
    _allow(request, "POST")
    return JsonResponse(_call(found, _fields(request)), safe=False)
