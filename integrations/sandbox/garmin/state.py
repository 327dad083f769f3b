"""What Garmin knows: accounts, sign-ins under way, tickets, sessions.

Every method is safe to call from any thread, and holds the lock for a few
dictionary look-ups at most.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any

from ..provider import Provider
from . import demo
from .demo import WAYS, Account, Gear
from .tokens import Tokens

#: Seconds between a correct password and the last moment for its code.
MFA_LIFETIME = 600
TICKET_LIFETIME = 300
#: This many wrong passwords in a row lock an account.
WRONG_PASSWORDS = 5
#: The client id of the app for Android.
DI_CLIENT_ID = "GARMIN_CONNECT_MOBILE_ANDROID_DI_2025Q2"

_FIELDS: dict[str, type | UnionType] = {
    "blocked": list | tuple,
    "captcha": bool,
    "delay": int | float,
    "display_name": str | None,
    "domain": str,
    "full_name": str,
    "gear": list,
    "inactive": bool,
    "locked": bool,
    "measurement_system": str,
    "mfa_code": str | None,
    "mfa_method": str,
    "password": str,
    "throttled": bool,
    "wants": str,
    "wrong_passwords": int,
}
_MOST_SIGN_INS = 10_000


@dataclass
class SignIn:
    """A browser or an app with the sign-in page open, known by its SESSION cookie."""

    domain: str
    csrf: str
    account: Account | None = None
    mfa_until: float = 0.0


@dataclass
class Ticket:
    """A CAS service ticket, good once."""

    account: Account
    expires_at: float


class GarminState(Provider):
    """Garmin's memory, and the methods with which a test changes it.

    `accounts` is keyed by e-mail address, and so are most methods.
    `token_lifetime`, `refresh_lifetime` and `mfa_lifetime` (seconds) may be
    changed at any time, and so may the fields of an account.
    """

    def __init__(
        self,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(sleep=sleep, clock=clock)
        self.sleep = sleep
        self._forget()

    def _forget(self) -> None:
        self.accounts: dict[str, Account] = {each.email: each for each in demo.accounts()}
        self.mfa_lifetime = MFA_LIFETIME
        self._tokens = Tokens(self.clock)
        self._sign_ins: dict[str, SignIn] = {}
        self._tickets: dict[str, Ticket] = {}
        self._attempts: Counter[str] = Counter()
        self._mfa_attempts: Counter[str] = Counter()

    def reset(self) -> None:
        """Back to the start: demo data as delivered, no sessions, no calls, no faults."""
        super().reset()
        with self._lock:
            self._forget()

    # For tests

    @property
    def attempts(self) -> Counter[str]:
        """How many passwords reached Garmin, right or wrong, by the address they came with."""
        with self._lock:
            return Counter(self._attempts)

    @property
    def mfa_attempts(self) -> Counter[str]:
        """How many codes reached Garmin, right or wrong."""
        with self._lock:
            return Counter(self._mfa_attempts)

    @property
    def token_lifetime(self) -> int:
        return self._tokens.access_lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: int) -> None:
        self._tokens.access_lifetime = int(seconds)

    @property
    def refresh_lifetime(self) -> int:
        return self._tokens.refresh_lifetime

    @refresh_lifetime.setter
    def refresh_lifetime(self, seconds: int) -> None:
        self._tokens.refresh_lifetime = int(seconds)

    def issue_session(
        self, email: str, expires_in: int | None = None, client_id: str = DI_CLIENT_ID
    ) -> dict[str, str]:
        """Make a session without a sign-in, in the form of the library's `dumps()`.

        `expires_in` (seconds) may be negative for a token that has expired already. Sessions of one
        account live side by side.

        Raises LookupError for an unknown account.
        """
        with self._lock:
            account = self.accounts[email]
            session = self._tokens.open(email, account.domain, client_id)
            reply = self._tokens.issue(session, account.guid, expires_in)
            return {
                "di_token": reply["access_token"],
                "di_refresh_token": reply["refresh_token"],
                "di_client_id": client_id,
            }

    def expire(self, email: str, expires_in: int = -1) -> int:
        """Let the account's access tokens end `expires_in` seconds from now; return how many.

        Only Garmin knows this: the `exp` inside the tokens stays as it was.
        """
        with self._lock:
            return self._tokens.expire(email, expires_in)

    def revoke(self, email: str) -> int:
        """End every session of an account, as its owner can on Garmin's page; return how many."""
        with self._lock:
            return self._tokens.revoke(email)

    def is_alive(self, token: str) -> bool:
        """Say whether Garmin would still take this access or refresh token."""
        with self._lock:
            return bool(self._tokens.by_access(token) or self._tokens.by_refresh(token))

    def end_mfa(self, email: str) -> int:
        """Expire the sign-ins that wait for a code; return how many."""
        with self._lock:
            waiting = [
                each
                for each in self._sign_ins.values()
                if each.account and each.account.email == email
            ]
            for each in waiting:
                each.mfa_until = 0.0
            return len(waiting)

    def unlock(self, email: str) -> None:
        with self._lock:
            self.accounts[email].locked = False
            self.accounts[email].wrong_passwords = 0

    def edit_account(self, email: str, **changes: Any) -> Account:
        """Change an account's fields; gear may come as dictionaries.

        Raises LookupError for an unknown account, TypeError or ValueError for wrong fields.
        """
        with self._lock:
            account = self.accounts[email]
            for name, value in changes.items():
                if name not in _FIELDS or not isinstance(value, _FIELDS[name]):
                    raise TypeError(f"an account has no such {name}")
            if changes.get("domain", account.domain) not in ("garmin.com", "garmin.cn"):
                raise ValueError("the domains are garmin.com and garmin.cn")
            if set(changes.get("blocked", ())) - set(WAYS):
                raise ValueError(f"the ways in are {', '.join(WAYS)}")
            if not 0 <= changes.get("delay", 0) <= 3600:
                raise ValueError("delay must be between 0 and 3600")
            for name, value in changes.items():
                if name == "gear":
                    value = [each if isinstance(each, Gear) else Gear(**each) for each in value]
                setattr(account, name, tuple(value) if name == "blocked" else value)
            return account

    def add_account(
        self, email: str, full_name: str = "Extra", gear: Sequence[Gear] = (), **fields: Any
    ) -> Account:
        """Invent one more account, or replace one. Raises as `edit_account` does."""
        with self._lock:
            profile_id = 1 + max(each.profile_id for each in self.accounts.values())
            former = self.accounts.get(email)
            self.accounts[email] = Account(email, full_name, profile_id)
            try:
                return self.edit_account(email, gear=list(gear), **fields)
            except (TypeError, ValueError):
                del self.accounts[email]
                if former is not None:
                    self.accounts[email] = former
                raise

    def counts(self) -> dict[str, int]:
        with self._lock:
            waiting = [each for each in self._sign_ins.values() if each.account]
            return self._tokens.counts() | {
                "attempts": sum(self._attempts.values()),
                "mfa_pending": len(waiting),
                "tickets": len(self._tickets),
            }

    # For the views

    def open_sign_in(self, domain: str) -> tuple[str, SignIn]:
        """Serve the sign-in page to a new visitor; return the cookie that identifies them."""
        with self._lock:
            while len(self._sign_ins) >= _MOST_SIGN_INS:
                del self._sign_ins[next(iter(self._sign_ins))]
            cookie, sign_in = secrets.token_hex(16), SignIn(domain, secrets.token_hex(16))
            self._sign_ins[cookie] = sign_in
            return cookie, sign_in

    def find_sign_in(self, cookie: str, domain: str) -> SignIn | None:
        with self._lock:
            found = self._sign_ins.get(cookie)
            return found if found is not None and found.domain == domain else None

    def count_attempt(self, email: str) -> None:
        with self._lock:
            self._attempts[email] += 1

    def find_account(self, email: str, domain: str) -> Account | None:
        """The account of this address. Each side of the world has its own."""
        with self._lock:
            account = self.accounts.get(email.strip().lower())
            return account if account is not None and account.domain == domain else None

    def judge(self, account: Account | None, password: str) -> str:
        """The `responseStatus.type` that a password gets. The fifth wrong one locks."""
        with self._lock:
            if account is None:
                return "INVALID_USERNAME_PASSWORD"
            if account.locked:
                return "ACCOUNT_LOCKED"
            if account.captcha:
                return "CAPTCHA_REQUIRED"
            if password != account.password:
                account.wrong_passwords += 1
                account.locked = account.wrong_passwords >= WRONG_PASSWORDS
                return "INVALID_USERNAME_PASSWORD"
            account.wrong_passwords = 0
            if account.mfa_code is not None:
                return "MFA_REQUIRED"
            return account.wants or "SUCCESSFUL"

    def await_code(self, sign_in: SignIn, account: Account) -> None:
        with self._lock:
            sign_in.account, sign_in.mfa_until = account, self.clock() + self.mfa_lifetime

    def judge_code(self, sign_in: SignIn | None, code: str) -> tuple[str, Account | None]:
        """The `responseStatus.type` that a code gets. Only the right one ends the waiting."""
        with self._lock:
            account = sign_in.account if sign_in is not None else None
            if sign_in is None or account is None:
                return "SESSION_EXPIRED", None
            self._mfa_attempts[account.email] += 1
            if sign_in.mfa_until <= self.clock():
                return "SESSION_EXPIRED", account
            if code != account.mfa_code:
                return "MFA_CODE_INVALID", account
            sign_in.account = None
            return account.wants or "SUCCESSFUL", account

    def grant_ticket(self, account: Account) -> str:
        with self._lock:
            ticket = f"ST-{secrets.randbelow(10**7):07}-{secrets.token_hex(10)}-sso"
            self._tickets[ticket] = Ticket(account, self.clock() + TICKET_LIFETIME)
            return ticket

    def spend_ticket(self, ticket: str, domain: str) -> Account | None:
        with self._lock:
            found = self._tickets.get(ticket)
            if found is None or found.account.domain != domain:
                return None
            del self._tickets[ticket]
            return found.account if found.expires_at > self.clock() else None

    def start_session(self, account: Account, client_id: str) -> dict[str, Any]:
        """Answer the exchange of a ticket."""
        with self._lock:
            session = self._tokens.open(account.email, account.domain, client_id)
            return self._tokens.issue(session, account.guid)

    def start_web_session(self, account: Account) -> str:
        """Answer a ticket that a browser brings, with the value of the JWT_WEB cookie."""
        with self._lock:
            session = self._tokens.open(account.email, account.domain, "GarminConnect")
            return self._tokens.web_token(session, account.guid)

    def is_throttled(self, refresh_token: str) -> bool:
        with self._lock:
            session = self._tokens.by_refresh(refresh_token)
            account = self.accounts.get(session.email) if session is not None else None
            return account is not None and account.throttled

    def refresh(self, refresh_token: str, domain: str, client_id: str) -> dict[str, Any] | None:
        """Answer the refresh grant, or None for a dead token; the token given dies at once."""
        with self._lock:
            session = self._tokens.by_refresh(refresh_token)
            if session is None or (session.domain, session.client_id) != (domain, client_id):
                return None
            account = self.accounts.get(session.email)
            if account is None:
                return None
            return self._tokens.issue(session, account.guid)

    def find_bearer(self, token: str, domain: str) -> Account | None:
        """Whose access token this is. A session belongs to one side of the world."""
        with self._lock:
            session = self._tokens.by_access(token)
            if session is None or session.domain != domain:
                return None
            return self.accounts.get(session.email)
