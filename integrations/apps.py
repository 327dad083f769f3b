from importlib.util import find_spec

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class IntegrationsConfig(AppConfig):
    name = "integrations"
    verbose_name = _("Athlete integrations")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, conf, receivers  # noqa: F401  (registered by being imported)

        if (url := conf.sandbox_url()) and find_spec("garminconnect"):
            from .sandbox.garmin.hook import point_library_at

            point_library_at(url)
