from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from ..fields import EncryptedTextField, KeepsSecretsSealed


class FernetCanary(KeepsSecretsSealed):
    """One encrypted row without content, by which a wrong FERNET_KEYS is noticed at start."""

    value = EncryptedTextField()

    class Meta:
        verbose_name = _("key canary")
        verbose_name_plural = _("key canaries")

    def __str__(self) -> str:
        return "key canary"
