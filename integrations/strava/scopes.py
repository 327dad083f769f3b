"""Strava's scopes in the athlete's words.

Source: https://developers.strava.com/docs/authentication/#details-about-requesting-access
"""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from ..oauth.provider import Scope

SCOPES: dict[str, Scope] = {
    "read": Scope(_("See your public profile"), _("your public profile cannot be read")),
    "read_all": Scope(
        _("See your private routes and segments"), _("private routes stay invisible here")
    ),
    "profile:read_all": Scope(
        _("See your full profile, with your bikes and shoes"),
        _("your bikes and shoes cannot be read, so gear will not sync"),
    ),
    "profile:write": Scope(
        _("Change your profile"), _("your weight and starred segments cannot be updated")
    ),
    "activity:read": Scope(_("See your activities"), _("your activities cannot be read")),
    "activity:read_all": Scope(
        _("See your private activities"), _("activities only you can see stay invisible here")
    ),
    "activity:write": Scope(
        _("Upload and edit activities"), _("activities cannot be sent to Strava")
    ),
}
