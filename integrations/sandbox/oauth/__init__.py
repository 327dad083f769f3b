"""What the stand-ins of OAuth providers share. Each provider's file holds what is its own."""

from .params import basic_client, bearer_token, fields, form, oauth_error
from .plain import PlainOAuth
from .records import App, Athlete, AthleteId, Code, Pair, RegisteredApp
from .state import OAuthState

__all__ = [
    "App",
    "Athlete",
    "AthleteId",
    "Code",
    "OAuthState",
    "Pair",
    "PlainOAuth",
    "RegisteredApp",
    "basic_client",
    "bearer_token",
    "fields",
    "form",
    "oauth_error",
]
