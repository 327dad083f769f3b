from typing import Any

from django.urls import path

from .. import views as shared
from . import views


def patterns(provider: Any) -> list[Any]:
    which = {"provider": provider.name}
    return [
        path("connect/", views.connect, name="garminconnect_connect"),
        path("mfa/", views.mfa, name="garminconnect_mfa"),
        path("cancel/", views.cancel, name="garminconnect_cancel"),
        path("disconnect/", shared.disconnect, which, name="garminconnect_disconnect"),
        *shared.gear_patterns(provider),
    ]
