"""The harness: what a plugin author does with it, and that it needs no sockets, threads or time."""

from __future__ import annotations

import datetime
import json
import socket
import threading
import time
import zlib

import pytest
import trio
from pydantic import BaseModel

from postward import Core, Destination, Mode, PluginError, TlsPeer, TlsPolicy, Verdict, hookimpl
from postward.testing import Behaviour, Harness, Page

STS = "version: STSv1\r\nmode: enforce\r\nmx: mx.example.test\r\nmax_age: 604800\r\n"


class Strict:
    """Wants TLS of every host of some domains."""

    class Config(BaseModel, extra="forbid", frozen=True):
        domains: tuple[str, ...] = ()

    def __init__(self, config: Config, core: Core) -> None:
        self.config, self.core = config, core

    @hookimpl
    async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
        if destination.domain not in self.config.domains:
            return None
        return TlsPolicy(kind="x-strict", mode=Mode.ENFORCE, domain=destination.domain, authenticates=False)

    @hookimpl
    async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        return Verdict(passed=True) if policy.kind == "x-strict" else None


def publish_sts(harness: Harness, text: str = STS) -> None:
    harness.zone("_mta-sts.example.test", '@ TXT "v=STSv1; id=1;"\n')
    harness.site("mta-sts.example.test", {"/.well-known/mta-sts.txt": text})


async def test_mail_arrives_over_tls(harness: Harness) -> None:
    [host] = harness.domain("example.test")
    delivery = await harness.deliver("you@example.test")
    assert delivery.delivered
    assert [mail.protocol for mail in host.to("you@example.test")] == ["TLSv1.3"]
    [entry] = await harness.results()
    assert (entry.result.domain, entry.result.pkix.passed) == ("example.test", True)  # type: ignore[union-attr]
    assert [each.host for each in harness.connections] == ["mx.example.test"]


async def test_a_plugin_is_configured_and_asked(harness: Harness) -> None:
    harness.use(Strict, domains=["example.test"])
    harness.domain("example.test", harness.mx("mx.example.test", certificate=None))
    harness.domain("other.test", harness.mx("mx.other.test", certificate=None))
    assert not (await harness.deliver("you@example.test")).delivered
    assert (await harness.deliver("you@other.test")).delivered
    assert harness.plugin("strict").core.plugin == "strict"
    assert harness.failures("strict") == 0


async def test_a_wrong_option_stops_the_start_as_in_service(harness: Harness) -> None:
    harness.use(Strict, domain="example.test")
    with pytest.raises(Exception, match=r"plugin\.strict\.domain.*domains"):
        await harness.start()


async def test_a_plugin_that_is_not_installed_is_named(harness: Harness) -> None:
    with pytest.raises(PluginError, match="did you mean 'dane'"):
        harness.use("dain")


async def test_dane_and_mta_sts_bind_here_as_outside(harness: Harness) -> None:
    harness.use("dane")
    harness.use("mtasts")
    good = harness.mx("mx.example.test", tlsa=True)
    harness.domain("example.test", good)
    publish_sts(harness)
    delivery = await harness.deliver("you@example.test")
    assert {policy.kind: policy.passed for policy in delivery.attempts[0].policies} == {"tlsa": True, "sts": True}
    good.renew(harness.certificate("mx.example.test"))
    delivery = await harness.deliver("you@example.test")
    assert {policy.kind: policy.passed for policy in delivery.attempts[0].policies} == {"tlsa": False, "sts": True}
    assert not delivery.delivered


@pytest.mark.parametrize("behaviour", [each for each in Behaviour if each is not Behaviour.NORMAL])
async def test_every_behaviour_ends_a_delivery_in_good_order(harness: Harness, behaviour: Behaviour) -> None:
    """Under a policy that wants TLS only a slow host, and one that is rude after the end, get the mail."""
    harness.use(Strict, domains=["example.test"])
    harness.domain("example.test", harness.mx("mx.example.test", behaviour=behaviour))
    harness.domain("lax.test", harness.mx("mx.lax.test", behaviour=behaviour))
    fine = behaviour in (Behaviour.SLOW, Behaviour.NO_CLOSE_NOTIFY)
    delivery = await harness.deliver("you@example.test")
    assert delivery.delivered is fine, delivery
    assert not any(outcome.permanent for outcome in delivery.recipients if not outcome.delivered)
    assert (await harness.deliver("you@lax.test")).delivered


async def test_a_host_says_what_it_is_told_to(harness: Harness) -> None:
    [host] = harness.domain("example.test")
    host.replies = {"no@example.test": "550 5.1.1 nobody", "later@example.test": "451 later"}
    delivery = await harness.deliver("no@example.test", "later@example.test", "yes@example.test")
    assert [(each.delivered, each.permanent) for each in delivery.recipients] == [(False, True), (False, False), (True, False)]
    assert len(host.mails) == 1


async def test_faults_of_dns_are_those_of_the_zones(harness: Harness) -> None:
    harness.domain("example.test")
    harness.dns.fault("example.test", "MX")
    assert not (await harness.deliver("you@example.test")).recipients[0].permanent
    harness.dns.mend("example.test", "MX")
    assert (await harness.deliver("you@example.test")).delivered


async def test_certificates_have_the_dates_of_the_clock(harness: Harness) -> None:
    harness.domain("example.test", harness.mx("mx.example.test", certificate=harness.certificate("mx.example.test", days=2)))
    assert await pkix(harness)
    harness.clock.advance(2 * 86_400_000_000)
    assert not await pkix(harness)


async def pkix(harness: Harness) -> bool:
    await harness.deliver("you@example.test")
    entry = (await harness.results())[-1]
    assert entry.result.pkix is not None  # type: ignore[union-attr]
    return entry.result.pkix.passed  # type: ignore[union-attr]


async def test_a_day_passes_and_its_reports_arrive(harness: Harness) -> None:
    harness.use("tlsrpt", organization="Sender")
    [host] = harness.domain("example.test")
    site = harness.site("reports.example.test", {"/take": 201})
    harness.zone(
        "_smtp._tls.example.test", '@ TXT "v=TLSRPTv1; rua=mailto:tls@example.test,https://reports.example.test/take"\n'
    )
    await harness.deliver("you@example.test")
    day = datetime.datetime.fromtimestamp(harness.clock.now() / 1e6, datetime.UTC).date()
    [built] = await harness.next_day()
    assert built.report.window.day == str(day)
    [posted] = site.requests
    assert json.loads(zlib.decompress(posted.body, 31))["policies"][0]["summary"]["total-successful-session-count"] == 1
    assert len(host.to("tls@example.test")) == 1
    assert await harness.next_day() == ()
    assert len(harness.reports) == 1


async def test_pages_can_be_as_bad_as_they_are_outside(harness: Harness) -> None:
    harness.use("mtasts")
    harness.domain("example.test")
    publish_sts(harness)
    site = harness.site("mta-sts.example.test", {"/.well-known/mta-sts.txt": Page(body=STS.encode(), delay=3600)})
    delivery = await harness.deliver("you@example.test")
    [policy] = delivery.attempts[0].policies
    assert (policy.kind, policy.passed, policy.failure and policy.failure.result_type) == (
        "sts",
        False,
        "sts-policy-fetch-error",
    )
    site.pages["/.well-known/mta-sts.txt"] = Page(body=STS.encode(), length=False, close_notify=False)
    harness.clock.advance(3600 * 1_000_000)
    assert not (await harness.deliver("you@example.test")).attempts[0].policies[0].passed


async def test_the_background_of_a_plugin_runs_when_asked_for(harness: Harness) -> None:
    class Busy:
        def __init__(self, config: None, core: Core) -> None:
            self.rounds = 0

        @hookimpl
        async def background(self) -> None:
            while True:
                self.rounds += 1
                await trio.sleep(60)

    harness.use(Busy)
    await harness.start()
    assert harness.plugin("busy").rounds == 0
    await harness.background("busy")
    await trio.sleep(3600)
    assert harness.plugin("busy").rounds >= 60


async def test_neither_sockets_nor_threads_nor_time(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("it has used the machine")

    for place, name in ((socket, "socket"), (threading.Thread, "start"), (time, "sleep")):
        monkeypatch.setattr(place, name, refuse)
    harness.use("tlsrpt", organization="Sender")
    harness.use("mtasts")
    harness.domain("example.test")
    publish_sts(harness)
    await harness.deliver("you@example.test")
    harness.zone("_smtp._tls.example.test", '@ TXT "v=TLSRPTv1; rua=mailto:tls@example.test"\n')
    assert len(await harness.next_day()) == 1
