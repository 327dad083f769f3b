"""A second factor for staff, where STAFF_SECOND_FACTOR is on: a code of an authenticator app.

    python -m project.second_factor NAME

gives a user a new device, which replaces the one before, and prints its address for the app. The
address is a secret.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import django


def protect_admin() -> None:
    """Let nobody into the admin who has not entered a code. Needs the apps to be ready."""
    from django.contrib import admin
    from django.dispatch import receiver
    from django_otp import devices_for_user
    from django_otp.admin import OTPAdminAuthenticationForm, OTPAdminSite
    from django_otp.forms import otp_verification_failed

    from .login import note

    class SecondFactorForm(OTPAdminAuthenticationForm):
        def _chosen_device(self, user: Any) -> Any:
            # There is one for each, so nobody has to choose it first.
            return next(iter(devices_for_user(user)), None)

        def _update_form(self, user: Any) -> None:
            super()._update_form(user)
            self.fields["password"].widget.render_value = False  # it is in no page

    @receiver(otp_verification_failed, weak=False)
    def note_wrong_code(user: Any, **kwargs: Any) -> None:
        note("login.wrong_code", f"user {user.pk}")

    admin.site.__class__ = OTPAdminSite
    admin.site.login_form = SecondFactorForm


def main(name: str) -> None:
    from django.contrib.auth import get_user_model
    from django_otp.plugins.otp_totp.models import TOTPDevice

    user = get_user_model()._default_manager.get_by_natural_key(name)
    TOTPDevice.objects.filter(user=user).delete()
    print(TOTPDevice.objects.create(user=user, name="authenticator").config_url)  # noqa: T201


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    django.setup()
    main(*sys.argv[1:])
