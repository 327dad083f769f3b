from django.urls import path

from . import views

urlpatterns = [
    path("connect/", views.connect, name="strava_connect"),
    path("callback/", views.callback, name="strava_callback"),
    path("disconnect/", views.disconnect, name="strava_disconnect"),
]
