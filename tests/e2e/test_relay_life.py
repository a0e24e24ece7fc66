"""A relay under its service manager: start, reload, drain and end; company that it must not have; places that are taken."""

from __future__ import annotations

import re
import signal
import smtplib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from postward.lab.ca import Issued
from relay_kit import (
    AUTHORITY,
    NAME,
    PROGRAM,
    Internet,
    Relay,
    Talk,
    client,
    free_port,
    internet,
    message,
    port_of,
    queued,
    relay,
    relay_config,
    send,
    until,
)

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    with internet("a.test") as made:
        yield made


def ended(config: Path) -> tuple[int, list[str]]:
    """Run to the end that must come at once: exit code and lines."""
    done = subprocess.run([*PROGRAM, "run", "--config", config], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.splitlines()


# --- the end ---


def test_sigterm_drains(world: Internet, tmp_path: Path) -> None:
    """What is being delivered is finished, a message on its way in is taken, and who is idle hears 421."""
    config = relay_config(tmp_path, world)
    with relay(config) as running, Talk(port_of(config)) as idle, Talk(port_of(config)) as busy:
        send(config, "slow@a.test", "slow")
        busy.envelope("you@a.test")
        assert busy.say("DATA").startswith("354")
        until(lambda: world.sessions)
        running.process.send_signal(signal.SIGTERM)
        assert idle.reply().startswith("421 4.3.2")
        assert idle.reply() == ""
        assert busy.say(message("late") + b".\r\n").startswith("250 ")
        assert busy.reply().startswith("421 4.3.2")
        assert running.wait() == 0
        assert [mail.token for mail in world.to("slow@a.test")] == ["slow"]
        with pytest.raises(ConnectionRefusedError):
            Talk(port_of(config))
    with relay(config) as running:
        world.wait_for("you@a.test")
        assert queued(config) == 0
        assert running.stop() == 0
    assert len(world.to("slow@a.test")) == 1


def test_sigterm_with_workers(world: Internet, tmp_path: Path) -> None:
    config = relay_config(tmp_path, world, delivery={"workers": 2})
    with relay(config, workers=2) as running:
        send(config, "workers@a.test")
        world.wait_for("workers@a.test")
        assert running.stop() == 0
        assert not running.events("worker-died")
        assert len(running.events("stopped")) == 2


# --- certificates ---


def write_certificate(directory: Path, issued: Issued) -> None:
    (directory / "cert.pem").write_bytes(issued.chain_pem)
    (directory / "key.pem").write_bytes(issued.key_pem)


def shown(config: Path) -> bytes | None:
    """The certificate that a new connection sees."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with client(config) as smtp:
        smtp.starttls(context=context)
        assert isinstance(smtp.sock, ssl.SSLSocket)
        return smtp.sock.getpeercert(binary_form=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_takes_a_renewed_certificate(world: Internet, tmp_path: Path, workers: int) -> None:
    first, second = AUTHORITY.issue([NAME]), AUTHORITY.issue([NAME])
    listen = {
        "kind": "smtp",
        "bind": f"127.0.0.1:{free_port()}",
        "cert_file": str(tmp_path / "cert.pem"),
        "key_file": str(tmp_path / "key.pem"),
    }
    write_certificate(tmp_path, first)
    config = relay_config(tmp_path, world, listen, delivery={"workers": workers})
    with relay(config, workers=workers) as running:
        assert shown(config) == first.certificate
        write_certificate(tmp_path, second)
        assert shown(config) == first.certificate
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("reloaded", workers)
        assert [shown(config) for _ in range(4)] == [second.certificate] * 4
        for broken in (b"no certificate", first.chain_pem):  # the latter does not fit the key
            (tmp_path / "cert.pem").write_bytes(broken)
            before = len(running.events("reloaded"))
            running.process.send_signal(signal.SIGHUP)
            running.wait_for("reloaded", before + workers)
            assert shown(config) == second.certificate
        assert len(running.events("certificate-not-reloaded")) == 2 * workers
        assert running.stop() == 0


# --- systemd ---


@pytest.mark.parametrize("workers", [1, 2])
def test_systemd_is_told(world: Internet, tmp_path: Path, workers: int) -> None:
    config = relay_config(tmp_path, world, delivery={"workers": workers})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        told: list[str] = []

        def listen() -> None:
            with suppress(OSError):
                while "STOPPING=1" not in told:
                    told.append(manager.recv(4096).decode())

        listener = threading.Thread(target=listen)
        listener.start()
        settings = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with relay(config, workers=workers, **settings) as running:
            until(lambda: "READY=1" in told and told.count("WATCHDOG=1") >= 3)
            with Talk(port_of(config)) as talk:
                assert talk.greeting.startswith("220 ")
            assert running.stop() == 0
        listener.join(30)
    assert told.count("READY=1") == 1
    assert told[-1] == "STOPPING=1"


# --- places that are taken ---


def test_a_unix_socket_that_was_left_behind(world: Internet, tmp_path: Path) -> None:
    place = tmp_path / "lmtp.sock"
    config = relay_config(tmp_path, world, {"kind": "lmtp", "bind": f"unix:{place}"})
    with relay(config) as running:
        running.kill()
    assert place.is_socket()
    with relay(config) as running:
        with smtplib.LMTP(str(place), None) as lmtp:
            assert lmtp.sendmail("me@sender.test", ["unix@a.test"], message("u")) == {}
        world.wait_for("unix@a.test")
        assert running.stop() == 0
    assert not place.exists()
    place.write_text("something else")
    code, lines = ended(config)
    assert code == 2
    assert len(lines) == 1
    assert str(place) in lines[0]
    assert place.read_text() == "something else"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_in_use(world: Internet, tmp_path: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        config = relay_config(tmp_path, world, {"kind": "smtp", "bind": bind}, delivery={"workers": workers})
        code, lines = ended(config)
    assert code == 2
    assert lines == [f"postward: {config}: listen[0].bind: cannot listen on {bind}: Address already in use"]


def start_fails_beside(config: Path, running: Relay) -> None:
    code, lines = ended(config)
    assert code == 2
    assert len(lines) == 1, lines
    found = re.fullmatch(r"postward: (.+): another postward run \(process (\d+)\) runs on this directory, .*", lines[0])
    assert found is not None, lines
    assert found[1] == str(config.parent / "data")
    assert int(found[2]) == running.process.pid


@pytest.mark.parametrize("workers", [1, 2])
def test_two_services_on_one_directory(world: Internet, tmp_path: Path, workers: int) -> None:
    """The second does not start, whatever its listeners are; it does when the first was killed."""
    config = relay_config(tmp_path, world, delivery={"workers": workers})
    other = relay_config(tmp_path / "other", world, core={"hostname": NAME, "data_dir": str(tmp_path / "data")})
    other.rename(tmp_path / "other.toml")
    other = tmp_path / "other.toml"
    with relay(config, workers=workers) as running:
        start_fails_beside(config, running)
        start_fails_beside(other, running)
        assert running.process.poll() is None
        running.kill()
        with relay(other) as successor:
            assert successor.stop() == 0


def test_a_directory_that_cannot_be_locked(world: Internet, tmp_path: Path) -> None:
    config = relay_config(tmp_path, world)
    (tmp_path / "data" / "run.lock").mkdir(parents=True)
    code, lines = ended(config)
    assert code == 2
    assert lines == [f"postward: {tmp_path}/data/run.lock: Is a directory"]
