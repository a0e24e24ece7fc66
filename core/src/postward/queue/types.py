"""What goes into the queue and what comes out of it. Instants are microseconds UTC."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from postward.model import Content, TlsWish
from postward.names import Address, Domain

INLINE_BYTES: Final = 64 * 1024
"""Up to this size a message stands in the database, beyond it in a file."""
SHARDS: Final = 64
RECIPIENTS_PER_JOB: Final = 100


@dataclass(frozen=True, slots=True)
class Shards:
    """The part of all destinations that one worker serves: worker `index` of `count`."""

    count: int = 1
    index: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.index < self.count <= SHARDS):
            raise ValueError(f"worker {self.index} of {self.count}: at most {SHARDS} workers are possible")

    def has(self, domain: str) -> bool:
        """Whether a destination belongs to this worker."""
        return shard_of(domain) % self.count == self.index


ALL: Final = Shards()


def shard_of(domain: str) -> int:
    """The shard of a destination; the same on every machine and in every version."""
    return zlib.crc32(domain.encode()) % SHARDS


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecipient:
    """A recipient with its wishes for reports (RFC 3461): `notify` in upper case, `orcpt` as given."""

    address: Address
    notify: tuple[str, ...] = ()
    orcpt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message to queue. `sender` is None for the null path; `head` are fields that go in front of the content.

    `cid` is the public id; `ret` is `FULL`, `HDRS` or empty, `envid` xtext as given (RFC 3461). `is_bounce`: a delivery
    status notification of ours; `is_report`: a report, whose own fate is not reported on.
    """

    cid: str
    sender: Address | None
    recipients: tuple[NewRecipient, ...]
    received: int
    eight_bit: bool
    wish: TlsWish = TlsWish.FOLLOW
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    is_report: bool = False
    is_bounce: bool = False
    head: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceMail:
    """A message of our own, with its whole content."""

    message: NewMessage
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedMessage:
    """A message in the queue. `content` has the `head` in front, and `size` counts it; `spool` names its file, if any."""

    id: int
    cid: str
    sender: Address | None
    received: int
    size: int
    wish: TlsWish
    smtputf8: bool
    eight_bit: bool
    is_report: bool
    is_bounce: bool
    ret: str
    envid: str
    spool: str = field(repr=False)
    content: Content = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRecipient:
    """A recipient that waits. `id` is unique within its message; `attempts` are those made before.

    `told_delay`: the sender knows of the delay. `last_try` is 0 before the first attempt.
    """

    id: int
    address: Address
    attempts: int = 0
    notify: tuple[str, ...] = ()
    orcpt: str = ""
    told_delay: bool = False
    last_reply: str = ""
    host: str = ""
    last_try: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One message and those of its recipients that are due at one destination, at most 100."""

    message: QueuedMessage
    domain: Domain
    recipients: tuple[QueuedRecipient, ...]


EndState: TypeAlias = Literal["delivered", "failed", "deferred"]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended for one recipient of a job. `next_try` and `told_delay` are those of a deferred one.

    `reply` is the deciding SMTP reply or our own words in that form, `host` who said it.
    """

    recipient: int
    state: EndState
    reply: str
    host: str = ""
    next_try: int = 0
    told_delay: bool = False
