"""The policies that were needed lately, ready to be applied: a bounded window on the store.

A million policies lie in the database and a few thousand of them here, so that a delivery to a busy domain costs no reading
and memory does not grow with the number of domains. Strangers decide how long their policies are, so octets are bounded too.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from postward.model import MICROSECONDS, TlsPolicy
from postward.names import Domain
from postward_mtasts import cache
from postward_mtasts.cache import Entry

MAX_DOMAINS: Final = 8_000
MAX_OCTETS: Final = 24 << 20
TRUSTED_FOR: Final = 60 * MICROSECONDS
"""How long the store is not asked again: other processes and the `mtasts cache` commands change it too."""

_FIXED: Final = 1200
_PER_CHARACTER: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What the store said of a domain at `read`: nothing (then `record_id` is empty), or which policy, until when.

    `octets` is about how much memory it takes.
    """

    record_id: str = ""
    expires: int = 0
    last_use: int = 0
    policy: TlsPolicy | None = None
    read: int
    octets: int = _FIXED


def remembered(entry: Entry | None, read: int) -> Remembered:
    """What is worth keeping at hand of an entry: the policy as it is applied, not its text."""
    if entry is None or not entry.text:
        return Remembered(read=read)
    return Remembered(
        record_id=entry.record_id,
        expires=entry.expires,
        last_use=entry.last_use,
        policy=cache.apply(entry),
        read=read,
        octets=_FIXED + _PER_CHARACTER * len(entry.text),
    )


class Memory:
    """The most recently used domains, at most `domains` and about `octets` of them."""

    def __init__(self, domains: int = MAX_DOMAINS, octets: int = MAX_OCTETS) -> None:
        self._domains, self._octets = domains, octets
        self._known: OrderedDict[Domain, Remembered] = OrderedDict()
        self.octets = 0

    def get(self, domain: Domain, now: int) -> Remembered | None:
        """What is known of a domain, unless that is so old that the store has to be asked."""
        known = self._known.get(domain)
        if known is None or not 0 <= now - known.read < TRUSTED_FOR:
            return None
        self._known.move_to_end(domain)
        return known

    def put(self, domain: Domain, known: Remembered) -> None:
        """Keep what the store said; what was not used for longest goes when there is no room."""
        self.drop(domain)
        self._known[domain] = known
        self.octets += known.octets
        while len(self._known) > self._domains or self.octets > self._octets:
            self.octets -= self._known.popitem(last=False)[1].octets

    def drop(self, domain: Domain) -> None:
        """Forget a domain."""
        if (known := self._known.pop(domain, None)) is not None:
            self.octets -= known.octets

    def __len__(self) -> int:
        return len(self._known)
