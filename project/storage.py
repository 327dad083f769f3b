from __future__ import annotations

from django.conf import settings
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.messages.storage.fallback import FallbackStorage
from django.contrib.messages.storage.session import SessionStorage
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


class CookieMessages(CookieStorage):
    cookie_name = f"{settings.COOKIE_PREFIX}messages"


class MessageStorage(FallbackStorage):
    """Django's default, with a cookie that is named as the site's others are."""

    storage_classes = (CookieMessages, SessionStorage)
