"""What an athlete's views share: who may use them, how often, and how they answer.

A failure is shown in its provider's card, after the redirect. It travels in a cookie, and so does
the typed text: sealed, and only for this user and this page.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from cryptography.fernet import InvalidToken
from django.contrib import messages
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.db import connections, transaction
from django.forms import Form
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from . import services
from .exceptions import IntegrationsError, InvalidInput, TooManyRequests
from .fields import fernet
from .services.status import get_links
from .throttle import throttle

# Tags a message about work in progress: it is outdated once the worker is done.
PROGRESS = "progress"
_FAILURE, _TYPED = "integrations_failure", "integrations_typed"
_TOLD = "integrations_told"
_LIVES = 900  # seconds: longer than a sign-in with a code, or a consent, may take
_MOST = 300  # characters of a typed value to send back; no honest one is longer


class AthleteRequest(HttpRequest):
    """A request that has passed athlete_view (for the type checker)."""

    user: AbstractBaseUser  # type: ignore[assignment]


def wants_json(request: HttpRequest) -> bool:
    """Whether the caller is a program: browsers ask for HTML first."""
    preferred = request.get_preferred_type(["text/html", "application/json"])
    if preferred == "application/json":
        return True
    # Django does not match `application/json; charset=utf-8` with what is offered.
    accepted = [part.split(";")[0] for part in request.headers.get("Accept", "").lower().split(",")]
    named = {each.strip() for each in accepted}
    return "application/json" in named and "text/html" not in named


def is_prefetch(request: HttpRequest) -> bool:
    """Whether a browser loads the page in advance: that must change nothing.

    Source: https://wicg.github.io/nav-speculation/prefetch.html#sec-purpose-header; the others
    are what browsers sent before.
    """
    purposes = (request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz"))
    return any("prefetch" in each.lower() or "prerender" in each.lower() for each in purposes)


def error_response(code: str, message: str, status: int) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)


def at_most(
    times: int, per: int = 60, what: str = ""
) -> Callable[..., Callable[..., HttpResponse]]:
    """Limit how often one user gets an answer; goes below athlete_view.

    Views with the same `what` are counted together.
    """

    def decorator(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @wraps(view)
        def wrapper(request: AthleteRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            try:
                action = what or f"{view.__module__}.{view.__qualname__}"
                throttle(request.user, action, times, per)
            except TooManyRequests as exc:
                if request.method == "GET" or wants_json(request):
                    response = error_response(exc.code, exc.user_message, exc.status_code)
                    response["Retry-After"] = str(exc.retry_after)
                    return response
                return failed(request, exc)
            return view(request, *args, **kwargs)

        return wrapper

    return decorator


def outside_transactions(view: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a view that asks providers out of ATOMIC_REQUESTS, on every database: a router may have
    this app's tables on another than the default one."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def athlete_view(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Wrap a page of an athlete: signed in, never cached, and outside ATOMIC_REQUESTS, because
    providers are asked. A program that is not signed in gets a 401 instead of a redirect.
    """
    for_people = login_required(view)

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if is_prefetch(request):
            # Browsers keep no answer with an error, and ask again when the athlete really comes.
            return HttpResponse(status=503)
        if not request.user.is_authenticated and wants_json(request):
            return error_response("login_required", _("Please sign in first."), 401)
        if not request.user.is_authenticated and request.method not in ("GET", "HEAD"):
            # A press after the session has ended: signing in should not lead to a POST's URL.
            return redirect_to_login(reverse("integrations:settings"))
        with services.short_waits(), services.acting_as("athlete", request.user.pk):
            return for_people(request, *args, **kwargs)

    return never_cache(outside_transactions(wrapper))


def errors_as_json(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Answer as to a program, whatever the request accepts."""

    @wraps(view)
    def wrapper(request: AthleteRequest) -> HttpResponse:
        try:
            return view(request)
        except IntegrationsError as exc:
            return error_response(exc.code, exc.user_message, exc.status_code)

    return wrapper


def asking_first(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Give a POST that cannot be undone a page that asks first, which answers its GET."""

    @wraps(view)
    def wrapper(request: AthleteRequest, provider: str) -> HttpResponse:
        if request.method == "POST":
            return view(request, provider)
        links = {link.provider.name: link for link in get_links(request.user.pk)}
        link = links.get(provider)
        if link is None or not link.is_linked:
            return redirect("integrations:settings")
        card = link.provider.page_context(link.row, request, {})
        card |= {"provider": provider, "label": link.provider.label}
        context = {"link": card, "explanation": f"{link.provider.card}#disconnecting"}
        return render(request, "integrations/disconnect.html", context)

    return require_http_methods(["GET", "POST"])(wrapper)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A failure to show in a provider's card.

    `field` is the name of the form field that is to blame, or "".
    """

    provider: str
    code: str
    message: str
    field: str = ""


def done(
    request: HttpRequest,
    message: str,
    *,
    level: int = messages.SUCCESS,
    status: int = 200,
    progress: bool = False,
) -> HttpResponse:
    """Report success, on the page or, with a status code, to a program."""
    if wants_json(request):
        return JsonResponse({"message": message}, status=status)
    tags = PROGRESS if progress or status == 202 else ""
    messages.add_message(request, level, message, tags)
    response = redirect("integrations:settings")
    # One from before, whose page was never loaded. Browsers send its cookie to that page alone.
    _delete_failure(request, response)
    return response


def failed(
    request: HttpRequest, error: IntegrationsError, form: Form | None = None, field: str = ""
) -> HttpResponse:
    """Report an error, in the card of the URL's provider or to a program."""
    if wants_json(request):
        response: HttpResponse = error_response(error.code, error.user_message, error.status_code)
        if retry_after := getattr(error, "retry_after", None):
            response["Retry-After"] = str(retry_after)
        return response
    if form is not None:
        field = next(iter(form.errors), field)
    failure = Failure(
        provider=_provider(request),
        code=error.code,
        message=error.user_message,
        field=field if form is not None and field in form.fields else "",
    )
    response = redirect("integrations:settings")
    _send_ahead(request, response, _FAILURE, dataclasses.asdict(failure))
    if hasattr(form, "comes_back"):
        send_typed_ahead(request, response, form)
    return response


def send_typed_ahead(request: HttpRequest, response: HttpResponse, form: Any) -> None:
    """Keep what was typed, except secrets, for the form's next display.

    It stays in the athlete's browser, because this site does not need it.
    """
    kept: tuple[str, ...] = form.comes_back
    values = {name: str(form.data[name]) for name in kept if form.data.get(name)}
    values = {name: value for name, value in values.items() if len(value) <= _MOST}
    _send_ahead(request, response, _TYPED, {_provider(request): values})


def take_failure(request: HttpRequest) -> Failure | None:
    """The failure that `failed` sent to this page, if any."""
    failure = _sent_ahead(request, _FAILURE)
    try:
        return Failure(**failure) if failure else None
    except TypeError:  # of another version of this code
        return None


def typed_before(request: HttpRequest, provider: str) -> dict[str, str]:
    """What was last typed into a provider's form."""
    values: dict[str, str] = (_sent_ahead(request, _TYPED) or {}).get(provider, {})
    return values


def forget_failure(request: HttpRequest, response: HttpResponse) -> None:
    """Delete the failure, which has been shown."""
    if _cookie_name(request, _FAILURE) in request.COOKIES:
        _delete_failure(request, response)


def _delete_failure(request: HttpRequest, response: HttpResponse) -> None:
    name = _cookie_name(request, _FAILURE)
    response.delete_cookie(name, path=reverse("integrations:settings"), samesite="Lax")


def note_told(request: HttpRequest, response: HttpResponse, at: datetime) -> None:
    """Note that the page has told news: what a worker failed at before is none any longer."""
    _set_cookie(request, response, _TOLD, at.isoformat())


def told_until(request: HttpRequest) -> datetime:
    """When the page has last told news to this browser; long ago if it never did."""
    try:
        told = datetime.fromisoformat(request.COOKIES.get(_cookie_name(request, _TOLD), ""))
        return told if told.tzinfo else told.replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _provider(request: HttpRequest) -> str:
    """The provider of a URL: strava_connect is Strava's."""
    match = request.resolver_match
    return (match.url_name or "").partition("_")[0] if match else ""


def _send_ahead(
    request: HttpRequest, response: HttpResponse, cookie: str, what: dict[str, Any]
) -> None:
    sealed = fernet().encrypt(json.dumps([cookie, str(request.user.pk), what]).encode())
    _set_cookie(request, response, cookie, sealed.decode())


def _set_cookie(request: HttpRequest, response: HttpResponse, name: str, value: str) -> None:
    response.set_cookie(
        _cookie_name(request, name),
        value,
        max_age=_LIVES,
        path=reverse("integrations:settings"),
        secure=request.is_secure(),
        httponly=True,
        samesite="Lax",
    )


def _cookie_name(request: HttpRequest, name: str) -> str:
    """Over https a name that plain HTTP cannot set; `__Host-` would need the path /."""
    return f"__Secure-{name}" if request.is_secure() else name


def _sent_ahead(request: HttpRequest, cookie: str) -> Any:
    """What was sent to this user; None if it is forged.

    The browser forgets it in time, by a duration and its own clock. A second opinion would need the
    clock of the machine that sealed it, and this may be another one.
    """
    sealed = request.COOKIES.get(_cookie_name(request, cookie))
    if not sealed:
        return None
    try:
        name, who, what = json.loads(fernet().decrypt(sealed.encode()))
    except (InvalidToken, ValueError, TypeError):
        return None
    return what if (name, who) == (cookie, str(request.user.pk)) else None


def not_needed(request: HttpRequest, error: IntegrationsError) -> HttpResponse:
    """Report that there is nothing to do: as an error to a program, as a notice to a person."""
    if wants_json(request):
        return failed(request, error)
    return done(request, error.user_message, level=messages.INFO)


def require_valid(form: Form) -> None:
    """Raises InvalidInput with the message of the first invalid field."""
    if not form.is_valid():
        raise InvalidInput(next(iter(form.errors.values()))[0])
