"""One provider under test: its stand-in, and what a person and a site do with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from integrations import providers, services
from integrations.exceptions import RelinkRequired
from integrations.links import Home
from integrations.models import LinkStatus
from integrations.oauth.provider import OAuthProvider

JSON = {"accept": "application/json"}
CALLBACK = "http://testserver/integrations/{}/callback/"


@dataclass(eq=False)
class Kit:
    name: str
    stand_in: Any
    module: Any  # of the stand-in: its athletes and its apps
    http: requests.Session
    settings: Any

    @property
    def provider(self) -> OAuthProvider:
        found = providers.get(self.name)
        assert isinstance(found, OAuthProvider)
        return found

    @property
    def home(self) -> Home:
        return self.provider.home

    @property
    def alice(self) -> Any:
        return self.module.ALICE

    @property
    def bjorn(self) -> Any:
        return self.module.BJORN

    @property
    def renews(self) -> bool:
        """Whether there are refresh tokens."""
        return bool(self.stand_in.has_refresh_tokens)

    @property
    def asked_at(self) -> str:
        """The endpoint that knows whether a link lives."""
        return "token" if self.renews else "user"

    def __repr__(self) -> str:
        return self.name

    # What is stored

    def row(self, user: Any) -> Any:
        return self.home.of(user.pk).get()

    def get(self, user: Any, name: str) -> Any:
        return self.home.get(self.row(user), name)

    def set(self, user: Any, **values: Any) -> None:
        columns = self.home.columns(**values)
        assert len(columns) == len(values)
        assert self.home.of(user.pk).update(**columns) == 1

    def stored(self, user: Any, *but: str) -> dict[str, Any]:
        """Every column of the link, opened, but for those."""
        row = self.row(user)
        return {name: self.home.get(row, name) for name in self.home.fields if name not in but}

    def status(self, user: Any) -> LinkStatus:
        row = self.home.of(user.pk).first()
        return LinkStatus.NOT_LINKED if row is None else self.provider.status(row)

    # What a person does

    def url(self, what: str) -> str:
        return reverse(f"integrations:{self.name}_{what}")

    def begin(self, client: Client) -> str:
        """Press the button; returns where it leads."""
        response = client.post(self.url("connect"))
        assert response.status_code == 302, response.content
        return str(response["Location"])

    def consent(self, address: str, who: Any = None, scopes: Any = None) -> dict[str, str]:
        """Agree at the provider's own page; returns the query to come back with."""
        asked = self.stand_in.parse_scope(query_of(address)["scope"])
        given = {
            "decision": "authorize",
            "athlete_id": str(self.alice if who is None else who),
            "scope": list(asked if scopes is None else scopes),
        }
        return self._answer(address, given)

    def refuse(self, address: str) -> dict[str, str]:
        return self._answer(address, {"decision": "cancel"})

    def _answer(self, address: str, given: dict[str, Any]) -> dict[str, str]:
        response = self.http.post(address, given, allow_redirects=False)
        assert response.status_code == 302, response.text
        return query_of(response.headers["Location"])

    def come_back(self, client: Client, query: dict[str, str], **more: Any) -> Any:
        return client.get(self.url("callback"), query, **more)

    def connect(self, client: Client, who: Any = None) -> None:
        self.come_back(client, self.consent(self.begin(client), who))

    def link(self, user: Any, who: Any = None) -> Any:
        """Connect without a page; returns the row."""
        begun = services.begin_authorization(user.pk, self.name, CALLBACK.format(self.name))
        query = self.consent(begun.authorization_url, who)
        services.complete_authorization(user.pk, self.name, **query)
        return self.row(user)

    # What happens to a link

    def lapse(self, user: Any) -> None:
        """Let the token expire, at both ends."""
        self.stand_in.expire(type(self.stand_in).id_type(self.get(user, "account_id")))
        self.set(user, token_expires_at=timezone.now() - timedelta(minutes=1))

    def revoke(self, user: Any) -> None:
        """The person ends the access at the provider's own page; nobody is told."""
        self.stand_in.revoke_grant(type(self.stand_in).id_type(self.get(user, "account_id")))

    def ask(self, user: Any) -> str:
        return services.get_access_token(user.pk, self.name)

    def report(self, user: Any, token: str | None = None) -> bool:
        token = self.get(user, "token") if token is None else token
        return services.report_rejected_token(user.pk, self.name, token)

    def end(self, user: Any) -> None:
        """The link dies, and the site learns of it."""
        self.revoke(user)
        if self.renews:
            self.lapse(user)
            try:
                self.ask(user)
            except RelinkRequired:
                return
            raise AssertionError("it lives")
        assert not self.report(user)

    @contextmanager
    def without_app(self) -> Iterator[None]:
        """The site's app is not set."""
        name = f"{self.name.upper()}_CLIENT_ID"
        before = getattr(self.settings, name)
        setattr(self.settings, name, "")
        yield
        setattr(self.settings, name, before)

    def change_app(self) -> None:
        """The site has another app at this provider from now on."""
        for what in ("CLIENT_ID", "CLIENT_SECRET"):
            name = f"{self.name.upper()}_{what}"
            setattr(self.settings, name, getattr(self.module, f"OTHER_{what}"))


def query_of(address: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))
