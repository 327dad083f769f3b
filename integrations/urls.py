from django.urls import include, path
from django.utils.module_loading import import_string

from . import providers, views

app_name = "integrations"
urlpatterns = [
    path("settings/integrations/", views.settings_page, name="settings"),
    path("integrations/export/", views.export, name="export"),
    path("integrations/status/", views.status, name="status"),
    *(
        path(f"integrations/{name}/", include(import_string(provider.urls)(provider)))
        for name, provider in providers.known().items()
    ),
]
