"""The plugin over memory: discovery, cache, fallback, back-off (RFC 8461 §3, §5.1), verdicts (§4.2)."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from postward.http import HttpError
from postward.metrics import Metrics
from postward.metrics.registry import Registry
from postward.model import Destination, Endpoint, Failure, Mode, ResultType, Scope, TlsPeer, TlsPolicy, Verdict
from postward.names import Domain
from postward.tls import pattern_matches
from postward_mtasts.cache import DAY

FETCH = ResultType.STS_POLICY_FETCH_ERROR
FALLBACK = "+fallback-to-cached-policy"
HOUR = 3600


def problem_of(policy: TlsPolicy | None) -> tuple[ResultType, str]:
    assert policy is not None
    assert (policy.kind, policy.mode) == ("sts", Mode.NONE)
    assert policy.problem is not None
    return policy.problem.result_type, policy.problem.reason


def note_of(policy: TlsPolicy | None) -> str:
    assert policy is not None
    assert (policy.mode, policy.problem) == (Mode.ENFORCE, None)
    (note,) = policy.notes
    return note.reason


@pytest.mark.parametrize("mode", ["enforce", "testing"])
async def test_a_policy_is_found(sts: Any, autojump_clock: MockClock, mode: str) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve(mode, mx="*.b.example")
    assert await sts.ask() == TlsPolicy(
        kind="sts",
        mode=Mode(mode),
        domain=Domain("b.example"),
        scope=Scope.DOMAIN,
        requires_tls=True,
        authenticates=True,
        mx_patterns=("*.b.example",),
        evidence=("version: STSv1", f"mode: {mode}", "mx: *.b.example", "max_age: 604800"),
    )


async def test_no_record_no_policy(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.1: without a record nothing is fetched."""
    sts.publish()
    sts.serve()
    assert await sts.ask() is None
    assert await sts.ask(Domain("sub.b.example")) is None
    assert await sts.ask(Domain("[192.0.2.1]")) is None
    assert sts.fetches == 0


async def test_the_record_is_asked_at_the_domain_as_written(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.4: not at its parent, nor at a name that a CNAME leads to."""
    destination = Destination(domain=Domain("b.example"), hosts=(), canonical=Domain("elsewhere.example"))
    await sts.plugin.domain_policy(destination)
    assert list(sts.core.dns.queries) == [("_mta-sts.b.example", "TXT")]


async def test_an_alias_at_the_record_is_followed(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.1, §8.2: delegation by CNAME; the policy host stays that of the domain."""
    sts.core.dns.set_zone("b.example", "_mta-sts CNAME _mta-sts.host.example.\n")
    sts.core.dns.set_zone("host.example", '_mta-sts TXT "v=STSv1; id=1"\n')
    sts.serve()
    policy = await sts.ask()
    assert policy is not None
    assert policy.domain == "b.example"


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (["v=STSv1; id=1", "v=STSv1; id=2"], "multiple-mta-sts-records"),
        (["v=STSv1; id=no-id"], "record-syntax-error"),
        (["v=STSv1;"], "record-syntax-error"),
    ],
)
async def test_records_that_name_no_policy(sts: Any, autojump_clock: MockClock, records: list[str], reason: str) -> None:
    """RFC 8461 §3.1: discovery stops; that is recorded (RFC 8461 §6)."""
    sts.publish(*records)
    sts.serve()
    assert problem_of(await sts.ask()) == (FETCH, reason)
    assert sts.fetches == 0


async def test_dns_failure_without_a_cache_is_recorded(sts: Any, autojump_clock: MockClock) -> None:
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL", ede=[(7, "")])
    assert problem_of(await sts.ask()) == (FETCH, "extended-dns-error-7-signature-expired")
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL")
    assert problem_of(await sts.ask()) == (FETCH, "dns-servfail")


async def test_a_silent_resolver_does_not_break_the_hook(sts: Any, autojump_clock: MockClock) -> None:
    """Slowness is a recorded problem within the time limit of the hook, not a failed plugin."""
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "", delay=1000)
    with trio.fail_after(90):
        assert problem_of(await sts.ask()) == (FETCH, "dns-timeout")


async def test_a_failed_fetch_without_a_cache_is_recorded(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3: deliver as without MTA-STS."""
    sts.publish("v=STSv1; id=1")
    sts.page(404)
    assert problem_of(await sts.ask()) == (FETCH, "http-status-404")


async def test_an_invalid_policy_shows_what_was_served(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.page(b"version: STSv1\nmode: strict\n")
    policy = await sts.ask()
    assert problem_of(policy) == (ResultType.STS_POLICY_INVALID, "policy-syntax-error")
    assert policy.evidence == ("version: STSv1", "mode: strict")


async def test_back_off_of_five_minutes_per_id(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3: no second GET of the same id within five minutes; another id is fetched at once."""
    sts.publish("v=STSv1; id=1")
    sts.page(500)
    await sts.ask()
    sts.serve()
    await trio.sleep(299)
    assert problem_of(await sts.ask()) == (FETCH, "back-off-after-recent-fetch-error")
    assert sts.fetches == 1
    sts.publish("v=STSv1; id=2")
    assert (await sts.ask()).problem is None
    assert sts.fetches == 2


async def test_the_back_off_ends_and_survives_a_restart(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3: five minutes, whatever happens to the program meanwhile."""
    sts.publish("v=STSv1; id=1")
    sts.page(500)
    await sts.ask()
    sts.serve()
    sts.restart()
    assert problem_of(await sts.ask())[1] == "back-off-after-recent-fetch-error"
    await trio.sleep(300)
    assert (await sts.ask()).problem is None


async def test_back_off_also_holds_for_an_expired_policy_of_the_same_id(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve(max_age=100)
    await sts.ask()
    await trio.sleep(200)
    sts.page(500)
    assert problem_of(await sts.ask()) == (FETCH, "http-status-500")
    assert problem_of(await sts.ask()) == (FETCH, "back-off-after-recent-fetch-error")
    assert sts.fetches == 2


async def test_the_same_id_is_not_fetched_again(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.1: the id says whether the policy changed, also after a restart."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    first = await sts.ask()
    sts.restart()
    sts.serve("testing")
    assert await sts.ask() == first
    assert sts.fetches == 1


async def test_a_new_id_brings_the_new_policy_and_its_text(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8460 §4.5: the policy-string is that of the policy applied, not of its predecessor."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    sts.publish("v=STSv1; id=2")
    sts.serve("testing", mx="new.b.example")
    policy = await sts.ask()
    assert (policy.mode, policy.mx_patterns, policy.evidence[2]) == (Mode.TESTING, ("new.b.example",), "mx: new.b.example")
    assert (await sts.row()).record_id == "2"


async def test_a_cached_policy_survives_everything(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3: MUST apply a cached, unexpired policy when none can be found or fetched; §6: and report why."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    assert (await sts.ask()).notes == ()
    sts.publish()
    assert note_of(await sts.ask()) == f"no-mta-sts-record{FALLBACK}"
    sts.publish("v=STSv1; id=1", "v=STSv1; id=2")
    assert note_of(await sts.ask()) == f"multiple-mta-sts-records{FALLBACK}"
    sts.publish("v=STSv1; broken")
    assert note_of(await sts.ask()) == f"record-syntax-error{FALLBACK}"
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL")
    assert note_of(await sts.ask()) == f"dns-servfail{FALLBACK}"
    sts.core.dns.mend("_mta-sts.b.example", "TXT")
    sts.publish("v=STSv1; id=2")
    sts.page(404)
    assert note_of(await sts.ask()) == f"http-status-404{FALLBACK}"
    assert note_of(await sts.ask()) == f"back-off-after-recent-fetch-error{FALLBACK}"
    await trio.sleep(300)
    sts.page(HttpError("tls", "x", Failure(result_type=ResultType.CERTIFICATE_EXPIRED)))
    assert note_of(await sts.ask()) == f"certificate-expired{FALLBACK}"
    assert (await sts.ask()).mx_patterns == ("mx.b.example",)


async def test_an_expired_policy_does_not_act(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.2: max_age counts from the fetch; asking does not prolong it."""
    sts.publish("v=STSv1; id=1")
    sts.serve(max_age=1000)
    await sts.ask()
    sts.page(404)
    await trio.sleep(999)
    assert (await sts.ask()).problem is None
    await trio.sleep(1)
    assert problem_of(await sts.ask()) == (FETCH, "http-status-404")
    sts.publish()
    assert await sts.ask() is None


async def test_mode_none_is_as_no_policy(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §5: none; the policy is remembered so that nothing is fetched again."""
    sts.publish("v=STSv1; id=1")
    sts.serve("none")
    assert await sts.ask() is None
    assert await sts.ask() is None
    assert sts.fetches == 1
    assert (await sts.row()).mode is Mode.NONE


async def test_a_withdrawn_policy_is_forgotten(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §8.3: mode none, then the record goes."""
    sts.publish("v=STSv1; id=1")
    sts.serve("none")
    await sts.ask()
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL")
    assert await sts.ask() is None
    assert await sts.row() is not None
    sts.core.dns.mend("_mta-sts.b.example", "TXT")
    sts.publish()
    assert await sts.ask() is None
    assert await sts.row() is None


async def test_a_withdrawn_policy_that_returns_broken_is_a_problem(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §6: a fetch that failed although there is a valid record is reported; mode none is nothing to fall back to."""
    sts.publish("v=STSv1; id=1")
    sts.serve("none")
    await sts.ask()
    sts.publish("v=STSv1; id=2")
    sts.page(404)
    assert problem_of(await sts.ask()) == (FETCH, "http-status-404")
    assert problem_of(await sts.ask()) == (FETCH, "back-off-after-recent-fetch-error")


async def test_concurrent_deliveries_share_one_lookup_and_one_fetch(sts: Any, autojump_clock: MockClock) -> None:
    """A thousand deliveries to a domain that is not cached are one question and one request."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    sts.core.http.delay = 5
    policies = []

    async def ask() -> None:
        policies.append(await sts.ask())

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(ask)
    assert len(policies) == 1000
    assert len({id(policy) for policy in policies}) == 1
    assert sts.fetches == 1
    assert sts.core.dns.queries["_mta-sts.b.example", "TXT"] == 1


async def test_a_cancelled_delivery_does_not_spoil_the_others(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve()
    sts.core.http.delay = 5
    policies = []

    async def ask() -> None:
        policies.append(await sts.ask())

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1) as impatient:
            nursery.start_soon(trio.sleep, 0)
            async with trio.open_nursery() as inner:
                inner.start_soon(ask)
                await wait_all_tasks_blocked()
                nursery.start_soon(ask)
                await trio.sleep_forever()
    assert impatient.cancelled_caught
    (policy,) = policies
    assert policy.problem is None


async def test_an_answer_belongs_to_its_domain(sts: Any, autojump_clock: MockClock) -> None:
    """The policy of one domain never acts for another one, though both are asked for at once."""
    sts.publish("v=STSv1; id=1")
    sts.serve()
    sts.core.http.delay = 5
    found: dict[str, TlsPolicy | None] = {}

    async def ask(domain: str) -> None:
        found[domain] = await sts.ask(Domain(domain))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "b.example")
        nursery.start_soon(ask, "c.example")
    assert found["c.example"] is None
    assert found["b.example"] is not None


async def test_a_stored_policy_that_cannot_be_read_is_fetched_anew(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve()
    first = await sts.ask()
    await sts.core.store.write(
        lambda connection: connection.exec_driver_sql("UPDATE mtasts_policies SET policy_text = 'version: STSv0'")
    )
    sts.restart()
    assert await sts.ask() == first
    assert sts.fetches == 2


# --- verdicts ---


def peer(host: str) -> TlsPeer:
    endpoint = Endpoint(host=Domain(host), address="192.0.2.1", port=25)
    return TlsPeer(endpoint=endpoint, server_name=Domain("sni.example"), protocol="TLSv1.3", cipher="x", chain=(b"leaf",))


async def test_the_host_that_was_dialled_is_verified(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §4.2: the certificate must be valid for the MX host name, not for a pattern or another host of the policy."""
    sts.publish("v=STSv1; id=1")
    sts.serve(mx="*.b.example")
    policy = await sts.ask()
    sts.core.trust.verdict = Verdict.fail(ResultType.CERTIFICATE_EXPIRED)
    assert sts.plugin.verify_tls(policy, peer("mx1.b.example")) == Verdict.fail(ResultType.CERTIFICATE_EXPIRED)
    assert sts.core.trust.asked == [((b"leaf",), "mx1.b.example")]


async def test_policies_of_others_are_not_judged(sts: Any, autojump_clock: MockClock) -> None:
    policy = TlsPolicy(kind="tlsa", mode=Mode.ENFORCE, domain=Domain("mx.b.example"))
    assert sts.plugin.verify_tls(policy, peer("mx.b.example")) is None
    assert sts.core.trust.asked == []


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("mx.b.example", "mx.b.example", True),
        ("MX.B.example", "mx.b.example", True),
        ("*.b.example", "mx.b.example", True),
        ("*.b.example", "a.mx.b.example", False),
        ("*.b.example", "b.example", False),
        ("b.example", "mx.b.example", False),
        ("*.xn--bcher-kva.example", "mx.bücher.example", True),
        ("xn--bcher-kva.example", "BÜCHER.example", True),
    ],
)
async def test_which_hosts_a_policy_names(sts: Any, autojump_clock: MockClock, pattern: str, host: str, matches: bool) -> None:
    """RFC 8461 §4.1: a wildcard stands for exactly one left-most label; names are compared as A-labels."""
    sts.publish("v=STSv1; id=1")
    sts.serve(mx=pattern)
    policy = await sts.ask()
    assert any(pattern_matches(each, Domain(host)) for each in policy.mx_patterns) is matches


async def test_an_internationalised_domain(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.2, §3.3: everything is asked by A-labels."""
    sts.core.dns.set_zone("xn--bcher-kva.example", '_mta-sts TXT "v=STSv1; id=1"\n')
    sts.core.http.pages["mta-sts.xn--bcher-kva.example"] = (
        b"version: STSv1\nmode: enforce\nmx: *.xn--bcher-kva.example\nmax_age: 86400\n"
    )
    policy = await sts.ask(Domain("Bücher.example"))
    assert (policy.mode, policy.domain) == (Mode.ENFORCE, "xn--bcher-kva.example")
    assert sts.core.http.requests == ["GET https://mta-sts.xn--bcher-kva.example/.well-known/mta-sts.txt"]


async def test_nothing_comes_from_an_http_cache(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.3: HTTP caching MUST NOT be used, whatever the server would allow."""
    sts.core.http.headers = {"content-type": "text/plain", "cache-control": "max-age=31536000, immutable", "etag": '"1"'}
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    sts.publish("v=STSv1; id=2")
    sts.serve("testing")
    assert (await sts.ask()).mode is Mode.TESTING
    assert "headers" not in sts.core.http.options, "nor is a conditional request made"


async def test_the_media_type_is_recorded_and_not_refused(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.2: senders SHOULD check for text/plain."""
    sts.core.http.headers = {"content-type": "Application/Octet-Stream; x=y"}
    sts.publish("v=STSv1; id=1")
    sts.serve()
    assert (await sts.ask()).mode is Mode.ENFORCE
    assert (await sts.row()).media_type == "application/octet-stream"


async def test_a_use_is_written_once_a_day(sts: Any, autojump_clock: MockClock) -> None:
    sts.publish("v=STSv1; id=1")
    sts.serve()
    await sts.ask()
    first = (await sts.row()).last_use
    for hours in range(1, 24):
        await trio.sleep(HOUR)
        await sts.ask()
        assert (await sts.row()).last_use == first, hours
    await trio.sleep(HOUR)
    await sts.ask()
    assert (await sts.row()).last_use == first + DAY


# --- figures ---


async def test_policies_and_fetches_are_counted(sts: Any, autojump_clock: MockClock) -> None:
    registry = Registry()
    sts.core.metrics = Metrics(registry, "mtasts")
    sts.restart()
    await sts.ask()
    sts.publish("v=STSv1; id=1")
    sts.page(404)
    await sts.ask()
    sts.publish("v=STSv1; id=2")
    sts.serve("enforce")
    await sts.ask()
    await sts.ask()
    sts.publish("v=STSv1; id=3")
    sts.page(500)
    await sts.ask()
    found = {family.description.name: family.values for family in registry.families()}
    assert found["postward_mtasts_policies_total"] == {
        ("none", "no"): 1,
        ("problem", "no"): 1,
        ("enforce", "no"): 2,
        ("enforce", "yes"): 1,
    }
    assert found["postward_mtasts_fetches_total"] == {
        ("sts-policy-fetch-error", "http-status-404"): 1,
        ("none", "none"): 1,
        ("sts-policy-fetch-error", "http-status-500"): 1,
    }
    assert sum(found["postward_mtasts_fetch_seconds"][()][0]) == 3  # type: ignore[index]
