"""Delivery status notifications: telling a sender what became of a message, and reading what others tell us.

RFC 3461 says when, RFC 6522 and RFC 3464 how, RFC 6533 the same beyond ASCII. Pure: who is told what is decided by the caller,
and so is the null sender of the notice.
"""

from __future__ import annotations

from postward.dsn.build import build
from postward.dsn.notice import Action, Notice, Recipient
from postward.dsn.parse import NotStatusReport, RecipientStatus, StatusReport, parse
from postward.dsn.plain import without_eight_bit
from postward.dsn.status import status_of

__all__ = [
    "Action",
    "NotStatusReport",
    "Notice",
    "Recipient",
    "RecipientStatus",
    "StatusReport",
    "build",
    "parse",
    "status_of",
    "without_eight_bit",
]
