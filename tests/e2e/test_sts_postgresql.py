"""The policy cache in a real PostgreSQL that several nodes share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from postward.clock import SystemClock
from postward.model import Mode
from postward.names import Domain
from postward.store import Store, open_store
from postward_mtasts import cache, tables
from postward_mtasts.hosting import Served

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

DOMAIN = Domain("b.example")
NOW = 1_795_521_600_000_000
TEXT = "version: STSv1\r\nmode: enforce\r\nmx: mx.b.example\r\nx: ü\r\nmax_age: 604800\r\n"


def opened(url: str, where: Path, node: str) -> Any:
    return open_store(
        url=url, node_path=where / f"{node}.db", node=node, schemas={"mtasts": tables.SCHEMA}, consumers=[], clock=SystemClock()
    )


async def test_a_policy_is_stored_renewed_used_and_forgotten(url: str, tmp_path: Path) -> None:
    async with opened(url, tmp_path, "mx1") as one, opened(url, tmp_path, "mx2") as two:
        entry = cache.fetched(None, DOMAIN, "1", TEXT, NOW, media_type="text/plain")
        await one.results.write(partial(tables.save, entry=entry))
        assert await two.results.read(partial(tables.load, domain=DOMAIN)) == entry
        await two.results.write(partial(tables.touch, domain=DOMAIN, at=NOW + 5))
        await one.results.write(partial(tables.save_failure, entry=cache.failed(entry, DOMAIN, "2", "why", NOW + 7)))
        found = await two.results.read(partial(tables.load, domain=DOMAIN))
        assert found is not None
        assert (found.text, found.mode, found.last_use, found.failed_id, found.last_error) == (
            TEXT,
            Mode.ENFORCE,
            NOW + 5,
            "2",
            "why",
        )
        await one.results.write(partial(tables.save, entry=entry))
        (found,) = await two.results.read(tables.load_page)
        assert (found.last_use, found.failed_id) == (NOW + 5, "")
        await two.results.write(lambda connection: tables.forget(connection, found))
        assert await one.results.read(tables.load_page) == []
        assert await one.results.write(partial(tables.drop, domain=DOMAIN)) is False


async def test_nodes_take_what_is_due_from_each_other(url: str, tmp_path: Path) -> None:
    async with opened(url, tmp_path, "mx1") as one, opened(url, tmp_path, "mx2") as two:
        for number in range(200):
            entry = cache.fetched(None, Domain(f"d{number}.example"), "1", TEXT, NOW)
            await one.results.write(partial(tables.save, entry=entry))
        now, taken = NOW + 2 * cache.DAY, list[str]()
        assert await two.results.read(partial(tables.count_due, now=now)) == 200

        async def take(store: Store) -> None:
            while found := await store.results.write(partial(tables.take_due, now=now, until=now + 1, most=16)):
                taken.extend(each.domain for each in found)

        async with trio.open_nursery() as nursery:
            for store in (one, two, one, two):
                nursery.start_soon(take, store)
        assert sorted(taken) == sorted(f"d{number}.example" for number in range(200))


async def test_what_is_served_is_shared(url: str, tmp_path: Path) -> None:
    async with opened(url, tmp_path, "mx1") as one, opened(url, tmp_path, "mx2") as two:
        for served in (Served(domain=DOMAIN, text=TEXT, since=1), Served(domain=DOMAIN, text=TEXT, since=1, withdrawn=2)):
            await one.results.write(lambda connection, served=served: tables.save_hosted(connection, served))
            assert await two.results.read(tables.load_hosted) == [served]
