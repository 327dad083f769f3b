from django.conf import settings
from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path
from django.views.generic import RedirectView

from . import login, passwords, second_factor, views

admin.site.password_change_form = passwords.ThrottledAdminPasswordChangeForm
if settings.STAFF_SECOND_FACTOR:
    second_factor.protect_admin()

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="integrations:settings")),
    path("", include("integrations.urls")),
    path("accounts/login/", login.LoginView.as_view(), name="login"),
    path("accounts/logout/", auth_views.LogoutView.as_view(), name="logout"),
    path(
        "accounts/password_change/", passwords.PasswordChangeView.as_view(), name="password_change"
    ),
    path("accounts/password_reset/", passwords.PasswordResetView.as_view(), name="password_reset"),
    path(
        "accounts/reset/<uidb64>/",
        passwords.PasswordResetConfirmView.as_view(),
        name="password_reset_confirm",
    ),
    path("admin/", admin.site.urls),
    path("healthz/", views.healthz, name="healthz"),
    path("metrics", views.prometheus, name="metrics"),
]
