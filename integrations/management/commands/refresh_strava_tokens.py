from __future__ import annotations

from .refresh_tokens import Command as RefreshTokens


class Command(RefreshTokens):
    help = "Refresh every Strava token that expires soon: refresh_tokens for Strava alone."
    default = ["strava"]
