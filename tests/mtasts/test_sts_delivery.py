"""The plugin in whole deliveries over memory: which hosts get mail, and that nothing fails for good under an old policy."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from delivery_rig import RECIPIENT, ZONE, Rig, context_for, make_rig
from plugin_rig import make_core
from postward.clock import SystemClock
from postward.hookspecs import hookimpl
from postward.http import HttpError
from postward.lab.ca import Authority, self_signed
from postward.model import Destination, Mode, MxHost, RecipientOutcome, TlsWish
from postward.names import Address, Domain
from postward_mtasts import tables
from postward_mtasts.plugin import MtaSts
from postward_mtasts.settings import Settings


@dataclass
class World:
    """A sender with the plugin, and `example.test` with two mail hosts."""

    rig: Rig
    core: Any

    def publish(self, record_id: str, *mx: str, mode: str = "enforce", domain: str = "example.test") -> None:
        zone = ZONE if domain == "example.test" else "@ TXT x\n"
        self.rig.dns.set_zone(domain, f'{zone}_mta-sts TXT "v=STSv1; id={record_id}"\n')
        lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {each}" for each in mx), "max_age: 604800"]
        self.core.http.pages[f"mta-sts.{domain}"] = "\r\n".join(lines).encode()

    async def deliver(self, **more: Any) -> RecipientOutcome:
        (outcome,) = (await self.rig.deliver(RECIPIENT, **more)).recipients
        return outcome

    def verdicts(self) -> list[tuple[str, Mode, bool, str]]:
        """Host, mode, verdict and reason of every result so far."""
        return [
            (str(result.host), each.mode, each.passed, each.failure.reason or each.failure.result_type if each.failure else "")
            for result in self.rig.journal.results
            for each in result.policies
        ]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_rig() as rig, make_core("mtasts", tables.SCHEMA) as core:
        core.dns, core.trust, core.clock = rig.dns, rig.pipeline.trust, SystemClock()
        rig.plugins.add("mtasts", MtaSts(Settings(), core))
        yield World(rig, core)


async def test_hosts_that_the_policy_does_not_name_get_no_mail(world: World) -> None:
    """RFC 8461 §4.1, §5: MUST NOT deliver to a host that fails; §5.1: the others are tried in their order."""
    world.publish("1", "mx2.example.test")
    assert (await world.deliver()).delivered
    assert (world.rig.mx1.sessions, len(world.rig.mx2.received)) == (0, 1)
    assert world.verdicts() == [
        ("mx1.example.test", Mode.ENFORCE, False, "sts-policy-mx-mismatch"),
        ("mx2.example.test", Mode.ENFORCE, True, ""),
    ]


async def test_the_certificate_is_that_of_the_host_dialled(world: World) -> None:
    """RFC 8461 §4.2: valid for the MX host name; that of another host of the same policy does not do."""
    world.publish("1", "mx1.example.test", "mx2.example.test")
    world.rig.mx1.context = context_for("mx2.example.test")
    world.rig.mx2.context = context_for("mx1.example.test", "mx2.example.test")
    assert (await world.deliver()).delivered
    assert (world.rig.mx1.received, len(world.rig.mx2.received)) == ([], 1)
    assert world.verdicts()[0] == ("mx1.example.test", Mode.ENFORCE, False, "certificate-host-mismatch")


async def test_a_policy_domain_in_the_certificate_does_not_do(world: World) -> None:
    """RFC 8461 §4.2: it is the MX host that is authenticated, not the domain."""
    world.publish("1", "*.example.test")
    for host in (world.rig.mx1, world.rig.mx2):
        host.context = context_for("example.test", "mta-sts.example.test")
    outcome = await world.deliver()
    assert (outcome.delivered, outcome.permanent) == (False, False)


async def test_starttls_is_needed(world: World) -> None:
    """RFC 8461 §4, §4.2, §5: without TLS an enforced host gets nothing."""
    world.publish("1", "*.example.test")
    world.rig.mx1.context = world.rig.mx2.context = None
    outcome = await world.deliver()
    assert (outcome.delivered, outcome.permanent) == (False, False)
    assert {reason for *_, reason in world.verdicts()} == {"smtp-starttls-reply-code-502"}


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (context_for("mx1.example.test", not_before=0, not_after=1), "certificate-expired"),
        (Authority("Nobody").issue([Domain("mx1.example.test")]).server_context(), "unknown-issuer"),
        (self_signed([Domain("mx1.example.test")]).server_context(), "self-signed-certificate"),
        (context_for("example.test", cn="mx1.example.test"), "certificate-host-mismatch"),
    ],
    ids=["expired", "unknown authority", "self-signed", "CN only"],
)
async def test_an_expired_or_untrusted_certificate_gets_no_mail(world: World, context: ssl.SSLContext, reason: str) -> None:
    """RFC 8461 §4.2: unexpired, a trusted root, and a DNS-ID; each fault is told by its name, and the next host is tried."""
    world.publish("1", "*.example.test")
    world.rig.mx1.context = context
    assert (await world.deliver()).delivered
    assert (world.rig.mx1.received, len(world.rig.mx2.received)) == ([], 1)
    assert world.verdicts()[0] == ("mx1.example.test", Mode.ENFORCE, False, reason)


@pytest.mark.parametrize("page", [404, 301, b"<html>", HttpError("connect", "nobody is there")])
async def test_mail_goes_where_a_policy_cannot_be_had(world: World, page: Any) -> None:
    """RFC 8461 §3.3: with a record and no policy, and nothing cached, mail goes as without MTA-STS, be it in clear."""
    world.publish("1", "nobody.example.test")
    world.core.http.pages["mta-sts.example.test"] = page
    world.rig.mx1.context = None
    assert (await world.deliver()).delivered
    assert len(world.rig.mx1.received) == 1


async def test_sni_is_the_mx_host_name(world: World) -> None:
    """RFC 8461 §7.1: MUST send the MX host name."""
    world.publish("1", "*.example.test")
    names: list[str | None] = []
    context = context_for("mx1.example.test")

    def seen(_: Any, name: str | None, __: ssl.SSLContext) -> None:
        names.append(name)

    context.sni_callback = seen
    world.rig.mx1.context = context
    assert (await world.deliver()).delivered
    assert names == ["mx1.example.test"]


async def test_testing_delivers_and_counts_the_failure(world: World) -> None:
    """RFC 8461 §5: testing reports and delivers as if nothing were wrong."""
    world.publish("1", "other.example.test", mode="testing")
    assert (await world.deliver()).delivered
    assert world.verdicts() == [("mx1.example.test", Mode.TESTING, False, "sts-policy-mx-mismatch")]


async def test_mode_none_is_as_no_policy(world: World) -> None:
    """RFC 8461 §5: none."""
    world.publish("1", mode="none")
    world.rig.mx1.context = None
    assert (await world.deliver()).delivered


@pytest.mark.parametrize("page", ["policy", 404])
async def test_a_thousand_deliveries_cause_one_lookup_and_one_fetch(
    world: World, autojump_clock: MockClock, page: str | int
) -> None:
    """RFC 8461 §3.3: also where the fetch fails, it fails once for all; and none of them goes before the policy is there."""
    world.publish("1", "mx2.example.test", mode="testing")
    if page == 404:
        world.core.http.pages["mta-sts.example.test"] = 404
    world.core.http.delay = 5
    world.rig.mx1.context = world.rig.mx2.context = None
    outcomes: list[RecipientOutcome] = []

    async def one() -> None:
        outcomes.append(await world.deliver())

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(one)
    assert sum(outcome.delivered for outcome in outcomes) == len(world.rig.mx1.received) == 1000
    assert len(world.core.http.requests) == 1
    assert world.rig.dns.queries["_mta-sts.example.test", "TXT"] == 1
    assert len(world.rig.journal.results) == 1000
    assert {each.kind for result in world.rig.journal.results for each in result.policies} == {"sts"}


# --- before anything fails for good ---


async def test_every_attempt_looks_for_a_new_id(world: World) -> None:
    """RFC 8461 §5, §5.1: MUST NOT fail permanently before looking in DNS for a new policy.

    A message grows too old only right behind an attempt, and each attempt asks for the record; so a policy that was replaced
    meanwhile acts from the next attempt on, also within the minute for which the plugin does not ask its own store again.
    """
    world.publish("1", "moved.example.test")
    for attempts in (1, 2, 3):
        outcome = await world.deliver()
        assert (outcome.delivered, outcome.permanent) == (False, False)
        assert outcome.reply.startswith("451 4.7.5 ")
        assert world.rig.dns.queries["_mta-sts.example.test", "TXT"] == attempts
    assert len(world.core.http.requests) == 1
    world.publish("2", "mx1.example.test")
    assert (await world.deliver()).delivered


@pytest.mark.parametrize("fault", ["mx", "certificate", "no-tls"])
async def test_a_policy_never_makes_a_failure_final(world: World, fault: str) -> None:
    """RFC 8461 §5.1: SHOULD treat failures of the policy as transient; a new one may come."""
    world.publish("1", "other.example.test" if fault == "mx" else "*.example.test")
    for host in (world.rig.mx1, world.rig.mx2):
        host.context = context_for("wrong.example.test") if fault == "certificate" else None
    outcome = await world.deliver()
    assert (outcome.delivered, outcome.permanent) == (False, False)
    assert outcome.reply.startswith("451 ")


async def test_what_fails_for_good_by_itself_has_asked_before(world: World) -> None:
    """RFC 8461 §5: REQUIRETLS without TLS is final whatever the policy is, and still the record was asked for first."""
    world.publish("1", "*.example.test")
    world.rig.mx1.context = world.rig.mx2.context = None
    outcome = await world.deliver(wish=TlsWish.REQUIRE)
    assert (outcome.permanent, outcome.reply[:10]) == (True, "550 5.7.30")
    assert world.rig.dns.queries["_mta-sts.example.test", "TXT"] == 1


# --- whose policy ---


async def test_the_policy_of_a_smarthost_is_that_of_its_domain(world: World) -> None:
    """RFC 8461 §3.4: MUST use the smarthost's domain; the recipient's policy has no say, nor that of a parent domain."""

    class Smarthost:
        @hookimpl
        async def resolve_route(self, domain: Domain) -> Destination:
            host = MxHost(name=Domain("mx1.example.test"), addresses=("192.0.2.1",))
            return Destination(domain=Domain("relay.smart.test"), hosts=(host,), from_mx=False)

    world.rig.plugins.add("route", Smarthost())
    world.publish("1", "nobody.example.test")
    world.publish("1", "nobody.example.test", domain="smart.test")
    world.publish("1", "mx1.example.test", domain="relay.smart.test")
    assert (await world.deliver()).delivered
    assert world.rig.dns.queries["_mta-sts.example.test", "TXT"] == 0
    assert world.rig.dns.queries["_mta-sts.smart.test", "TXT"] == 0
    assert [(each.domain, each.passed) for each in world.rig.journal.results[0].policies] == [("relay.smart.test", True)]
    world.publish("2", "mx2.example.test", domain="relay.smart.test")
    outcome = await world.deliver()
    assert (outcome.delivered, outcome.permanent) == (False, False)


async def test_the_policy_is_not_that_of_an_alias(world: World) -> None:
    """RFC 8461 §3.4, §4: the domain as written is the policy domain, wherever a CNAME of it leads."""
    world.rig.dns.set_zone("example.test", "@ CNAME other.test.\n")
    world.rig.dns.set_zone("other.test", '@ MX 10 mx1.example.net.\n_mta-sts TXT "v=STSv1; id=1"\n')
    world.rig.dns.set_zone("example.net", "mx1 A 192.0.2.1\n")
    world.core.http.pages["mta-sts.other.test"] = b"version: STSv1\nmode: enforce\nmx: nobody.test\nmax_age: 86400\n"
    assert (await world.deliver()).delivered
    assert world.core.http.requests == []


async def test_a_delegated_policy(world: World) -> None:
    """RFC 8461 §8.2: `_mta-sts` may be a CNAME; the certificate and the URL stay those of the domain."""
    world.rig.dns.set_zone("example.test", f"{ZONE}_mta-sts CNAME example-test._mta-sts.provider.test.\n")
    world.rig.dns.set_zone("provider.test", 'example-test._mta-sts TXT "v=STSv1; id=1"\n')
    world.core.http.pages["mta-sts.example.test"] = b"version: STSv1\nmode: enforce\nmx: mx2.example.test\nmax_age: 86400\n"
    assert (await world.deliver()).delivered
    assert world.core.http.requests == ["GET https://mta-sts.example.test/.well-known/mta-sts.txt"]
    assert (world.rig.mx1.sessions, len(world.rig.mx2.received)) == (0, 1)


async def test_a_literal_has_no_policy(world: World) -> None:
    """RFC 8461 §3.4: not for address literals."""
    before = sum(world.rig.dns.queries.values())
    (outcome,) = (await world.rig.deliver(Address("x", Domain("[192.0.2.1]")))).recipients
    assert outcome.delivered
    assert sum(world.rig.dns.queries.values()) == before


async def test_results_name_the_policy_as_served(world: World, autojump_clock: MockClock) -> None:
    """RFC 8460 §4.5: the policy-string is the text, verbatim by lines."""
    world.publish("1", "*.example.test")
    world.core.http.pages["mta-sts.example.test"] = (
        b"version:STSv1\nmx:\t*.example.test \nmode: testing\nx-new: \xc3\xbc, a b\nmax_age: 000604800\n"
    )
    await world.deliver()
    (policy,) = world.rig.journal.results[0].policies
    assert policy.evidence == ("version:STSv1", "mx:\t*.example.test", "mode: testing", "x-new: ü, a b", "max_age: 000604800")
