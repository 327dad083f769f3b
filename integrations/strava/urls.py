from django.urls import path

from .. import views as shared
from . import views
from .webhook import webhook

urlpatterns = [
    path("connect/", views.connect, name="strava_connect"),
    path("callback/", views.callback, name="strava_callback"),
    path("disconnect/", views.disconnect, name="strava_disconnect"),
    path("preferences/", shared.preferences, {"provider": "strava"}, name="strava_preferences"),
    path("gear/sync/", shared.gear_sync, {"provider": "strava"}, name="strava_gear_sync"),
    path("webhook/", webhook, name="strava_webhook"),
    path("webhook/<slug:secret>/", webhook),
    # For a URL copied without its last slash: a redirect would lose the event.
    path("webhook", webhook),
    path("webhook/<slug:secret>", webhook),
]
