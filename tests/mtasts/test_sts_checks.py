"""What is said about the MTA-STS of a domain that was looked at."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from postward.http import HttpError
from postward.model import Failure, ResultType, Severity
from postward.names import Domain
from postward_mtasts.plugin import MtaSts
from postward_mtasts.settings import Settings

OK, WARNING, ERROR = Severity.OK, Severity.WARNING, Severity.ERROR
DOMAIN = Domain("b.example")
POLICY = "version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n"


def zone(record: str = "v=STSv1; id=1", mx: str = "@ MX 10 mx\n") -> str:
    return f'{mx}_mta-sts TXT "{record}"\n' if record else f"{mx}@ TXT x\n"


def own(**table: Any) -> Settings:
    return Settings.model_validate({"host": {"b.example": table}})


async def check(
    sts: Any, settings: Settings | None = None, *, publish: bool = True, **shown: Any
) -> list[tuple[Severity, str]]:
    """Set up `b.example` and look at it; what is said must have a reason and mostly a cure."""
    plugin = MtaSts(settings or Settings(), sts.core)
    text = POLICY.format(**{"mode": "enforce", "mx": "mx.b.example", "max_age": 604800, **shown})
    sts.page(text.encode())
    record = "v=STSv1; id=1"
    if settings is not None:
        served = plugin.hosted[DOMAIN]
        sts.page(served.text.encode())
        record = served.record
    if publish:
        sts.core.dns.set_zone("b.example", zone(record))
    found = await plugin.dns_checks(DOMAIN)
    assert found is not None
    assert all(finding.area == "mta-sts" for finding in found)
    assert all(finding.why for finding in found if finding.severity is not OK)
    return [(finding.severity, finding.what) for finding in found]


def worst(said: list[tuple[Severity, str]]) -> list[str]:
    return [what for severity, what in said if severity is not OK]


async def test_all_is_well(sts: Any, autojump_clock: MockClock) -> None:
    said = await check(sts)
    assert [severity for severity, _ in said] == [OK, OK, OK]
    assert said[2][1] == "the policy names every mail host: mx.b.example"
    assert worst(await check(sts, own(mode="enforce", mx=["mx.b.example", "mx.sender.example"]))) == [
        "no mail host of the domain is mx.sender.example"
    ]


async def test_a_domain_without_mta_sts(sts: Any, autojump_clock: MockClock) -> None:
    sts.core.dns.set_zone("b.example", zone(""))
    sts.page(HttpError("no-address", "mta-sts.b.example does not exist"))
    plugin = MtaSts(Settings(), sts.core)
    (finding,) = await plugin.dns_checks(DOMAIN) or ()
    assert (finding.severity, finding.what) == (WARNING, "b.example does not use MTA-STS")
    assert "_mta-sts.b.example. TXT" in finding.fix


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ("v=STSv1; id=a-b", "_mta-sts.b.example: the id is not 1 to 32 letters and digits (octet 12)"),
        ("v=spf1 -all", "_mta-sts.b.example has no record"),
    ],
)
async def test_a_record_that_is_none(sts: Any, autojump_clock: MockClock, record: str, what: str) -> None:
    """RFC 8461 §3.1: exactly one valid record."""
    sts.core.dns.set_zone("b.example", zone(record))
    assert (ERROR, what) in await check(sts, publish=False)


async def test_two_records_and_no_answer(sts: Any, autojump_clock: MockClock) -> None:
    sts.core.dns.set_zone("b.example", zone() + '_mta-sts TXT "v=STSv1; id=2"\n')
    assert worst(await check(sts, publish=False)) == ["_mta-sts.b.example: 2 records begin with 'v=STSv1;'"]
    sts.core.dns.fault("_mta-sts.b.example", "TXT", "SERVFAIL")
    assert "cannot be looked up" in worst(await check(sts))[0]


async def test_own_domain_without_its_record_or_with_an_old_one(sts: Any, autojump_clock: MockClock) -> None:
    settings = own(mode="enforce", mx=["mx.b.example", "mx.sender.example"])
    sts.core.dns.set_zone("b.example", zone("v=STSv1; id=old"))
    said = worst(await check(sts, settings, publish=False))
    assert said[0].startswith("the record has id old, the policy that is served ")
    sts.core.dns.set_zone("b.example", zone(""))
    assert worst(await check(sts, settings, publish=False))[0] == "_mta-sts.b.example has no record"


@pytest.mark.parametrize(
    "page",
    [404, HttpError("tls", "expired", Failure(result_type=ResultType.CERTIFICATE_EXPIRED)), b"version: STSv1\nmode: x\n"],
)
async def test_a_policy_that_cannot_be_fetched(sts: Any, autojump_clock: MockClock, page: Any) -> None:
    """RFC 8461 §3.3: seen as a sender sees it, from outside."""
    sts.core.dns.set_zone("b.example", zone())
    sts.page(page)
    found = await MtaSts(Settings(), sts.core).dns_checks(DOMAIN) or ()
    (bad,) = [finding for finding in found if finding.severity is ERROR]
    assert "https://mta-sts.b.example/.well-known/mta-sts.txt" in bad.what + bad.fix
    if isinstance(page, bytes):
        assert "line 2, column 7" in bad.what


async def test_somebody_else_serves_the_policy(sts: Any, autojump_clock: MockClock) -> None:
    plugin = MtaSts(own(mode="enforce"), sts.core)
    sts.core.dns.set_zone("b.example", zone(plugin.hosted[DOMAIN].record))
    sts.serve("enforce")
    found = await plugin.dns_checks(DOMAIN) or ()
    assert "https://mta-sts.b.example/.well-known/mta-sts.txt serves another policy" in [finding.what for finding in found]


@pytest.mark.parametrize(
    ("shown", "what"),
    [
        ({"mode": "none"}, "the policy has mode none"),
        ({"mode": "testing"}, "the policy has mode testing"),
        ({"max_age": 86400}, "max_age is 86400 seconds, a day or less"),
        ({"mx": "*.b.example\r\nmx: old.b.example"}, "no mail host of the domain is old.b.example"),
    ],
)
async def test_weak_policies(sts: Any, autojump_clock: MockClock, shown: dict[str, Any], what: str) -> None:
    """RFC 8461 §5: none and testing enforce nothing; §3.2: max_age in weeks."""
    said = await check(sts, **shown)
    assert [(severity, text) for severity, text in said if severity is not OK] == [(WARNING, what)]
    assert (await check(sts, max_age=86401))[1][0] is OK


async def test_a_mail_host_that_the_policy_does_not_name(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §4.1: senders do not use it; in testing they report it."""
    sts.core.dns.set_zone("b.example", zone(mx="@ MX 10 mx\n@ MX 20 a.mx\n"))
    what = "the policy does not name the mail host a.mx.b.example"
    assert (ERROR, what) in await check(sts, mx="*.b.example", publish=False)
    assert (WARNING, what) in await check(sts, mode="testing", mx="*.b.example", publish=False)


async def test_mail_hosts_that_cannot_be_looked_up_or_are_none(sts: Any, autojump_clock: MockClock) -> None:
    sts.core.dns.fault("b.example", "MX", "SERVFAIL")
    assert any("MX records cannot be looked up" in what for what in worst(await check(sts)))
    sts.core.dns.mend("b.example", "MX")
    sts.core.dns.set_zone("b.example", zone(mx="@ MX 0 .\n"))
    assert worst(await check(sts, publish=False)) == [], "a null MX needs no naming"
    sts.core.dns.set_zone("b.example", zone(mx=""))
    assert "the policy does not name the mail host b.example" in worst(await check(sts, publish=False)), "implicit MX"


async def test_our_own_host_is_missing_in_our_policy(sts: Any, autojump_clock: MockClock) -> None:
    said = worst(await check(sts, own(mode="enforce", mx=["mx.b.example"])))
    assert said == ["the policy does not name this host, mx.sender.example"]


async def test_a_surprising_media_type(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.2: SHOULD be text/plain."""
    sts.core.http.headers = {"content-type": "text/html; charset=utf-8"}
    assert worst(await check(sts)) == ["https://mta-sts.b.example/.well-known/mta-sts.txt is served as text/html"]


async def test_looking_remembers_nothing(sts: Any, autojump_clock: MockClock) -> None:
    await check(sts)
    assert await sts.row() is None
    assert await MtaSts(Settings(), sts.core).dns_checks(Domain("[192.0.2.1]")) is None
