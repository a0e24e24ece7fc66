"""kill -9 under load: what was answered with 250 is delivered, bounced or still queued, and little comes twice.

`POSTWARD_KILLS=50` runs more rounds.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import smtplib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postward.dsn.parse import parse
from relay_kit import (
    Internet,
    client,
    environment_number,
    internet,
    is_alive,
    message,
    pause,
    port_of,
    queued,
    relay,
    relay_config,
    until,
)

pytestmark = pytest.mark.loopback

KILLS = environment_number("POSTWARD_KILLS", 8)
DOMAINS = ("a.test", "b.test", "c.test")
SENDER = "me@home.test"
CONNECTIONS = 12
CLIENTS = 4


class Load:
    """Clients that hand in mail as fast as they are answered, and remember what they were promised."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self.promised: set[str] = set()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with client(self._config) as smtp:
                    while not self._stop.is_set():
                        self._send(smtp)
            except (smtplib.SMTPException, OSError):
                self._stop.wait(0.02)

    def _send(self, smtp: smtplib.SMTP) -> None:
        number = next(self._numbers)
        token = f"t{number}"
        local = "unknown" if number % 10 == 0 else "you"
        # Some are large enough for a file of their own.
        body = "x" * 70 + "\r\n"
        smtp.sendmail(SENDER, [f"{local}@{DOMAINS[number % 3]}"], message(token, body * (1500 if number % 25 == 0 else 20)))
        self.promised.add(token)

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(40)


def settle(world: Internet, config: Path, load: Load) -> None:
    """Wait until the queue is empty, and look whether every promise was kept."""
    until(lambda: queued(config) == 0)
    delivered = Counter(mail.token for mail in world.arrived if mail.domain != "home.test")
    bounced = Counter(mail.token for mail in world.to(SENDER))
    assert len(load.promised) > 10 * KILLS, "there was too little load to show anything"
    missing = [token for token in load.promised if not delivered[token] and not bounced[token]]
    assert not missing
    assert all(parse(mail.content).recipients[0].action == "failed" for mail in world.to(SENDER))
    assert not list((config.parent / "data" / "spool").glob("*"))


def lives_of_doubles(world: Internet) -> list[list[int]]:
    """Of each message that arrived more than once, the lives in which it did."""
    lives: dict[tuple[str, str], list[int]] = {}
    for mail in world.arrived:
        lives.setdefault((mail.domain, mail.token), []).append(mail.life)
    return [found for found in lives.values() if len(found) > 1]


def end_of_life(world: Internet) -> None:
    until(lambda: world.sessions == 0)
    world.life += 1


def check_doubles(world: Internet, kills: int) -> None:
    """Twice in one life would be an error; from one life to another it may happen to what was in flight at the kill."""
    doubles = lives_of_doubles(world)
    print(f"{len(doubles)} of {len(world.arrived)} messages came twice in {kills} kills")
    assert not [lives for lives in doubles if len(set(lives)) != len(lives)]
    assert all(count <= CONNECTIONS for count in Counter(lives[0] for lives in doubles).values())


def make(tmp_path: Path, world: Internet, workers: int = 1) -> Path:
    return relay_config(tmp_path, world, delivery={"connections": CONNECTIONS, "workers": workers})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_is_killed(tmp_path: Path, workers: int) -> None:
    with internet(*DOMAINS, "home.test") as world:
        config = make(tmp_path, world, workers)
        load = Load(config)
        with load.running():
            for _ in range(KILLS):
                with relay(config, workers=workers) as running:
                    pause(random.uniform(0.05, 0.9))
                    running.kill()
                end_of_life(world)
        with relay(config, workers=workers) as running:
            settle(world, config, load)
            assert running.stop() == 0
            assert not running.events("queue-destinations-repaired")
        check_doubles(world, KILLS)


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """It is started again, the listeners never close, and its messages return."""
    with internet(*DOMAINS, "home.test") as world:
        config = make(tmp_path, world, workers=2)
        load = Load(config)
        kills = max(KILLS // 4, 2)
        with relay(config, workers=2) as running:
            with load.running():
                for number in range(kills):
                    pause(random.uniform(0.2, 0.9))
                    victim = running.workers[number % 2]
                    os.kill(victim, signal.SIGKILL)
                    running.wait_for("worker-died", number + 1)
                    running.wait_for("worker-ready", 3 + number)
                    # Its deliveries begin again, and those of its sibling go on.
                    world.life += 1
            settle(world, config, load)
            assert len(running.workers) == 2
            assert running.stop() == 0
        doubles = lives_of_doubles(world)
        print(f"{len(doubles)} of {len(world.arrived)} messages came twice in {kills} kills of a worker")
        assert len(doubles) <= kills * CONNECTIONS // 2


def test_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Its workers end by themselves, and whoever starts next waits for them and takes over."""
    with internet(*DOMAINS, "home.test") as world:
        config = make(tmp_path, world, workers=2)
        load = Load(config)
        with load.running():
            for _ in range(max(KILLS // 8, 1)):
                with relay(config, workers=2) as running:
                    pause(random.uniform(0.2, 0.9))
                    workers = running.workers
                    assert len(workers) == 2
                    running.process.kill()
                    running.process.wait()
                    with relay(config, workers=2) as successor:
                        assert not any(is_alive(each) for each in workers)
                        pause(0.3)
                        assert successor.stop() == 0
                end_of_life(world)
        with relay(config, workers=2) as running:
            settle(world, config, load)
            assert running.stop() == 0
        # The workers were not killed, so they have stored what they delivered.
        assert not lives_of_doubles(world)


def test_the_queue_survives_a_kill_at_rest(tmp_path: Path) -> None:
    """Mail that waits is there after any number of lives, and is told apart from mail that was never promised."""
    with internet(*DOMAINS, "home.test") as world:
        config = make(tmp_path, world)
        with relay(config) as running, client(config) as smtp:
            smtp.sendmail(SENDER, ["later@a.test"], message("waits"))
            smtp.mail(SENDER)
            smtp.rcpt("you@b.test")
            smtp.docmd("DATA")
            smtp.send(message("never"))
            running.kill()
        assert port_of(config)
        for _ in range(2):
            with relay(config) as running:
                assert queued(config) == 1
                running.kill()
        assert world.arrived == []
