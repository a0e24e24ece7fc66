"""What a delivery costs the sender: CPU per message on a new connection, with DANE and MTA-STS verified.

    .venv/bin/python benchmarks/delivery.py

The whole pipeline runs as in the product: cached DNS answers, the policies of plugins, one handshake, DANE-EE, the WebPKI path,
the message of 2 kB, and the journalled result, durable. The receiving host is another process. Median of several rounds; only
the sender's own CPU is counted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import trio

from postward.app import App
from postward.config import from_dict
from postward.dns import Answer, ZoneResolver
from postward.lab.ca import Authority, tlsa
from postward.log import configure
from postward.model import Message
from postward.names import Address, Domain
from postward.smtp.client import Reply
from postward.smtp.server import ServerSettings, serve
from postward.tls import TrustStore

DOMAIN, HOST = Domain("example.test"), Domain("mx.example.test")
MESSAGES, ROUNDS, AT_ONCE = 200, 5, 10
CONTENT = b"From: <me@sender.test>\r\nSubject: benchmark\r\n\r\n" + b"All work and no play makes mail a dull thing.\r\n" * 42


class Cached:
    """Answers that were asked before come from memory, as with the product's resolver."""

    def __init__(self, resolver: ZoneResolver) -> None:
        self._resolver, self._known = resolver, dict[tuple[str, str], Answer]()
        self.validating: bool | None = True
        self.problems: Sequence[str] = ()

    async def query(self, name: Domain | str, rdtype: str) -> Answer:
        answer = self._known.get((name, rdtype))
        if answer is None:
            answer = self._known[name, rdtype] = await self._resolver.query(name, rdtype)
        return answer

    async def addresses(self, name: Domain) -> tuple[Answer, Answer]:
        return await self.query(name, "A"), await self.query(name, "AAAA")


class Sink:
    """Takes every message and forgets it."""

    async def mail(self, session: Any, sender: Any, parameters: Any) -> Reply | None:
        return None

    async def rcpt(self, session: Any, recipient: Any, parameters: Any) -> Reply | None:
        return None

    async def content(self, session: Any, envelope: Any) -> Sink:
        return self

    async def authenticate(self, session: Any, user: str, password: str) -> bool:
        return False

    async def write(self, piece: bytes) -> None:
        pass

    async def finish(self) -> Reply:
        return Reply(250, ("taken",), "2.0.0")

    async def abort(self) -> None:
        pass


def receive(context_pem: Path, port: Any, ready: Event) -> None:
    """The receiving process."""
    import ssl

    async def work() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(context_pem)
        settings = ServerSettings(hostname=HOST, context=context)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port.value = listener.socket.getsockname()[1]
        ready.set()

        async def one(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await serve(stream, Sink(), settings, peer="127.0.0.1")

        await trio.serve_listeners(one, [listener])

    trio.run(work)


async def measure(directory: Path, port: int, record: str, root: bytes) -> list[float]:
    """CPU milliseconds per message, one figure a round."""
    dns = Cached(ZoneResolver({DOMAIN: f"@ IN MX 1 mx\nmx IN A 127.0.0.1\n_25._tcp.mx IN TLSA {record}\n"}))
    config = from_dict(
        {
            "plugins": ["dane", "mtasts"],
            "core": {"hostname": "relay.sender.test", "data_dir": str(directory / "data")},
            "net": {"port_map": {25: port}},
        }
    )
    message = Message(sender=Address("me", Domain("sender.test")), recipients=(Address("you", DOMAIN),), content=CONTENT)
    figures = []
    async with App(config, dns=dns, trust=TrustStore(extra=[root])) as app:

        async def some(count: int) -> None:
            for _ in range(count):
                delivery = await app.deliver(message)
                assert delivery.delivered, delivery
                assert delivery.attempts[0].policies[0].passed

        await some(20)
        for _ in range(ROUNDS):
            started = time.process_time()
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(some, MESSAGES // AT_ONCE)
            figures.append((time.process_time() - started) / MESSAGES * 1000)
    return figures


def main() -> None:
    """Measure and print."""
    configure("warning")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = Authority("Benchmark")
        issued = authority.issue([HOST])
        pem = directory / "host.pem"
        pem.write_bytes(issued.chain_pem + issued.key_pem)
        context = multiprocessing.get_context("spawn")
        port, ready = context.Value("i", 0), context.Event()
        process = context.Process(target=receive, args=(pem, port, ready), daemon=True)
        process.start()
        ready.wait(30)
        figures = trio.run(measure, directory, port.value, tlsa(issued.certificate), authority.root)
        process.terminate()
    print(f"verified TLS delivery on a new connection: {statistics.median(figures):.2f} ms CPU", end=" ")
    print(f"(median of {ROUNDS} rounds of {MESSAGES}; {min(figures):.2f} to {max(figures):.2f})")


if __name__ == "__main__":
    main()
