"""Bring the real garminconnect library to the sandbox. Nothing of it changes on disk.

The library keeps every address it will ever call on each `Client`, written
there by `Client.__init__` from the domain, and accepts no domain but Garmin's
two. So the seam is that constructor: it runs unmodified, then each address it
left is given the sandbox's origin, with the host kept in the path:

    https://sso.garmin.cn  →  http://127.0.0.1:8001/garmin/sso.garmin.cn

It is the smallest one. Below it there are two HTTP libraries (requests, and
curl_cffi, which is C and has no adapters), sessions made afresh in a dozen
places, and TLS to a name that loopback has no certificate for. Beside it the
URLs would have to be caught one call at a time. The one address made
elsewhere (of ECGs) goes through `_resolve_url`, which is wrapped for it.

For development and tests only: a site does it where it starts, if both
DEBUG and INTEGRATIONS_SANDBOX are on. A client made before keeps its
addresses. What a sign-in leaves for its code (`client_state`) names them too,
so it is resumed only where the library is pointed at the same sandbox.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

_ORIGIN = re.compile(r"(http://(?:127(?:\.\d+){3}|\[::1\]|localhost)(?::\d+)?)/?")
_GARMIN = re.compile(r"^https://(?=[\w.-]+\.garmin\.(?:com|cn)(?:/|$))")
# Without these the library would call Garmin, with a password.
_NEEDED = ("_sso", "_connect", "_connectapi", "_di_token_url")
# In garminconnect.client.sso: how long a person would take to type.
_PAUSES: dict[str, Any] = {
    f"{way}_DELAY_{end}_S": 0.0 for way in ("LOGIN", "MOBILE", "WIDGET") for end in ("MIN", "MAX")
}

_patches = ExitStack()


def point_library_at(base_url: str, *, pauses: bool = True) -> None:
    """Send all that the library calls from now on, in this process, to the sandbox at `base_url`.

    Imports the library. Calling it again moves the address. Without `pauses`
    the library does not wait before it sends a password, which is for tests.

    Raises ValueError for a URL that is not loopback's, RuntimeError for a
    library that keeps its addresses elsewhere.
    """
    found = _ORIGIN.fullmatch(base_url)
    if found is None:
        raise ValueError("the library can be pointed at the origin of a loopback address only")
    origin = found[1]
    from garminconnect.client import Client, sso  # a tenth of a second, and some megabytes

    restore_library()
    make, resolve = Client.__init__, Client._resolve_url

    def moved(url: str) -> str:
        return _GARMIN.sub(f"{origin}/garmin/", url)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        make(self, *args, **kwargs)
        for name, value in list(vars(self).items()):
            if isinstance(value, str):
                setattr(self, name, moved(value))
        if not all(getattr(self, name, "").startswith(f"{origin}/") for name in _NEEDED):
            raise RuntimeError("this garminconnect keeps its addresses where the hook cannot reach")

    def _resolve_url(self: Any, path: str) -> str:
        return moved(resolve(self, path))

    _patches.enter_context(patch.multiple(Client, __init__=__init__, _resolve_url=_resolve_url))
    if not pauses:
        _patches.enter_context(patch.multiple(sso, **_PAUSES))
    _bypass_proxies(str(urlsplit(origin).hostname))


def restore_library() -> None:
    """Leave the library alone again: new clients call Garmin."""
    _patches.close()


@contextmanager
def pointed_at(base_url: str, *, pauses: bool = True) -> Iterator[None]:
    """`point_library_at` for the length of a with statement; before and after, no hook."""
    point_library_at(base_url, pauses=pauses)
    try:
        yield
    finally:
        restore_library()


def _bypass_proxies(host: str) -> None:
    """Bypass a proxy that the environment names: it could read the passwords."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = os.environ.get(name, "").split(",")
        if host not in hosts:
            os.environ[name] = ",".join(filter(None, [*hosts, host]))
