"""A long queue is never read as a whole on the way of mail: the plans of SQLite say so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from postward.names import Domain
from postward.queue import EVERYTHING, Pick
from postward.queue.rows import raw
from queue_kit import NOW, Rig, ends, opened

A = Domain("a.example")


async def statements(rig: Rig, call: Callable[[], Awaitable[Any]]) -> list[str]:
    """What a call asks of the database, with its values."""
    seen: list[str] = []
    await rig.store.node_db.read(lambda c: raw(c).set_trace_callback(seen.append))
    await call()
    await rig.store.node_db.read(lambda c: raw(c).set_trace_callback(None))
    return [one for one in seen if one.startswith(("SELECT", "UPDATE", "DELETE", "INSERT"))]


async def plans(rig: Rig, query: str) -> list[str]:
    return [row[3] for row in await rig.rows(f"EXPLAIN QUERY PLAN {query}")]


async def settle(rig: Rig) -> None:
    (job,) = await rig.queue.claim(A, NOW, 1)
    await rig.queue.settle(job, ends(job))


CALLS: dict[str, Callable[[Rig], Awaitable[Any]]] = {
    "due": lambda rig: rig.queue.due(NOW, 10, {A}),
    "next_due": lambda rig: rig.queue.next_due({A}),
    "claim": lambda rig: rig.queue.claim(A, NOW, 10),
    "settle": settle,
    "put": lambda rig: rig.put("x@a.example", "y@b.example"),
    "postpone": lambda rig: rig.queue.postpone(A, NOW),
    "list": lambda rig: rig.queue.list(EVERYTHING, after="1"),
    "list a destination": lambda rig: rig.queue.list(Pick(domain=A)),
    "list a sender": lambda rig: rig.queue.list(Pick(sender="from@sender.example"), after="1"),
    "list what is held": lambda rig: rig.queue.list(Pick(held=True)),
    "show": lambda rig: rig.queue.show("0123"),
    "hold": lambda rig: rig.queue.hold(Pick(domain=A)),
    "drop": lambda rig: rig.queue.drop(Pick(cid="0123")),
    "clean": lambda rig: rig.queue._clean(["0" * 32]),
}


@pytest.mark.parametrize("name", CALLS)
async def test_no_plan_reads_the_whole_queue(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as rig:
        for number in range(5):
            await rig.put("x@a.example", "y@a.example", "z@b.example", cid=f"012{number}")
        found = await statements(rig, lambda: CALLS[name](rig))
        assert found
        steps = [(step, query) for query in found for step in await plans(rig, query)]
        # A temporary tree is a scan in disguise.
        wrong = [
            one for one in steps if "TEMP B-TREE" in one[0] or (one[0].startswith("SCAN queue_") and "LIMIT" not in one[1])
        ]
        assert wrong == []


async def test_this_test_would_see_a_scan(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        assert any("SCAN queue_messages" in step for step in await plans(rig, "SELECT SUM(size) FROM queue_messages"))
