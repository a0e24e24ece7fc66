"""The durable queue: what was answered with 250 is here until it is delivered, bounced or dropped.

Names are imported when they are used: a list of the queue needs neither trio nor SQLAlchemy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from postward.queue.admin import Admin
    from postward.queue.disk import DiskRules, room
    from postward.queue.pick import EVERYTHING, Counts, DestinationCount, Dropped, Listed, Page, Pick, RecipientState, Shown
    from postward.queue.retry import RetryRules, delay_notice_due, next_try
    from postward.queue.store import Queue
    from postward.queue.tables import SCHEMA
    from postward.queue.types import (
        ALL,
        INLINE_BYTES,
        BounceMail,
        End,
        Job,
        NewMessage,
        NewRecipient,
        QueuedMessage,
        QueuedRecipient,
        Shards,
        shard_of,
    )
    from postward.queue.writer import Writer

__all__ = [
    "ALL",
    "EVERYTHING",
    "INLINE_BYTES",
    "SCHEMA",
    "Admin",
    "BounceMail",
    "Counts",
    "DestinationCount",
    "DiskRules",
    "Dropped",
    "End",
    "Job",
    "Listed",
    "NewMessage",
    "NewRecipient",
    "Page",
    "Pick",
    "Queue",
    "QueuedMessage",
    "QueuedRecipient",
    "RecipientState",
    "RetryRules",
    "Shards",
    "Shown",
    "Writer",
    "delay_notice_due",
    "next_try",
    "room",
    "shard_of",
]

_MODULES: Final = {
    "admin": ("Admin",),
    "disk": (
        "DiskRules",
        "room",
    ),
    "pick": (
        "EVERYTHING",
        "Counts",
        "DestinationCount",
        "Dropped",
        "Listed",
        "Page",
        "Pick",
        "RecipientState",
        "Shown",
    ),
    "retry": (
        "RetryRules",
        "delay_notice_due",
        "next_try",
    ),
    "store": ("Queue",),
    "tables": ("SCHEMA",),
    "types": (
        "ALL",
        "INLINE_BYTES",
        "BounceMail",
        "End",
        "Job",
        "NewMessage",
        "NewRecipient",
        "QueuedMessage",
        "QueuedRecipient",
        "Shards",
        "shard_of",
    ),
    "writer": ("Writer",),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
