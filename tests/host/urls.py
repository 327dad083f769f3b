from django.contrib import admin
from django.contrib.auth import views
from django.urls import include, path

urlpatterns = [
    path("", include("integrations.urls")),
    path("admin/", admin.site.urls),
    path("accounts/login/", views.LoginView.as_view(), name="login"),
]
