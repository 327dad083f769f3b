"""Keep secrets out of what Django reports about errors and requests."""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import unquote

from django.http import HttpRequest
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

# From the first frame of one of these inward, local variables may hold a secret under any name.
_PRIVATE_MODULES = ("integrations.",)
_QUERY = re.compile(r"\?[^\s\"']*")


class SecretsExceptionReporterFilter(SafeExceptionReporterFilter):
    """Hides form data, and the variables of this app's frames and of all that they call.

    Unlike Django's filter it does so under DEBUG, too: a crash page may be pasted into a bug
    report, and an athlete's token must not be in it.
    """

    def is_active(self, request: HttpRequest | None) -> bool:
        return True

    def get_safe_request_meta(self, request: Any) -> dict[str, Any]:
        # gunicorn adds the address as it came; a callback's has its code and state in the query.
        return {
            name: self.cleansed_substitute
            if name == "QUERY_STRING" and value
            else redact(_QUERY.sub("", value))
            if isinstance(value, str)
            else value
            for name, value in super().get_safe_request_meta(request).items()
        }

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        # URLs of brokers and caches may have passwords in them.
        cleansed = super().cleanse_setting(key, value)
        return redact(str(cleansed)) if isinstance(cleansed, str) else cleansed  # may be a lazy one

    def get_post_parameters(self, request: HttpRequest | None) -> dict[str, Any]:
        if request is None:
            return {}
        return dict.fromkeys(request.POST, self.cleansed_substitute)

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> Any:
        variables = super().get_traceback_frame_variables(request, tb_frame)
        frame, private = tb_frame, False
        while frame is not None and not private:
            private = str(frame.f_globals.get("__name__", "")).startswith(_PRIVATE_MODULES)
            frame = frame.f_back
        if private:
            return [(name, self.cleansed_substitute) for name, _ in variables]
        return [
            # A request shows its address, and with it the code and state of a callback.
            (name, self.cleansed_substitute if isinstance(value, HttpRequest) else value)
            for name, value in variables
        ]


class SecretsExceptionReporter(ExceptionReporter):
    """Django's crash page and error mail with that filter, and without the URL's query."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filter = SecretsExceptionReporterFilter()

    def get_traceback_data(self) -> dict[str, Any]:
        data = super().get_traceback_data()
        if self.request is not None:
            cleansed = self.filter.cleansed_substitute
            data["request_GET_items"] = [(name, cleansed) for name in self.request.GET]
            data["request_insecure_uri"] = _QUERY.sub("", str(data["request_insecure_uri"]))
        for frame in data["frames"]:
            if frame.get("exc_cause") is not None:
                frame["exc_cause"] = redact(str(frame["exc_cause"]))
            frame["vars"] = [(name, redact(str(value))) for name, value in frame.get("vars", ())]
        for name in ("exception_value", "exception_notes"):
            if name in data:
                data[name] = redact(str(data[name]))
        return data


class WithoutQuery(logging.Filter):
    """Cuts the query off URLs in a log line: an OAuth callback carries its code there."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.") and isinstance(record.args, tuple):
            record.args = tuple(
                _QUERY.sub("", arg) if isinstance(arg, str) else arg for arg in record.args
            )
        return True


class WithEvent(logging.Filter):
    """Gives every record an `event`, which is its logger's name for records of other code."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.event = getattr(record, "event", record.name)
        return True


# Every repetition is possessive or bounded, so a hostile message takes time linear in its length.
# What ends the name of a secret, such as di_token, csrfmiddlewaretoken or CELERY_PASSWORDS. With
# the first letters told apart from the rest, a line takes a sixth of the time.
_NAMES = r"""(?=[TtSsPpMmVvAaCcFf]) (?i:token|secret|secret_key|password|passwd|passcode
    |mfa[_-]?code|verification_?code|ticket|authorization|cookie|session_?(?:id|key)|client_state
    |api_?key|fernet_key)(?i:s)?"""
# Within another string it is escaped, perhaps more than once.
_QUOTE = r"""\\{0,8}+["']"""
_COLON = rf"(?: {_QUOTE}\s*+: | ', ) \s*+"  # behind a key in quotes, also of a pair
# Has a digit and is not short, or is long: no error code, status or state of a task is.
_LIKELY = r"(?: (?=[\w.%~+/-]{0,99}?\d) [\w.%~+/-]{6,}+ | [\w.%~+/-]{24,}+ ) =*+"
# The first group of each alternative is what precedes the secret, and is kept.
_SECRETS = re.compile(
    rf"""
    # key=value, "key": "value" and key: 'value', also within another string, or a list.
    ( {_NAMES} (?: \s*+=\s*+ | {_COLON} | \s*+:\s*+ (?=b?{_QUOTE}|[\[({{]) ) )
    (?! \[redacted\] | (?:None|null|True|False)\b )
    (?: b?(?P<quote>{_QUOTE}) (?: (?!(?P=quote)) (?:\\.|.) )++ (?P=quote)?
        | [\[({{] [^\])}}]++ [\])}}]?
        | [^\s"'\\&;()[\]{{}}<>]++ )
    |
    ( (?i:cookie): \s++ ) (?! \[redacted\] ) [^\r\n"']++
    |
    # Ordinary words.
    ( (?<![A-Za-z]) (?i:code|state) (?: \)?\s*+=\s*+ | {_COLON} ) [\[(]? (?:{_QUOTE})?
        | {_NAMES} \s*+:\s++ | \b(?i:bearer|basic)\s++ )
    {_LIKELY}
    |
    ( /webhook/ ) [\w-]{{20,}}+  # where only Strava sends its events
    |
    ( :// [^\s/:@]{{0,99}}+ : ) (?! \[redacted\] ) [^\s@]{{1,256}}+ (?=@)  # an address's password
    |
    # Strava's tokens, codes and client secrets. A whole SHA-1 looks the same and goes with them;
    # UUIDs, MD5, SHA-256 and shortened commits do not.
    (?<![0-9a-fA-F]) [0-9a-fA-F]{{40}} (?![0-9a-fA-F])
    |
    eyJ [\w.%-]{{24,}}+ =*+  # a JWT, and what else is JSON in base64, such as Garmin's
    |
    gAAAA [\w-]{{40,}}+ =*+  # Fernet's
    |
    \b ST-\d++-[\w-]{{8,}}+  # a service ticket of Garmin's sign-in
    """,
    re.VERBOSE,
)
_SECRET_NAME = re.compile(rf"{_NAMES}\Z", re.VERBOSE)
REDACTED = "[redacted]"
_FORMATTER = logging.Formatter()
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# How often a value may be percent-encoded: a `next` that holds a `next` is twice.
_DEPTH = 4
# What ends a line, moves a terminal's cursor, turns text around, or cannot be written at all.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text with its control characters escaped, as in a Python string."""
    return _INVISIBLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redact(text: str) -> str:
    """Text without anything shaped like a secret, percent-encoded or not; the same object if it
    has none. What hides one is shown decoded.
    """
    redacted = decoded = text
    for _ in range(_DEPTH + 1):
        decoded, found = _SECRETS.subn(_cut, decoded)
        if found:
            redacted = decoded
        if (further := unquote(decoded)) == decoded:
            break
        decoded = further
    return redacted


def _cut(match: re.Match[str]) -> str:
    return next(filter(None, match.groups()), "") + REDACTED


def _redacted_parts(record: logging.LogRecord) -> str:
    """The message of a record whose format and arguments do not match."""
    try:
        return redact(f"{record.msg} {record.args!r}")
    except Exception:
        return f"a log record of {record.pathname}:{record.lineno} cannot be shown"


def _is_plain(value: Any, depth: int = 20) -> bool:
    """Whether a value is JSON already, and no deeper than a log needs."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(each, depth - 1) for each in value)
    return value is None or isinstance(value, str | bool | int | float)


class WithoutSecrets(logging.Filter):
    """The last net: takes what looks like a secret out of messages, arguments and tracebacks.

    No secret should come this far. Other handlers get the record unchanged, and a record with
    nothing to hide stays as it is.
    """

    def filter(self, record: logging.LogRecord) -> bool | logging.LogRecord:
        changes: dict[str, Any] = {}
        try:
            message = record.getMessage()
        except Exception:
            # Otherwise logging would print the raw arguments in its report of the error.
            changes = {"msg": _redacted_parts(record), "args": None}
        else:
            if (redacted := redact(message)) is not message:
                changes = {"msg": redacted, "args": None}
        # Formatted here once; a formatter uses text that is there already.
        trace = record.exc_text
        if record.exc_info and not trace:
            trace = _FORMATTER.formatException(record.exc_info)
        if trace and (redacted := redact(trace)) is not record.exc_text:
            changes |= {"exc_info": None, "exc_text": redacted}
        if record.stack_info and (redacted := redact(record.stack_info)) is not record.stack_info:
            changes["stack_info"] = redacted
        for name, value in vars(record).items():
            if name in _STANDARD or value is None or isinstance(value, bool | int | float):
                continue
            # A JSON line includes these, too, and shows fields that an object's repr hides.
            try:
                text = value if isinstance(value, str) else repr(value)
                redacted = REDACTED if _SECRET_NAME.search(name) else redact(text)
            except Exception:
                text, redacted = "", REDACTED
            if redacted is not text or not _is_plain(value):
                changes[name] = redacted
        if not changes:
            return True
        changed = logging.makeLogRecord(vars(record))
        vars(changed).update(changes)
        return changed


class OnOneLine(logging.Filter):
    """Keeps a record from looking like several, whatever a stranger has put into it.

    The message's control characters are escaped, and the lines of a traceback indented.
    """

    def filter(self, record: logging.LogRecord) -> logging.LogRecord:
        changed = logging.makeLogRecord(vars(record))
        changed.msg, changed.args = visible(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            changed.exc_text = _FORMATTER.formatException(record.exc_info)
        changed.exc_info = None
        for name in ("exc_text", "stack_info"):
            if lines := getattr(changed, name):
                indented = (f"  {visible(each)}" for each in lines.split("\n"))
                setattr(changed, name, "\n".join(indented))
        return changed
