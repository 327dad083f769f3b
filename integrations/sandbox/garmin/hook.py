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

For development and tests only: a site installs it where it starts, if both
DEBUG and INTEGRATIONS_SANDBOX are on. A client made before keeps its
addresses. What a sign-in leaves for its code (`client_state`) names them too,
so it is resumed only where the hook points at the same sandbox.
"""

from __future__ import annotations

import importlib
import ipaddress
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

_LIBRARY = "garminconnect.client"
_DOMAINS = ("garmin.com", "garmin.cn")
# Without these the library would call Garmin, with a password.
_NEEDED = ("_sso", "_connect", "_connectapi", "_di_token_url")
# In garminconnect.client.sso: how long a person would take to type.
_PAUSES = ("LOGIN_DELAY", "MOBILE_DELAY", "WIDGET_DELAY")

_lock = threading.RLock()
_origin = ""
_undo: list[Callable[[], None]] = []


def point_library_at(base_url: str, *, pauses: bool = True) -> None:
    """Send all that the library calls from now on, in this process, to the sandbox at `base_url`.

    Imports the library. Calling it again moves the address. Without `pauses`
    the library does not wait before it sends a password, which is for tests.

    Raises ValueError for a URL that is not loopback's, RuntimeError for a
    library that keeps its addresses elsewhere.
    """
    global _origin
    origin = _checked(base_url)
    client = importlib.import_module(_LIBRARY)
    with _lock:
        restore_library()
        _install(client)
        if not pauses:
            _skip_pauses()
        _bypass_proxies(urlsplit(origin).hostname or "")
        _origin = origin


def restore_library() -> None:
    """Take the hook out again: new clients call Garmin."""
    global _origin
    with _lock:
        while _undo:
            _undo.pop()()
        _origin = ""


@contextmanager
def pointed_at(base_url: str, *, pauses: bool = True) -> Iterator[None]:
    """`point_library_at` for the length of a with statement; before and after, no hook."""
    point_library_at(base_url, pauses=pauses)
    try:
        yield
    finally:
        restore_library()


def install_on_import(base_url: str, *, pauses: bool = True) -> None:
    """`point_library_at`, put off until something imports the library.

    Importing it costs a process a tenth of a second and some megabytes.
    Raises ValueError at once for a URL that is not loopback's.
    """
    _checked(base_url)
    if _LIBRARY in sys.modules:
        point_library_at(base_url, pauses=pauses)
        return
    for finder in [each for each in sys.meta_path if isinstance(each, _Watcher)]:
        sys.meta_path.remove(finder)
    sys.meta_path.insert(0, _Watcher(lambda: point_library_at(base_url, pauses=pauses)))


class _Watcher(MetaPathFinder):
    """Finds the library where it is, and does something once it is loaded."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _LIBRARY:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_then(module: ModuleType) -> None:
            execute(module)
            self._then()
            # Only now: if this failed, the next import must fail too.
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        setattr(spec.loader, "exec_module", execute_then)  # noqa: B010 - only of this spec
        return spec


def _checked(base_url: str) -> str:
    """The origin of a loopback URL. Raises ValueError for any other."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if parts.scheme != "http" or not is_loopback or parts.username is not None:
        raise ValueError("the library can be pointed at http:// and a loopback address only")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("an origin is expected, without a path")
    return f"http://{parts.netloc}"


def _moved(url: str) -> str:
    """The address of one of Garmin's hosts here; any other string as it is."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if scheme != "https" or not host.endswith(tuple(f".{domain}" for domain in _DOMAINS)):
        return url
    return f"{_origin}/garmin/{host}{slash}{path}"


def _install(client: ModuleType) -> None:
    make: Callable[..., None] = client.Client.__init__
    resolve: Callable[..., str] = client.Client._resolve_url

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        make(self, *args, **kwargs)
        for name, value in list(vars(self).items()):
            if isinstance(value, str):
                setattr(self, name, _moved(value))
        if not all(getattr(self, name, "").startswith(f"{_origin}/") for name in _NEEDED):
            raise RuntimeError("this garminconnect keeps its addresses where the hook cannot reach")

    def _resolve_url(self: Any, path: str) -> str:
        return _moved(resolve(self, path))

    _replace(client.Client, "__init__", __init__)
    _replace(client.Client, "_resolve_url", _resolve_url)


def _skip_pauses() -> None:
    sso = importlib.import_module(f"{_LIBRARY}.sso")
    for name in _PAUSES:
        _replace(sso, f"{name}_MIN_S", 0.0)
        _replace(sso, f"{name}_MAX_S", 0.0)


def _replace(owner: Any, name: str, value: object) -> None:
    former = getattr(owner, name)
    setattr(owner, name, value)
    _undo.append(lambda: setattr(owner, name, former))


def _bypass_proxies(host: str) -> None:
    """Bypass a proxy that the environment names: it could read the passwords."""
    for name in ("no_proxy", "NO_PROXY"):
        former = os.environ.get(name)
        hosts = [each.strip() for each in (former or "").split(",") if each.strip()]
        if "*" in hosts or host in hosts:
            continue
        os.environ[name] = ",".join([*hosts, host])
        _undo.append(lambda name=name, former=former: _set_variable(name, former))  # type: ignore[misc]


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
