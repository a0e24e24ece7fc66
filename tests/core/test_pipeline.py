"""A whole delivery in memory: hosts in order, policies of plugins, verdicts, and the result of every session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from delivery_rig import CONTENT, RECIPIENT, ZONE, Issuer, MailHost, Rig, make_rig
from postward.errors import StoreError
from postward.hookspecs import hookimpl
from postward.model import (
    PASSED,
    Destination,
    Failure,
    Mode,
    MxHost,
    ResultType,
    Scope,
    TlsPolicy,
    TlsWish,
    Verdict,
)
from postward.names import Address, Domain
from postward.smtp.client import Reply

DOMAIN = Domain("example.test")
EXPIRED = Verdict.fail(ResultType.CERTIFICATE_EXPIRED)
PROBLEM = Failure(result_type=ResultType.DNSSEC_INVALID, reason="dns-servfail")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with make_rig() as made:
        yield made


def policy(mode: Mode = Mode.ENFORCE, **more: Any) -> TlsPolicy:
    return TlsPolicy(kind="x-test", mode=mode, domain=DOMAIN, **more)


def plug(rig: Rig, issuer: object, name: str = "issuer", **options: Any) -> None:
    rig.plugins.add(name, issuer, **options)


# --- without a policy ---


async def test_without_policy_tls_is_used_and_any_certificate_is_a_success(rig: Rig) -> None:
    """RFC 8460 §4.3: under no-policy-found any TLS counts; WebPKI is only noted."""
    delivery = await rig.deliver()
    assert (delivery.delivered, rig.mx1.over_tls, rig.mx2.sessions) == (True, [True], 0)
    assert rig.mx1.received == [((RECIPIENT,), CONTENT)]
    (result,) = rig.journal.results
    assert [(each.kind, each.mode, each.passed) for each in result.policies] == [("no-policy-found", Mode.NONE, True)]
    assert result.pkix == PASSED
    assert (result.host, result.receiving_ip, result.protocol) == ("mx1.example.test", "192.0.2.1", "TLSv1.3")


async def test_without_starttls_mail_goes_in_clear_and_is_a_failure_that_nobody_minds(rig: Rig) -> None:
    rig.mx1.context = None
    delivery = await rig.deliver()
    assert (delivery.delivered, rig.mx1.over_tls) == (True, [False])
    (each,) = rig.journal.results[0].policies
    assert each.failure == Failure(result_type=ResultType.STARTTLS_NOT_SUPPORTED)


async def test_broken_tls_is_followed_by_clear_on_a_fresh_connection(rig: Rig) -> None:
    rig.mx1.wrap = Garbage
    delivery = await rig.deliver()
    assert (delivery.delivered, rig.mx1.sessions, rig.mx1.over_tls) == (True, 2, [False])
    assert len(rig.journal.results) == 1, "the connection in clear is not counted a second time"
    (each,) = rig.journal.results[0].policies
    assert each.failure is not None
    assert each.failure.result_type is ResultType.VALIDATION_FAILURE
    assert [attempt.delivered for attempt in delivery.attempts] == [False, True]


async def test_a_connection_that_fails_is_no_tls_result_and_the_next_host_is_tried(rig: Rig) -> None:
    """RFC 8460 §4.3.4: transient network trouble need not be reported."""
    rig.net.refuse("192.0.2.1", 25)
    delivery = await rig.deliver()
    assert (delivery.delivered, [result.host for result in rig.journal.results]) == (True, ["mx2.example.test"])


async def test_a_host_that_never_answers_is_given_up(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    rig.net.stall("192.0.2.1", 25)
    assert (await rig.deliver()).delivered


# --- policies ---


async def test_an_enforcing_policy_that_fails_at_every_host_defers(rig: Rig) -> None:
    plug(rig, Issuer(domain=policy(), verdict=EXPIRED))
    delivery = await rig.deliver()
    (outcome,) = delivery.recipients
    assert (outcome.delivered, outcome.permanent, outcome.reply[:9]) == (False, False, "451 4.7.5")
    assert (rig.mx1.received, rig.mx2.received) == ([], [])
    assert [result.policies[0].failure for result in rig.journal.results] == [EXPIRED.failure] * 2


async def test_the_second_host_gets_what_the_first_was_not_fit_for(rig: Rig) -> None:
    class OnlySecond(Issuer):
        @hookimpl
        async def verify_tls(self, policy: TlsPolicy, peer: Any) -> Verdict | None:
            return PASSED if peer.endpoint.host == "mx2.example.test" else EXPIRED

    plug(rig, OnlySecond(domain=policy()))
    assert (await rig.deliver()).delivered
    assert (len(rig.mx1.received), len(rig.mx2.received)) == (0, 1)


async def test_the_second_address_gets_what_the_first_was_not_fit_for(rig: Rig) -> None:
    """RFC 5321 §5.1: every address is tried until one takes the mail; each session is counted."""
    rig.dns.set_zone("example.test", "@ MX 10 mx1\nmx1 A 192.0.2.1\nmx1 AAAA 2001:db8::1\n")
    broken = MailHost("mx1.example.test", None)
    rig.net.listen("2001:db8::1", 25, broken)
    plug(rig, Issuer(domain=policy(), verdict=PASSED))
    delivery = await rig.deliver()
    assert delivery.delivered
    assert [attempt.address for attempt in delivery.attempts] == ["2001:db8::1", "192.0.2.1"]
    assert [result.policies[0].passed for result in rig.journal.results] == [False, True]
    assert (broken.sessions, rig.mx1.over_tls) == (1, [True])


async def test_a_failure_in_testing_mode_is_counted_and_mail_goes_on(rig: Rig) -> None:
    """RFC 8461 §5: as if it had not failed, but it did (RFC 8460 §4.2.2)."""
    plug(rig, Issuer(domain=policy(Mode.TESTING), verdict=EXPIRED))
    assert (await rig.deliver()).delivered
    (each,) = rig.journal.results[0].policies
    assert (each.mode, each.passed, each.failure) == (Mode.TESTING, False, EXPIRED.failure)


async def test_every_enforcing_policy_must_pass(rig: Rig) -> None:
    """RFC 8461 §2: one that passes never makes up for one that fails."""
    plug(rig, Issuer(domain=policy(), verdict=PASSED), "sts")
    plug(rig, Issuer(host=policy(scope=Scope.HOST), verdict=EXPIRED), "dane")
    delivery = await rig.deliver()
    assert not delivery.delivered
    assert {each.source: each.passed for each in delivery.attempts[0].policies} == {"sts": True, "dane": False}


async def test_a_policy_that_could_not_be_had_excludes_the_host_before_dialling(rig: Rig) -> None:
    plug(rig, Issuer(host=policy(scope=Scope.HOST, problem=PROBLEM)))
    delivery = await rig.deliver()
    assert (delivery.delivered, rig.net.dialled) == (False, [])
    assert [(attempt.address, attempt.tls, attempt.policies[0].failure) for attempt in delivery.attempts] == [
        ("", None, PROBLEM)
    ] * 2
    assert all("x-test" in attempt.error for attempt in delivery.attempts)
    assert len(rig.journal.results) == 2


async def test_an_excluded_host_shows_every_verdict_that_stood_before_dialling(rig: Rig) -> None:
    """A policy that could not be had is told wherever it acts, also where another one rules the host out."""
    missing = Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason="http-status-404")
    plug(rig, Issuer(domain=policy(Mode.NONE, problem=missing)), "gone")
    plug(rig, Issuer(domain=policy(Mode.TESTING, mx_patterns=("other.test",))), "testing")
    plug(rig, Issuer(domain=policy(), verdict=PASSED), "never-judged")
    plug(rig, Issuer(host=policy(scope=Scope.HOST, problem=PROBLEM)), "dane")
    delivery = await rig.deliver()
    assert (delivery.delivered, rig.net.dialled) == (False, [])
    for attempt, result in zip(delivery.attempts, rig.journal.results, strict=True):
        assert attempt.policies == result.policies
        assert [(each.source, each.passed) for each in attempt.policies] == [
            ("gone", False),
            ("testing", False),
            ("dane", False),
        ]
        assert "dnssec-invalid" in attempt.error


async def test_a_host_that_the_policy_does_not_name_is_passed_over(rig: Rig) -> None:
    plug(rig, Issuer(domain=policy(mx_patterns=("mx2.example.test",)), verdict=PASSED))
    delivery = await rig.deliver()
    assert (delivery.delivered, rig.mx1.sessions) == (True, 0)
    assert delivery.attempts[0].policies[0].failure is not None
    assert delivery.attempts[0].policies[0].failure.reason == "x-test-policy-mx-mismatch"


async def test_tls_is_asked_for_where_it_is_needed_even_if_not_offered(rig: Rig) -> None:
    """RFC 7672 §2.2: somebody may have cut STARTTLS out."""
    rig.mx1.context = rig.mx2.context = None
    plug(rig, Issuer(domain=policy(), verdict=PASSED))
    delivery = await rig.deliver()
    assert (delivery.delivered, rig.mx1.received) == (False, [])
    failure = rig.journal.results[0].policies[0].failure
    assert failure is not None
    assert failure.result_type is ResultType.STARTTLS_NOT_SUPPORTED


async def test_nobody_falls_back_to_clear_where_a_policy_binds(rig: Rig) -> None:
    rig.mx1.wrap = rig.mx2.wrap = Garbage
    plug(rig, Issuer(domain=policy(), verdict=PASSED))
    assert not (await rig.deliver()).delivered
    assert (rig.mx1.sessions, rig.mx2.sessions) == (1, 1)


async def test_the_domain_is_asked_once_however_many_hosts(rig: Rig) -> None:
    issuer = Issuer(domain=policy(), verdict=EXPIRED)
    plug(rig, issuer)
    await rig.deliver(RECIPIENT, Address("another", DOMAIN))
    assert issuer.asked == 1


async def test_the_policy_chooses_sni_and_the_host_dialled_stays_known(rig: Rig) -> None:
    issuer = Issuer(host=policy(scope=Scope.HOST, server_name=Domain("base.example.test")), verdict=PASSED)
    plug(rig, issuer)
    await rig.deliver()
    assert [(peer.server_name, peer.endpoint.host) for peer in issuer.peers] == [("base.example.test", "mx1.example.test")]


async def test_mode_none_is_as_no_policy(rig: Rig) -> None:
    plug(rig, Issuer(domain=policy(Mode.NONE), verdict=EXPIRED))
    await rig.deliver()
    assert rig.journal.results[0].policies[0].kind == "no-policy-found"


# --- plugins that fail ---


@pytest.mark.parametrize("verdict", [RuntimeError("broken"), None])
async def test_a_policy_that_nobody_could_judge_is_not_satisfied(rig: Rig, verdict: Exception | None) -> None:
    """Isolation never becomes a downgrade."""
    plug(rig, Issuer(domain=policy(), verdict=verdict), on_error="ignore")
    delivery = await rig.deliver()
    assert (delivery.delivered, rig.mx1.received) == (False, [])


async def test_a_plugin_that_could_not_say_its_policy_defers_mail_unless_told_otherwise(rig: Rig) -> None:
    plug(rig, Issuer(domain=RuntimeError("broken")))
    delivery = await rig.deliver()
    assert (delivery.delivered, delivery.attempts[0].policies[0].kind, rig.net.dialled) == (False, "x-issuer", [])


async def test_on_error_ignore_goes_on_as_if_it_had_not_been_asked(rig: Rig) -> None:
    plug(rig, Issuer(domain=RuntimeError("broken")), on_error="ignore")
    assert (await rig.deliver()).delivered


async def test_a_result_that_cannot_be_journalled_takes_no_mail_with_it(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    async def full(*results: Any) -> None:
        raise StoreError("the disk is full")

    rig.journal.append = full  # type: ignore[method-assign]
    assert (await rig.deliver()).delivered
    assert "result-not-journalled" in capsys.readouterr().out


# --- what the message wishes ---


async def test_tls_required_no_delivers_whatever_the_policies_say_and_counts_it(rig: Rig) -> None:
    """RFC 8689 §4.2.2."""
    plug(rig, Issuer(domain=policy(mx_patterns=("other.test",)), host=policy(problem=PROBLEM, scope=Scope.HOST)))
    assert (await rig.deliver(wish=TlsWish.IGNORE)).delivered
    assert rig.mx1.over_tls == [True], "TLS is used where it is offered all the same"
    assert [each.passed for each in rig.journal.results[0].policies] == [False, False]


async def test_requiretls_goes_to_a_proven_server_that_takes_it_on(rig: Rig) -> None:
    """RFC 8689 §2: a secure MX and a WebPKI certificate."""
    assert (await rig.deliver(wish=TlsWish.REQUIRE)).delivered
    assert rig.mx1.required == [True]


async def test_requiretls_fails_for_good_where_no_host_can_be_proven(rig: Rig) -> None:
    """RFC 8689 §4.2.1: 5.7.30."""
    rig.dns.set_zone("example.test", ZONE, "insecure")
    delivery = await rig.deliver(wish=TlsWish.REQUIRE)
    (outcome,) = delivery.recipients
    assert (outcome.delivered, outcome.permanent, outcome.reply[:10]) == (False, True, "550 5.7.30")
    assert rig.mx1.received == []


async def test_requiretls_is_tried_again_while_a_host_could_not_be_reached(rig: Rig) -> None:
    rig.dns.set_zone("example.test", ZONE, "insecure")
    rig.net.refuse("192.0.2.2", 25)
    (outcome,) = (await rig.deliver(wish=TlsWish.REQUIRE)).recipients
    assert (outcome.delivered, outcome.permanent) == (False, False)


async def test_requiretls_is_tried_again_where_a_policy_could_not_be_had(rig: Rig) -> None:
    """RFC 8461 §5: nothing is final before the policy that may vouch for the host was had."""
    rig.dns.set_zone("example.test", ZONE, "insecure")
    plug(rig, Issuer(domain=policy(Mode.NONE, problem=PROBLEM)))
    (outcome,) = (await rig.deliver(wish=TlsWish.REQUIRE)).recipients
    assert (outcome.delivered, outcome.permanent, outcome.reply[:9]) == (False, False, "451 4.7.5")
    assert (rig.mx1.received, rig.mx2.received) == ([], [])


# --- recipients and replies ---


async def test_each_recipient_has_its_own_end(rig: Rig) -> None:
    gone, later, fine = (Address(local, DOMAIN) for local in ("gone", "later", "fine"))
    rig.mx1.refuse = {str(gone): Reply(550, ("no such user",), "5.1.1"), str(later): Reply(451, ("later",), "4.2.0")}
    rig.mx2.refuse = {str(later): Reply(452, ("still later",), "4.2.2")}
    delivery = await rig.deliver(gone, later, fine)
    assert [(each.delivered, each.permanent, each.reply[:9]) for each in delivery.recipients] == [
        (False, True, "550 5.1.1"),
        (False, False, "452 4.2.2"),
        (True, False, "250 2.0.0"),
    ]


async def test_a_temporary_refusal_is_tried_at_the_next_host(rig: Rig) -> None:
    rig.mx1.refuse = {"MAIL": Reply(451, ("busy",), "4.3.2")}
    assert (await rig.deliver()).delivered
    assert len(rig.mx2.received) == 1


async def test_domains_are_apart(rig: Rig) -> None:
    rig.dns.set_zone("other.test", "@ IN MX 1 .")
    delivery = await rig.deliver(RECIPIENT, Address("x", Domain("other.test")))
    assert [(each.delivered, each.permanent) for each in delivery.recipients] == [(True, False), (False, True)]


async def test_a_report_is_marked(rig: Rig) -> None:
    """RFC 8460 §3: the session that carries a report is not counted."""
    await rig.deliver(is_report=True)
    assert [result.is_report for result in rig.journal.results] == [True]


async def test_a_failed_lookup_with_its_cause_is_a_result_without_host(rig: Rig) -> None:
    rig.dns.fault("example.test", "MX", "SERVFAIL", [(6, "bogus")])
    delivery = await rig.deliver()
    assert (delivery.recipients[0].permanent, delivery.recipients[0].reply[:9]) == (False, "451 4.4.3")
    (result,) = rig.journal.results
    assert (result.host, result.policies[0].kind) == (None, "no-policy-found")


# --- routes, streams, observers, probes ---


async def test_a_plugin_may_choose_the_next_hop_which_becomes_the_policy_domain(rig: Rig) -> None:
    """RFC 8461 §3.4: the smarthost's domain, not the recipient's."""
    seen: list[Domain] = []

    class Smarthost:
        @hookimpl
        async def resolve_route(self, domain: Domain) -> Destination:
            return Destination(domain=Domain("smart.test"), hosts=(MxHost(name=Domain("mx2.example.test")),), from_mx=False)

        @hookimpl
        async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
            seen.append(destination.domain)
            return None

    plug(rig, Smarthost())
    assert (await rig.deliver()).delivered
    assert (seen, len(rig.mx2.received), rig.journal.results[0].domain) == (["smart.test"], 1, "smart.test")


async def test_a_route_that_could_not_be_chosen_defers(rig: Rig) -> None:
    class Broken:
        @hookimpl
        async def resolve_route(self, domain: Domain) -> Destination:
            raise RuntimeError("broken")

    plug(rig, Broken())
    (outcome,) = (await rig.deliver()).recipients
    assert (outcome.delivered, outcome.permanent, rig.net.dialled) == (False, False, [])


async def test_every_connection_is_seen_by_observers(rig: Rig) -> None:
    rig.net.refuse("192.0.2.1", 25)
    await rig.deliver()
    assert [(seen.host, seen.delivered, bool(seen.error)) for seen in rig.observed] == [
        ("mx1.example.test", False, True),
        ("mx2.example.test", True, False),
    ]
    assert rig.observed[1].bytes_sent > len(CONTENT)


async def test_a_probe_looks_at_every_host_sends_no_mail_and_counts_nothing(rig: Rig) -> None:
    plug(rig, Issuer(domain=policy(), verdict=PASSED))
    probed = await rig.pipeline.probe(DOMAIN)
    assert [attempt.host for attempt in probed.attempts] == ["mx1.example.test", "mx2.example.test"]
    assert all(attempt.tls and not attempt.error for attempt in probed.attempts)
    assert (rig.mx1.received, rig.mx2.received, rig.journal.results, probed.recipients) == ([], [], [], ())


class Garbage:
    """A stream that speaks no TLS: what comes behind STARTTLS is answered with text."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream, self._asked = stream, False

    async def send_all(self, data: bytes) -> None:
        if self._asked and data[:1] in (b"\x15", b"\x16"):
            data = b"421 what was that?\r\n"
        await self._stream.send_all(data)

    async def receive_some(self, most: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(most))
        if data.upper().startswith(b"STARTTLS"):
            self._asked = True
        return data

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
