"""Keep secrets out of what Django tells about errors and requests."""

from __future__ import annotations

import logging
import re
from typing import Any

from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter

# From the first frame of one of these inwards, local variables may hold a secret under any name.
_PRIVATE_MODULES = ("integrations.",)
_QUERY = re.compile(r"\?[^\s\"']*")


class SecretsExceptionReporterFilter(SafeExceptionReporterFilter):
    """Hides form data and the variables of this app's frames, and all that those called.

    Unlike Django's it does so under DEBUG too: a developer's screen, or a crash page pasted
    into a bug report, is no place for an athlete's token.
    """

    def is_active(self, request: HttpRequest | None) -> bool:
        return True

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


class WithoutQuery(logging.Filter):
    """Cuts the query off addresses in a log line: an OAuth callback carries its code there."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.") and isinstance(record.args, tuple):
            record.args = tuple(
                _QUERY.sub("", arg) if isinstance(arg, str) else arg for arg in record.args
            )
        return True
