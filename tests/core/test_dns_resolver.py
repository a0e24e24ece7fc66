"""The stub resolver over a scripted transport: whom it asks, when it gives up, what it keeps (no sockets, no real time)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
import trio.testing

from postward.dns import Answer, Status, SystemResolver
from postward.dns.nameserver import Nameserver
from postward.errors import InvalidName
from postward.names import Domain

LOCAL, REMOTE = "127.0.0.1:53", "192.0.2.1:53"
Reply = Callable[[dns.message.Message], Awaitable[Sequence[bytes]]]


def build(query: dns.message.Message, *lines: str, rcode: str = "NOERROR", ad: bool = True, tc: bool = False) -> bytes:
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.from_text(rcode))
    reply.flags |= (dns.flags.AD if ad else 0) | (dns.flags.TC if tc else 0)
    for line in lines:
        owner, ttl, data = line.split(maxsplit=2)
        reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", *data.split(maxsplit=1)))
    return reply.to_wire(max_size=65_535)


def answering(*lines: str, rcode: str = "NOERROR", ad: bool = True, wait: float = 0) -> Reply:
    async def reply(query: dns.message.Message) -> Sequence[bytes]:
        await trio.sleep(wait)
        return [build(query, *lines, rcode=rcode, ad=ad)]

    return reply


async def silence(query: dns.message.Message) -> Sequence[bytes]:
    return []


async def refused(query: dns.message.Message) -> Sequence[bytes]:
    raise ConnectionRefusedError(111, "Connection refused")


@dataclass
class Script:
    """A transport that answers as told, by server; `tcp` for streams."""

    udp: dict[str, Reply]
    tcp: dict[str, Reply] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def datagram(self, server: Nameserver, query: bytes, accept: Callable[[bytes], bool]) -> bytes:
        message = dns.message.from_wire(query)
        self.asked.append(
            f"{server} {message.question[0].name.to_text(True)} {dns.rdatatype.to_text(message.question[0].rdtype)}"
        )
        await trio.lowlevel.checkpoint()
        for datagram in await self.udp[str(server)](message):
            if accept(datagram):
                return datagram
        await trio.sleep_forever()
        raise AssertionError

    async def stream(self, server: Nameserver, query: bytes) -> bytes:
        self.asked.append(f"{server} tcp")
        await trio.lowlevel.checkpoint()
        return (await self.tcp[str(server)](dns.message.from_wire(query)))[0]


A = "example.com. 60 A 192.0.2.7"


async def ask(script: Script, *servers: str, name: str = "example.com", rdtype: str = "A") -> Answer:
    return await SystemResolver(servers or [LOCAL], transport=script).query(name, rdtype)


def rcode_of(answer: Answer) -> str:
    assert answer.status is Status.FAILED
    assert answer.failure is not None
    return answer.failure.rcode


async def test_a_validated_answer_from_loopback_is_secure() -> None:
    answer = await ask(Script({LOCAL: answering(A)}), name="Example.COM.")
    assert (answer.status, answer.name, answer.rdtype) == (Status.SECURE, "example.com", "A")


async def test_ad_counts_by_the_server_that_answered() -> None:
    """RFC 4035 §4.9.3."""
    assert (await ask(Script({REMOTE: answering(A)}), REMOTE)).status is Status.INSECURE
    assert (await ask(Script({REMOTE: refused, LOCAL: answering(A)}), REMOTE, LOCAL)).status is Status.SECURE


@pytest.mark.parametrize("failure", ["SERVFAIL", "silence", "malformed"])
async def test_a_bogus_answer_does_not_become_insecure_at_the_next_server(
    failure: str, autojump_clock: trio.testing.MockClock
) -> None:
    """RFC 7672 §2.1.2: breaking a signature, or delaying an answer, must not switch DANE off."""

    async def malformed(query: dns.message.Message) -> Sequence[bytes]:
        return [build(query)[:-4] + b"\x01"]

    how = {"SERVFAIL": answering(rcode="SERVFAIL"), "silence": silence, "malformed": malformed}[failure]
    script = Script({LOCAL: how, REMOTE: answering(A)})
    assert (await ask(script, LOCAL, REMOTE)).status is Status.FAILED
    assert not [line for line in script.asked if line.startswith(REMOTE)]


async def test_a_believed_server_that_is_down_leaves_the_question_to_others() -> None:
    answer = await ask(Script({LOCAL: refused, REMOTE: answering(A)}), LOCAL, REMOTE)
    assert answer.status is Status.INSECURE


async def test_among_equals_the_next_server_is_asked_after_an_error() -> None:
    script = Script({"127.0.0.1:53": answering(rcode="SERVFAIL"), "[::1]:53": answering(A)})
    assert (await ask(script, "127.0.0.1:53", "[::1]:53")).status is Status.SECURE
    script = Script({REMOTE: answering(rcode="REFUSED"), "192.0.2.2:53": answering(A)})
    assert (await ask(script, REMOTE, "192.0.2.2:53")).status is Status.INSECURE


async def test_what_a_server_said_is_told_rather_than_silence(autojump_clock: trio.testing.MockClock) -> None:
    script = Script({REMOTE: answering(rcode="SERVFAIL"), "192.0.2.2:53": refused, "192.0.2.3:53": answering(rcode="REFUSED")})
    assert rcode_of(await ask(script, REMOTE, "192.0.2.2:53", "192.0.2.3:53")) == "SERVFAIL"


async def test_silence_ends_after_the_time_limit(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    script = Script({LOCAL: silence})
    assert rcode_of(await ask(script)) == "TIMEOUT"
    assert trio.current_time() - start == pytest.approx(30)
    assert len(script.asked) == 6


async def test_a_lost_datagram_is_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    left = [silence, silence, answering(A)]

    async def flaky(query: dns.message.Message) -> Sequence[bytes]:
        return await left.pop(0)(query)

    assert (await ask(Script({LOCAL: flaky}))).status is Status.SECURE


async def test_no_server_at_all_is_a_network_failure() -> None:
    answer = await ask(Script({LOCAL: refused, REMOTE: refused}), LOCAL, REMOTE)
    assert rcode_of(answer) == "NETWORK"
    assert answer.failure is not None
    assert "Connection refused" in answer.failure.detail


async def test_datagrams_that_do_not_match_are_dropped(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 5452 §9.1."""

    async def spoofed(query: dns.message.Message) -> Sequence[bytes]:
        wrong = bytearray(build(query, "example.com. 60 A 203.0.113.66"))
        wrong[0] ^= 0xFF
        other = build(dns.message.make_query("example.net", "A"), "example.net. 60 A 203.0.113.66")
        return [bytes(wrong), b"", other, build(query, A)]

    answer = await ask(Script({LOCAL: spoofed}))
    assert [record.address for record in answer.records] == ["192.0.2.7"]

    async def only_wrong(query: dns.message.Message) -> Sequence[bytes]:
        return (await spoofed(query))[:3]

    answer = await ask(Script({LOCAL: only_wrong}))
    assert rcode_of(answer) == "TIMEOUT"


async def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    """RFC 7766 §5."""

    async def truncated(query: dns.message.Message) -> Sequence[bytes]:
        return [build(query, "example.com. 60 A 203.0.113.66", tc=True)[:40]]

    script = Script({LOCAL: truncated}, {LOCAL: answering(A)})
    answer = await ask(script)
    assert [record.address for record in answer.records] == ["192.0.2.7"]

    async def another(query: dns.message.Message) -> Sequence[bytes]:
        return [build(dns.message.make_query("example.net", "A"))]

    assert rcode_of(await ask(Script({LOCAL: truncated}, {LOCAL: another}))) == "MALFORMED"
    assert rcode_of(await ask(Script({LOCAL: truncated}, {LOCAL: truncated}))) == "MALFORMED"
    assert rcode_of(await ask(Script({LOCAL: truncated}, {LOCAL: refused}))) == "MALFORMED"


async def test_a_truncated_answer_without_its_whole_is_not_asked_for_elsewhere() -> None:
    """A believed server that was reached has failed; an unbelieved one must not speak in its place."""

    async def truncated(query: dns.message.Message) -> Sequence[bytes]:
        return [build(query, tc=True)]

    script = Script({LOCAL: truncated, REMOTE: answering(A)}, {LOCAL: refused})
    answer = await SystemResolver([LOCAL, REMOTE], transport=script).query("example.com", "A")
    assert (rcode_of(answer), REMOTE in script.asked) == ("MALFORMED", False)


async def test_aliases_are_followed_by_asking_again_when_the_server_does_not() -> None:
    async def stub(query: dns.message.Message) -> Sequence[bytes]:
        name = query.question[0].name.to_text()
        lines = {"example.com.": "example.com. 9 CNAME b.example.net.", "b.example.net.": "b.example.net. 60 A 192.0.2.8"}
        return [build(query, lines[name], ad=name != "b.example.net.")]

    answer = await ask(Script({LOCAL: stub}))
    assert (answer.status, answer.canonical, answer.ttl) == (Status.INSECURE, "b.example.net", 9)


@pytest.mark.parametrize("circle", [True, False])
async def test_aliases_over_several_answers_have_a_limit(circle: bool) -> None:
    async def loop(query: dns.message.Message) -> Sequence[bytes]:
        name = query.question[0].name.to_text()
        number = int(name[1:-1].partition(".")[0] or 0) if name.startswith("n") else 0
        return [build(query, f"{name} 60 CNAME n{(number + 1) % (3 if circle else 1000)}.example.com.")]

    script = Script({LOCAL: loop})
    assert rcode_of(await ask(script)) == "LOOP"
    assert len(script.asked) <= (4 if circle else 17)


async def test_equal_questions_at_once_are_asked_once(autojump_clock: trio.testing.MockClock) -> None:
    script = Script({LOCAL: answering("example.com. 0 A 192.0.2.7", wait=1)})
    resolver = SystemResolver([LOCAL], transport=script)
    answers: list[Answer] = []

    async def one() -> None:
        answers.append(await resolver.query("example.com", "A"))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(one)
    assert len(answers) == 50
    assert len(script.asked) == 1


async def test_a_cancelled_asker_leaves_the_question_to_the_others(autojump_clock: trio.testing.MockClock) -> None:
    script = Script({LOCAL: answering(A, wait=2)})
    resolver = SystemResolver([LOCAL], transport=script)
    answers: list[Answer] = []

    async def impatient() -> None:
        with trio.move_on_after(1):
            await resolver.query("example.com", "A")

    async def patient() -> None:
        answers.append(await resolver.query("example.com", "A"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(patient)
        nursery.start_soon(patient)
    assert [answer.status for answer in answers] == [Status.SECURE] * 2
    assert len(script.asked) == 2


async def test_answers_are_kept_and_failures_briefly(autojump_clock: trio.testing.MockClock) -> None:
    script = Script({LOCAL: answering(A)})
    resolver = SystemResolver([LOCAL], transport=script)
    await resolver.query("example.com", "A")
    await trio.sleep(30)
    assert (await resolver.query("EXAMPLE.com", "a")).ttl == 30
    assert len(script.asked) == 1
    await trio.sleep(31)
    await resolver.query("example.com", "A")
    assert len(script.asked) == 2

    script.udp[LOCAL] = answering(rcode="SERVFAIL")
    for wait in (0, 4, 2):
        await trio.sleep(wait)
        await resolver.query("example.com", "MX")
    assert len(script.asked) == 4


async def test_addresses_of_both_families_are_asked_for_side_by_side(autojump_clock: trio.testing.MockClock) -> None:
    script = Script({LOCAL: answering(wait=2)})
    start = trio.current_time()
    v4, v6 = await SystemResolver([LOCAL], transport=script).addresses(Domain("example.com"))
    assert (v4.rdtype, v6.rdtype) == ("A", "AAAA")
    assert trio.current_time() - start == pytest.approx(2)


@pytest.mark.parametrize("name", ["", "[192.0.2.1]", "a..b", "x" * 300])
async def test_what_is_no_name_is_the_callers_error(name: str) -> None:
    with pytest.raises(InvalidName):
        await ask(Script({}), name=name)


async def test_an_unknown_type_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="record type"):
        await ask(Script({}), rdtype="NONSENSE")


async def test_the_self_test_goes_past_the_cache_and_says_whom_it_does_not_believe() -> None:
    script = Script({REMOTE: answering("org. 60 SOA a. b. 1 2 3 4 5")})
    resolver = SystemResolver([REMOTE], transport=script)
    await resolver.query("org", "SOA")
    assert resolver.validating is None
    found = await resolver.run_self_test("org.", "")
    assert (found.validating, resolver.validating) == (False, False)
    assert "trust_ad" in resolver.problems[0]
    assert len(script.asked) == 2


async def test_after_a_failed_self_test_nothing_is_secure_and_a_good_one_mends_it() -> None:
    """RFC 6698 §4.1."""
    script = Script({LOCAL: answering("org. 60 SOA a. b. 1 2 3 4 5", ad=False)})
    resolver = SystemResolver([LOCAL], transport=script)
    await resolver.run_self_test("org.", "")
    script.udp[LOCAL] = answering(A)
    assert (await resolver.query("example.com", "A")).status is Status.INSECURE
    script.udp[LOCAL] = answering("org. 60 SOA a. b. 1 2 3 4 5")
    await resolver.run_self_test("org.", "")
    assert resolver.validating is True
    script.udp[LOCAL] = answering(A)
    assert (await resolver.query("example.com", "A")).status is Status.SECURE


async def test_lookups_are_counted_by_what_they_came_to_and_cached_answers_are_not() -> None:
    """RFC 7672 §2.1.1: a resolver that goes wrong shows in its figures."""
    script = Script({LOCAL: answering(A)})
    resolver = SystemResolver([LOCAL], transport=script)
    for _ in range(3):
        await resolver.query("example.com", "A")
    script.udp[LOCAL] = answering(rcode="SERVFAIL")
    await resolver.query("example.com", "TLSA")
    assert resolver.tally.by_type() == {"A": {"secure": 1}, "TLSA": {"servfail": 1}}


async def test_a_question_that_takes_too_long_counts_as_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    resolver = SystemResolver([LOCAL], transport=Script({LOCAL: silence}), timeout=3, try_timeout=5)
    await resolver.query("example.com", "A")
    assert resolver.tally.by_type() == {"A": {"timeout": 1}}
