from __future__ import annotations

from django.urls import get_script_prefix
from whitenoise.storage import CompressedStaticFilesStorage  # type: ignore[import-untyped]


class StaticFilesStorage(CompressedStaticFilesStorage):
    """Static files at an address below wherever the request has found the site.

    Django reads STATIC_URL once, before it knows of a sub-path that the server tells with each
    request (WSGI's SCRIPT_NAME).
    """

    @property
    def base_url(self) -> str:
        return f"{get_script_prefix()}static/"
