from django.urls import path

from . import views

urlpatterns = [
    path("connect/", views.connect, name="garminconnect_connect"),
    path("mfa/", views.mfa, name="garminconnect_mfa"),
    path("cancel/", views.cancel, name="garminconnect_cancel"),
    path("disconnect/", views.disconnect, name="garminconnect_disconnect"),
]
