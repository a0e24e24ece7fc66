"""What the warm policies of a delivery cost: `domain_policy` of MTA-STS and `host_policy` of DANE, one after the other.

Run: python benchmarks/policies.py

- `plugins`: the two called as they are.
- `hooks`: the same through the hook caller, with its time limits, its containment and its checks of answers.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
import trio
from sts_cache import Wire, cpu, domain, fill
from verify import Answers

from postward import hookspecs
from postward.clock import SystemClock
from postward.contract import implementations
from postward.dns import SystemResolver
from postward.hooks import Hooks
from postward.model import Destination, MxHost, Security
from postward.names import Domain
from postward.store import open_store
from postward_dane.plugin import Dane
from postward_mtasts import tables
from postward_mtasts.plugin import MtaSts

HOST = Domain("mx.example.org")


async def measure(folder: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    clock, schemas = SystemClock(), {"mtasts": tables.SCHEMA}

    def core(plugin: str, wire: Any, store: Any) -> Any:
        resolver = SystemResolver(["127.0.0.1:53"], transport=wire)
        return SimpleNamespace(
            plugin=plugin, hostname=HOST, dns=resolver, clock=clock, store=store, http=None, log=structlog.get_logger()
        )

    async with open_store(
        url=f"sqlite:///{folder}/results.db",
        node_path=folder / "node.db",
        node="bench",
        schemas=schemas,
        consumers=[],
        clock=clock,
    ) as store:
        await store.results.write(partial(fill, first=0, last=1000, now=clock.now()))
        sts = MtaSts(MtaSts.Config(), core("mtasts", Wire(), store))
        dane = Dane(Dane.Config(), core("dane", Answers(), store))
        hooks = Hooks()
        hooks.register(implementations("mtasts", sts))
        hooks.register(implementations("dane", dane))
        mx = MxHost(name=HOST, security=Security.SECURE, canonical=HOST, addresses=("192.0.2.1",))
        busy = Destination(domain=domain(0), hosts=(mx,), security=Security.SECURE, canonical=domain(0))

        async def direct() -> None:
            assert await sts.domain_policy(busy)
            assert await dane.host_policy(busy, mx)

        async def hooked() -> None:
            await hooks.gather(hookspecs.domain_policy, destination=busy)
            await hooks.gather(hookspecs.host_policy, destination=busy, mx=mx)

        for what, call in (("plugins", direct), ("hooks", hooked)):
            await call()
            print(f"{what:<10} {await cpu(call):6.1f} us CPU")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="postward-bench-") as folder:
        trio.run(measure, Path(folder))
