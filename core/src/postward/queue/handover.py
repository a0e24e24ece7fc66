"""What a message that has just been committed comes to: the jobs that a claim would find, without reading them back.

Whoever took the message in hands them to those who deliver. They are no claim: a job that nobody takes is found in the queue.
"""

from __future__ import annotations

from typing import TypeAlias

from postward.model import BytesContent
from postward.names import Domain
from postward.queue.rows import message_of, recipient_of
from postward.queue.types import RECIPIENTS_PER_JOB, Job, NewMessage, QueuedMessage, QueuedRecipient

Packed: TypeAlias = tuple[tuple[object, ...], bytes, bool, str, tuple[tuple[object, ...], ...]]


def jobs_of(message: NewMessage, number: int, body: bytes, *, proper: bool) -> tuple[Job, ...]:
    """One job for each destination; none for one with more recipients than a job holds, which has to be claimed in parts."""
    by_domain: dict[Domain, list[QueuedRecipient]] = {}
    for position, one in enumerate(message.recipients):
        recipient = QueuedRecipient(id=position, address=one.address, notify=one.notify, orcpt=one.orcpt)
        by_domain.setdefault(one.address.domain, []).append(recipient)
    content = BytesContent(message.head + body, proper=proper)
    queued = QueuedMessage(
        id=number,
        cid=message.cid,
        sender=message.sender,
        received=message.received,
        size=content.size,
        wish=message.wish,
        smtputf8=message.smtputf8,
        eight_bit=message.eight_bit or not message.head.isascii(),
        is_report=message.is_report,
        is_bounce=message.is_bounce,
        ret=message.ret,
        envid=message.envid,
        spool="",
        content=content,
    )
    return tuple(
        Job(message=queued, domain=domain, recipients=tuple(recipients))
        for domain, recipients in by_domain.items()
        if len(recipients) <= RECIPIENTS_PER_JOB
    )


def pack(job: Job) -> Packed:
    """A job whose content is in memory, as plain values that another process can be told."""
    message, content = job.message, job.message.content
    assert isinstance(content, BytesContent), "a large message stays where it is"
    row = (
        message.id,
        message.cid,
        "" if message.sender is None else str(message.sender),
        message.received,
        message.size,
        message.wish.value,
        message.smtputf8,
        message.eight_bit,
        message.is_report,
        message.is_bounce,
        message.ret,
        message.envid,
        "",
        b"",
    )
    recipients = tuple(
        (one.id, one.address.local, str(one.address.domain), 0, ",".join(one.notify), one.orcpt, 0, "", "", 0)
        for one in job.recipients
    )
    return row, content.whole, content.proper, str(job.domain), recipients


def unpack(packed: Packed) -> Job:
    """The job that was packed."""
    row, content, proper, domain, recipients = packed
    return Job(
        message=message_of(row, BytesContent(content, proper=proper)),
        domain=Domain(domain),
        recipients=tuple(recipient_of(one) for one in recipients),
    )
