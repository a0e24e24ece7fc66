"""The durable queue: what was answered with 250 is here until it is delivered, bounced or dropped."""

from __future__ import annotations

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
