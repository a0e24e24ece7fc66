"""Who may log in: a file of names and argon2 hashes, one `name:hash` a line, read again when it changes (RFC 9106).

`#` begins a comment. Checking a password costs time and memory on purpose, so few are checked at once, in threads, and a name
that does not exist costs as much as one that does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from postward.errors import ConfigError, PostwardError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

AT_ONCE: Final = 2
MAX_PASSWORD: Final = 1024
_NAME: Final = re.compile(r"[^\s:#\x00-\x1f\x7f][^:\x00-\x1f\x7f]{0,254}")


class Users:
    """The users of one file. Raises `ConfigError` when it cannot be read at first; later trouble keeps what was read."""

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        self._path, self._log = path, log
        self._hasher = PasswordHasher()
        self._limit = trio.CapacityLimiter(AT_ONCE)
        self._nobody = ""
        self._hashes: Mapping[str, str] = read_users(path)
        self._stamp = _stamp(path)

    async def check(self, user: str, password: str) -> bool:
        """Whether this is the password of this user."""
        self._refresh()
        known = self._hashes.get(user)
        if len(password) > MAX_PASSWORD:
            return False
        matches = await trio.to_thread.run_sync(self._verify, known, password, limiter=self._limit)
        return matches and known is not None

    def _verify(self, stored: str | None, password: str) -> bool:
        # Made here, because it costs as much as a check and this is no place that others wait for.
        self._nobody = self._nobody or self._hasher.hash("")
        try:
            return bool(self._hasher.verify(stored or self._nobody, password))
        except (VerificationError, InvalidHashError):
            return False

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
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, stored = line.strip().partition(":")
        if not colon or _NAME.fullmatch(name) is None or not stored.startswith("$argon2"):
            raise ConfigError("should be 'name:hash', with a hash of argon2", file=str(path), key=f"line {number}")
        if name in users:
            raise ConfigError(f"names {name!r} twice", file=str(path), key=f"line {number}")
        users[name] = stored
    return users


def set_password(path: Path, user: str, password: str) -> bool:
    """Set the password of a user, in place of an old one or as a new line; whether the user is new.

    The file is written whole beside the old one and then takes its place, readable by its owner alone. Raises `PostwardError`.
    """
    if _NAME.fullmatch(user) is None:
        raise PostwardError(f"not the name of a user: {user[:80]!r}")
    if not password or len(password) > MAX_PASSWORD:
        raise PostwardError(f"a password has 1 to {MAX_PASSWORD} characters")
    line = f"{user}:{PasswordHasher().hash(password)}"
    _write(path, lines := _lines(path), line, user)
    return not any(each.partition(":")[0].strip() == user for each in lines)


def remove_user(path: Path, user: str) -> bool:
    """Remove a user; whether there was one. Raises `PostwardError`."""
    lines = _lines(path)
    _write(path, lines, None, user)
    return any(each.partition(":")[0].strip() == user for each in lines)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(getattr(exc, "strerror", None) or "is not text", file=str(path)) from exc


def _write(path: Path, lines: list[str], line: str | None, user: str) -> None:
    kept = [each for each in lines if each.partition(":")[0].strip() != user]
    new = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(f"{each}\n" for each in [*kept, *([line] if line else [])]))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as exc:
        raise PostwardError(f"{path}: {exc.strerror or exc}") from exc
