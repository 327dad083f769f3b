from __future__ import annotations

from django.urls import get_script_prefix
from whitenoise.storage import CompressedStaticFilesStorage  # type: ignore[import-untyped]


class StaticFilesStorage(CompressedStaticFilesStorage):
    """Static files at a URL below the sub-path of the request.

    Django reads STATIC_URL once, before it knows the sub-path that the server sends with each
    request (WSGI's SCRIPT_NAME).
    """

    @property
    def base_url(self) -> str:
        return f"{get_script_prefix()}static/"
