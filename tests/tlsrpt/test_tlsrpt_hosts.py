"""MX hosts that ask for reports themselves (RFC 8460 §1.1), and the record by which ours does."""

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from trio.testing import MockClock

import tlsrpt_schema
from plugin_rig import NOON
from postward.errors import ConfigError
from postward.model import Failure, Mode, PolicyResult, ResultType, TlsResult, Window
from postward.names import Domain
from postward_tlsrpt import counters, host_record, record
from postward_tlsrpt.reporting import key_of

YESTERDAY, BEFORE = "2026-11-23", "2026-11-20"
WINDOW = Window.of_day(YESTERDAY)
HOST = "mx.provider.example"
TLSA = PolicyResult(
    kind="tlsa",
    mode=Mode.ENFORCE,
    domain=Domain(HOST),
    passed=False,
    failure=Failure(result_type=ResultType.VALIDATION_FAILURE, reason="dane-no-match"),
    evidence=("3 1 1 " + "ab" * 32,),
)
STS = PolicyResult(kind="sts", mode=Mode.ENFORCE, domain=Domain("b.example"), passed=True, evidence=("version: STSv1",))
NONE = PolicyResult(kind="no-policy-found", mode=Mode.NONE, domain=Domain("b.example"), passed=True)
OWN, THEIRS = "mailto:tls@b.example", "mailto:tls@provider.example"


def result(*policies: PolicyResult, domain: str = "b.example", day: str = YESTERDAY, **changes: Any) -> TlsResult:
    values: dict[str, Any] = {"sending_ip": "192.0.2.1", "receiving_ip": "192.0.2.25", "protocol": "TLSv1.3"}
    return TlsResult(day=day, domain=Domain(domain), host=Domain(HOST), policies=policies, **(values | changes))


def read(report: Any) -> Any:
    document = json.loads(gzip.decompress(report.content))
    tlsrpt_schema.check(document)
    return document


def sums(document: Any) -> list[tuple[str, int, int]]:
    return [(entry["policy"]["policy-type"], *entry["summary"].values()) for entry in document["policies"]]


async def build_host(rpt: Any, *targets: str) -> Any:
    wanted = [counters_target(uri) for uri in targets]
    return await rpt.core.store.write(lambda connection: rpt.host_job.build(connection, WINDOW, HOST, wanted))


def counters_target(uri: str) -> Any:
    from postward.model import ReportTarget

    return ReportTarget(uri=uri)


async def test_the_host_is_told_what_was_found_under_its_records(rpt: Any) -> None:
    """RFC 8460 §1.1: of DANE, the TLSA base domain is the policy domain; of MTA-STS, the recipient domain."""
    await rpt.count(result(STS, TLSA), result(NONE), result(STS, replace(TLSA, passed=True), domain="c.example"))
    assert await rpt.job.subjects(WINDOW) == ["b.example", "c.example"]
    assert await rpt.host_job.windows() == [], "recipient domains come first"
    (report,) = await rpt.build(WINDOW, "b.example", OWN)
    assert sorted(sums(read(report))) == [("no-policy-found", 1, 0), ("sts", 1, 0), ("tlsa", 0, 1)]
    await rpt.build(WINDOW, "c.example")
    assert await rpt.host_job.windows() == [WINDOW]
    assert await rpt.host_job.subjects(WINDOW) == [HOST]
    (report,) = await build_host(rpt, THEIRS)
    assert (report.policy_domain, report.headers[0]) == (HOST, ("TLS-Report-Domain", HOST))
    document = read(report)
    assert sums(document) == [("tlsa", 1, 1)], "the sessions of all recipient domains, once"
    assert document["policies"][0]["policy"]["policy-domain"] == HOST
    assert [detail["failed-session-count"] for detail in document["policies"][0]["failure-details"]] == [1]
    assert await build_host(rpt, THEIRS) == ()
    assert await rpt.host_job.windows() == []


async def test_nobody_is_told_twice(rpt: Any) -> None:
    """Exactly the same addresses, in whatever order, know it from the report about the recipient domain."""
    await rpt.count(result(TLSA), result(TLSA, domain="c.example"))
    await rpt.build(WINDOW, "b.example", THEIRS, OWN)
    await rpt.build(WINDOW, "c.example", THEIRS)
    (report,) = await build_host(rpt, OWN, THEIRS)
    assert sums(read(report)) == [("tlsa", 0, 1)], "what c.example's addresses know is told, because one address does not"


async def test_what_was_not_reported_is_known_to_nobody(rpt: Any) -> None:
    """A recipient domain without failures gets no report where `report_success` is off, so its addresses know nothing."""
    rpt.configure(report_success=False)
    await rpt.count(result(replace(TLSA, passed=True)))
    assert await rpt.build(WINDOW, "b.example", THEIRS) == ()
    rpt.configure()
    assert len(await build_host(rpt, THEIRS)) == 1


async def test_a_host_that_is_the_domain_itself_has_one_record(rpt: Any) -> None:
    """Without MX records the host is the domain."""
    own = replace(TLSA, domain=Domain("b.example"))
    await rpt.count(result(own))
    (report,) = await rpt.build(WINDOW, "b.example", OWN)
    assert sums(read(report)) == [("tlsa", 0, 1)]
    assert await rpt.host_job.windows() == []


async def test_hosts_wait_a_day_for_a_recipient_domain_in_trouble(rpt: Any, autojump_clock: MockClock) -> None:
    await rpt.count(result(TLSA), result(TLSA, domain="broken.example"))
    await rpt.build(WINDOW, "b.example", OWN)
    assert await rpt.host_job.windows() == []
    await rpt.core.clock.sleep_until(WINDOW.end + 24 * 3600 * 10**6)
    assert await rpt.host_job.windows() == [WINDOW]


async def test_several_policies_of_a_host_stay_apart(rpt: Any) -> None:
    """The policy as it was seen at the time: a rollover during the day gives two."""
    later = replace(TLSA, evidence=("3 1 1 " + "cd" * 32,), passed=True)
    await rpt.count(result(TLSA), result(later), result(later))
    await rpt.build(WINDOW, "b.example")
    (report,) = await build_host(rpt, THEIRS)
    document = read(report)
    assert sorted(sums(document)) == [("tlsa", 0, 1), ("tlsa", 2, 0)]
    assert len({tuple(entry["policy"]["policy-string"]) for entry in document["policies"]}) == 2


async def test_a_crash_keeps_what_belongs_to_the_host(rpt: Any) -> None:
    await rpt.count(result(TLSA))

    def build_and_crash(connection: Any) -> None:
        assert rpt.job.build(connection, WINDOW, "b.example", [counters_target(OWN)])
        raise KeyError("crash")

    with pytest.raises(KeyError):
        await rpt.core.store.write(build_and_crash)
    assert await rpt.host_job.windows() == []
    await rpt.build(WINDOW, "b.example", OWN)
    (report,) = await build_host(rpt, THEIRS)
    assert sums(read(report)) == [("tlsa", 0, 1)]


async def test_what_is_dropped_is_dropped_for_hosts_too(rpt: Any, autojump_clock: MockClock) -> None:
    await rpt.count(result(TLSA))
    await rpt.build(WINDOW, "b.example", OWN)
    await rpt.job.windows()
    await rpt.core.clock.sleep_until(NOON + 40 * 24 * 3600 * 10**6)
    assert await rpt.job.windows() == []
    assert await rpt.host_job.windows() == []
    left = "SELECT COUNT(*) FROM tlsrpt_host_details"
    assert await rpt.core.store.read(lambda connection: connection.exec_driver_sql(left).scalar()) == 0


async def test_a_host_is_asked_at_its_own_name(rpt: Any) -> None:
    """RFC 8460 §3: `_smtp._tls` at the policy domain."""
    rpt.core.dns.set_zone("provider.example", f'_smtp._tls.mx TXT "v=TLSRPTv1;rua={THEIRS}"\n')
    assert await rpt.host_job.targets(WINDOW, HOST) == (counters_target(THEIRS),)


async def test_after_three_days_of_downtime_each_day_has_its_own_dates_and_ids(rpt: Any) -> None:
    """RFC 8460 §4.1: one UTC day each."""
    days = [BEFORE, "2026-11-21", YESTERDAY]
    await rpt.count(*(result(TLSA, day=day) for day in days))
    seen = []
    for window in await rpt.job.windows():
        (report,) = await rpt.build(window, "b.example", OWN)
        seen.append((read(report)["date-range"]["start-datetime"][:10], report.report_id, report.filename))
    assert [day for day, *_ in seen] == days
    assert all(identifier.startswith(day.replace("-", "")) for day, identifier, _ in seen)
    assert len({identifier for _, identifier, _ in seen}) == len({name for *_, name in seen}) == 3


async def test_a_page_of_counters(rpt: Any) -> None:
    await rpt.count(result(TLSA), result(STS, TLSA, domain="c.example", day=BEFORE))
    page = {"domain": "", "day": "", "after": ("", "", ""), "limit": 2}
    rows = await rpt.core.store.read(lambda connection: counters.load_page(connection, **page))
    assert [(row.day, row.domain) for row in rows] == [(BEFORE, "c.example")] * 2
    last = (rows[-1].day, rows[-1].domain, rows[-1].taken.policy_id)
    rows = await rpt.core.store.read(lambda connection: counters.load_page(connection, **(page | {"after": last})))
    assert [(row.day, row.domain, row.taken.failures) for row in rows] == [(YESTERDAY, "b.example", 1)]
    assert len(rows[0].taken.details) == 1
    only = page | {"day": BEFORE, "domain": "b.example"}
    assert await rpt.core.store.read(lambda connection: counters.load_page(connection, **only)) == []


def test_the_same_addresses_are_the_same() -> None:
    assert key_of([counters_target(OWN), counters_target(THEIRS)]) == key_of([counters_target(THEIRS), counters_target(OWN)])
    assert key_of([]) == ""


# --- our own host ---


def test_our_host_asks_for_reports() -> None:
    """RFC 8460 §3: one record at the name of the MX host, for whoever owns a domain above it."""
    uris = ("mailto:tls@sender.example", "https://sender.example/r?a=1%2C2")
    for domain in ("mx.sender.example", "sender.example"):
        (found,) = host_record.records(Domain(domain), Domain("mx.sender.example"), uris)
        assert (found.name, found.rdtype) == ("_smtp._tls.mx.sender.example", "TXT")
        assert record.parse(found.value.strip('"')).rua == uris
    assert host_record.records(Domain("other.example"), Domain("mx.sender.example"), uris) == ()
    assert host_record.records(Domain("sender.example"), Domain("mx.sender.example"), ()) == ()


def test_a_long_record_is_several_strings() -> None:
    """RFC 1035 §3.3.14: 255 octets each; RFC 8460 §3: joined without space."""
    uris = tuple(f"mailto:{'x' * 60}{number}@sender.example" for number in range(5))
    (found,) = host_record.records(Domain("sender.example"), Domain("mx.sender.example"), uris)
    strings = found.value.strip('"').split('" "')
    assert all(len(string) <= 255 for string in strings)
    assert record.parse("".join(strings)).rua == uris


async def test_the_setting_reaches_the_hook(rpt: Any) -> None:
    rpt.configure(host_record=["mailto:tls@sender.example"])
    (found,) = rpt.plugin.dns_records(Domain("sender.example"))
    assert "mailto:tls@sender.example" in found.value
    rpt.configure()
    assert rpt.plugin.dns_records(Domain("sender.example")) == ()


@pytest.mark.parametrize(
    "uri", ["tls@sender.example", "ftp://x.example/", "mailto:a@b.example!10m", "mailto:a@b.example,x", "x"]
)
async def test_a_setting_that_no_record_can_hold_is_refused(rpt: Any, uri: str) -> None:
    """RFC 8460 §3: `,`, `!` and `;` are percent-encoded; mailto and https are defined."""
    with pytest.raises((ConfigError, ValueError)):
        rpt.configure(host_record=[uri])
