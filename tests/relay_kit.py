"""A relay under test: `postward run` as a process, and the internet that it sends to, on loopback.

`Internet` has a name server and a mail host for each domain, all on one port number. What a recipient is called decides what
becomes of mail to it: `unknown…` is refused, `later…` deferred, `slow…` taken after `slowness` seconds.
"""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from deliver_kit import ENVIRONMENT, serving, write_config
from postward.lab.ca import Authority
from postward.lab.dnsserver import serve_tcp, serve_udp
from postward.lab.ground import DNS, claim, host_address
from postward.lab.zones import Signing, Zones
from postward.names import Domain
from postward.smtp.envelope import Envelope
from postward.smtp.server import Reply, ServerSettings, Session, serve
from postward.smtp.whole import Whole

PROGRAM = [sys.executable, str(Path(__file__).with_name("e2e") / "relay_program.py")]
AUTHORITY = Authority("Relay tests")
NAME = "relay.sender.test"
_TOKEN = re.compile(rb"(?im)^x-token: *([0-9a-z-]+)")
_PATIENCE = 40.0


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody has just now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


def until(what: Callable[[], Any], patience: float = _PATIENCE) -> Any:
    """Wait until `what` gives something true, and return that."""
    deadline = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < deadline, "that did not happen"
        time.sleep(0.02)
    return found


# --- the other side ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A message that a host took. `life` is how often the relay had been started."""

    domain: str
    envelope: Envelope
    protocol: str
    content: bytes = field(repr=False)
    life: int

    @property
    def token(self) -> str:
        """What names the message."""
        match = _TOKEN.search(self.content)
        return match[1].decode() if match else ""

    @property
    def to(self) -> str:
        """The first recipient."""
        return str(self.envelope.recipients[0])


@dataclass(slots=True)
class Host:
    """The mail host of a domain. `context` None: no TLS; `down`: nobody listens."""

    domain: str
    address: str
    context: ssl.SSLContext | None
    dsn: bool
    requiretls: bool
    sessions: int = 0
    scope: trio.CancelScope | None = None


class Internet:
    """The domains that there are, and what arrived."""

    def __init__(self, *domains: str, bare: tuple[str, ...] = (), untrusted: tuple[str, ...] = ()) -> None:
        """Make hosts for `domains`; `bare` ones have neither DSN nor REQUIRETLS, `untrusted` ones a bad certificate."""
        every = [*domains, *bare, *untrusted]
        self.zones = Zones()
        self.ground = claim([host_address(number) for number in range(len(every))])
        self.port = self.ground.port
        self.arrived: list[Arrived] = []
        self.hosts: dict[str, Host] = {}
        self.life = 0
        self.slowness = 1.0
        self.token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        stranger = Authority("Nobody knows")
        for number, domain in enumerate(every):
            name = Domain(f"mx.{domain}")
            address = host_address(number)
            self.zones.add(domain, f"@ MX 10 mx\nmx A {address}", signing=Signing.INSECURE)
            self.hosts[domain] = Host(
                domain=domain,
                address=address,
                context=(stranger if domain in untrusted else AUTHORITY).issue([name]).server_context(),
                dsn=domain not in bare,
                requiretls=domain not in bare,
            )

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self.token, self._nursery = trio.lowlevel.current_trio_token(), nursery
                self._names = trio.CancelScope()
                nursery.start_soon(self._serve_names)
                for host in self.hosts.values():
                    await nursery.start(self._serve_host, host, self.ground.listeners[host.address])
                task_status.started()
        finally:
            self.ground.close()

    async def _serve_names(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_udp, self.zones, self.ground.datagrams)
            nursery.start_soon(serve_tcp, self.zones, self.ground.listeners[DNS])

    async def _serve_host(
        self,
        host: Host,
        listener: trio.SocketListener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        settings = ServerSettings(hostname=f"mx.{host.domain}", context=host.context, dsn=host.dsn, requiretls=host.requiretls)

        async def connection(stream: trio.SocketStream) -> None:
            host.sessions += 1
            try:
                await serve(stream, _Mailbox(self, host), settings, peer="127.0.0.1")
            finally:
                host.sessions -= 1

        with trio.CancelScope() as host.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(trio.serve_listeners, connection, [listener]))
                task_status.started()
        with suppress(OSError):
            await listener.aclose()

    def _from_outside(self, work: Callable[[], Any]) -> None:
        assert self.token is not None
        trio.from_thread.run(_call, work, trio_token=self.token)

    def stop_host(self, domain: str) -> None:
        """Connections to it are refused from now on."""

        async def work() -> None:
            host = self.hosts[domain]
            assert host.scope is not None
            host.scope.cancel()
            self.ground.listeners[host.address].socket.close()

        self._from_outside(work)

    def start_host(self, domain: str) -> None:
        """It is back."""

        async def work() -> None:
            host = self.hosts[domain]
            [listener] = await trio.open_tcp_listeners(self.port, host=host.address)
            self.ground.listeners[host.address] = listener
            assert self._nursery is not None
            await self._nursery.start(self._serve_host, host, listener)

        self._from_outside(work)

    @property
    def sessions(self) -> int:
        """How many connections the hosts have."""
        return sum(host.sessions for host in self.hosts.values())

    def to(self, address: str) -> list[Arrived]:
        """What arrived for an address."""
        return [mail for mail in list(self.arrived) if any(str(each) == address for each in mail.envelope.recipients)]

    def wait_for(self, address: str, count: int = 1, patience: float = _PATIENCE) -> list[Arrived]:
        """Wait for mail to an address."""
        return until(lambda: len(found := self.to(address)) >= count and found, patience)  # type: ignore[no-any-return]


async def _call(work: Callable[[], Any]) -> None:
    await work()


class _Mailbox:
    def __init__(self, internet: Internet, host: Host) -> None:
        self._internet, self._host = internet, host

    async def mail(self, session: Session, sender: Any, parameters: Mapping[str, str]) -> Reply | None:
        return None

    async def rcpt(self, session: Session, recipient: Any, parameters: Mapping[str, str]) -> Reply | None:
        if str(recipient.domain) != self._host.domain:
            return Reply(550, ("not here",), "5.7.1")
        if recipient.local.startswith("unknown"):
            return Reply(550, ("no such user",), "5.1.1")
        return Reply(451, ("come back",), "4.3.0") if recipient.local.startswith("later") else None

    async def content(self, session: Session, envelope: Envelope) -> Whole:
        return Whole(session, envelope, self._keep)

    async def authenticate(self, session: Session, user: str, password: str) -> bool:
        return False

    async def _keep(self, session: Session, envelope: Envelope, content: bytes) -> Reply:
        if envelope.recipients[0].local.startswith("slow"):
            await trio.sleep(self._internet.slowness)
        self._internet.arrived.append(
            Arrived(
                domain=self._host.domain,
                envelope=envelope,
                protocol=session.protocol,
                content=content,
                life=self._internet.life,
            )
        )
        return Reply(250, ("kept",), "2.0.0")


@contextmanager
def internet(*domains: str, **how: Any) -> Iterator[Internet]:
    """An internet of these domains."""
    made = Internet(*domains, **how)
    with serving(made.serve):
        yield made


# --- the relay ---


def relay_config(directory: Path, world: Internet, *listen: dict[str, Any], **tables: Any) -> Path:
    """The configuration of a relay in `world`; without `listen`, one SMTP listener on 127.0.0.1."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca.pem").write_bytes(AUTHORITY.root_pem)
    return write_config(
        directory,
        **{
            "plugins": [],
            "dns": {"nameservers": [f"{DNS}:{world.port}"], "self_test": {"secure": "", "bogus": ""}, "timeout": 2.0},
            "tls": {"ca_file": str(directory / "ca.pem")},
            "net": {"port_map": {"25": world.port}},
            "listen": list(listen) or [{"kind": "smtp", "bind": f"127.0.0.1:{free_port()}"}],
            **tables,
        },
    )


class Relay:
    """A running `postward run`. `lines` is its log, and `rest` what it said that is no log."""

    def __init__(self, config: Path, **environment: str) -> None:
        self.config = config
        self.lines: list[dict[str, Any]] = []
        self.rest: list[str] = []
        self.process = subprocess.Popen(
            [*PROGRAM, "run", "--config", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for text in log:
                try:
                    self.lines.append(json.loads(text))
                except ValueError:
                    self.rest.append(text)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind."""
        return [line for line in list(self.lines) if line["event"] == event]

    def wait_for(self, event: str, count: int = 1, patience: float = _PATIENCE) -> dict[str, Any]:
        """Wait for the log line; the last of `count`."""
        deadline = time.monotonic() + patience
        while len(found := self.events(event)) < count:
            alive = self.process.poll() is None or self._reader.is_alive()
            if not alive or time.monotonic() > deadline:
                raise AssertionError(f"no {event}: {self.lines[-20:]} {self.rest}")
            time.sleep(0.01)
        return found[count - 1]

    def kill(self) -> None:
        """End it at once, with the processes below it."""
        workers = self.workers
        self.process.kill()
        for each in workers:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as systemd does; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self, patience: float = _PATIENCE) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(patience)
        self._reader.join(patience)
        return code

    @property
    def workers(self) -> list[int]:
        """The processes below it."""
        found: list[int] = []
        # A child belongs to the thread that started it.
        for thread in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(each) for each in thread.read_text().split()]
        return sorted(found)


@contextmanager
def relay(config: Path, *, workers: int = 1, **environment: str) -> Iterator[Relay]:
    """Start a relay, wait until it takes mail, and end it with the block."""
    started = Relay(config, **environment)
    try:
        if workers > 1:
            started.wait_for("worker-ready", workers)
        else:
            started.wait_for("running")
        yield started
    finally:
        left = started.workers
        if started.process.poll() is None:
            started.kill()
        until(lambda: not any(is_alive(each) for each in left))


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def port_of(config: Path, number: int = 0) -> int:
    """The port of a listener."""
    import tomllib

    bind = tomllib.loads(config.read_text())["listen"][number]["bind"]
    return int(bind.rpartition(":")[2])


def queued(config: Path) -> int:
    """How many recipients are in the queue."""
    with closing(sqlite3.connect(f"file:{config.parent / 'data' / 'node.db'}?mode=ro", uri=True, timeout=20)) as database:
        return int(database.execute("SELECT count(*) FROM queue_recipients").fetchone()[0])


def message(token: str, body: str = "hello") -> bytes:
    """A message with a name."""
    return f"From: <me@sender.test>\r\nTo: <you@a.test>\r\nX-Token: {token}\r\nSubject: test\r\n\r\n{body}\r\n".encode()


@contextmanager
def client(config: Path, number: int = 0) -> Iterator[smtplib.SMTP]:
    """A client of a listener, which has said EHLO."""
    with smtplib.SMTP("127.0.0.1", port_of(config, number), local_hostname="client.test", timeout=30) as smtp:
        smtp.ehlo()
        yield smtp


def send(config: Path, to: str, token: str = "t", *, sender: str = "me@sender.test", body: str = "hello", **how: Any) -> None:
    """Hand one message in. Raises `smtplib.SMTPException` when it is refused."""
    with client(config) as smtp:
        smtp.sendmail(sender, [to], message(token, body), **how)


class Talk:
    """A conversation octet by octet, for what no library would say."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", source: str = "") -> None:
        self._sock = socket.create_connection((host, port), 20, source_address=(source, 0) if source else None)
        self._lines = self._sock.makefile("rb")
        self.greeting = self.reply()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._sock.close()

    def reply(self) -> str:
        """The next reply; empty at the end."""
        text = ""
        with suppress(ConnectionError):
            while line := self._lines.readline().decode():
                text += line
                if line[3:4] != "-":
                    break
        return text

    def say(self, line: str | bytes) -> str:
        """Send a line, and give the reply to it."""
        self.send(line.encode() + b"\r\n" if isinstance(line, str) else line)
        return self.reply()

    def send(self, data: bytes) -> None:
        """Send octets."""
        with suppress(ConnectionError):
            self._sock.sendall(data)

    def envelope(self, to: str, sender: str = "me@sender.test") -> str:
        """EHLO, MAIL and RCPT; the reply to the last."""
        self.say("EHLO client.test")
        self.say(f"MAIL FROM:<{sender}>")
        return self.say(f"RCPT TO:<{to}>")


def pause(seconds: float) -> None:
    """Let the other processes do something."""
    time.sleep(seconds)


def environment_number(name: str, default: int) -> int:
    """A number from the environment, for more rounds than usual."""
    return int(os.environ.get(name, default))
