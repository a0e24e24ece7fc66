"""What reports say of whole deliveries under MTA-STS and DANE: every way to fail has its row, and the sums always hold.

From the mail hosts to the counters, over memory (RFC 8460 §4.2, §4.3; RFC 8461 §6).
"""

from __future__ import annotations

import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delivery_rig import ZONE, Rig, context_for, make_rig
from plugin_rig import VirtualClock, make_core
from postward.http import HttpError
from postward.lab.ca import Authority, self_signed, tlsa
from postward.metrics import unread
from postward.model import Failure, JournalEntry, ResultType, TlsWish
from postward.names import Domain
from postward_dane.plugin import Dane
from postward_mtasts import tables
from postward_mtasts.plugin import MtaSts
from postward_mtasts.settings import Settings
from postward_tlsrpt.counting import Counts, count

MX1, MX2 = "mx1.example.test", "mx2.example.test"
GOOD = {name: context_for(name) for name in (MX1, MX2)}
STRANGER = self_signed([Domain(MX1)])
OTHER_NAME = context_for("other.example.test")
EXPIRED = context_for(MX1, MX2, not_before=0, not_after=1)
UNTRUSTED = Authority("Nobody").issue([Domain(MX1)]).server_context()
RECORD, WRONG, UNUSABLE = tlsa(STRANGER.certificate), f"3 1 1 {'01' * 32}", f"1 1 1 {'01' * 32}"


def demanding() -> ssl.SSLContext:
    """A server that wants a certificate of the client, and says so behind the handshake."""
    context = context_for(MX1)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Rude(trio.abc.Stream):
    """Answers the first TLS record with `answer`, if any, and hangs up."""

    def __init__(self, inner: trio.abc.Stream, answer: bytes = b"") -> None:
        self._inner, self._answer, self._asked = inner, answer, False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._inner.receive_some(max_bytes))
        if self._asked:
            if self._answer:
                await self._inner.send_all(self._answer)
            await self._inner.aclose()
            return b""
        self._asked = data.strip().upper() == b"STARTTLS"
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass
class World:
    """A sender with both plugins, and `example.test` with two mail hosts."""

    rig: Rig
    core: Any
    tlsa: dict[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    faulty: list[str] = field(default_factory=list)

    def publish(self, *texts: str, mx: str = "*.example.test", mode: str = "enforce", page: Any = None) -> None:
        """Records at `_mta-sts` and the policy behind them."""
        self.texts = texts
        good = f"version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: 604800\r\n".encode()
        self.core.http.pages["mta-sts.example.test"] = good if page is None else page
        self.zone()

    def zone(self) -> None:
        lines = [f'_mta-sts TXT "{text}"' for text in self.texts]
        lines += [f"_25._tcp.{name} TLSA {record}" for name, record in self.tlsa.items()]
        self.rig.dns.set_zone("example.test", "\n".join([ZONE, *lines, ""]))

    def counts(self, start: int = 0) -> Counts:
        results = self.rig.journal.results[start:]
        return count(JournalEntry(sequence=number, count=1, result=each) for number, each in enumerate(results))


@asynccontextmanager
async def make_world(**dane: Any) -> AsyncIterator[World]:
    async with make_core("mtasts", tables.SCHEMA) as core:
        clock = VirtualClock(time.time_ns() // 1000)  # the certificates are of now
        async with make_rig(clock=clock) as rig:
            core.dns, core.trust, core.clock = rig.dns, rig.pipeline.trust, clock
            other: Any = SimpleNamespace(plugin="dane", dns=rig.dns, clock=clock, log=structlog.get_logger(), metrics=unread())
            rig.plugins.add("mtasts", MtaSts(Settings(), core))
            rig.plugins.add("dane", Dane(Dane.Config(**dane), other))
            yield World(rig, core)


def by_type(counts: Counts) -> dict[str, tuple[int, int]]:
    """Policy type to successes and failures."""
    found: dict[str, Counter[bool]] = {}
    for number, counter in ((False, counts.failures), (True, counts.successes)):
        for key, times in counter.items():
            found.setdefault(json.loads(counts.policies[key.policy_id].text)["policy-type"], Counter())[number] += times
    return {kind: (counter[True], counter[False]) for kind, counter in found.items()}


def details(counts: Counts) -> list[tuple[str, str, str]]:
    """Result type, reason and mail host of each kind of failure."""
    lines = [json.loads(key.detail) for key in counts.details.elements()]
    return sorted(
        (line["result-type"], line.get("failure-reason-code", ""), line.get("receiving-mx-hostname", "")) for line in lines
    )


# --- the table: every way to fail, by its own name ---

FETCH, INVALID, WEBPKI = "sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"
NO_STS = Failure(result_type=ResultType.CERTIFICATE_EXPIRED, reason="x")
ID = "v=STSv1; id=1"


@dataclass(frozen=True)
class Row:
    """What is published and shown, and what the report then says: sessions per policy type, and details."""

    texts: tuple[str, ...] = (ID,)
    mx: str = "*.example.test"
    mode: str = "enforce"
    page: Any = None
    context: Any = "good"
    wrap: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None
    fault: str = ""
    wish: TlsWish = TlsWish.FOLLOW
    sums: tuple[int, int] = (1, 0)
    kind: str = "sts"
    details: tuple[tuple[str, str, str], ...] = ()
    delivered_to: str = MX1


def failed(kind: str, reason: str = "", host: str = MX1) -> tuple[tuple[str, str, str], ...]:
    return ((kind, reason, host),)


ROWS = {
    "enforce": Row(),
    "testing": Row(mode="testing"),
    "none": Row(mode="none", kind="no-policy-found"),
    "no record": Row(texts=(), kind="no-policy-found"),
    "several records": Row(texts=(ID, "v=STSv1; id=2"), sums=(0, 1), details=failed(FETCH, "multiple-mta-sts-records", "")),
    "broken record": Row(texts=("v=STSv1; id=;",), sums=(0, 1), details=failed(FETCH, "record-syntax-error", "")),
    "404": Row(page=404, sums=(0, 1), details=failed(FETCH, "http-status-404", "")),
    "redirect": Row(page=302, sums=(0, 1), details=failed(FETCH, "http-status-302", "")),
    "no policy host": Row(page=HttpError("dns", "x"), sums=(0, 1), details=failed(FETCH, "dns-lookup-failed", "")),
    "certificate of the policy host": Row(
        page=HttpError("tls", "x", NO_STS), sums=(0, 1), details=failed(WEBPKI, "certificate-expired+x", "")
    ),
    "no policy": Row(page=b"<html>", sums=(0, 1), details=failed(INVALID, "policy-syntax-error", "")),
    "no answer": Row(fault="SERVFAIL", sums=(0, 1), details=failed(FETCH, "extended-dns-error-7-signature-expired", "")),
    "host not named": Row(
        mx=MX2, sums=(1, 1), details=failed("validation-failure", "sts-policy-mx-mismatch"), delivered_to=MX2
    ),
    "host not named, testing": Row(
        mx=MX2, mode="testing", sums=(0, 1), details=failed("validation-failure", "sts-policy-mx-mismatch")
    ),
    "other name": Row(context=OTHER_NAME, sums=(1, 1), details=failed("certificate-host-mismatch"), delivered_to=MX2),
    "other name, testing": Row(context=OTHER_NAME, mode="testing", sums=(0, 1), details=failed("certificate-host-mismatch")),
    "expired": Row(context=EXPIRED, sums=(1, 1), details=failed("certificate-expired"), delivered_to=MX2),
    "expired, testing": Row(context=EXPIRED, mode="testing", sums=(0, 1), details=failed("certificate-expired")),
    "untrusted": Row(
        context=UNTRUSTED, sums=(1, 1), details=failed("certificate-not-trusted", "unknown-issuer"), delivered_to=MX2
    ),
    "no starttls": Row(
        context=None,
        sums=(1, 1),
        details=failed("starttls-not-supported", "smtp-starttls-reply-code-502"),
        delivered_to=MX2,
    ),
    "no starttls, testing": Row(context=None, mode="testing", sums=(0, 1), details=failed("starttls-not-supported")),
    "no starttls, no policy": Row(
        texts=(), context=None, kind="no-policy-found", sums=(0, 1), details=failed("starttls-not-supported")
    ),
    "alert behind the handshake": Row(
        context=demanding(),
        sums=(1, 1),
        details=failed("validation-failure", "tls-remote-alert-116-certificate-required"),
        delivered_to=MX2,
    ),
    "hangs up": Row(
        wrap=Rude, sums=(1, 1), details=failed("validation-failure", "connection-closed-during-handshake"), delivered_to=MX2
    ),
    "hangs up, testing": Row(
        wrap=Rude,
        mode="testing",
        sums=(0, 1),
        details=failed("validation-failure", "connection-closed-during-handshake"),
    ),
    "no tls behind starttls": Row(
        wrap=lambda stream: Rude(stream, b"500 what?\r\n"),
        sums=(1, 1),
        details=failed("validation-failure", "tls-record-header-error"),
        delivered_to=MX2,
    ),
    "tls not required": Row(context=OTHER_NAME, wish=TlsWish.IGNORE, sums=(0, 1), details=failed("certificate-host-mismatch")),
}


@pytest.mark.parametrize("name", ROWS)
async def test_sts_failures_are_reported(name: str, autojump_clock: trio.testing.MockClock) -> None:
    """RFC 8461 §6, RFC 8460 §4.3: each failure by its own type and reason, in testing too; policy hosts are no mail hosts."""
    row = ROWS[name]
    async with make_world() as world:
        world.publish(*row.texts, mx=row.mx, mode=row.mode, page=row.page)
        if row.fault:
            world.rig.dns.fault("_mta-sts.example.test", "TXT", row.fault, ede=((7, ""),))
        if row.context != "good":
            world.rig.mx1.context = row.context
        if row.wrap:
            world.rig.mx1.wrap = row.wrap
        done = await world.rig.deliver(wish=row.wish)
        assert done.recipients[0].delivered
        assert [str(each.host) for each in done.attempts if each.delivered] == [row.delivered_to]
        counts = world.counts()
    assert by_type(counts) == {row.kind: row.sums}
    assert details(counts) == sorted(row.details)


async def test_a_fetch_that_failed_beside_a_cached_policy(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 8461 §6: SHOULD report it; the session itself met the cached policy, so it is a success with a note."""
    async with make_world() as world:
        world.publish(ID)
        assert (await world.rig.deliver()).delivered
        world.publish("v=STSv1; id=2", page=404)
        for reason in ("http-status-404", "back-off-after-recent-fetch-error"):
            start = len(world.rig.journal.results)
            assert (await world.rig.deliver()).delivered
            counts = world.counts(start)
            assert by_type(counts) == {"sts": (1, 0)}
            assert details(counts) == [(FETCH, f"{reason}+fallback-to-cached-policy", "")]


async def test_mta_sts_never_overrides_dane(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 8461 §2: MUST NOT, in whatever mode; both are counted, each by itself. The other way round it is the same."""
    async with make_world() as world:
        world.tlsa = {"mx1": WRONG, "mx2": WRONG}
        for number, mode in enumerate(("enforce", "testing", "none")):
            world.publish(f"v=STSv1; id={number}", mode=mode)
            start = len(world.rig.journal.results)
            outcome = (await world.rig.deliver()).recipients[0]
            assert (outcome.delivered, outcome.permanent) == (False, False), mode
            sts = {} if mode == "none" else {"sts": (2, 0)}
            assert by_type(world.counts(start)) == {"tlsa": (0, 2), **sts}
        world.tlsa = {"mx1": RECORD, "mx2": WRONG}
        world.rig.mx1.context = STRANGER.server_context()
        world.publish("v=STSv1; id=9")
        outcome = (await world.rig.deliver()).recipients[0]
        assert (outcome.delivered, outcome.permanent) == (False, False)


# --- whatever happens ---

HOSTS: dict[str, Any] = {
    "good": (None, None),
    "stranger": (STRANGER.server_context(), None),
    "other name": (OTHER_NAME, None),
    "expired": (EXPIRED, None),
    "demanding": (demanding(), None),
    "clear": (None, "clear"),
    "hangs up": (None, Rude),
    "garbage": (None, lambda stream: Rude(stream, b"500 what?\r\n")),
}
EVENT = st.fixed_dictionaries(
    {
        "mx1": st.sampled_from(list(HOSTS)),
        "mx2": st.sampled_from(list(HOSTS)),
        "texts": st.sampled_from([(), (ID,), ("v=STSv1; id=2",), ("v=STSv1; id=3",), (ID, ID), ("v=STSv1; x",)]),
        "mode": st.sampled_from(["enforce", "testing", "none"]),
        "mx": st.sampled_from(["*.example.test", MX1, MX2, "nobody.test"]),
        "page": st.sampled_from([None, None, None, 404, b"<html>", HttpError("tls", "x", NO_STS)]),
        "tlsa1": st.sampled_from(["", RECORD, WRONG, UNUSABLE]),
        "tlsa2": st.sampled_from(["", RECORD, WRONG, UNUSABLE]),
        "fault": st.sampled_from(["", "", "", f"_25._tcp.{MX1}", MX1, "_mta-sts.example.test"]),
        "validating": st.sampled_from([True, True, False]),
        "wish": st.sampled_from(list(TlsWish)),
        "later": st.sampled_from([0, 30, 400, 86_400, 700_000]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(EVENT, min_size=1, max_size=6), st.sampled_from([{}, {"audit": ["example.test"]}, {"mandatory": ["example.test"]}])
)
def test_any_sequence_of_events_keeps_the_sums(events: list[dict[str, Any]], dane: dict[str, Any]) -> None:
    """RFC 8460 §4.2: under each policy successes and failures are its sessions, and no session counts twice.

    A session is a connection that tried TLS, or a host that a policy ruled out before; a second connection in clear is none.
    """
    trio.run(play, events, dane, clock=trio.testing.MockClock(autojump_threshold=0))


async def play(events: list[dict[str, Any]], dane: dict[str, Any]) -> None:
    sessions = 0
    expected: Counter[str] = Counter()
    async with make_world(**dane) as world:
        for event in events:
            await happen(world, event)
            before = len(world.rig.journal.results)
            done = await world.rig.deliver(wish=event["wish"])
            new = world.rig.journal.results[before:]
            assert len(new) == tried(done.attempts), (event, done.attempts)
            sessions += len(new)
            for result in new:
                kinds = [policy.kind for policy in result.policies]
                assert len(set(kinds)) == len(kinds) > 0, "each policy once in a session"
                assert ("no-policy-found" in kinds) == (len(kinds) == 1 and not {"sts", "tlsa"} & set(kinds))
                expected.update(kinds)
        counts = world.counts()
    assert {kind: sum(both) for kind, both in by_type(counts).items()} == dict(expected)
    assert len(world.rig.journal.results) == sessions
    for key, times in counts.failures.items():
        told = [number for detail, number in counts.details.items() if detail.session == key]
        assert sum(told) >= times, "each failed session has its reason"


async def happen(world: World, event: dict[str, Any]) -> None:
    await trio.sleep(event["later"])
    for name, host in ((MX1, world.rig.mx1), (MX2, world.rig.mx2)):
        context, meddling = HOSTS[event["mx1" if name == MX1 else "mx2"]]
        host.context = None if meddling == "clear" else context or GOOD[name]
        host.wrap = meddling if callable(meddling) else lambda stream: stream
    for faulty in world.faulty:
        world.rig.dns.mend(faulty)
    world.faulty = [event["fault"]] if event["fault"] else []
    for faulty in world.faulty:
        world.rig.dns.fault(faulty, rcode="SERVFAIL", ede=((7, ""),))
    world.rig.dns.validating = event["validating"]
    world.tlsa = {name: event[key] for name, key in (("mx1", "tlsa1"), ("mx2", "tlsa2")) if event[key]}
    world.publish(*event["texts"], mx=event["mx"], mode=event["mode"], page=event["page"])


def tried(attempts: Any) -> int:
    """How many sessions there were by what a delivery shows: of two connections to one host, the second went in clear."""
    by_host: dict[str, list[Any]] = {}
    for each in attempts:
        by_host.setdefault(each.host, []).append(each)
    for host in by_host.values():
        assert len(host) <= 2
        assert all(each.tls is None for each in host[1:])
    return len(by_host)
