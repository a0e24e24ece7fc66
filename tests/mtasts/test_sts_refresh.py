"""Policies are renewed before they expire, and what nobody needs is dropped (RFC 8461 §3.3, §10.2)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from postward.model import MICROSECONDS, Mode, TlsPolicy
from postward.names import Domain
from postward_mtasts import refresh, tables
from postward_mtasts.cache import DAY
from postward_mtasts.refresh import Refresher

FALLBACK = "+fallback-to-cached-policy"
HOUR = 3600


def note_of(policy: TlsPolicy | None) -> str:
    assert policy is not None
    assert (policy.mode, policy.problem) == (Mode.ENFORCE, None)
    (note,) = policy.notes
    return note.reason


async def test_policies_are_renewed_daily_though_the_id_is_the_same(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3, §10.2: proactively, whatever the record says."""
    sts.publish("v=STSv1; id=1")
    sts.serve(max_age=10 * 86_400)
    await sts.ask()
    before = await sts.row()
    with trio.move_on_after(17.9 * HOUR):
        await sts.plugin.background()
    assert sts.fetches == 1
    with trio.move_on_after(6.2 * HOUR):
        await sts.plugin.background()
    assert sts.fetches == 2
    after = await sts.row()
    assert after.expires - before.expires >= DAY * 3 // 4
    assert after.last_use == before.last_use


async def test_short_lived_policies_are_renewed_before_they_expire(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3, §10.2: SHOULD NOT wait for the expiry."""
    sts.publish("v=STSv1; id=1")
    sts.serve(max_age=3 * HOUR)
    await sts.ask()
    with trio.move_on_after(20 * HOUR):
        await sts.plugin.background()
    row = await sts.row()
    assert row.valid(sts.core.clock.now())


async def test_a_refresh_that_fails_keeps_the_policy_and_waits_an_hour(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve(max_age=10 * 86_400)
    await sts.ask()
    await trio.sleep(24 * HOUR)
    sts.page(500)
    with trio.move_on_after(3.1 * HOUR):
        await sts.plugin.background()
    assert 1 + 4 <= sts.fetches <= 1 + 5, "three quarters of an hour to an hour between them"
    policy = await sts.ask()
    assert (policy.mode, policy.notes) == (Mode.ENFORCE, ())


async def test_a_refresh_that_fails_gives_no_expired_policy_away(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.2: a policy that expires while it is renewed in vain does not act any more; and the fetch is shared."""
    sts.publish("v=STSv1; id=1")
    sts.serve(max_age=2000)
    await sts.ask()
    await trio.sleep(1990)
    sts.page(500)
    sts.core.http.delay = 30.0
    answers: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sts.plugin.refresher.round)
        await trio.sleep(5)
        answers.append(await sts.ask())
        await trio.sleep(10)
        answers.append(await sts.ask())
    assert [answer.mode for answer in answers] == [Mode.ENFORCE, Mode.NONE]
    assert sts.fetches == 2


async def test_a_delivery_does_not_wait_for_a_refresh(sts: Any, autojump_clock: MockClock) -> None:
    """A policy host that is slow once a day must not hold up the mail of that day."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    await trio.sleep(24 * HOUR)
    sts.core.http.delay = 50.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sts.plugin.refresher.round)
        await trio.sleep(1)
        with trio.fail_after(1):
            assert (await sts.ask()).mode is Mode.ENFORCE
    assert sts.fetches == 2


async def test_a_refresh_of_an_unreadable_policy_that_fails_breaks_nothing(sts: Any, autojump_clock: MockClock) -> None:
    """Another version may have stored what this one cannot read."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    await sts.core.store.write(
        lambda connection: connection.exec_driver_sql("UPDATE mtasts_policies SET policy_text = 'version: STSv0'")
    )
    sts.page(500)
    await trio.sleep(25 * HOUR)
    await sts.plugin.refresher.round()
    assert (sts.fetches, (await sts.ask()).problem.reason) == (2, "back-off-after-recent-fetch-error")


async def test_a_policy_is_renewed_while_dns_is_in_trouble(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3, §10.2: whatever the record says, also where it cannot be had."""
    sts.publish("v=STSv1; id=1")
    sts.serve(max_age=2 * 86_400)
    await sts.ask()
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL")
    with trio.move_on_after(3 * 24 * HOUR):
        await sts.plugin.background()
    assert note_of(await sts.ask()) == f"dns-servfail{FALLBACK}"


async def test_a_refresh_takes_the_new_id(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    sts.publish("v=STSv1; id=2")
    with trio.move_on_after(25 * HOUR):
        await sts.plugin.background()
    assert (await sts.row()).record_id == "2"
    await sts.ask()
    assert sts.fetches == 2


async def test_a_refresh_forgets_a_withdrawn_policy(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve("none", max_age=30 * 86_400)
    await sts.ask()
    sts.publish()
    with trio.move_on_after(25 * HOUR):
        await sts.plugin.background()
    assert await sts.row() is None


async def test_what_nobody_needs_is_dropped(sts: Any, autojump_clock: MockClock) -> None:
    """A policy unused for half a year, and the memory of an error."""
    sts.publish("v=STSv1; id=1")
    sts.page(404)
    await sts.ask()
    with trio.move_on_after(25 * HOUR):
        await sts.plugin.background()
    assert await sts.row() is None
    sts.serve(max_age=31_557_600)
    await sts.ask()
    await trio.sleep(179 * 24 * HOUR)
    await sts.ask()
    await trio.sleep(179 * 24 * HOUR)
    with trio.move_on_after(60):
        await sts.plugin.background()
    assert await sts.row() is not None
    await trio.sleep(2 * 24 * HOUR)
    with trio.move_on_after(60):
        await sts.plugin.background()
    assert await sts.row() is None


async def test_many_policies_are_renewed_side_by_side(sts: Any, autojump_clock: MockClock) -> None:
    """One policy host that does not answer must not let the others expire."""
    for number in range(20):
        sts.core.dns.set_zone(f"d{number}.example", '_mta-sts TXT "v=STSv1; id=1"\n')
        sts.core.http.pages[f"mta-sts.d{number}.example"] = b"version: STSv1\nmode: none\nmax_age: 864000\n"
        await sts.ask(Domain(f"d{number}.example"))
    sts.core.http.delay = 59
    await trio.sleep(24 * HOUR)
    with trio.fail_after(600):
        await sts.plugin.refresher.round()
    assert sts.fetches == 40


@pytest.mark.parametrize(("mode", "loud"), [("enforce", True), ("testing", True), ("none", False)])
async def test_the_operator_hears_of_a_renewal_that_failed(
    sts: Any, autojump_clock: MockClock, capsys: Any, mode: str, loud: bool
) -> None:
    """RFC 8461 §10.2: SHOULD alert, except for a cached policy of mode none."""
    sts.publish("v=STSv1; id=1")
    sts.serve(mode)
    await sts.ask()
    sts.page(404)
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL")
    await trio.sleep(24 * HOUR)
    capsys.readouterr()
    await sts.plugin.refresher.round()
    said = capsys.readouterr().out
    assert ("[error    ] policy not renewed" in said) is loud
    assert ("dns='_mta-sts.b.example: SERVFAIL" in said) is loud
    assert "http-status-404" in said if loud else not said


async def test_a_policy_of_mode_none_is_kept_while_dns_fails(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §8.3: only a record that is gone withdraws it; SERVFAIL is not gone."""
    sts.publish("v=STSv1; id=1")
    sts.serve("none", max_age=30 * 86_400)
    await sts.ask()
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL")
    await trio.sleep(25 * HOUR)
    await sts.plugin.refresher.round()
    row = await sts.row()
    assert row is not None
    assert row.fetched > row.last_use, "it was renewed from the policy host"


async def test_two_nodes_renew_a_policy_once(sts: Any, autojump_clock: MockClock) -> None:
    """Nodes that share a database take what is due from each other."""
    for number in range(10):
        sts.core.dns.set_zone(f"d{number}.example", '_mta-sts TXT "v=STSv1; id=1"\n')
        sts.core.http.pages[f"mta-sts.d{number}.example"] = b"version: STSv1\nmode: none\nmax_age: 864000\n"
        await sts.ask(Domain(f"d{number}.example"))
    await trio.sleep(24 * HOUR)
    sts.core.http.delay = 5
    other = Refresher(sts.core, type(sts.plugin)(sts.plugin.Config(), sts.core).discovery)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sts.plugin.refresher.round)
        nursery.start_soon(other.round)
    assert sts.fetches == 20


async def test_what_a_dead_node_had_taken_is_due_again(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    await trio.sleep(24 * HOUR)
    now = sts.core.clock.now()
    (taken,) = await sts.core.store.write(lambda connection: tables.take_due(connection, now, now + refresh.TAKEN_FOR, 10))
    assert taken.domain == "b.example"
    await sts.plugin.refresher.round()
    assert sts.fetches == 1
    await trio.sleep(refresh.TAKEN_FOR / MICROSECONDS)
    await sts.plugin.refresher.round()
    assert sts.fetches == 2


async def test_renewals_that_have_piled_up_are_spread(sts: Any, autojump_clock: MockClock) -> None:
    """Behind a day without power, a thousand policy hosts are not asked in the same second."""
    text = "version: STSv1\nmode: none\nmax_age: 864000\n"
    now = sts.core.clock.now()
    for number in range(1000):
        sts.core.dns.set_zone(f"d{number}.example", '_mta-sts TXT "v=STSv1; id=1"\n')
        sts.core.http.pages[f"mta-sts.d{number}.example"] = text.encode()
    entries = [refresh.cache.fetched(None, Domain(f"d{number}.example"), "1", text, now) for number in range(1000)]
    await sts.core.store.write(lambda connection: [tables.save(connection, entry) for entry in entries])
    await trio.sleep(48 * HOUR)
    started = trio.current_time()
    await sts.plugin.refresher.round()
    assert sts.fetches == 1000
    assert 0.75 * refresh.SPREAD < trio.current_time() - started < 1.25 * refresh.SPREAD


async def test_rows_of_an_older_version_are_looked_at(sts: Any, autojump_clock: MockClock) -> None:
    """They come without the instant at which to look: they get one, and only old ones are renewed at once."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    before = await sts.row()
    await sts.core.store.write(lambda connection: connection.exec_driver_sql("UPDATE mtasts_policies SET due = 0"))
    await sts.plugin.refresher.round()
    assert sts.fetches == 1
    assert before.fetched + DAY * 3 // 4 <= (await sts.row()).due <= before.fetched + DAY


async def test_a_later_use_is_never_undone(sts: Any, autojump_clock: MockClock) -> None:
    """Another process may note a use while this one fetches."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    entry = await sts.row()
    later = entry.last_use + DAY
    await sts.core.store.write(lambda connection: tables.touch(connection, entry.domain, later))
    await sts.core.store.write(lambda connection: tables.save(connection, entry))
    assert (await sts.row()).last_use == later
