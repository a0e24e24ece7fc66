"""Hostile zones and hostile chains: bounded work, one result, and no crash, all the way through a delivery (RFC 7672 §2.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import dns.rrset
import pytest
import structlog
import trio.testing

from big_rsa import big_rsa
from delivery_rig import RECIPIENT, Rig, make_rig
from postward.dns import SystemResolver, wire
from postward.lab.ca import Authority, Issued, tlsa
from postward.metrics import unread
from postward.model import Delivery, PolicyResult, ResultType
from postward.names import Domain
from postward_dane import match
from postward_dane.match import MAX_SIGNATURES, judge
from postward_dane.plugin import Dane
from postward_dane.tlsa import MAX_RECORDS, parse, usable

MX = Domain("mx1.example.test")
ZONE = "@ MX 10 mx1\nmx1 A 192.0.2.1\n"
GOOD = Authority("Good").issue([MX])


@asynccontextmanager
async def delivery(records: str, issued: Issued | None = None) -> AsyncIterator[Rig]:
    """A delivery to one host whose zone has these lines besides, and that shows this certificate."""
    async with make_rig() as rig:
        core: Any = SimpleNamespace(
            plugin="dane",
            dns=rig.dns,
            clock=rig.pipeline.clock,
            log=structlog.get_logger(),
            hostname=MX,
            certificates=(),
            metrics=unread(),
        )
        rig.plugins.add("dane", Dane(Dane.Config(), core))
        rig.dns.set_zone("example.test", ZONE + records)
        if issued is not None:
            rig.mx1.context = issued.server_context()
        yield rig


async def one_result(rig: Rig) -> tuple[Delivery, PolicyResult]:
    """What a delivery and its only result came to; whatever happened, it happened once and is temporary."""
    done = await rig.deliver()
    [result] = rig.journal.results
    [policy] = result.policies
    [recipient] = done.recipients
    assert not recipient.permanent
    assert recipient.delivered == policy.passed
    assert rig.mx1.sessions <= 1
    return done, policy


def lines(*records: str) -> str:
    return "".join(f"_25._tcp.mx1 TLSA {record}\n" for record in records)


# --- zones ---


async def test_four_thousand_records_with_one_that_matches() -> None:
    """RFC 6698 §4.1: rubbish is unusable and must not crowd out what is not; a report shows a bounded part."""
    rubbish = [f"3 1 1 {number:08x}" for number in range(4000)]
    async with delivery(lines(*rubbish, tlsa(GOOD.certificate)), GOOD) as rig:
        _, policy = await one_result(rig)
        assert policy.passed
        assert len(policy.evidence) == MAX_RECORDS
        assert tlsa(GOOD.certificate) in policy.evidence


async def test_four_thousand_records_of_which_none_is_usable() -> None:
    async with delivery(lines(*(f"3 1 1 {number:08x}" for number in range(4000))), GOOD) as rig:
        _, policy = await one_result(rig)
        assert policy.passed
        [note] = policy.notes
        assert (note.result_type, len(note.detail) <= 300) == (ResultType.TLSA_INVALID, True)


class Flood:
    """A name server whose answer to everything is one message as full as a message can be (RFC 1035 §4.2.2)."""

    async def datagram(self, server: object, query: bytes, accept: Callable[[bytes], bool]) -> bytes:
        reply = dns.message.make_response(dns.message.from_wire(query))
        reply.flags |= dns.flags.AD | dns.flags.TC
        return reply.to_wire()

    async def stream(self, server: object, query: bytes) -> bytes:
        reply = dns.message.make_response(dns.message.from_wire(query))
        reply.flags |= dns.flags.AD
        head = bytearray(reply.to_wire())
        record = b"\xc0\x0c" + (52).to_bytes(2, "big") + b"\0\1\0\0\0\x3c\0\4\3\1\1"
        records = [record + bytes((number % 256,)) for number in range(4000)]
        head[6:8] = len(records).to_bytes(2, "big")
        question_end = len(head) - 11 if reply.edns >= 0 else len(head)
        return bytes(head[:question_end]) + b"".join(records) + bytes(head[question_end:])


async def test_a_message_of_four_thousand_records_is_a_failed_lookup() -> None:
    """RFC 7672 §2.1.2: no mail host needs as many; what is malformed has failed, and never reads as an absence."""
    resolver = SystemResolver(["127.0.0.1"], transport=Flood())
    owner = Domain(f"_25._tcp.{MX}")
    query = wire.make_query(dns.name.from_text(owner), "TLSA")
    assert 60_000 < len(await Flood().stream(None, query)) < 65_536
    answer = await resolver.query(owner, "TLSA")
    assert answer.failure is not None
    assert (answer.failure.rcode, answer.records) == ("MALFORMED", ())


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ("_25._tcp.mx1 CNAME a\na CNAME b\nb CNAME a\n", "dns-loop"),
        ("_25._tcp.mx1 CNAME _25._tcp.mx1\n", "dns-loop"),
        ("_25._tcp.mx1 CNAME c0\n" + "".join(f"c{number} CNAME c{number + 1}\n" for number in range(200)), "dns-loop"),
    ],
)
async def test_aliases_without_end(records: str, reason: str) -> None:
    """RFC 7672 §2.1.3: an error along the chain makes the lookup failed."""
    async with delivery(records, GOOD) as rig:
        _, policy = await one_result(rig)
        assert policy.failure is not None
        assert (policy.failure.result_type, policy.failure.reason) == (ResultType.DNSSEC_INVALID, reason)
        assert rig.mx1.sessions == 0


async def test_a_host_with_the_longest_of_names() -> None:
    """RFC 1035 §2.3.4: there is no room for TLSA records before it, so it has none."""
    host = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 48, "example.test"])
    assert len(host) == 253
    async with delivery("") as rig:
        rig.dns.set_zone("example.test", f"@ MX 10 {host}.\n{host}. A 192.0.2.1\n_25._tcp CNAME {host}.\n")
        done = await rig.deliver()
        assert done.recipients[0].delivered
        assert [policy.kind for policy in rig.journal.results[0].policies] == ["no-policy-found"]


async def test_the_largest_records_that_fit() -> None:
    """Whole certificates of the largest size that a record can have; none parses, so none is usable."""
    async with delivery(lines(*(f"2 0 0 {'30' * 60_000}{number:02x}" for number in range(3))), GOOD) as rig:
        _, policy = await one_result(rig)
        assert policy.notes[0].result_type is ResultType.TLSA_INVALID


# --- chains ---

LONG = dataclasses.replace(GOOD, chain=(GOOD.certificate, *(Authority(f"Number {number}").root for number in range(59))))
HUGE = dataclasses.replace(GOOD, chain=(GOOD.certificate, *(Authority("x" * 60).root,) * 400))


async def test_a_chain_of_sixty_certificates_under_dane_ee() -> None:
    """RFC 7672 §3.1.1: the leaf alone counts, whatever is sent behind it."""
    async with delivery(lines(tlsa(GOOD.certificate)), LONG) as rig:
        assert (await one_result(rig))[1].passed


async def test_a_chain_of_sixty_certificates_under_dane_ta() -> None:
    async with delivery(lines(tlsa(LONG.chain[-1], 2, 0, 1)), LONG) as rig:
        failure = (await one_result(rig))[1].failure
        assert failure is not None
        assert (failure.result_type, failure.reason) == (ResultType.VALIDATION_FAILURE, "certificate-chain-too-long")


async def test_a_chain_that_no_handshake_takes() -> None:
    """OpenSSL itself takes 100 KiB of certificates; more is a failed handshake, told once."""
    assert sum(map(len, HUGE.chain)) > 102_400
    async with delivery(lines(tlsa(GOOD.certificate)), HUGE) as rig:
        failure = (await one_result(rig))[1].failure
        assert failure is not None
        assert failure.result_type is ResultType.VALIDATION_FAILURE
        assert failure.reason.startswith("tls-local-")


BIG = Authority("Big", key=big_rsa())
BIG_LEAF = BIG.issue([MX], key=big_rsa(), with_root=True)


@pytest.mark.parametrize("kind", [(3, 1, 1), (3, 1, 0), (2, 1, 1), (2, 0, 0), (2, 1, 0)])
async def test_keys_of_16384_bits(kind: tuple[int, int, int]) -> None:
    """Large keys are slow, and no reason to fail: the largest that OpenSSL takes are judged like any other."""
    target = BIG_LEAF.certificate if kind[0] == 3 else BIG.root
    async with delivery(lines(tlsa(target, *kind)), BIG_LEAF) as rig:
        assert (await one_result(rig))[1].passed


def test_bare_keys_without_end_cost_a_bounded_number_of_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7671 §5.2.3: a hundred keys and twenty certificates are two thousand signatures, each more than a millisecond."""
    tried: list[object] = []
    monkeypatch.setattr(match, "_signed_by", lambda *arguments: tried.append(arguments))
    records = [parse(tlsa(Authority(f"Number {number}").root, 2, 1, 0)) for number in range(30)]
    assert not judge(usable(records), (GOOD.certificate, *LONG.chain[1:20]), [MX]).passed
    assert len(tried) == MAX_SIGNATURES


async def _silent(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def test_a_host_that_never_answers(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing is counted of a connection that never came to TLS, and the mail waits."""
    async with delivery(lines(tlsa(GOOD.certificate))) as rig:
        rig.net.listen("192.0.2.1", 25, _silent)
        done = await rig.deliver(RECIPIENT)
        assert not done.recipients[0].delivered
        assert rig.journal.results == []
