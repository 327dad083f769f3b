from django.urls import include, path

from . import views

app_name = "integrations"
urlpatterns = [
    path("settings/integrations/", views.settings_page, name="settings"),
    path("integrations/export/", views.export, name="export"),
    path("integrations/status/", views.status, name="status"),
    path("integrations/garminconnect/", include("integrations.garminconnect.urls")),
    path("integrations/strava/", include("integrations.strava.urls")),
]
