"""What the stand-ins of OAuth providers share. Each provider's file holds what is its own."""

from .consent import authorize
from .params import basic_client, bearer_token, fields, form, oauth_error
from .state import App, Athlete, AthleteId, Code, OAuthState, Pair, RegisteredApp

__all__ = [
    "App",
    "Athlete",
    "AthleteId",
    "Code",
    "OAuthState",
    "Pair",
    "RegisteredApp",
    "authorize",
    "basic_client",
    "bearer_token",
    "fields",
    "form",
    "oauth_error",
]
