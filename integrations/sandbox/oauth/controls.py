"""What another process may do to a provider, by JSON: see sandbox/control.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .records import AthleteId

if TYPE_CHECKING:
    from .state import OAuthState


def actions(provider: OAuthState[Any, Any]) -> Mapping[str, Callable[..., object]]:
    def grant(athlete_id: AthleteId, **fields: Any) -> object:
        return {"code": provider.grant(athlete_id, **fields)}

    def tokens(athlete_id: AthleteId, **fields: Any) -> object:
        return provider.issue_tokens(athlete_id, **fields)

    def expire(athlete_id: AthleteId, **fields: Any) -> object:
        return {"expired": provider.expire(athlete_id, **fields)}

    def revoke(athlete_id: AthleteId, **fields: Any) -> object:
        return {"revoked": provider.revoke(athlete_id, **fields)}

    def athlete(athlete_id: AthleteId, **fields: Any) -> object:
        return {"athlete_id": provider.add_athlete(athlete_id, **fields).id}

    def app(client_id: str, **fields: Any) -> object:
        return provider.edit_app(client_id, **fields).public()

    def alive(token: str) -> object:
        return {"alive": provider.is_alive(token)}

    def lifetime(seconds: int | None) -> object:
        provider.token_lifetime = None if seconds is None else int(seconds)
        return {"token_lifetime": provider.token_lifetime}

    def rule(name: str, on: bool) -> object:
        if name not in provider.rules:
            raise LookupError(f"no such rule: {name!r}")
        setattr(provider, name, bool(on))
        return {name: bool(on)}

    return {
        "grant": grant,
        "tokens": tokens,
        "expire": expire,
        "revoke": revoke,
        "athlete": athlete,
        "app": app,
        "alive": alive,
        "lifetime": lifetime,
        "rule": rule,
    }
