from django.urls import path

from .. import views as shared
from . import views

PROVIDER = {"provider": "garminconnect"}

urlpatterns = [
    path("connect/", views.connect, name="garminconnect_connect"),
    path("mfa/", views.mfa, name="garminconnect_mfa"),
    path("cancel/", views.cancel, name="garminconnect_cancel"),
    path("disconnect/", views.disconnect, name="garminconnect_disconnect"),
    path("preferences/", shared.preferences, PROVIDER, name="garminconnect_preferences"),
    path("gear/sync/", shared.gear_sync, PROVIDER, name="garminconnect_gear_sync"),
]
