"""Trouble around a relay: full disks, locks, servers that are gone, clocks that jump. Nothing is lost; nobody has to help."""

from __future__ import annotations

import os
import shutil
import smtplib
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from interop import lack
from postward.lab.zones import SERVFAIL, SILENT, Fault
from relay_kit import (
    Internet,
    Talk,
    client,
    internet,
    message,
    pause,
    port_of,
    queued,
    relay,
    relay_config,
    send,
    until,
)

pytestmark = pytest.mark.loopback
LARGE = ("x" * 70 + "\r\n") * 3000
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.fixture
def world() -> Iterator[Internet]:
    with internet("a.test", "b.test") as made:
        yield made


def refusal(config: Path, token: str, body: str = "hello") -> tuple[int, str]:
    """Hand a message in that must be refused; the reply."""
    try:
        send(config, "you@a.test", token, body=body)
    except smtplib.SMTPResponseException as exc:
        return exc.smtp_code, bytes(exc.smtp_error).decode()
    raise AssertionError("it was taken")


# --- the disk ---


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        lack("only root can mount a small disk")
    directory.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=False, capture_output=True)
    if done.returncode:
        lack(f"cannot mount a small disk: {done.stderr.decode()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Use up the space of a disk but for `leave` octets."""
    ballast = disk / "ballast"
    found = os.statvfs(disk)
    with ballast.open("wb") as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leave)
    return ballast


def test_a_disk_that_is_nearly_full(world: Internet, tmp_path: Path) -> None:
    """Mail is refused for now while there is space to deliver what is there; in a minute of plenty it is taken again."""
    with small_disk(tmp_path / "disk", "270m") as disk:
        config = relay_config(disk, world)
        with relay(config) as running:
            send(config, "you@a.test", "before")
            world.wait_for("you@a.test")
            ballast = fill(disk, 250 * 1024 * 1024)
            assert refusal(config, "refused") == (452, "4.3.1 no room for more mail just now")
            ballast.unlink()
            send(config, "you@a.test", "after")
            world.wait_for("you@a.test", 2)
            # Of a message that is announced too large for what is there, the same.
            with client(config) as smtp:
                assert smtp.mail("me@sender.test", ["SIZE=30000000"])[0] == 452
            assert running.stop() == 0
    assert [mail.token for mail in world.arrived] == ["before", "after"]


def test_a_disk_that_is_full(world: Internet, tmp_path: Path) -> None:
    """Down to the last octet: no promise is lost, what cannot be stored is not promised, and then it goes on."""
    with small_disk(tmp_path / "disk", "24m") as disk:
        config = relay_config(disk, world)
        with relay(config, RELAY_MIN_FREE="0", RELAY_FIRST_RETRY="1") as running:
            world.slowness = 3.0
            send(config, "slow@b.test", "slow")
            until(lambda: world.sessions)
            ballast = fill(disk)
            assert refusal(config, "large", LARGE)[0] == 452  # its size is announced
            for body in (LARGE, "hello"):
                with Talk(port_of(config)) as talk:
                    talk.envelope("you@a.test")
                    talk.say("DATA")
                    assert talk.say(message("large", body) + b".\r\n").startswith("451 4.3.0")
            assert "full" in running.wait_for("message-not-stored", 2)["error"]
            assert not running.events("smtp.handler-failed")
            # The outcome of the slow delivery cannot be stored, or just so.
            world.wait_for("slow@b.test")
            pause(1.0)
            ballast.unlink()
            send(config, "you@a.test", "large", body=LARGE)
            world.wait_for("you@a.test")
            until(lambda: queued(config) == 0)
            assert running.stop() == 0
        # Delivered once: its outcome was kept in mind until there was space.
        assert len(world.to("slow@b.test")) == 1
        assert not list((config.parent / "data" / "spool").glob("*"))


def test_a_spool_that_may_not_be_written(world: Internet, tmp_path: Path) -> None:
    """Small mail goes on; large mail is refused for now, and taken when the folder is back."""
    config = relay_config(tmp_path, world)
    with relay(config) as running:
        spool = tmp_path / "data" / "spool"
        shutil.rmtree(spool, ignore_errors=True)
        spool.write_text("root may write everywhere, but not into a file")
        assert refusal(config, "large", LARGE)[0] == 451
        line = running.wait_for("message-not-stored")
        assert "spool" in line["error"]
        send(config, "you@a.test", "small")
        world.wait_for("you@a.test")
        spool.unlink()
        send(config, "you@a.test", "large", body=LARGE)
        world.wait_for("you@a.test", 2)
        assert running.stop() == 0


# --- the database ---


def test_a_database_that_is_locked(world: Internet, tmp_path: Path) -> None:
    """For longer than anybody waits: mail is refused for now with a line that says why, and what was begun ends well."""
    config = relay_config(tmp_path, world)
    with relay(config, RELAY_FIRST_RETRY="1") as running:
        world.slowness = 2.0
        send(config, "slow@b.test", "slow")
        until(lambda: world.sessions)
        with closing(sqlite3.connect(tmp_path / "data" / "node.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            begin = time.monotonic()
            code, text = refusal(config, "refused")
            assert (code, text) == (451, "4.3.0 the message could not be stored")
            assert "locked" in running.wait_for("message-not-stored")["error"]
            pause(max(0.0, 15 - (time.monotonic() - begin)))
            other.execute("ROLLBACK")
        send(config, "you@a.test", "after")
        world.wait_for("you@a.test")
        until(lambda: queued(config) == 0)
        assert running.stop() == 0
    assert sorted(mail.token for mail in world.arrived) == ["after", "slow"]


# --- the network ---


def test_a_host_that_is_gone(world: Internet, tmp_path: Path) -> None:
    """Its mail waits and others' goes on; when it is back, so is its mail."""
    config = relay_config(tmp_path, world)
    with relay(config, RELAY_FIRST_RETRY="2") as running:
        world.stop_host("a.test")
        for number in range(5):
            send(config, f"you{number}@a.test", f"a{number}")
        send(config, "you@b.test", "b")
        world.wait_for("you@b.test")
        line = running.wait_for("message-deferred")
        assert line["reply"].startswith("4")
        assert running.wait_for("destination-waits")["domain"] == "a.test"
        until(lambda: queued(config) == 5)
        world.start_host("a.test")
        for number in range(5):
            world.wait_for(f"you{number}@a.test")
        until(lambda: queued(config) == 0)
        assert running.stop() == 0
    assert len(world.arrived) == 6


def test_a_resolver_that_is_gone(world: Internet, tmp_path: Path) -> None:
    config = relay_config(tmp_path, world)
    with relay(config, RELAY_FIRST_RETRY="2") as running:
        for name in ("a.test", "mx.a.test"):
            world.zones.fault(name, None, SILENT)
        for name in ("b.test", "mx.b.test"):
            world.zones.fault(name, None, SERVFAIL)
        for domain in ("a.test", "b.test"):
            send(config, f"you@{domain}", domain)
        running.wait_for("message-deferred", 2)
        assert all(line["reply"].startswith("4") for line in running.events("message-deferred"))
        assert world.arrived == []
        for name in ("a.test", "mx.a.test", "b.test", "mx.b.test"):
            world.zones.fault(name, None, Fault())
        world.wait_for("you@a.test")
        world.wait_for("you@b.test")
        until(lambda: queued(config) == 0)
        assert running.stop() == 0
    assert len(world.arrived) == 2


# --- the clock ---


@pytest.mark.parametrize("jump", [-1, 1], ids=["back", "ahead"])
def test_a_clock_that_jumps_a_day(world: Internet, tmp_path: Path, jump: int) -> None:
    """Mail that waits is neither given up nor forgotten, in whatever direction the clock was set."""
    if FAKETIME is None:
        lack("not installed: faketime")
    config = relay_config(tmp_path, world)
    stamp = tmp_path / "faketime"
    stamp.write_text("+0")
    settings = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "RELAY_FIRST_RETRY": "2",
        "RELAY_LONGEST_WAIT": "5",
        "RELAY_LOOK": "2",
    }
    with relay(config, **settings) as running:
        world.stop_host("a.test")
        send(config, "you@a.test", "waits")
        running.wait_for("message-deferred")
        stamp.write_text(f"{jump * 86400:+d}")
        world.start_host("a.test")
        # No other mail comes that would make it look.
        world.wait_for("you@a.test")
        assert bool(running.events("queue-clock-was-set")) is (jump < 0)
        send(config, "you@b.test", "b")
        world.wait_for("you@b.test")
        until(lambda: queued(config) == 0)
        assert not running.events("message-failed")
        assert running.stop() == 0
    assert sorted(mail.token for mail in world.arrived) == ["b", "waits"]
