"""Listeners on loopback sockets: limits, one bad client among good ones, the end, and the files of Unix sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from postward.config import Config, ListenConfig, from_dict
from postward.errors import ConfigError
from postward.lab.ca import Authority
from postward.listen.listener import Certificate, Door, Listeners
from postward.service.notify import notify, watchdog_interval
from postward.service.sockets import INHERITED, bind, bind_all, inherited, remove_unix_sockets
from postward.smtp.server import Reply, ServerSettings
from postward.smtp.whole import Whole

pytestmark = pytest.mark.loopback


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **more: self.events.append(event)


class Handler:
    """Takes everything; a client that says MAIL FROM:<crash@…> meets a fault."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.go = trio.Event()
        self.go.set()

    async def mail(self, session: Any, sender: Any, parameters: Any) -> Any:
        return None

    async def rcpt(self, session: Any, recipient: Any, parameters: Any) -> Any:
        return None

    async def content(self, session: Any, envelope: Any) -> Any:
        return Whole(session, envelope, self.take)

    async def authenticate(self, session: Any, user: str, password: str) -> bool:
        return False

    async def take(self, session: Any, envelope: Any, content: bytes) -> Reply:
        await self.go.wait()
        self.taken.append(content)
        return Reply(250, ("taken",), "2.0.0")


class Here:
    def __init__(self, doors: int, **entry: Any) -> None:
        self.log, self.handler = Log(), Handler()
        self.doors = []
        for _ in range(doors):
            sock = bind("127.0.0.1:0")
            config = ListenConfig.model_validate({"kind": "smtp", "bind": "127.0.0.1:25", **entry})
            settings = ServerSettings(hostname="mx.example")
            self.doors.append(Door(entry=config, socket=sock, handler=self.handler, settings=settings))
        self.ports = [door.socket.getsockname()[1] for door in self.doors]
        self.streams: list[trio.SocketStream] = []
        self.listeners = Listeners(self.doors, self.log)  # type: ignore[arg-type]

    async def client(self, door: int = 0) -> Client:
        self.streams.append(await trio.open_tcp_stream("127.0.0.1", self.ports[door]))
        return Client(self.streams[-1])


class Client:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def line(self, say: bytes = b"") -> str:
        if say:
            await self.stream.send_all(say + b"\r\n")
        said = b""
        while not said.endswith(b"\n"):
            data = await self.stream.receive_some()
            if not data:
                return said.decode()
            said += data
        return said.decode().splitlines()[-1]

    async def begin(self) -> None:
        assert (await self.line())[:3] == "220"
        for say in (b"HELO c", b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA"):
            assert (await self.line(say))[0] in "23"


@asynccontextmanager
async def here(doors: int = 1, **entry: Any) -> AsyncIterator[Here]:
    made = Here(doors, **entry)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(made.listeners.run)
            yield made
            nursery.cancel_scope.cancel()
    for stream in made.streams:
        stream.socket.close()
    for door in made.doors:
        door.socket.close()


async def test_who_comes_beyond_a_limit_hears_so_and_others_are_served() -> None:
    async with here(2, max_clients=2) as site:
        first, second = await site.client(), await site.client()
        assert [(await each.line())[:3] for each in (first, second)] == ["220", "220"]
        assert (await (await site.client()).line())[:9] == "421 4.7.0"
        # What one door has counts at that door alone.
        assert (await (await site.client(1)).line())[:3] == "220"
        await first.stream.aclose()
        while site.listeners.clients > 2:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert (await (await site.client()).line())[:3] == "220"
        assert site.log.events == ["too-many-connections"]


async def test_one_client_has_no_more_connections_than_it_may() -> None:
    async with here(max_per_client=1) as site:
        assert (await (await site.client()).line())[:3] == "220"
        assert (await (await site.client()).line())[:3] == "421"


async def test_all_addresses_of_an_ipv6_network_are_one_client(nursery: trio.Nursery) -> None:
    site = Here(1, max_per_client=2)
    site.doors[0].socket.close()
    door = replace(site.doors[0], socket=bind("[::1]:0"))
    listeners = Listeners([door], site.log)  # type: ignore[arg-type]
    await nursery.start(listeners.run)
    async with await trio.open_tcp_stream("::1", door.socket.getsockname()[1]) as stream:
        assert (await Client(stream).line())[:3] == "220"
        assert dict(listeners._from) == {(0, "::/64"): 1}
    door.socket.close()


async def test_a_client_that_crashes_us_takes_nobody_along(monkeypatch: pytest.MonkeyPatch) -> None:
    from postward.listen import listener

    real, calls = listener.serve, 0

    async def serve(*args: Any, **more: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a fault")
        await real(*args, **more)

    monkeypatch.setattr(listener, "serve", serve)
    async with here() as site:
        await site.client()
        while not site.log.events:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert (await (await site.client()).line())[:3] == "220"
        assert (site.log.events, site.listeners.clients) == (["client-crashed"], 1)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED, errno.EPERM])
async def test_accepting_goes_on_after_trouble(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    left = 5
    accept = socket.socket.accept

    def fail(self: socket.socket) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise OSError(number, os.strerror(number))
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", fail)
    async with here() as site:
        assert (await (await site.client()).line())[:3] == "220"
        expected = {errno.EMFILE: ["out-of-files"] * 5, errno.EPERM: ["accept-failed"] * 5}.get(number, [])
        assert site.log.events == expected


async def test_closing_lets_a_message_be_finished_and_lets_nobody_in() -> None:
    async with here() as site:
        client = await site.client()
        await client.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.listeners.close, 20)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError):
                await site.client()
            assert (await client.line(b"Subject: x\r\n\r\nbody\r\n."))[:3] == "250"
            await client.line(b"QUIT")
        assert len(site.handler.taken) == 1
        assert site.listeners.clients == 0


async def test_closing_waits_no_longer_than_it_was_told() -> None:
    async with here() as site:
        client = await site.client()
        await client.begin()
        await client.stream.send_all(b"Subject: x\r\n")
        await site.listeners.close(0.05)
        assert site.listeners.clients == 1
    assert (site.handler.taken, site.listeners.clients) == ([], 0)


def test_a_certificate_that_cannot_be_used_leaves_the_old_one(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first = Authority("Test").issue(["mx.example"])
    cert.write_bytes(first.chain_pem)
    key.write_bytes(first.key_pem)
    loaded = Certificate(cert, key, where="listen[0].cert_file")
    for broken in (b"", b"nonsense", Authority("Test").issue(["mx.example"]).chain_pem):
        cert.write_bytes(broken)
        with pytest.raises(ConfigError, match=r"listen\[0\]\.cert_file"):
            loaded.reload()
    cert.unlink()
    with pytest.raises(ConfigError):
        loaded.reload()


# --- sockets ---


def test_a_socket_of_ipv6_takes_no_ipv4() -> None:
    try:
        sock = bind("[::]:0")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with sock, socket.socket() as client, pytest.raises(OSError):
        client.connect(("127.0.0.1", sock.getsockname()[1]))


def test_a_unix_socket_replaces_only_what_a_dead_program_left(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    with bind(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with pytest.raises(OSError, match="in use"):
            bind(f"unix:{path}")
    bind(f"unix:{path}").close()
    path.unlink()
    path.write_text("a file")
    with pytest.raises(OSError, match="its place"):
        bind(f"unix:{path}")
    assert path.read_text() == "a file"


def test_a_unix_socket_whose_owner_is_busy_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    clients = []
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            try:
                clients[-1].connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(OSError, match="in use"):
            bind(f"unix:{path}")
    for client in clients:
        client.close()


def configuration(*places: str) -> Config:
    return from_dict({"core": {"hostname": "mx.example"}, "listen": [{"kind": "smtp", "bind": place} for place in places]})


def test_the_files_of_unix_sockets_go_although_the_sockets_are_closed(tmp_path: Path) -> None:
    config = configuration(f"unix:{tmp_path}/in.sock", f"unix:{tmp_path}/two.sock")
    for sock in bind_all(config):
        sock.close()
    remove_unix_sockets(config)
    remove_unix_sockets(config)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_had_is_named_and_the_others_are_let_go(tmp_path: Path) -> None:
    config = configuration(f"unix:{tmp_path}/one.sock", f"unix:{tmp_path}/missing/two.sock")
    with pytest.raises(ConfigError, match=r"listen\[1\]\.bind.*two\.sock: No such file"):
        bind_all(config)


def test_sockets_are_taken_over_from_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(f"unix:{tmp_path}/one.sock")
    assert inherited(config) is None
    (sock,) = bind_all(config)
    with sock:
        monkeypatch.setenv(INHERITED, str(os.dup(sock.fileno())))
        (found,) = inherited(config) or []
        with found:
            assert found.getsockname() == sock.getsockname()
            assert not found.getblocking()
        monkeypatch.setenv(INHERITED, "")
        with pytest.raises(ConfigError, match="restart"):
            inherited(config)


@pytest.mark.parametrize("kind", ["path", "abstract", "none", "gone"])
def test_systemd_is_told_where_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name = f"@postward-test-{os.getpid()}" if kind == "abstract" else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", "" if kind == "none" else name)
    if kind in ("none", "gone"):
        assert not notify("READY=1")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if kind == "abstract" else name)
        assert notify("READY=1")
        assert sock.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("usec", "process", "interval"),
    [
        *(("", "", None), ("0", "", None), ("x", "", None), ("2000000", "", 1.0), ("2000000", "1", None)),
        ("2000000", str(os.getpid()), 1.0),
    ],
)
def test_the_watchdogs_interval(monkeypatch: pytest.MonkeyPatch, usec: str, process: str, interval: float | None) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", process)
    assert watchdog_interval() == interval
