"""What an attempt means for each recipient of a job: ended, or to be tried again, and whom to tell.

Pure (RFC 5321 §4.5.4, RFC 3461 §5). A recipient whose message has grown too old is given up with the last reply. Nobody is
told about mail from the null path, and nobody by mail about a report (RFC 3464 §2, RFC 8460 §3).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from postward.model import Delivery, RecipientOutcome, TlsWish
from postward.queue.retry import RULES, RetryRules, delay_notice_due, next_try
from postward.queue.types import End, EndState, Job, QueuedRecipient


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A recipient of whom the sender is to be told: what was said, by which host, and until when it will be tried."""

    recipient: QueuedRecipient
    reply: str
    host: str = ""
    retry_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The ends of a job's recipients, in their order, and what the sender is to be told.

    `dead`: no server said a word of it, and none would of other mail.
    """

    ends: tuple[End, ...]
    failed: tuple[Told, ...] = ()
    delayed: tuple[Told, ...] = ()
    relayed: tuple[Told, ...] = ()
    dead: bool = False


def outcome_of(
    job: Job,
    delivery: Delivery,
    now: int,
    *,
    rules: RetryRules = RULES,
    chance: Callable[[], float] = random.random,
) -> Outcome:
    """Decide about every recipient of `job` after one attempt, whose outcomes stand in the same order."""
    ends: list[End] = []
    failed: list[Told] = []
    delayed: list[Told] = []
    relayed: list[Told] = []
    for recipient, said in zip(job.recipients, delivery.recipients, strict=True):
        told = Told(recipient=recipient, reply=said.reply, host=said.host)
        if said.delivered:
            ends.append(_end(recipient, said, "delivered"))
            if "SUCCESS" in recipient.notify and not said.dsn_relayed:
                relayed.append(told)
            continue
        message = job.message
        again = None
        if not said.permanent:
            # Nobody waits for either; a report is tried for 24 hours (RFC 8460 §5.5).
            null_sender = message.sender is None or message.is_report
            again = next_try(recipient.attempts + 1, message.received, now, chance(), null_sender=null_sender, rules=rules)
        if again is None:
            ends.append(_end(recipient, said, "failed"))
            if not recipient.notify or "FAILURE" in recipient.notify:
                failed.append(told)
            continue
        late = not recipient.told_delay and delay_notice_due(message.received, now, rules=rules)
        tell = late and (not recipient.notify or "DELAY" in recipient.notify)
        if tell:
            until = rules.expires(message.received)
            delayed.append(Told(recipient=recipient, reply=said.reply, host=said.host, retry_until=until))
        ends.append(_end(recipient, said, "deferred", next_try=again, told_delay=recipient.told_delay or late))
    silent = job.message.sender is None or job.message.is_report
    return Outcome(
        ends=tuple(ends),
        failed=() if silent else tuple(failed),
        delayed=() if silent else tuple(delayed),
        relayed=() if silent else tuple(relayed),
        dead=_is_dead(job, delivery),
    )


def _is_dead(job: Job, delivery: Delivery) -> bool:
    # As it was said, also of those that are given up now: their age says nothing of the destination.
    if any(said.delivered or said.permanent or said.host for said in delivery.recipients):
        return False
    # A server that spoke, but is not trusted enough for a message that demands TLS, may be good for the others.
    spoke = any(attempt.bytes_received for attempt in delivery.attempts)
    return not (spoke and job.message.wish is TlsWish.REQUIRE)


def without_reply(job: Job, reply: str) -> Delivery:
    """What came of a job that no server heard of; `reply` are our own words in the form of a temporary reply."""
    addresses = [recipient.address for recipient in job.recipients]
    outcomes = (RecipientOutcome(address=address, delivered=False, permanent=False, reply=reply) for address in addresses)
    return Delivery(recipients=tuple(outcomes), attempts=())


def _end(
    recipient: QueuedRecipient, said: RecipientOutcome, state: EndState, *, next_try: int = 0, told_delay: bool = False
) -> End:
    return End(
        recipient=recipient.id,
        state=state,
        reply=said.reply,
        host=said.host,
        next_try=next_try,
        told_delay=told_delay,
    )
