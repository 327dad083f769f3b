"""Garmin's "DI" tokens: a JWT to show, and a refresh token that is good once."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: How long each is valid, in seconds. Garmin's own numbers drift; these are similar.
ACCESS_LIFETIME = 86_400
REFRESH_LIFETIME = 30 * 86_400


@dataclass(eq=False)
class Session:
    """The result of one sign-in. The tokens change with every refresh; the session stays."""

    email: str
    domain: str
    client_id: str
    refresh_token: str = ""
    refresh_expires_at: float = 0.0


@dataclass
class _Access:
    session: Session
    expires_at: float


def jwt(claims: dict[str, Any]) -> str:
    """A JSON Web Token (RFC 7519) whose signature is invented."""

    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    header = {"alg": "RS256", "kid": "sandbox", "typ": "JWT"}
    parts = [json.dumps(each, separators=(",", ":")).encode() for each in (header, claims)]
    return ".".join([*map(part, parts), part(secrets.token_bytes(32))])


class Tokens:
    """Who may do what with which token. It has no lock of its own; its owner holds one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.access_lifetime: int = ACCESS_LIFETIME
        self.refresh_lifetime: int = REFRESH_LIFETIME
        self._access: dict[str, _Access] = {}
        self._refresh: dict[str, Session] = {}
        self._sessions: dict[str, set[Session]] = {}

    def open(self, email: str, domain: str, client_id: str) -> Session:
        session = Session(email, domain, client_id)
        self._sessions.setdefault(email, set()).add(session)
        return session

    def issue(self, session: Session, guid: str, expires_in: int | None = None) -> dict[str, Any]:
        """The token endpoint's answer. The session's former refresh token dies here."""
        lifetime = self.access_lifetime if expires_in is None else int(expires_in)
        now = self._clock()
        self._refresh.pop(session.refresh_token, None)
        session.refresh_token = secrets.token_urlsafe(48)
        session.refresh_expires_at = now + self.refresh_lifetime
        self._refresh[session.refresh_token] = session
        access_token = self._mint(session, guid, now, lifetime)
        return {
            "scope": "CONNECT_READ CONNECT_WRITE",
            "token_type": "Bearer",
            "access_token": access_token,
            "refresh_token": session.refresh_token,
            "expires_in": lifetime,
            "refresh_token_expires_in": self.refresh_lifetime,
        }

    def web_token(self, session: Session, guid: str) -> str:
        """An access token without a refresh token, for the JWT_WEB cookie."""
        return self._mint(session, guid, self._clock(), self.access_lifetime)

    def _mint(self, session: Session, guid: str, now: float, lifetime: int) -> str:
        for token in [token for token, each in self._access.items() if each.expires_at <= now]:
            del self._access[token]
        token = jwt(
            {
                "iss": f"https://diauth.{session.domain}",
                "client_id": session.client_id,
                "garmin_guid": guid,
                "scope": ["CONNECT_READ", "CONNECT_WRITE"],
                "iat": int(now),
                "exp": int(now) + lifetime,
                "jti": secrets.token_hex(16),
            }
        )
        self._access[token] = _Access(session, int(now) + lifetime)
        return token

    def by_access(self, token: str) -> Session | None:
        found = self._access.get(token)
        return found.session if found is not None and found.expires_at > self._clock() else None

    def by_refresh(self, token: str) -> Session | None:
        session = self._refresh.get(token)
        if session is None or session.refresh_expires_at <= self._clock():
            return None
        return session

    def expire(self, email: str, expires_in: int) -> int:
        """End an account's access tokens at that time; their `exp` stays unchanged."""
        found = [each for each in self._access.values() if each.session.email == email]
        for each in found:
            each.expires_at = self._clock() + expires_in
        return len(found)

    def revoke(self, email: str) -> int:
        sessions = self._sessions.pop(email, set())
        for session in sessions:
            self._refresh.pop(session.refresh_token, None)
        for token in [token for token, each in self._access.items() if each.session in sessions]:
            del self._access[token]
        return len(sessions)

    def counts(self) -> dict[str, int]:
        return {
            "sessions": sum(map(len, self._sessions.values())),
            "access_tokens": len(self._access),
            "refresh_tokens": len(self._refresh),
        }
