"""Speaking to the stand-ins of Polar, Wahoo and Intervals.icu as an app would."""

from dataclasses import dataclass, field
from types import ModuleType
from urllib.parse import parse_qs, urlsplit

import requests

from integrations.sandbox import Sandbox, intervals, polar, wahoo
from integrations.sandbox.oauth import OAuthState

CALLBACK = "http://127.0.0.1:8000/integrations/callback/"


@dataclass
class Site:
    """An app at one provider. `name` is the provider's."""

    name: str
    module: ModuleType
    sandbox: Sandbox
    http: requests.Session
    authorize_path: str
    token_path: str
    user_path: str
    revoke_path: str
    query: dict = field(default_factory=dict)
    basic: bool = False

    @property
    def provider(self) -> OAuthState:
        return self.sandbox.providers[self.name]

    def url(self, path):
        return f"{self.sandbox.url}/{self.name}/{path}"

    def authorize(self, method="GET", data=None, **changes):
        query = {
            "client_id": self.module.CLIENT_ID,
            "redirect_uri": CALLBACK,
            "response_type": "code",
            "state": "s-1",
        }
        query = {
            name: value
            for name, value in (query | self.query | changes).items()
            if value is not None
        }
        url = self.url(self.authorize_path)
        return self.http.request(method, url, params=query, data=data, allow_redirects=False)

    def come_back(self, decision="authorize", athlete=None, ticked=(), **changes):
        """Decide on the consent page; returns where it leads, and the query there."""
        form = {
            "decision": decision,
            "athlete_id": athlete or self.module.ALICE,
            "scope": list(ticked),
        }
        response = self.authorize("POST", form, **changes)
        assert response.status_code == 302, response.text
        url = response.headers["Location"]
        return url.partition("?")[0], parse_qs(urlsplit(url).query)

    def token(self, client=None, **sent):
        """POST to the token endpoint, with the client where this provider wants it."""
        client = client or (self.module.CLIENT_ID, self.module.CLIENT_SECRET)
        if self.basic:
            return self.http.post(self.url(self.token_path), data=sent, auth=client)
        sent = {"client_id": client[0], "client_secret": client[1]} | sent
        return self.http.post(self.url(self.token_path), data=sent)

    def exchange(self, code, client=None, **sent):
        sent = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK} | sent
        return self.token(client, **sent)

    def refresh(self, token, client=None):
        return self.token(client, grant_type="refresh_token", refresh_token=token)

    def call(self, method, path, access_token, **options):
        headers = {"Authorization": f"Bearer {access_token}"}
        return self.http.request(method, self.url(path), headers=headers, **options)

    def user(self, access_token, athlete=None):
        path = self.user_path.format(athlete or self.module.ALICE)
        return self.call("GET", path, access_token)

    def revoke(self, access_token, athlete=None):
        path = self.revoke_path.format(athlete or self.module.ALICE)
        return self.call("DELETE", path, access_token)


def site(name: str, sandbox: Sandbox, http: requests.Session) -> Site:
    http.headers["User-Agent"] = "athlete-integrations tests"  # Intervals.icu's front is choosy
    match name:
        case "polar":
            return Site(
                name, polar, sandbox, http,
                "oauth2/authorization", "v2/oauth2/token", "v3/users/{}", "v3/users/{}",
                {"scope": "accesslink.read_all"}, basic=True,
            )  # fmt: skip
        case "wahoo":
            return Site(
                name, wahoo, sandbox, http,
                "oauth/authorize", "oauth/token", "v1/user", "v1/permissions",
                {"scope": "user_read workouts_read offline_data"},
            )  # fmt: skip
        case _:
            return Site(
                name, intervals, sandbox, http,
                "oauth/authorize", "api/oauth/token", "api/v1/athlete/0", "api/v1/disconnect-app",
                {"scope": "ACTIVITY:READ,SETTINGS:READ"},
            )  # fmt: skip
