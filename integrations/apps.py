from django.apps import AppConfig
from django.conf import settings
from django.utils.translation import gettext_lazy as _


class IntegrationsConfig(AppConfig):
    name = "integrations"
    verbose_name = _("Athlete integrations")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, receivers  # noqa: F401  (registered by being imported)

        if settings.DEBUG and getattr(settings, "INTEGRATIONS_SANDBOX", False):
            from .sandbox.garmin.hook import install_on_import

            install_on_import(settings.INTEGRATIONS_SANDBOX_URL)
