"""What sending costs a client: CPU per message of 2 kB on a reused and on a new TLS connection, and of 10 MB.

    .venv/bin/python benchmarks/smtp.py

The server is another process; only the client's CPU is counted, TLS and trio included. Median of several rounds.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import trio

from postward.lab.ca import Authority
from postward.model import Endpoint
from postward.names import Address, Domain
from postward.smtp.client import Envelope, Reply, SmtpConnection
from postward.smtp.server import ServerSettings, serve
from postward.tls import client_handshake

HOST = Domain("mx.example.test")
ENVELOPE = Envelope(sender=Address.parse("me@sender.test"), recipients=(Address.parse("you@example.test"),))
SMALL = b"From: <me@sender.test>\r\nSubject: benchmark\r\n\r\n" + b"All work and no play makes mail a dull thing.\r\n" * 42
LARGE = SMALL * 5000
ROUNDS = 5


class Sink:
    """Takes every message and forgets it."""

    async def mail(self, *_: object) -> None:
        return None

    async def rcpt(self, *_: object) -> None:
        return None

    async def content(self, *_: object) -> Sink:
        return self

    async def authenticate(self, *_: object) -> bool:
        return False

    async def write(self, _: bytes) -> None:
        pass

    async def finish(self) -> Reply:
        return Reply(250, ("taken",), "2.0.0")

    async def abort(self) -> None:
        pass


def server(port: Connection) -> None:
    """Serve until the process ends; tells its port first."""
    settings = ServerSettings(hostname=HOST, context=Authority("Benchmark").issue([HOST]).server_context())

    async def one(stream: trio.SocketStream) -> None:
        await serve(stream, Sink(), settings, peer="127.0.0.1")

    async def run() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port.send(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(one, listeners)

    trio.run(run)


async def connect(port: int) -> SmtpConnection:
    """A connection that is ready for mail, over TLS."""
    connection = SmtpConnection(await trio.open_tcp_stream("127.0.0.1", port))
    await connection.greet()
    await connection.ehlo("client.sender.test")
    await connection.starttls()
    stream, _ = await client_handshake(connection.stream, Endpoint(host=HOST, address="127.0.0.1", port=port), HOST)
    connection.upgraded(stream)
    await connection.ehlo("client.sender.test")
    return connection


async def close(connection: SmtpConnection) -> None:
    await connection.quit()
    await connection.aclose()


async def reused(port: int, count: int, content: bytes) -> float:
    connection = await connect(port)
    await connection.send(ENVELOPE, content)
    begin = time.process_time()
    for _ in range(count):
        (reply,) = await connection.send(ENVELOPE, content)
        assert reply.positive
    used = time.process_time() - begin
    await close(connection)
    return used / count


async def fresh(port: int, count: int, content: bytes) -> float:
    begin = time.process_time()
    for _ in range(count):
        connection = await connect(port)
        (reply,) = await connection.send(ENVELOPE, content)
        assert reply.positive
        await close(connection)
    return (time.process_time() - begin) / count


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=server, args=(theirs,), daemon=True)
    process.start()
    port = ours.recv()
    cases: list[tuple[str, Callable[[int, int, bytes], Awaitable[float]], int, bytes]] = [
        ("2 kB, reused connection", reused, 1000, SMALL),
        ("2 kB, new connection", fresh, 200, SMALL),
        ("10 MB, reused connection", reused, 5, LARGE),
    ]
    for name, run, count, content in cases:
        trio.run(run, port, count // 5, content)
        rounds = [trio.run(run, port, count, content) * 1000 for _ in range(ROUNDS)]
        print(f"{name:26} {statistics.median(rounds):8.3f} ms CPU per message ({min(rounds):.3f} to {max(rounds):.3f})")
    process.terminate()


if __name__ == "__main__":
    main()
