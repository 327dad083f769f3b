from __future__ import annotations

import ipaddress
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.http.request import split_domain_port


def known_hosts(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[..., HttpResponse]:
    """Answer to no host that ALLOWED_HOSTS does not name, not even with a redirect or a style.

    But /healthz/ and /metrics to whoever asks this machine by an address or as localhost, whatever
    it says: orchestrators and scrapers know no name, and neither makes a link of the host.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        host = request.META.get("HTTP_HOST", "localhost")
        if request.path_info in ("/healthz/", "/metrics") and _is_address(host):
            request.get_host = lambda: host  # type: ignore[method-assign]
        request.get_host()  # raises DisallowedHost, which is answered with 400
        return get_response(request)

    return middleware


def _is_address(host: str) -> bool:
    domain, _port = split_domain_port(host)
    try:
        return domain == "localhost" or bool(ipaddress.ip_address(domain.strip("[]")))
    except ValueError:
        return False


def only_utf8(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Refuse forms in another charset, as Django does for all but multipart ones.

    There, charsets such as utf-7 or idna smuggle in what no database stores, or break the parser.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        charset = (request.content_params or {}).get("charset", "utf-8")
        if charset.lower().replace("_", "-") not in ("utf-8", "utf8"):
            return HttpResponseBadRequest()
        return get_response(request)

    return middleware
