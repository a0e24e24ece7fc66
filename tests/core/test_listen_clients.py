"""Who counts as one client, and how often one may be wrong about a password."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from postward.listen import clients
from postward.listen.clients import MAX_WRONG, WRONG_WITHIN, WrongLogins, client_of
from postward.listen.relay import Relay
from postward.smtp.server import Reply
from postward.smtp.settings import Session


class Log:
    def __getattr__(self, level: str) -> Any:
        return lambda *args, **more: None


class Yes:
    """Users, of whom everybody knows the password."""

    async def check(self, user: str, password: str) -> bool:
        return password == "right"


def relay(users: Yes) -> Relay:
    """One that only lets log in."""
    services: Any = SimpleNamespace(log=Log(), wrong_logins=WrongLogins())
    return Relay(services=services, users=users)  # type: ignore[arg-type]


def session(peer: str) -> Session:
    return Session(peer=peer)


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_one_client(peer: str, client: str) -> None:
    assert client_of(peer) == client


async def test_who_is_wrong_too_often_hears_nothing_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    """From session to session, and whichever address of its network it takes."""
    here = relay(Yes())
    for number in range(MAX_WRONG):
        assert await here.authenticate(session(f"2001:db8::{number:x}"), "alice", "wrong") is False
    refused = await here.authenticate(session("2001:db8::ffff"), "alice", "right")
    assert isinstance(refused, Reply)
    assert (refused.code, refused.permanent) == (454, False)
    assert await here.authenticate(session("2001:db8:0:1::1"), "alice", "right") is True
    await trio.sleep(WRONG_WITHIN)
    assert await here.authenticate(session("2001:db8::ffff"), "alice", "right") is True
    assert await here.authenticate(session("2001:db8::ffff"), "alice", "wrong") is False


async def test_many_guesses_at_once_are_no_way_around() -> None:
    heard: list[object] = []

    class Slow(Yes):
        async def check(self, user: str, password: str) -> bool:
            await arrived.wait()
            return await super().check(user, password)

    arrived = trio.Event()
    here = relay(Slow())

    async def guess(password: str) -> None:
        heard.append(await here.authenticate(session("192.0.2.1"), "alice", password))

    async with trio.open_nursery() as nursery:
        for _ in range(10 * MAX_WRONG):
            nursery.start_soon(guess, "wrong")
        await trio.testing.wait_all_tasks_blocked()
        arrived.set()
    assert heard.count(False) == MAX_WRONG
    assert True not in heard
    # What is right tells nothing either, although it was asked before.
    await guess("right")
    assert heard[-1] is not True


async def test_right_logins_cost_nothing() -> None:
    here = relay(Yes())
    for _ in range(10 * MAX_WRONG):
        assert await here.authenticate(session("192.0.2.1"), "alice", "right") is True


async def test_no_more_clients_are_remembered_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_REMEMBERED", 3)
    wrong = WrongLogins()
    for number in range(4):
        for _ in range(MAX_WRONG):
            wrong.count(f"192.0.2.{number}")
    assert [wrong.too_many(f"192.0.2.{number}") for number in range(4)] == [False, True, True, True]
