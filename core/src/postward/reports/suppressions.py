"""Who gets no reports: addresses, mail domains and hosts, entered by an operator or by a bounce, each with an end.

What is suppressed is looked up when a report is about to go, so a change acts at once on what waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.names import Address, Domain
from postward.reports.rows import suppress
from postward.store import change, fetch

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.store import Database

FOR_EVER: Final = 253_402_300_799_000_000
"""The last second of the year 9999, in microseconds: a suppression without an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """`subject` gets nothing before `until`, microseconds UTC."""

    subject: str
    until: int
    reason: str


class Suppressions:
    """The list in a results database. All methods raise `StoreError` for trouble with it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, subject: str, *, until: int = FOR_EVER, reason: str) -> str:
        """Send nothing to an address, or to all of a domain or host; returns how it stands in the list.

        One that is there gets the new end and reason. Raises `InvalidName` for what is neither.
        """
        key = normal(subject)
        await self._database.write(lambda connection: suppress(connection, key, until, reason))
        return key

    async def remove(self, subject: str) -> bool:
        """Lift a suppression; False when there was none. Raises `InvalidName`."""
        key = normal(subject)
        statement = "DELETE FROM core_suppressions WHERE subject = ?"
        return await self._database.write(lambda connection: change(connection, statement, (key,)) > 0)

    async def list(self) -> list[Suppression]:
        """All of them, also those that have run out and are not yet forgotten, by subject."""
        return await self._database.read(_all)


def normal(subject: str) -> str:
    """A subject as it is stored: an address in lower case, or a domain. Raises `InvalidName`."""
    text = subject.strip()
    if text[:7].lower() == "mailto:":
        text = text[7:]
    return str(Address.parse(text)).lower() if "@" in text else str(Domain(text))


def _all(connection: Connection) -> list[Suppression]:
    rows = fetch(connection, "SELECT subject, until, reason FROM core_suppressions ORDER BY subject")
    return [Suppression(subject=str(subject), until=int(until), reason=str(reason)) for subject, until, reason in rows]
