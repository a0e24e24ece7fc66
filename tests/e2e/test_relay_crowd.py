"""Many clients that do nothing, and some that do it slowly: the others are served all the same."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from relay_kit import Internet, Talk, free_port, internet, message, port_of, queued, relay, relay_config, send, until

pytestmark = pytest.mark.loopback
IDLE = 2000
SLOW = 40


@pytest.fixture
def world() -> Iterator[Internet]:
    with internet("a.test") as made:
        yield made


@contextmanager
def many_files(wanted: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 30, source_address=(source, 0))


def test_idle_clients_and_slow_ones(world: Internet, tmp_path: Path) -> None:
    """Two thousand that never say a word, and forty that drip commands or content octet by octet."""
    listen = {"kind": "smtp", "bind": f"127.0.0.1:{free_port()}", "max_clients": 5000, "max_per_client": 500}
    config = relay_config(tmp_path, world, listen)
    port = port_of(config)
    with many_files(IDLE + 500), relay(config), ExitStack() as stack:
        idle = [stack.enter_context(connect(port, f"127.0.1.{10 + number % 8}")) for number in range(IDLE)]
        assert idle[-1].recv(100).startswith(b"220 ")
        stop = threading.Event()
        slow = [stack.enter_context(connect(port, "127.0.1.30")) for _ in range(SLOW)]
        for number, sock in enumerate(slow):
            if number % 2:
                sock.sendall(b"EHLO c\r\nMAIL FROM:<me@sender.test>\r\nRCPT TO:<never@a.test>\r\nDATA\r\n")

        def drip() -> None:
            while not stop.wait(0.05):
                for sock in slow:
                    sock.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for number in range(20):
                send(config, f"you{number}@a.test", f"t{number}")
            for number in range(20):
                world.wait_for(f"you{number}@a.test")
        finally:
            stop.set()
            dripping.join(30)
        until(lambda: queued(config) == 0)
    assert world.to("never@a.test") == []


def test_a_slow_client_is_sent_away(world: Internet, tmp_path: Path) -> None:
    """A command must be whole in time, however regularly its octets come; so must content."""
    config = relay_config(tmp_path, world)
    with relay(config, RELAY_COMMAND="1.5"), Talk(port_of(config)) as command, Talk(port_of(config)) as content:
        content.envelope("never@a.test")
        assert content.say("DATA").startswith("354")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.2):
                command.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert command.reply().startswith("421 4.4.2")
            assert content.reply().startswith("421 4.4.2")
        finally:
            stop.set()
            dripping.join(30)
        send(config, "you@a.test", "t")
        world.wait_for("you@a.test")
    assert world.to("never@a.test") == []


def test_limits_of_connections(world: Internet, tmp_path: Path) -> None:
    """Who has too many hears 421, and others are served; so does everybody beyond what the listener takes in all."""
    listen = {"kind": "smtp", "bind": f"127.0.0.1:{free_port()}", "max_clients": 8, "max_per_client": 5}
    config = relay_config(tmp_path, world, listen)
    port = port_of(config)
    with relay(config) as running, ExitStack() as stack:
        first = [stack.enter_context(Talk(port, source="127.0.1.40")) for _ in range(5)]
        assert all(talk.greeting.startswith("220 ") for talk in first)
        with Talk(port, source="127.0.1.40") as sixth:
            assert sixth.greeting.startswith("421 4.7.0")
            assert sixth.reply() == ""
        others = [stack.enter_context(Talk(port, source=f"127.0.1.{50 + number}")) for number in range(3)]
        assert all(talk.greeting.startswith("220 ") for talk in others)
        with Talk(port, source="127.0.1.60") as ninth:
            assert ninth.greeting.startswith("421 4.7.0")
        assert others[0].envelope("you@a.test").startswith("250")
        assert others[0].say("DATA").startswith("354")
        assert others[0].say(message("t") + b".\r\n").startswith("250")
        world.wait_for("you@a.test")
        assert first[0].say("QUIT").startswith("221")

        def room_again() -> bool:
            with Talk(port, source="127.0.1.40") as again:
                return again.greeting.startswith("220 ")

        until(room_again)
        assert len(running.events("too-many-connections")) >= 2
