"""Alice at her desk: the site in a window, her accounts at the providers, her rows."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.utils import timezone

from integrations import services
from integrations.models import (
    GarminConnectAttempt,
    GarminConnectLogin,
    Link,
    UsersIntegrations,
)
from integrations.models.integrations import STRAVA
from integrations.sandbox import Sandbox, intervals, polar, wahoo
from integrations.sandbox import garmin as garmin_demo

from ..processes import Site
from .windows import Window

SETTINGS = "/settings/integrations/"
# The apps of a site that offers every provider, at the sandbox's addresses.
OTHERS = {
    f"{name}_{what}": value
    for name, app in {"POLAR": polar, "WAHOO": wahoo, "INTERVALS": intervals}.items()
    for what, value in {
        "CLIENT_ID": app.CLIENT_ID,
        "CLIENT_SECRET": app.CLIENT_SECRET,
        **dict.fromkeys(("AUTHORIZE_URL", "TOKEN_URL", "REVOKE_URL", "API_URL"), ""),
    }.items()
}


class Desk:
    """What Alice sees and does. At `other_site` each brings their own app for Strava."""

    def __init__(
        self,
        window: Window,
        alice: Any,
        link: Callable[..., UsersIntegrations],
        sandbox: Sandbox,
        site: Site,
        other_site: Site,
    ) -> None:
        self.window, self.alice = window, alice
        self.strava, self.garmin = sandbox.strava, sandbox.garmin
        self.providers = sandbox.providers
        self.site, self.other_site = site, other_site
        self._link = link

    # In the window

    def open(self, site: Site | None = None) -> None:
        self.window.open(f"{(site or self.site).url}{SETTINGS}")

    def send(self, provider: str, **fields: str) -> None:
        """Fill in the form that has these fields and send it, whatever the browser thinks of it."""
        self.let_anything_pass()
        for name, value in fields.items():
            self.window.fill(f'[data-provider="{provider}"] [name={name}]', value)
        self.window.press(
            f'[data-provider="{provider}"] form:has([name={next(iter(fields))}])'
            " button:not([type=button], [formaction])"
        )

    def let_anything_pass(self) -> None:
        """Switch off what browsers check themselves: not all do, and none of them has to."""
        self.window.js(
            """[...document.forms].forEach((form) => {
                 form.noValidate = true;
                 for (const field of form.elements) field.removeAttribute("maxlength");
               })"""
        )

    def press(self, provider: str, action: str) -> None:
        """Press the button of one of a provider's forms, by what the form's address ends with."""
        self.window.press(
            f'[data-provider="{provider}"] form[action*="/{provider}/{action}/"] button'
        )

    def wait_for_status(self, provider: str, status: str) -> None:
        self.window.wait_for_element(f'[data-provider="{provider}"][data-status="{status}"]')
        self.window.wait_for_load()

    def wait_for_alert(self) -> None:
        """Until a worker has said what went wrong, and the page by itself has shown it."""
        self.window.wait_for_element("[role=alert]")
        self.window.wait_for_load()

    def go_to_strava(self) -> None:
        self.go_to("strava")

    def go_to(self, provider: str) -> None:
        """As far as the provider's consent page."""
        self.open()
        self.press(provider, "connect")
        self.window.wait_for_element("[name=decision]")

    def decide(self, decision: str) -> None:
        """Say "authorize" or "cancel" there."""
        self.window.press(f'[name=decision][value="{decision}"]')

    def come_back(self, provider: str = "strava", **query: str) -> None:
        """Come back from a provider without having been there."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        self.window.open(f"{self.site.url}/integrations/{provider}/callback/?{words}")

    def sign_in_to_garmin(self, email: str, password: str = garmin_demo.PASSWORD) -> None:
        self.open()
        self.send("garminconnect", email=email, password=password)

    # In the database

    def start_over(self) -> None:
        """Nothing is linked, nothing is under way, and nobody has tried anything."""
        UsersIntegrations.objects.all().delete()
        GarminConnectLogin.objects.all().delete()
        GarminConnectAttempt.objects.all().delete()
        Link.objects.all().delete()

    def set(self, **columns: Any) -> None:
        services._rows.ensure_row(STRAVA, self.alice.pk)
        UsersIntegrations.objects.filter(user=self.alice).update(**columns)

    def link_strava(self, **columns: Any) -> None:
        self._link(self.alice)
        if columns:
            self.set(**columns)

    def link_garmin(self, **columns: Any) -> None:
        session = self.garmin.issue_session(garmin_demo.ALICE)
        services._rows.ensure_row(STRAVA, self.alice.pk)
        services.link_garminconnect_account(self.alice.pk, None, session)
        if columns:
            self.set(**columns)

    def link_other(self, provider: str, scope: str, **columns: Any) -> None:
        """A link to a provider whose links are rows of their own; no token of it is known there."""
        now = timezone.now()
        known: dict[str, Any] = {
            "token": "token",
            "scope": scope,
            "account_id": "1",
            "account_name": "Alice Archer",
            "site_client_id": OTHERS[f"{provider.upper()}_CLIENT_ID"],
            "linked_at": now,
            "refreshed_at": now,
        }
        Link.objects.create(user=self.alice, provider=provider, **known | columns)

    def sign_in_is_at(self, step: str, **columns: Any) -> None:
        """A sign-in to Garmin has come this far, and no worker goes on with it."""
        services._rows.ensure_row(STRAVA, self.alice.pk)
        until = timezone.now() + timedelta(minutes=10)
        GarminConnectLogin.objects.create(
            user=self.alice,
            attempt=uuid.uuid4(),
            step=step,
            step_until=until,
            mfa_until=until if step == GarminConnectLogin.Step.MFA_REQUIRED else None,
            **columns,
        )
