"""How the resolver does: what lookups came to, by reason, and whether it still validates, asked again and again.

A resolver that loses its trust anchor, or is replaced by one that does not validate, makes nothing secure any more, and no
single lookup shows it (RFC 7672 §2.1.1, RFC 6698 §4.1). So the self-test of the start is repeated for as long as the program
runs, and a change is said loudly. What was found last stands in a file, where `postward status` finds it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from postward.dns.answer import Answer, Status
from postward.model import MICROSECONDS

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.dns.selftest import SelfTest

FILE: Final = "resolver.json"
TEST_EVERY: Final = 300 * MICROSECONDS
"""Microseconds between two tests of a resolver that validates."""
DOUBT_EVERY: Final = 60 * MICROSECONDS
"""The same while it does not, or nobody knows."""
_MAX_FILE: Final = 65_536


def outcome(answer: Answer) -> str:
    """What a lookup came to, in a word: `secure`, `insecure`, `secure-absent`, `insecure-absent`, `bogus`, or the failure's
    code such as `servfail` or `timeout`. `bogus` is a failure of which the resolver says that it is about DNSSEC."""
    if answer.failure is not None:
        return "bogus" if answer.failure.about_dnssec else answer.failure.rcode.lower()
    if answer.status is Status.ABSENT:
        return f"{answer.security.value}-absent"
    return answer.security.value


@dataclass(slots=True)
class Tally:
    """Lookups by record type and outcome. Answers from the cache are not counted: they say nothing of the resolver."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, answer: Answer) -> None:
        """Count one answer."""
        self.counts[answer.rdtype, outcome(answer)] += 1

    def by_type(self) -> dict[str, dict[str, int]]:
        """The counts as `{"TLSA": {"secure": 3}}`, in a fixed order."""
        found: dict[str, dict[str, int]] = {}
        for (rdtype, word), number in sorted(self.counts.items()):
            found.setdefault(rdtype, {})[word] = number
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of the resolver. `since` is when `validating` became what it is, `tested` when it was asked last, both
    microseconds UTC; `problems` are lines for people; `outcomes` as of `Tally.by_type`, since the start of the process."""

    validating: bool | None
    since: int
    tested: int
    problems: tuple[str, ...] = ()
    outcomes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Watch:
    """Repeats a self-test and remembers what it found. `test` never raises; `file` is written after each, None for not."""

    def __init__(
        self,
        test: Callable[[], Awaitable[SelfTest]],
        tally: Tally,
        *,
        clock: Clock,
        log: FilteringBoundLogger,
        file: Path | None = None,
    ) -> None:
        self._test, self._tally, self._clock, self._log, self._file = test, tally, clock, log, file
        self._validating: bool | None = None
        self._problems: tuple[str, ...] = ()
        self._since = self._tested = clock.now()

    @property
    def health(self) -> Health:
        """What is known now."""
        return Health(
            validating=self._validating,
            since=self._since,
            tested=self._tested,
            problems=self._problems,
            outcomes=self._tally.by_type(),
        )

    async def test(self) -> None:
        """Ask once, and say what has changed.

        A test that finds no evidence changes nothing: a resolver that could not be reached has not begun to validate.
        """
        before, known = self._validating, self._problems
        found = await self._test()
        now = self._clock.now()
        self._tested, self._problems = now, found.problems
        if found.validating is not None and found.validating is not before:
            self._validating, self._since = found.validating, now
        if found.validating is False and before is not False:
            self._log.error(
                "resolver-does-not-validate",
                problems=list(found.problems),
                hint="nothing counts as secure, so DANE is off until it validates",
            )
        elif found.validating and before is False:
            self._log.warning("resolver-validates-again")
        elif found.problems and found.problems != known:
            self._log.warning("resolver", validating=self._validating, problems=list(found.problems))
        self._save()

    async def run(self) -> None:
        """Ask for ever: every five minutes, every minute while the resolver does not validate or that is unknown."""
        while True:
            pause = TEST_EVERY if self._validating else DOUBT_EVERY
            await self._clock.sleep_until(self._clock.now() + pause)
            await self.test()

    def _save(self) -> None:
        if self._file is None:
            return
        new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            new.write_text(json.dumps(asdict(self.health)))
            new.replace(self._file)
        except OSError as exc:
            with suppress(OSError):
                new.unlink()
            self._log.warning("resolver-health-not-saved", file=str(self._file), error=exc.strerror or str(exc))


def load_health(file: Path) -> Health | None:
    """What a running program wrote; None where there is nothing that can be read."""
    try:
        with file.open("rb") as source:
            found: Any = json.loads(source.read(_MAX_FILE))
        problems = tuple(str(each) for each in found["problems"])
        validating = found["validating"] if isinstance(found["validating"], bool) else None
        since, tested = int(found["since"]), int(found["tested"])
        outcomes = {str(kind): {str(word): int(n) for word, n in counts.items()} for kind, counts in found["outcomes"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Health(validating=validating, since=since, tested=tested, problems=problems, outcomes=outcomes)
