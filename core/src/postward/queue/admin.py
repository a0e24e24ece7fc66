"""The queue for people: look at it, hold, release, retry, drop.

Everything stands in the database, so another process may do this while `postward run` is running. What speaks of many
recipients is done in pieces, so that it never keeps the writer from new mail for long.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import structlog
import trio

from postward.errors import StoreError
from postward.names import Domain
from postward.queue import pick as picking
from postward.queue.figures import Figures, figures
from postward.queue.pick import EVERYTHING, Counts, Dropped, Listed, Page, Pick, RecipientState, Shown
from postward.queue.read import read_message, read_recipients
from postward.queue.report_ends import remember_dropped
from postward.queue.rows import Entry, raw, refresh, remove_if_ended
from postward.queue.spool import Spool
from postward.queue.tables import HELD, PENDING
from postward.queue.types import BounceMail, QueuedMessage
from postward.queue.writer import Writer
from postward.store.engine import explain

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.clock import Clock
    from postward.store import Database

T = TypeVar("T")
Key: TypeAlias = tuple[int, int, str]
Bounce: TypeAlias = Callable[[Dropped], Awaitable[BounceMail | None]]

AT_ONCE: Final = 500
HEADER_SHOWN: Final = 64 * 1024

_log = structlog.get_logger("postward.queue")


class Admin:
    """What operators do with the queue in `node_db`. All methods raise `StoreError` for trouble with the database."""

    def __init__(self, node_db: Database, spool_dir: Path, clock: Clock) -> None:
        self._database, self._clock = node_db, clock
        self._spool = Spool(spool_dir, inline=node_db.inline)
        self._news = trio.Event()

    @property
    def news(self) -> trio.Event:
        """Is set when this process has queued something or made it due; take it before looking, and a new one each time."""
        return self._news

    async def list(self, pick: Pick = EVERYTHING, *, after: str = "", limit: int = 50) -> Page:
        """A page of the picked messages, from the cursor `after` on. Raises `ValueError` for a cursor that is none."""
        return await self._read(partial(_page, pick=pick, after=after, limit=limit))

    async def show(self, cid: str) -> Shown | None:
        """Everything about one message; None when there is none of that id."""
        now = self._clock.now()
        return await self._read(partial(_show, cid=cid, now=now, spool=self._spool))

    async def counts(self, *, top: int = 10) -> Counts:
        """The queue in figures, with its `top` largest destinations."""
        return await self._read(lambda connection: picking.counts(raw(connection), top))

    async def figures(self, now: int) -> Figures:
        """The queue in figures without its destinations, for who asks again and again."""
        return await self._read(lambda connection: figures(raw(connection), now, expired_before=0, top=0))

    async def hold(self, pick: Pick) -> int:
        """Keep the picked recipients until they are released; returns how many. An attempt under way may still deliver them."""
        return await self._change(pick, f"state = {PENDING}", f"state = {HELD}")

    async def release(self, pick: Pick) -> int:
        """Let held recipients go, at once; returns how many."""
        return await self._change(pick, f"state = {HELD}", f"state = {PENDING}, next_try = {self._clock.now()}", due=True)

    async def retry(self, pick: Pick) -> int:
        """Make waiting recipients due now, and end the waits of their destinations; returns how many. Held ones stay."""
        now = self._clock.now()
        return await self._change(pick, f"state = {PENDING} AND next_try > {now}", f"next_try = {now}", due=True)

    async def flush(self, domain: Domain | None = None) -> int:
        """Make everything that waits, or all for one destination, due now, and end the waits of destinations."""
        pick = EVERYTHING if domain is None else Pick(domain=domain)
        changed = await self.retry(pick)
        await self._write(partial(_end_waits, domain=domain))
        self._announce()
        return changed

    async def drop(self, pick: Pick, *, bounce: Bounce | None = None) -> int:
        """Take the picked recipients out of the queue, held or not; returns how many.

        `bounce` makes the message that tells the sender, or None to tell nobody; it is queued in the transaction that drops.
        Without it nobody is told. A message that is damaged is dropped without.
        """
        dropped = 0
        top = await self._read(_last)
        where = f"state = {HELD}" if pick.held else "1"
        cursor: str | None = ""
        while cursor is not None:
            keys, cursor = await self._read(partial(_keys, pick=pick, where=where, after=cursor, top=top))
            if bounce is None:
                dropped += await self._drop(keys, ())
                continue
            for number, some in groupby(sorted(keys), key=itemgetter(0)):
                dropped += await self._drop_and_tell(number, tuple(some), bounce)
        return dropped

    async def _drop_and_tell(self, number: int, keys: Sequence[Key], bounce: Bounce) -> int:
        while True:
            positions = {position for _, position, _ in keys}
            found = await self._read(partial(_dropped, number=number, positions=positions, spool=self._spool))
            mail = None if found is None else await bounce(found)
            if found is None or mail is None:
                return await self._drop(keys, ())
            there = {one.id for one in found.recipients}
            keys = [key for key in keys if key[1] in there]
            writer = Writer(self._spool, self._insert)
            try:
                await writer.write(mail.content)
                # All or nothing: a recipient that was delivered meanwhile must not be reported as dropped.
                count = await self._drop(keys, (await writer.entry(mail.message),), exactly=True)
                if count:
                    writer.keep()
                    self._announce()
                    return count
            finally:
                await writer.abort()

    async def _drop(self, keys: Sequence[Key], bounces: Sequence[Entry], *, exactly: bool = False) -> int:
        count, files = await self._write(partial(_remove, keys=keys, bounces=bounces, exactly=exactly))
        await self._unlink(files)
        return count

    async def _change(self, pick: Pick, where: str, change: str, *, due: bool = False) -> int:
        changed, top = 0, await self._read(_last)
        cursor: str | None = ""
        while cursor is not None:
            work = partial(_update, pick=pick, where=where, change=change, after=cursor, top=top, due=due)
            count, cursor = await self._write(work)
            changed += count
        if due and changed:
            self._announce()
        return changed

    async def _insert(self, entry: Entry) -> int:
        number = await self._write(entry.insert)
        self._announce()
        return number

    async def _write(self, fn: Callable[[Connection], T]) -> T:
        try:
            return await self._database.write(fn)
        except sqlite3.IntegrityError as exc:
            raise StoreError(f"database {self._database.engines.name}: {exc}") from exc

    async def _read(self, fn: Callable[[Connection], T]) -> T:
        try:
            return await self._database.read(fn)
        except sqlite3.Error as exc:
            # The driver's own errors pass by SQLAlchemy.
            raise explain(exc, self._database.engines.name) or exc from exc

    async def _unlink(self, names: Sequence[str]) -> None:
        if names:
            with trio.CancelScope(shield=True):
                for name, error in await self._spool.run(self._spool.remove, names):
                    _log.warning(
                        "spool-file-stays", file=name, error=error.strerror or str(error), hint="removed at the next start"
                    )

    def _announce(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()


def _page(connection: Connection, pick: Pick, after: str, limit: int) -> Page:
    database = raw(connection)
    found: dict[int, Listed] = {}
    cursor = after
    for number, cursor in picking.numbers(database, pick, after):
        if number not in found and (one := picking.listed(database, number)) is not None:
            found[number] = one
        if len(found) >= limit:
            return Page(messages=tuple(found.values()), next=cursor)
    return Page(messages=tuple(found.values()), next="")


def _show(connection: Connection, cid: str, now: int, spool: Spool) -> Shown | None:
    database = raw(connection)
    for number, _ in picking.numbers(database, Pick(cid=cid), ""):
        listed = picking.listed(database, number)
        if listed is None:
            return None
        message: QueuedMessage | None = None
        recipients: tuple[RecipientState, ...] = ()
        problem = listed.problem
        try:
            recipients = tuple(
                RecipientState(recipient=one, held=state == HELD, next_try=next_try)
                for one, state, next_try in read_recipients(database, number)
            )
            message = read_message(database, number, spool)
        except (ValueError, OSError) as exc:
            problem = problem or str(exc)
        header = b"" if message is None else message.content.header[:HEADER_SHOWN]
        age = max(0, now - listed.received)
        return Shown(listed=listed, message=message, recipients=recipients, header=header, age=age, problem=problem)
    return None


def _dropped(connection: Connection, number: int, positions: set[int], spool: Spool) -> Dropped | None:
    database = raw(connection)
    try:
        message = read_message(database, number, spool)
        recipients = tuple(one for one, _, _ in read_recipients(database, number) if one.id in positions)
    except (ValueError, OSError) as exc:
        _log.error("queue-message-damaged", message=number, reason=str(exc), hint="it is dropped without a bounce")
        return None
    return Dropped(message=message, recipients=recipients) if recipients else None


def _last(connection: Connection) -> int:
    return int(raw(connection).execute("SELECT COALESCE(MAX(id), 0) FROM queue_messages").fetchone()[0])


def _keys(connection: Connection, pick: Pick, where: str, after: str, top: int) -> tuple[tuple[Key, ...], str | None]:
    """Some of the picked recipients, and where to go on; None at the end. Mail that came later than `top` is left alone."""
    database = raw(connection)
    column = "message, position, CAST(domain AS BLOB)"
    if pick.domain is not None:
        # The cursor is not used: what was changed is no longer found, or is found behind it.
        query = f"SELECT {column} FROM queue_recipients WHERE domain = ? AND {where} AND message <= ? LIMIT {AT_ONCE}"
        rows = database.execute(query, (str(pick.domain), top)).fetchall()
        return tuple(_key(row) for row in rows), "" if len(rows) == AT_ONCE else None
    query = f"SELECT {column} FROM queue_recipients WHERE message = ? AND {where}"
    keys: list[Key] = []
    cursor: str | None = None
    for number, behind in islice(picking.numbers(database, pick, after), AT_ONCE):
        if number > top:
            return tuple(keys), None
        cursor = behind
        keys += [_key(row) for row in database.execute(query, (number,))]
        if len(keys) >= AT_ONCE:
            break
    return tuple(keys), cursor


def _key(row: tuple[int, int, bytes]) -> Key:
    return row[0], row[1], row[2].decode("utf-8", "replace")


def _update(
    connection: Connection, pick: Pick, where: str, change: str, after: str, top: int, *, due: bool
) -> tuple[int, str | None]:
    keys, cursor = _keys(connection, pick, where, after, top)
    database = raw(connection)
    query = f"UPDATE queue_recipients SET {change} WHERE message = ? AND position = ?"
    database.executemany(query, [(message, position) for message, position, _ in keys])
    domains = {domain for _, _, domain in keys}
    if due:
        database.executemany("UPDATE queue_destinations SET not_before = 0 WHERE domain = ?", [(one,) for one in domains])
    refresh(database, domains)
    return len(keys), cursor


def _end_waits(connection: Connection, domain: Domain | None) -> None:
    database = raw(connection)
    query = "SELECT domain FROM queue_destinations WHERE not_before > 0 AND (?1 IS NULL OR domain = ?1)"
    domains = [one for (one,) in database.execute(query, (None if domain is None else str(domain),))]
    database.executemany("UPDATE queue_destinations SET not_before = 0 WHERE domain = ?", [(one,) for one in domains])
    refresh(database, domains)


def _remove(
    connection: Connection, keys: Sequence[Key], bounces: Sequence[Entry], *, exactly: bool
) -> tuple[int, Sequence[str]]:
    database, files = raw(connection), []
    there = "SELECT 1 FROM queue_recipients WHERE message = ? AND position = ?"
    if exactly and not all(database.execute(there, key[:2]).fetchone() for key in keys):
        return 0, ()
    query = "DELETE FROM queue_recipients WHERE message = ? AND position = ?"
    remember_dropped(database, {message for message, _, _ in keys})
    count = sum(database.execute(query, key[:2]).rowcount for key in keys)
    for message in {message for message, _, _ in keys}:
        spool = database.execute("SELECT spool FROM queue_messages WHERE id = ?", (message,)).fetchone()
        if remove_if_ended(database, message) and spool is not None and spool[0]:
            files.append(str(spool[0]))
    refresh(database, {domain for _, _, domain in keys})
    for bounce in bounces:
        bounce.insert(connection)
    return count, files
