from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path
from django.views.generic import RedirectView

from . import health, login, views

admin.site.login_form = login.ThrottledAdminForm

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="integrations:settings")),
    path("", include("integrations.urls")),
    path("accounts/login/", login.LoginView.as_view(), name="login"),
    path("accounts/logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("healthz/", health.HealthView.as_view(), name="healthz"),
    path("metrics", views.prometheus, name="metrics"),
]
