"""Who may log in: a file of names and argon2 hashes, one `name:hash` a line, read again when it changes (RFC 9106).

`#` begins a comment. Checking a password costs time and memory on purpose, so few are checked at once, in threads, and a name
that does not exist costs as much as one that does. Programs log in for each message: a password that was right is known for
five minutes, as a keyed digest with the hash that it fits, so that a changed password counts at once.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from postward.config_edit import replace_file
from postward.errors import ConfigError, PostwardError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

AT_ONCE: Final = 2
MAX_PASSWORD: Final = 1024
KNOWN_FOR: Final = 300.0
_KNOWN: Final = 1000
# No white space: what editors and shells lose must not be part of a name.
_NAME: Final = re.compile(r"[^\s:#\x00-\x1f\x7f-\x9f\ud800-\udfff][^\s:\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,254}")
_HASH: Final = re.compile(r"\$argon2(?:id|i|d)\$(?:v=\d+\$)?[a-z0-9=,]+\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{22,}")


class Users:
    """The users of one file. Raises `ConfigError` when it cannot be read at first; later trouble keeps what was read."""

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        self._path, self._log = path, log
        self._hasher = PasswordHasher()
        self._limit = trio.CapacityLimiter(AT_ONCE)
        self._nobody = ""
        # The stamp first: what changes while the file is read must be noticed.
        self._stamp = _stamp(path)
        self._hashes: Mapping[str, str] = read_users(path)
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()

    async def check(self, user: str, password: str) -> bool:
        """Whether this is the password of this user."""
        self._refresh()
        known = self._hashes.get(user)
        if len(password) > MAX_PASSWORD:
            return False
        try:
            digest = self._digest(user, known or "", password)
        except UnicodeEncodeError:
            return False
        if self._known.get(digest, -inf) > trio.current_time():
            await trio.lowlevel.checkpoint()
            return True
        matches = await trio.to_thread.run_sync(self._verify, known, password, limiter=self._limit)
        if not matches or known is None:
            return False
        self._remember(digest)
        return True

    def stored(self, user: str) -> str:
        """The hash of a user as it stands in the file now; empty where there is no such user."""
        self._refresh()
        return self._hashes.get(user, "")

    def _verify(self, stored: str | None, password: str) -> bool:
        # Made here, because it costs as much as a check and this is no place that others wait for.
        self._nobody = self._nobody or self._hasher.hash("")
        try:
            return bool(self._hasher.verify(stored or self._nobody, password))
        except (VerificationError, InvalidHashError):
            return False

    def _digest(self, user: str, stored: str, password: str) -> bytes:
        # Neither the name nor the hash has a NUL; the password may, and stands last.
        return hashlib.blake2b("\0".join((user, stored, password)).encode(), key=self._key).digest()

    def _remember(self, digest: bytes) -> None:
        self._known.pop(digest, None)
        self._known[digest] = trio.current_time() + KNOWN_FOR
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            self._hashes = read_users(self._path)
        except ConfigError as exc:
            self._log.error("users-unreadable", error=str(exc), hint="the users known before remain")
        self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def read_users(path: Path) -> dict[str, str]:
    """The users of a file and their hashes. Raises `ConfigError`, naming the line."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(getattr(exc, "strerror", None) or "is not text", file=str(path)) from exc
    users: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, stored = line.strip().partition(":")
        if not colon or _NAME.fullmatch(name) is None or not _is_hash(stored):
            raise ConfigError("should be 'name:hash', with a hash of argon2", file=str(path), key=f"line {number}")
        if name in users:
            raise ConfigError(f"names {name!r} twice", file=str(path), key=f"line {number}")
        users[name] = stored
    return users


def _is_hash(stored: str) -> bool:
    """Whether this can be verified against at all: a hash that was cut short would lock its user out without a word."""
    try:
        extract_parameters(stored)
    except InvalidHashError:
        return False
    return _HASH.fullmatch(stored) is not None


def set_password(path: Path, user: str, password: str) -> bool:
    """Set the password of a user, in place of an old one or as a new line; whether the user is new.

    The file is written whole beside the old one and then takes its place, with the mode and owner that it had; a new one is
    readable by its owner alone. Raises `PostwardError`.
    """
    if _NAME.fullmatch(user) is None:
        raise PostwardError(
            f"not the name of a user: {user[:80]!r}; no spaces, no colons, no '#' in front, at most 255 characters"
        )
    if not password or len(password) > MAX_PASSWORD:
        raise PostwardError(f"a password has 1 to {MAX_PASSWORD} characters")
    try:
        line = f"{user}:{PasswordHasher().hash(password)}"
    except UnicodeEncodeError:
        raise PostwardError("the password is not text") from None
    return not _rewrite(path, user, line)


def remove_user(path: Path, user: str) -> bool:
    """Remove a user; whether there was one. Raises `PostwardError`."""
    return _rewrite(path, user, None)


def _rewrite(path: Path, user: str, line: str | None) -> bool:
    """Put `line` in the place of a user's line, or of none; whether there was one. The rest of the file stays as it is."""
    before = _content(path)
    lines = (before or b"").decode().split("\n")
    if not lines[-1]:
        lines.pop()
    found = [index for index, each in enumerate(lines) if each.partition(":")[0].strip() == user]
    if line is None and not found:
        return False
    kept = [each for index, each in enumerate(lines) if index not in found]
    if line is not None:
        kept.insert(found[0] if found else len(kept), line)
    replace_file(path, before, "".join(f"{each}\n" for each in kept), new_mode=0o600)
    return bool(found)


def _content(path: Path) -> bytes | None:
    """What stands in the file now; None where there is none. Raises `ConfigError` also where it is no text."""
    try:
        content = path.read_bytes()
        content.decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(getattr(exc, "strerror", None) or "is not text", file=str(path)) from exc
    return content
