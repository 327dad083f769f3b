"""The one reader of the environment and of `.env`: every variable is read the same way.

Spaces and line breaks around a value do not count, and a blank value means the default. NAME_FILE
names a file with the value, which is how containers get their secrets. No character has a special
meaning: a `$` is a `$`. An invalid value is refused in one line that names the variable and never
shows the value, which may be a secret.
"""

from __future__ import annotations

import io
import ipaddress
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlparse, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

DOTENV = Path(__file__).resolve().parent.parent / ".env"

_FLAGS = dict.fromkeys(("1", "on", "true", "yes", "y", "t", "ok"), True) | dict.fromkeys(
    ("0", "off", "false", "no", "n", "f"), False
)
# Schemes of files, in whose URLs an @ is just an @.
_FILES = {"sqlite", "spatialite", "prometheus_sqlite", "prometheus_spatialite", "filecache"}
_HOST = re.compile(r"(\[[\w:.%]+\]|[^\s:@\[\]]*)(:\d{0,5})?")
_OF_PROVIDER = re.compile(
    "[A-Z0-9]+_(CLIENT_ID|CLIENT_SECRET|SCOPES|WEBHOOK_VERIFY_TOKEN"
    "|(OAUTH|AUTHORIZE|TOKEN|REVOKE|API)_URL)"
)
# A value in quotes, with a comment after it.
_QUOTED = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*")\s+#.*""")


def _other(name: str) -> str:
    """NAME_FILE of NAME, and NAME of NAME_FILE."""
    return name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE"


class Environment:
    """The variables of the environment, and those of `.env` that the environment does not name."""

    def __init__(self, given: Mapping[str, str], dotenv: Mapping[str, str] | None = None) -> None:
        self.values = dict(given)
        for name, value in (dotenv or {}).items():
            if name not in given and _other(name) not in given:
                self.values[name] = value

    def publish(self, *names: str) -> None:
        """Show the variables of `.env` to libraries that read the environment, and these names as
        they are read here: prometheus_client takes a blank directory for the current one.
        """
        read = {name: self.text(name) for name in names}  # raises before anything has changed
        for name, value in self.values.items():
            os.environ.setdefault(name, value)
        for name, value in read.items():
            os.environ.pop(name, None)
            os.environ.pop(f"{name}_FILE", None)  # a child process would find both set
            if value:
                os.environ[name] = value

    def text(self, name: str, default: str = "") -> str:
        value = self.values.get(name, "").strip()
        path = self.values.get(f"{name}_FILE", "").strip()
        if value and path:
            raise ImproperlyConfigured(f"{name} and {name}_FILE are both set: unset one of them.")
        if path:
            try:
                value = Path(path).read_text("utf-8-sig").strip()
            except (OSError, ValueError):
                raise ImproperlyConfigured(
                    f"{name}_FILE must name a text file that can be read."
                ) from None
        return value or default

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.text(name).lower()
        if value and value not in _FLAGS:
            raise ImproperlyConfigured(f"{name} must be on or off.")
        return _FLAGS[value] if value else default

    def number(self, name: str, default: int) -> int:
        value = self.text(name, str(default))
        if not re.fullmatch(r"[0-9]{1,6}", value):
            raise ImproperlyConfigured(f"{name} must be a whole number, of six digits at most.")
        return int(value)

    def choice(self, name: str, choices: Collection[str], default: str) -> str:
        value = self.text(name, default).lower()
        if value not in choices:
            raise ImproperlyConfigured(f"{name} must be one of {', '.join(choices)}.")
        return value

    def items(self, name: str, default: Sequence[str] = (), *, spaces: bool = False) -> list[str]:
        """A list, split at commas and line breaks; with `spaces`, at spaces, too."""
        parts = re.split(r"[,\s]" if spaces else r"[,\r\n]", self.text(name))
        return [part.strip() for part in parts if part.strip()] or list(default)

    def networks(self, name: str, default: Sequence[str]) -> list[str]:
        """Addresses and networks, or * for all."""
        found = self.items(name, default)
        try:
            for network in found:
                if network != "*":
                    ipaddress.ip_network(network)
        except ValueError:
            raise ImproperlyConfigured(
                f"{name} must be addresses and networks, such as 10.0.0.1,192.168.0.0/24, or *."
            ) from None
        return found

    def sub_path(self, name: str, within: str = "") -> str:
        """A path with a leading slash and no trailing one; empty for the root.

        Without a value of its own it is the path of the address in `within`.
        """
        value = self.text(name)
        if within and not value:
            name, value = within, urlsplit(self.text(within)).path
        value = value.strip("/")
        if value and not re.fullmatch(r"[A-Za-z0-9_][\w.~-]*(/[A-Za-z0-9_][\w.~-]*)*", value, re.A):
            what = "have a path" if name == within else "be a path"
            raise ImproperlyConfigured(f"{name} must {what} such as /athletes.")
        return f"/{value}" if value else ""

    def address(
        self,
        name: str,
        schemes: Collection[str],
        default: str = "",
        *,
        example: str = "https://example.com",
        several: bool = False,
    ) -> str:
        """A URL, or several separated by `;`, as Celery accepts brokers.

        A URL that could be misread is refused: if a password has a `/`, a `?` or a `#` that is not
        percent-encoded, the host ends there and the rest looks like a path. Nothing may connect to
        that wrong host.
        """
        value = self.text(name, default)
        if not value:
            return ""
        parts = value.split(";") if several else [value]
        try:
            return ";".join(_checked(part.strip(), schemes) for part in parts)
        except ValueError:
            raise ImproperlyConfigured(
                f"{name} must be an address such as {example}; any of / ? # @ % , ; in its user "
                "or password must be percent-encoded, as %2F for a slash."
            ) from None

    def of_providers(self) -> dict[str, Any]:
        """What is set of providers' own apps, by NAME_CLIENT_ID and the like.

        In place of an invalid value stands its refusal. Other programs have such variables, too,
        and which names are providers' is known only once they are loaded: `integrations.providers`
        raises the refusals of those that are.
        """
        found: dict[str, Any] = {}
        for name in {each.removesuffix("_FILE") for each in self.values}:
            if _OF_PROVIDER.fullmatch(name):
                try:
                    if value := self._of_provider(name):
                        found[name] = value
                except ImproperlyConfigured as exc:
                    found[name] = exc
        return found

    def _of_provider(self, name: str) -> Any:
        if name.endswith("_URL"):
            return self.address(name, ("http", "https"))
        if name.endswith("_SCOPES"):
            return self.items(name, spaces=True)
        return self.text(name)

    def database(self, name: str, default: str) -> dict[str, Any]:
        example = "postgres://user:password@host/name"
        url = self.address(name, environ.Env.DB_SCHEMES, default, example=example)
        if url == "sqlite://:memory:":
            return dict(environ.Env.db_url_config(url))
        parts = urlparse(url)
        # Otherwise django-environ would read a + in a name as a space and, without a path, encode
        # twice.
        path = parts.path.replace("+", "%2B") or "/"
        return dict(environ.Env.db_url_config(parts._replace(path=path)))

    def mailers(self, name: str, default: str = "") -> dict[str, Any]:
        """Django's MAILERS with one mail server; none if the variable is not set."""
        schemes = ("smtp", "smtp+tls", "smtp+ssl", "consolemail")
        example = "smtp+tls://user:password@host:587"
        url = self.address(name, schemes, default, example=example)
        if not url:
            return {}
        parts = urlsplit(url)
        if parts.scheme == "consolemail":
            return {"default": {"BACKEND": "django.core.mail.backends.console.EmailBackend"}}
        if not parts.hostname:
            raise ImproperlyConfigured(f"{name} must be an address such as {example}.")
        tls, ssl = parts.scheme == "smtp+tls", parts.scheme == "smtp+ssl"
        options = {
            "host": parts.hostname,
            "port": parts.port or (587 if tls else 465 if ssl else 25),
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "use_tls": tls,
            "use_ssl": ssl,
            "timeout": 10,  # seconds
        }
        backend = "django.core.mail.backends.smtp.EmailBackend"
        return {"default": {"BACKEND": backend, "OPTIONS": options}}

    def cache(self, name: str, default: str) -> dict[str, Any]:
        example = "redis://:password@host/0"
        url = self.address(name, environ.Env.CACHE_SCHEMES, default, example=example)
        if "," in urlsplit(url).netloc.rpartition("@")[0]:
            # django-environ would split hosts at it.
            raise ImproperlyConfigured(
                f"{name} has a comma before its host: in a user or password it must be "
                "percent-encoded, as %2C."
            )
        return dict(environ.Env.cache_url_config(url))


def _checked(url: str, schemes: Collection[str]) -> str:
    """A URL with its scheme in lower case.

    Raises ValueError, which may show a part of the URL, if it could be misread.
    """
    parts = urlsplit(url)
    if parts.scheme not in schemes or not url[len(parts.scheme) :].startswith("://"):
        raise ValueError
    if "#" in url or re.search(r"[\x00-\x1f\x7f]", url):
        raise ValueError
    if url != f"{parts.scheme}://:memory:":
        _check_authority(parts)
    return parts.scheme + url[len(parts.scheme) :]


def _check_authority(parts: SplitResult) -> None:
    user, _at, location = parts.netloc.rpartition("@")
    if parts.scheme in _FILES:
        if parts.netloc and parts.scheme != "filecache":  # sqlite://name would mean in memory
            raise ValueError
    elif "@" in parts.path + parts.query or "\ufffd" in unquote(user):
        raise ValueError
    hosts = location.split(",")
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise ValueError
    if len(hosts) == 1 and parts.port == 0:  # raises ValueError above 65535
        raise ValueError
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise ValueError


def read_dotenv(text: str) -> dict[str, str]:
    """The variables of a `.env`; spaces around a name or value do not count.

    A comment begins with a `#` at the start of a line, or after a space outside quotes.
    """
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = line.partition("=")
        name = name.strip().removeprefix("export ").strip()
        if not line.strip() or name.startswith("#"):
            continue
        if not equals or not re.fullmatch(r"[A-Za-z_0-9]+", name):
            # django-environ would log the line, and it may hold a secret.
            raise ImproperlyConfigured(f"Line {number} of .env must be NAME=value.")
        if quoted := _QUOTED.fullmatch(value.strip()):
            value = quoted[1]
        elif not value.lstrip().startswith(("'", '"')):
            value = re.sub(r"\s#.*", "", value)
        lines.append(f"{name}={value.strip()}")

    class Reader(environ.Env):
        ENVIRON: dict[str, str] = {}

    Reader.read_env(io.StringIO("\n".join(lines)))
    return Reader.ENVIRON


def load(dotenv: Path = DOTENV) -> Environment:
    """The environment of this process, with `.env` beside manage.py."""
    if not dotenv.is_file():
        return Environment(os.environ)
    try:
        text = dotenv.read_text("utf-8-sig")
    except (OSError, ValueError):
        raise ImproperlyConfigured(".env must be a text file that can be read.") from None
    return Environment(os.environ, read_dotenv(text))
