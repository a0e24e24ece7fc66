"""What a million cached MTA-STS policies cost: time per lookup and memory, by how many there are.

Run: python benchmarks/sts_cache.py [--sizes 1000,10000,100000,1000000]

- `warm`: `domain_policy` for a busy domain, over the program's own resolver with its answers in cache; CPU.
- `hooks`: the same through the hook caller, as a delivery does it.
- `both`: `domain_policy` of MTA-STS and `host_policy` of DANE for a domain with a policy and a host with TLSA records; CPU.
- `cold`: a domain that was not needed lately, so that its policy is read from the database; CPU and time.
- `none`: a domain without MTA-STS, warm.
- `due`: taking 64 policies to renew, of all that are stored.
- `RSS`: growth of this process since before the database was opened, after 20,000 different domains were asked for.

On a real SQLite file. DNS is answered by a transport in memory, since no network should be measured.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import structlog
import trio

from postward import hookspecs
from postward.clock import SystemClock
from postward.contract import implementations
from postward.core import Core
from postward.dns.resolver import SystemResolver
from postward.hooks import Hooks
from postward.model import Destination, MxHost, Security
from postward.names import Domain
from postward.store import open_store
from postward_dane.plugin import Dane
from postward_mtasts import tables
from postward_mtasts.plugin import MtaSts

SIZES = "1000,10000,100000,1000000"
POLICY = "version: STSv1\r\nmode: enforce\r\nmx: mx1.{0}\r\nmx: mx2.{0}\r\nmx: *.mail.{0}\r\nmax_age: 604800\r\n"
RUNS, CALLS, COLD = 9, 2000, 3000
ASKED = 20_000
HOUR = 3600 * 1_000_000


class Wire:
    """Answers every question: a record of MTA-STS, or nothing below `none.example`."""

    async def datagram(self, server: Any, query: bytes, accept: Callable[[bytes], bool]) -> bytes:
        await trio.lowlevel.checkpoint()
        question = dns.message.from_wire(query)
        answer = dns.message.make_response(question, recursion_available=True)
        name = question.question[0].name
        if question.question[0].rdtype == dns.rdatatype.TLSA:
            answer.flags |= dns.flags.AD
            answer.answer.append(dns.rrset.from_text(name, 3600, "IN", "TLSA", f"3 1 1 {'ab' * 32}", f"2 1 1 {'cd' * 32}"))
        elif not str(name).endswith("none.example."):
            answer.answer.append(dns.rrset.from_text(name, 3600, "IN", "TXT", '"v=STSv1; id=20261125T000000;"'))
        else:
            soa = "ns.example. root.example. 1 3600 600 86400 3600"
            answer.authority.append(dns.rrset.from_text("example.", 3600, "IN", "SOA", soa))
        return answer.to_wire()


def domain(number: int) -> Domain:
    return Domain(f"d{number:07d}.example")


def resident() -> int:
    """Octets of memory that this process really uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def fill(connection: Any, first: int, last: int, now: int) -> None:
    rows = []
    for number in range(first, last):
        name = domain(number)
        at = now - random.randrange(18 * HOUR)
        text, until, due = POLICY.format(name), at + 168 * HOUR, at + 18 * HOUR
        rows.append((str(name), "20261125T000000", text, "enforce", at, until, at, at, "", "", "text/plain", due))
    marks = ", ".join("?" * 12)
    connection.exec_driver_sql(f"INSERT INTO mtasts_policies VALUES ({marks})", rows)


async def cpu(call: Callable[[], Awaitable[object]]) -> float:
    """Median microseconds of CPU for one call."""
    figures = []
    for _ in range(RUNS):
        start = time.process_time()
        for _ in range(CALLS):
            await call()
        figures.append((time.process_time() - start) / CALLS * 1e6)
    return statistics.median(figures)


async def policies_of_both(sts: MtaSts, dane: Dane, destination: Destination) -> None:
    host = destination.hosts[0]
    assert await sts.domain_policy(destination)
    assert await dane.host_policy(destination, host)


async def once_each(calls: list[Callable[[], Awaitable[object]]]) -> tuple[float, float]:
    """Mean microseconds of CPU and of time for calls that are each made once."""
    started, wall = time.process_time(), time.perf_counter()
    for call in calls:
        await call()
    return (time.process_time() - started) / len(calls) * 1e6, (time.perf_counter() - wall) / len(calls) * 1e6


async def measure(folder: Path, sizes: list[int]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    clock = SystemClock()
    resolver = SystemResolver(["127.0.0.1:53"], transport=Wire())  # type: ignore[arg-type]
    core = Core(
        plugin="mtasts", hostname=Domain("mx.example.net"), node="bench", data_dir=folder, clock=clock, dns=resolver,
        net=SimpleNamespace(), http=SimpleNamespace(), trust=SimpleNamespace(), signer=SimpleNamespace(), submitter=None,
        log=structlog.get_logger(),
    )  # type: ignore[arg-type]  # fmt: skip
    dane = Dane(Dane.Config(), replace(core, plugin="dane"))
    gc.collect()
    before, stored = resident(), 0
    columns = ("policies", "warm µs", "hooks µs", "both µs", "none µs", "cold CPU µs", "cold µs", "due ms", "RSS MB")
    print("".join(f"{column:>12}" for column in columns))
    for size in sizes:
        schemas = {"mtasts": tables.SCHEMA}
        url = f"sqlite:///{folder}/results.db"
        async with open_store(
            url=url, node_path=folder / "node.db", node="bench", schemas=schemas, consumers=[], clock=clock
        ) as store:
            core.store = store
            plugin = MtaSts(MtaSts.Config(), core)
            hooks = Hooks()
            hooks.register(implementations("mtasts", plugin))
            while stored < size:
                last = min(size, stored + 20_000)
                await store.results.write(partial(fill, first=stored, last=last, now=clock.now()))
                stored = last

            def ask(name: Domain, plugin: MtaSts = plugin) -> Callable[[], Awaitable[object]]:
                return partial(plugin.domain_policy, Destination(domain=name, hosts=()))

            mx = MxHost(name=Domain(f"mx1.{domain(0)}"), preference=1, addresses=("192.0.2.1",), security=Security.SECURE)
            busy = Destination(domain=domain(0), hosts=(mx,), security=Security.SECURE)
            policy = await plugin.domain_policy(busy)
            assert policy is not None
            assert len(policy.mx_patterns) == 3
            # Answers about them are in the resolver's cache already: only the policies are cold.
            names = [domain(number) for number in random.sample(range(1, size), min(COLD, size - 1))]
            for name in names:
                await plugin.discovery.look_up(name)
            cold, wall = await once_each([ask(name) for name in names])
            for _ in range(ASKED):
                await ask(domain(random.randrange(size)))()
            warm = await cpu(ask(busy.domain))
            hooked = await cpu(lambda hooks=hooks, busy=busy: hooks.gather(hookspecs.domain_policy, destination=busy))
            both = await cpu(lambda plugin=plugin, busy=busy: policies_of_both(plugin, dane, busy))
            none = await cpu(ask(Domain("none.example")))
            now = clock.now() + 24 * HOUR
            started = time.perf_counter()
            await store.results.write(partial(tables.take_due, now=now, until=now, most=64))
            due = (time.perf_counter() - started) * 1e3
            gc.collect()
            grown = (resident() - before) / 1e6
            figures = (warm, hooked, both, none, cold, wall, due, grown)
            print(f"{size:>12}" + "".join(f"{figure:>12.1f}" for figure in figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default=SIZES)
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="postward-bench-") as folder:
        trio.run(measure, Path(folder), sizes)


main()
