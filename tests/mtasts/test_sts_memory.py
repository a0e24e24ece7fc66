"""The window on the policy cache: bounded in domains and in octets, and never older than a minute."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from postward.model import Mode
from postward.names import Domain
from postward_mtasts import tables
from postward_mtasts.cache import fetched
from postward_mtasts.memory import TRUSTED_FOR, Memory, Remembered, remembered

NOW = 1_795_521_600_000_000
A, B, C = (Domain(f"{letter}.example") for letter in "abc")
NOTHING = Remembered(read=NOW)


def test_what_was_not_used_for_longest_goes() -> None:
    kept = Memory(domains=2)
    kept.put(A, NOTHING)
    kept.put(B, NOTHING)
    assert kept.get(A, NOW) is NOTHING
    kept.put(C, NOTHING)
    assert (kept.get(A, NOW), kept.get(B, NOW), kept.get(C, NOW)) == (NOTHING, None, NOTHING)


def test_long_policies_take_the_place_of_many() -> None:
    """Strangers decide how long a policy is: up to 64 KiB."""
    text = "version: STSv1\nmode: enforce\nmax_age: 86400\n" + "".join(f"mx: {n:0>50}.example\n" for n in range(900))
    long = remembered(fetched(None, A, "1", text, NOW), NOW)
    assert long.octets > 5 * len(text)
    kept = Memory(octets=3 * long.octets)
    for number in range(10):
        kept.put(Domain(f"d{number}.example"), long)
    assert (len(kept), kept.octets) == (3, 3 * long.octets)
    kept.put(Domain("d9.example"), NOTHING)
    kept.drop(Domain("d8.example"))
    kept.drop(Domain("d8.example"))
    assert (len(kept), kept.octets) == (2, long.octets + NOTHING.octets)


def test_what_is_old_is_not_believed() -> None:
    """Other processes change the store too; and a clock may be set back."""
    kept = Memory()
    kept.put(A, NOTHING)
    assert kept.get(A, NOW + TRUSTED_FOR - 1) is NOTHING
    assert kept.get(A, NOW + TRUSTED_FOR) is None
    assert kept.get(A, NOW - 1) is None


async def test_a_busy_domain_costs_no_reading(sts: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a domain with a policy nor one without asks the database for each delivery, and none writes."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    first = await sts.ask()
    assert await sts.ask(Domain("none.example")) is None
    reads = 0
    real = tables.load

    def load(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return real(*arguments)

    monkeypatch.setattr(tables, "load", load)
    for name in ("touch", "save", "save_failure"):
        monkeypatch.delattr(tables, name)
    for _ in range(50):
        assert (await sts.ask()) == first
        assert await sts.ask(Domain("none.example")) is None
    assert reads == 0
    await trio.sleep(61)
    await sts.ask()
    assert reads == 1


async def test_what_another_process_stored_acts_at_once_where_dns_is_silent(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3: a cached policy acts when none can be found, whoever fetched it."""
    sts.publish()
    assert await sts.ask() is None
    other = type(sts)(sts.core)
    sts.publish("v=STSv1; id=1")
    sts.serve()
    assert (await other.ask()).mode is Mode.ENFORCE
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL")
    assert (await sts.ask()).mode is Mode.ENFORCE
    assert sts.fetches == 1


async def test_memory_stays_bounded_whoever_is_asked_for(sts: Any, autojump_clock: MockClock) -> None:
    sts.plugin.discovery.memory = Memory(domains=5)
    for number in range(20):
        await sts.ask(Domain(f"d{number}.example"))
    assert len(sts.plugin.discovery.memory) == 5
