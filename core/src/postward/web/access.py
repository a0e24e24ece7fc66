"""Who may see pages, and who may change things: logins, sessions, and tokens against forged forms.

A session is known to this process alone, so it ends with it. It also ends 12 hours after the login, two hours after it was
last used, and as soon as its user's line in the file changes. A form carries a token that is bound to the session, or, before
there is one, to a cookie of the same browser; and a browser that says that a form came from another site is not heard.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from postward.listen.clients import WrongLogins
from postward.web.page import Tone

if TYPE_CHECKING:
    from collections.abc import Collection

    from postward.listen.users import Users

COOKIE: Final = "postward_session"
VISIT: Final = "postward_visit"
LIFE: Final = 12 * 3600.0
IDLE: Final = 2 * 3600.0
MAX_SESSIONS: Final = 1000
_SESSIONS_EACH: Final = 20


@dataclass(slots=True, kw_only=True)
class Session:
    """Somebody who is logged in. `told` is what the next page says above, once."""

    user: str
    stored: str = field(repr=False)
    begun: float
    used: float
    told: str = ""
    tone: Tone = Tone.GOOD


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks: `secret` is what tokens are bound to, empty where there is no cookie yet; `session` None before a login."""

    secret: str = field(repr=False)
    session: Session | None = None
    basic: str = ""

    @property
    def user(self) -> str:
        """The name that was logged in with."""
        return self.session.user if self.session is not None else self.basic


class TooManyWrong(Exception):
    """This client was wrong so often that it has to wait."""


class Access:
    """The logins of one web server. Without `users` there are none: everybody who gets here may read, and nobody may change.

    `readers` are users who may read only.
    """

    def __init__(self, users: Users | None, readers: Collection[str] = ()) -> None:
        self.users, self._readers = users, frozenset(readers)
        self._key = secrets.token_bytes(32)
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._wrong = WrongLogins()

    def visitor(self, cookies: Mapping[str, str]) -> Visitor:
        """Who shows these cookies."""
        token = cookies.get(COOKIE, "")
        session = self._session(token)
        return Visitor(secret=token, session=session) if session is not None else Visitor(secret=cookies.get(VISIT, ""))

    def may_read(self, visitor: Visitor) -> bool:
        """Whether somebody may see the pages."""
        return self.users is None or bool(visitor.user)

    def may_change(self, visitor: Visitor) -> bool:
        """Whether somebody may press buttons: only from a session, in which forms are protected."""
        return visitor.session is not None and visitor.session.user not in self._readers

    async def log_in(self, user: str, password: str, client: str) -> str | None:
        """The secret of a new session; None for a wrong name or password. Raises `TooManyWrong`."""
        if not await self._is_right(user, password, client):
            return None
        assert self.users is not None
        token = secrets.token_urlsafe(32)
        now = trio.current_time()
        self._sessions[_digest(token)] = Session(user=user, stored=self.users.stored(user), begun=now, used=now)
        self._keep_few(user)
        return token

    async def basic(self, user: str, password: str, client: str) -> Visitor | None:
        """Who sends a name and a password with each request, as programs do; they may read. Raises `TooManyWrong`."""
        return Visitor(secret="", basic=user) if await self._is_right(user, password, client) else None

    def log_out(self, visitor: Visitor) -> None:
        """End a session."""
        self._sessions.pop(_digest(visitor.secret), None)

    def token(self, visitor: Visitor) -> str:
        """What the forms of this visitor carry."""
        return hmac.digest(self._key, visitor.secret.encode(), "sha256").hex() if visitor.secret else ""

    def is_own(self, visitor: Visitor, token: str) -> bool:
        """Whether a form carries the token of its visitor."""
        return bool(visitor.secret) and hmac.compare_digest(self.token(visitor).encode(), token.encode())

    async def _is_right(self, user: str, password: str, client: str) -> bool:
        if self.users is None:
            return False
        if self._wrong.too_many(client):
            raise TooManyWrong
        # Counted before it is known, so that many at once are no way around.
        self._wrong.count(client)
        right = await self.users.check(user, password)
        if right:
            self._wrong.forgive(client)
        return right

    def _session(self, token: str) -> Session | None:
        if not token or self.users is None:
            return None
        key, now = _digest(token), trio.current_time()
        session = self._sessions.get(key)
        if session is None:
            return None
        over = now - session.begun > LIFE or now - session.used > IDLE
        if over or not session.stored or self.users.stored(session.user) != session.stored:
            del self._sessions[key]
            return None
        session.used = now
        return session

    def _keep_few(self, user: str) -> None:
        own = [key for key, session in self._sessions.items() if session.user == user]
        for key in own[:-_SESSIONS_EACH]:
            del self._sessions[key]
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)


def fresh_secret() -> str:
    """A secret for a browser that has none."""
    return secrets.token_urlsafe(24)


def is_from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a form was sent by a page of another site (Fetch Metadata; RFC 6454 §7)."""
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin", "")
    if site not in ("same-origin", "none"):
        return True
    return bool(origin) and (origin == "null" or urlsplit(origin).netloc.lower() != headers.get("host", "").lower())


def _digest(token: str) -> bytes:
    # Looked up by what nobody can steer, so that the time it takes says nothing.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
