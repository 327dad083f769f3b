"""Strava: athletes may bring an app of their own.

Source: https://developers.strava.com/docs/authentication/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from .. import conf
from ..exceptions import (
    InvalidProviderReply,
    StravaNotLinked,
    StravaRelinkRequired,
    TokenRejected,
)
from ..gear import GearItem, clean_text
from ..links import Account, FetchedGear
from ..models.integrations import STRAVA
from ..oauth.client import Endpoints, Tokens
from ..oauth.forms import ClientForm
from ..oauth.provider import OAuthProvider, split_scope
from .client import StravaAthlete, StravaClient, StravaTokens
from .gear import read_gear
from .scopes import SCOPES

_UNITS = {"meters": "metric", "feet": "imperial"}


class Strava(OAuthProvider):
    name = "strava"
    label = "Strava"
    home = STRAVA
    not_linked = StravaNotLinked
    relink_required = StravaRelinkRequired
    client_class = StravaClient
    own_apps = True
    has_gear = True
    gear_scope = "profile:read_all"  # without it Strava shows no gear
    card = "integrations/strava.html"
    urls = "integrations.strava.urls.patterns"
    tasks = "integrations.strava.tasks"
    jobs = (
        ("integrations.strava.tasks.confirm_due_strava_revocations", timedelta(minutes=5)),
        ("integrations.strava.tasks.learn_strava_subscription", timedelta(days=1)),
    )
    account_page = "https://www.strava.com/settings/apps"

    # OAuth stays at www.strava.com when the API moves to a host of its own in 2027, hence two
    # settings. Source: https://developers.strava.com/docs/changelog/
    oauth_url = "https://www.strava.com/oauth"
    api_url = "https://www.strava.com/api/v3"
    scopes = ("read", "profile:read_all")
    scope_separator = ","
    known_scopes = SCOPES
    sandbox_prefix = ""

    def addresses(self) -> dict[str, str]:
        return {
            "STRAVA_OAUTH_URL": self.setting("OAUTH_URL", self.oauth_url),
            "STRAVA_API_URL": self.api(""),
        }

    def endpoints(self) -> Endpoints:
        base = self.setting("OAUTH_URL", self.oauth_url)
        return Endpoints(
            f"{base}/authorize", f"{base}/token", f"{base}/revoke", scope_separator=","
        )

    def client(self, client_id: str, client_secret: str, *, is_site: bool = False) -> StravaClient:
        client: StravaClient = super().client(client_id, client_secret, is_site=is_site)
        client.api_url = self.api("")
        return client

    def authorization_extra(self, *, reconnects: bool) -> dict[str, str]:
        # With "force" Strava asks again for permissions that were granted before.
        return {"approval_prompt": "force" if reconnects else "auto"}

    def granted(self, scope: str, requested: list[str]) -> list[str]:
        # The athlete may have allowed the lesser one alone: activity:read of activity:read_all.
        # Strava adds `read` by itself.
        possible = {"read", *requested, *(each.removesuffix("_all") for each in requested)}
        return [each for each in split_scope(scope) if each in possible]

    def identify(self, client: Any, tokens: Tokens) -> Account | None:
        said = tokens.athlete if isinstance(tokens, StravaTokens) else tokens.answer.get("athlete")
        try:
            athlete = StravaAthlete.model_validate(said)
        except ValidationError:
            return None
        return Account(str(athlete.id), athlete.name)

    def parse(self, tokens: Mapping[str, Any] | Tokens) -> Tokens:
        """What a host gives as Strava's answer. Raises InvalidProviderReply."""
        if isinstance(tokens, Tokens):
            return tokens
        try:
            return StravaTokens.model_validate(dict(tokens))
        except (ValidationError, TypeError, ValueError):
            raise InvalidProviderReply from None  # the cause would carry the tokens

    def describe(self, row: Any) -> dict[str, Any]:
        return super().describe(row) | {"athlete_id": row.strava_athlete_id}

    def page_context(self, row: Any, request: Any, typed: dict[str, str]) -> dict[str, Any]:
        return super().page_context(row, request, typed) | {
            "uses_own_app": row.has_secret("strava_client_id"),
            "site_has_app": self.has_site_app(),
            # Strava compares only the host, without a port.
            "callback_domain": urlsplit(conf.public_url("/", request)).hostname,
            "form": ClientForm(initial=typed, auto_id="strava-%s"),
        }

    def is_fresh(self, row: Any) -> bool:
        # A host may have stored a token without its expiry.
        return row.strava_token_expires_at is not None and super().is_fresh(row)

    def fetch_gear(self, row: Any, token: str, renew: Callable[[str], str]) -> FetchedGear:
        client = self.client_for(row)
        try:
            profile = client.get_athlete(token)
        except TokenRejected:
            # Revoked, or rotated by another: the token endpoint knows which.
            token = renew(token)
            profile = client.get_athlete(token)

        def details(item: GearItem) -> GearItem:
            found = client.get_gear(token, item.provider_gear_id)
            brand, model = clean_text(found.brand_name), clean_text(found.model_name)
            return replace(item, brand=brand, model=model)

        return FetchedGear(
            gear=read_gear(profile),
            units=_UNITS.get(str(profile.measurement_preference), ""),
            account=Account(str(profile.id), profile.name),
            details=details,
        )
