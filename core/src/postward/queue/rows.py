"""Rows of the queue, written by hand on the driver's own connection: SQLAlchemy would cost more than SQLite itself.

All functions run inside a transaction of the node's database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from postward.model import BytesContent, Content, TlsWish
from postward.names import Address, Domain
from postward.queue.tables import PENDING
from postward.queue.types import NewMessage, QueuedMessage, QueuedRecipient, shard_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.queue.spool import Spool

MAX_REPLY: Final = 1000

MESSAGE: Final = "id, cid, sender, received, size, wish, smtputf8, eight_bit, is_report, is_bounce, ret, envid, spool, head"
RECIPIENT: Final = "position, local, domain, attempts, notify, orcpt, told_delay, last_reply, host, last_try"

_INSERT_MESSAGE: Final = (
    "INSERT INTO queue_messages (cid, sender, received, size, wish, smtputf8, eight_bit, is_report, is_bounce, ret, envid,"
    " spool, head) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_RECIPIENT: Final = (
    "INSERT INTO queue_recipients (message, position, local, domain, state, next_try, attempts, told_delay, last_try, notify,"
    f" orcpt, host, last_reply) VALUES (?, ?, ?, ?, {PENDING}, ?, 0, 0, 0, ?, ?, '', '')"
)
_ADVANCE: Final = (
    "INSERT INTO queue_destinations (domain, shard, next_due, not_before) VALUES (?, ?, ?, 0) ON CONFLICT (domain) DO UPDATE"
    " SET next_due = MAX(not_before, excluded.next_due) WHERE MAX(not_before, excluded.next_due) < next_due"
)
_FIRST_TRY: Final = f"SELECT MIN(next_try) FROM queue_recipients WHERE domain = ? AND state = {PENDING}"
_SET_DUE: Final = (
    "INSERT INTO queue_destinations (domain, shard, next_due, not_before) VALUES (?, ?, ?, 0) ON CONFLICT (domain) DO UPDATE"
    " SET next_due = MAX(not_before, excluded.next_due)"
)

MessageRow: TypeAlias = tuple[str, str, int, int, str, bool, bool, bool, bool, str, str, str, bytes]
RecipientRow: TypeAlias = tuple[int, str, str, int, str, str]


def raw(connection: Connection) -> sqlite3.Connection:
    """The driver's connection, in the same transaction."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)


def clean(text: str, limit: int = MAX_REPLY) -> str:
    """Text from a peer as the database takes it: real Unicode, of bounded length."""
    text = text[:limit]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class Entry:
    """A message ready to be inserted; making it raises `ValueError` for what could not be stored."""

    __slots__ = ("body", "domains", "recipients", "row")

    def __init__(self, message: NewMessage, body: bytes | None, size: int, spool: str) -> None:
        if not message.recipients:
            raise ValueError("a message without recipients cannot be queued")
        self.body = body
        sender = "" if message.sender is None else str(message.sender)
        self.row: MessageRow = (
            message.cid,
            sender,
            message.received,
            size + len(message.head),
            message.wish.value,
            message.smtputf8,
            message.eight_bit,
            message.is_report,
            message.is_bounce,
            message.ret,
            message.envid,
            spool,
            message.head,
        )
        self.recipients: list[RecipientRow] = [
            (position, one.address.local, str(one.address.domain), message.received, ",".join(one.notify), one.orcpt)
            for position, one in enumerate(message.recipients)
        ]
        # A surrogate would be noticed only in the transaction that others share.
        for text in (sender, message.envid, *(f"{local}{orcpt}" for _, local, _, _, _, orcpt in self.recipients)):
            if not text.isascii():
                text.encode()
        self.domains = [(domain, shard_of(domain), message.received) for domain in {row[2] for row in self.recipients}]

    def insert(self, connection: Connection) -> int:
        """Write it; returns the number of the message."""
        database = raw(connection)
        number = database.execute(_INSERT_MESSAGE, self.row).lastrowid
        assert number is not None
        if self.body is not None:
            database.execute("INSERT INTO queue_bodies (message, data) VALUES (?, ?)", (number, self.body))
        if len(self.recipients) == 1:
            database.execute(_INSERT_RECIPIENT, (number, *self.recipients[0]))
            database.execute(_ADVANCE, self.domains[0])
        else:
            database.executemany(_INSERT_RECIPIENT, [(number, *row) for row in self.recipients])
            database.executemany(_ADVANCE, self.domains)
        return number


def refresh(database: sqlite3.Connection, domains: Iterable[str]) -> None:
    """Make the run queue say of these domains what their recipients say."""
    for domain in domains:
        (first,) = database.execute(_FIRST_TRY, (domain,)).fetchone()
        if first is None:
            database.execute("DELETE FROM queue_destinations WHERE domain = ?", (domain,))
        else:
            database.execute(_SET_DUE, (domain, shard_of(domain), first))


def remove_if_ended(database: sqlite3.Connection, message: int) -> bool:
    """Remove a message without recipients, with its body; whether it is gone. Its file is the caller's, after the commit."""
    query = "DELETE FROM queue_messages WHERE id = ? AND NOT EXISTS (SELECT 1 FROM queue_recipients WHERE message = ?)"
    if not database.execute(query, (message, message)).rowcount:
        return False
    database.execute("DELETE FROM queue_bodies WHERE message = ?", (message,))
    return True


def content_of(row: tuple[object, ...], body: bytes | None, spool: Spool) -> Content:
    """The content that a row of `MESSAGE` speaks of. Raises `ValueError` where it is damaged, `OSError` as files do."""
    size, eight_bit, name, head = row[4], bool(row[7]), row[12], row[13]
    if not isinstance(head, bytes) or not isinstance(size, int) or not isinstance(name, str):
        raise ValueError("its row is damaged")
    if name:
        return spool.content(name, head, size - len(head), eight_bit=eight_bit or not head.isascii())
    if not isinstance(body, bytes):
        raise ValueError("its content is missing")
    if len(head) + len(body) != size:
        raise ValueError(f"its content has {len(body)} octets and not {size - len(head)}")
    return BytesContent(head + body)


def message_of(row: tuple[object, ...], content: Content) -> QueuedMessage:
    """A message from a row of `MESSAGE`. Raises `ValueError` where it is damaged."""
    number, cid, sender, received, size, wish, smtputf8, eight_bit, is_report, is_bounce, ret, envid, spool, head = row
    if not isinstance(number, int) or not isinstance(received, int) or not isinstance(size, int):
        raise ValueError("its row is damaged")
    return QueuedMessage(
        id=number,
        cid=str(cid),
        sender=Address.parse(str(sender)) if sender else None,
        received=received,
        size=size,
        wish=TlsWish(str(wish)),
        smtputf8=bool(smtputf8),
        eight_bit=bool(eight_bit) or (isinstance(head, bytes) and not head.isascii()),
        is_report=bool(is_report),
        is_bounce=bool(is_bounce),
        ret=str(ret),
        envid=str(envid),
        spool=str(spool),
        content=content,
    )


def recipient_of(row: tuple[object, ...]) -> QueuedRecipient:
    """A recipient from a row of `RECIPIENT`. Raises `ValueError` where it is damaged."""
    position, local, domain, attempts, notify, orcpt, told_delay, last_reply, host, last_try = row
    if not isinstance(position, int) or not isinstance(attempts, int) or not isinstance(last_try, int):
        raise ValueError("a recipient's row is damaged")
    return QueuedRecipient(
        id=position,
        address=Address(str(local), Domain(str(domain))),
        attempts=attempts,
        notify=tuple(str(notify).split(",")) if notify else (),
        orcpt=str(orcpt),
        told_delay=bool(told_delay),
        last_reply=str(last_reply),
        host=str(host),
        last_try=last_try,
    )
