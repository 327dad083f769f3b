from __future__ import annotations

import ipaddress
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.http.request import split_domain_port

from integrations import services


def known_hosts(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[..., HttpResponse]:
    """Refuse every host that ALLOWED_HOSTS does not name, even for a redirect or a style sheet.

    The exceptions are /healthz/ and /metrics, for any IP address and localhost: orchestrators and
    scrapers do not know the name, and these two make no link from the host.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        host = request.META.get("HTTP_HOST", "localhost")
        if request.path_info in ("/healthz/", "/metrics") and _is_address(host):
            request.get_host = lambda: host  # type: ignore[method-assign]
        request.get_host()  # raises DisallowedHost, which is answered with 400
        return get_response(request)

    return middleware


def short_waits(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Let no request wait long for a lock: not for a session's row, nor for a user's, either."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with services.short_waits():
            return get_response(request)

    return middleware


def _is_address(host: str) -> bool:
    domain, _port = split_domain_port(host)
    try:
        return domain == "localhost" or bool(ipaddress.ip_address(domain.strip("[]")))
    except ValueError:
        return False


def only_utf8(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Refuse forms in another charset than UTF-8, which Django does only if they are not multipart.

    Charsets such as utf-7 or idna let through text that no database stores, or break the parser.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        charset = (request.content_params or {}).get("charset", "utf-8")
        if charset.lower().replace("_", "-") not in ("utf-8", "utf8"):
            return HttpResponseBadRequest()
        return get_response(request)

    return middleware
