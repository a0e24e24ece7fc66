"""What needs a person: judged from figures, the same for `postward status` and the web page. Each says how to mend it."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postward.cli.measures import count, octets
from postward.model import day_of
from postward.queue.disk import RULES

if TYPE_CHECKING:
    from postward.dns import Health
    from postward.queue.figures import Figures
    from postward.store.standing import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Something that needs a person: what it is, and how to mend it. `where` is the page that shows it, if there is one."""

    what: str
    mend: str
    where: str = ""


def of_queue(queue: Figures, expire_hours: float) -> Iterator[Attention]:
    """What is held, and what is older than it may become."""
    if queue.held:
        yield Attention(
            what=f"{count(queue.held, 'recipient')} held in the queue",
            mend="postward queue list --held shows them; postward queue release or drop decides",
            where="/queue?state=held",
        )
    if queue.expired:
        yield Attention(
            what=f"{count(queue.expired, 'message')} in the queue older than {expire_hours:g} hours",
            mend="postward queue flush lets them be tried once more and returned; postward queue list shows them",
            where="/queue",
        )


def of_journal(standings: Sequence[Standing], *, now: int, enabled: Collection[str], running: bool) -> Iterator[Attention]:
    """Plugins that have not taken results for more than a day."""
    today = datetime.date.fromisoformat(day_of(now))
    for one in standings:
        # Of an entry only its day is known: two days apart is more than 24 hours in any case.
        if one.oldest_day and (today - datetime.date.fromisoformat(one.oldest_day)).days >= 2:
            mend = "start the service" if one.consumer in enabled else f"postward plugins enable {one.consumer}"
            if running:
                mend = f"look for errors of {one.consumer} in the log"
            what = f"{one.consumer} has not taken {one.results:,} results since {one.oldest_day}"
            yield Attention(what=what, mend=mend, where="/plugins")


def of_resolver(health: Health) -> Iterator[Attention]:
    """A resolver that does not validate."""
    if health.validating is False:
        why = "; ".join(health.problems)
        yield Attention(
            what=f"the resolver does not validate DNSSEC, so DANE is off{f': {why}' if why else ''}",
            mend="run a validating resolver on this machine, such as unbound, and name it in [dns] nameservers",
        )


def no_room(place: Path, free: int, files: int) -> Attention:
    """A disk that is too full to take mail."""
    return Attention(
        what=f"no room on the disk of {place}, so mail is refused: {octets(free)} and {files:,} files free",
        mend=f"free at least {octets(RULES.min_free_bytes)} and {RULES.min_free_files:.0%} of the files there",
    )
