"""The plugin over memory: counting once, windows, addresses, reports (RFC 8460 §3, §4.1, §5)."""

import gzip
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import tlsrpt_schema
from plugin_rig import NOON, make_core
from postward.errors import ConfigError, TryLater
from postward.model import Failure, Mode, PolicyResult, Report, ReportTarget, ResultType, TlsResult, Window
from postward.names import Domain
from postward_tlsrpt import counters, received_tables, tables
from postward_tlsrpt.plugin import TlsRpt

TODAY, YESTERDAY = "2026-11-24", "2026-11-23"
WINDOW = Window.of_day(YESTERDAY)
STS = PolicyResult(
    kind="sts",
    mode=Mode.ENFORCE,
    domain=Domain("b.example"),
    passed=True,
    mx_patterns=("mx.b.example",),
    evidence=("version: STSv1", "mode: enforce", "mx: mx.b.example", "max_age: 86400"),
)
TLSA = PolicyResult(
    kind="tlsa",
    mode=Mode.ENFORCE,
    domain=Domain("mx.b.example"),
    passed=False,
    failure=Failure(result_type=ResultType.VALIDATION_FAILURE, reason="dane-no-match"),
    evidence=("3 1 1 " + "ab" * 32,),
)
NONE = PolicyResult(kind="no-policy-found", mode=Mode.NONE, domain=Domain("b.example"), passed=True)
MAIL = "mailto:tls@b.example"


def result(*policies: PolicyResult, day: str = YESTERDAY, domain: str = "b.example", **changes: Any) -> TlsResult:
    values: dict[str, Any] = {"sending_ip": "192.0.2.1", "receiving_ip": "192.0.2.25", "protocol": "TLSv1.3"}
    return TlsResult(day=day, domain=Domain(domain), host=Domain("mx.b.example"), policies=policies, **(values | changes))


def read(report: Report) -> Any:
    document = json.loads(gzip.decompress(report.content))
    tlsrpt_schema.check(document)
    return document


def totals(document: Any) -> dict[str, tuple[int, int]]:
    return {
        entry["policy"]["policy-type"]: (
            entry["summary"]["total-successful-session-count"],
            entry["summary"]["total-failure-session-count"],
        )
        for entry in document["policies"]
    }


async def test_a_day_becomes_one_report(rpt: Any) -> None:
    await rpt.count(*[result(STS, TLSA)] * 2, result(STS))
    await rpt.count(result(STS, TLSA))
    await rpt.count(result(NONE), result(NONE, domain="c.example"), result(STS, day=TODAY))
    assert await rpt.job.windows() == [WINDOW]
    assert await rpt.job.subjects(WINDOW) == ["b.example", "c.example"]
    (report,) = await rpt.build(WINDOW, "b.example", MAIL)
    document = read(report)
    assert totals(document) == {"sts": (4, 0), "tlsa": (0, 3), "no-policy-found": (1, 0)}
    (tlsa,) = (entry for entry in document["policies"] if entry["policy"]["policy-type"] == "tlsa")
    assert tlsa["policy"] == {
        "policy-type": "tlsa",
        "policy-string": ["3 1 1 " + "ab" * 32],
        "policy-domain": "mx.b.example",
    }
    assert tlsa["failure-details"] == [
        {
            "result-type": "validation-failure",
            "sending-mta-ip": "192.0.2.1",
            "receiving-mx-hostname": "mx.b.example",
            "receiving-ip": "192.0.2.25",
            "failed-session-count": 3,
            "failure-reason-code": "dane-no-match",
        }
    ]
    (sts,) = (entry for entry in document["policies"] if entry["policy"]["policy-type"] == "sts")
    assert sts["policy"]["mx-host"] == ["mx.b.example"]
    assert sts["policy"]["policy-domain"] == "b.example"


async def test_what_is_around_the_json(rpt: Any) -> None:
    """§5.1, §5.3: names, media types and headers agree with the JSON."""
    await rpt.count(result(STS))
    (report,) = await rpt.build(WINDOW, "b.example", MAIL)
    document = read(report)
    assert document["date-range"] == {"start-datetime": "2026-11-23T00:00:00Z", "end-datetime": "2026-11-23T23:59:59Z"}
    assert document["contact-info"] == "postmaster@mx.sender.example"
    assert document["organization-name"] == "mx.sender.example"
    assert document["report-id"] == report.report_id
    assert (report.kind, report.policy_domain, report.window) == ("tls", "b.example", WINDOW)
    assert report.submitter == "mx.sender.example"
    assert report.headers == (("TLS-Report-Domain", "b.example"), ("TLS-Report-Submitter", "mx.sender.example"))
    assert report.media_type == "application/tlsrpt+gzip"
    assert report.mail_type == 'multipart/report; report-type="tlsrpt"'
    assert report.subject == f"Report Domain: b.example Submitter: mx.sender.example Report-ID: <{report.report_id}>"
    begin, end = WINDOW.start // 10**6, WINDOW.end // 10**6 - 1
    assert report.filename.startswith(f"mx.sender.example!b.example!{begin}!{end}!")
    assert "b.example" in report.explanation


async def test_building_removes_the_counters_and_only_those(rpt: Any) -> None:
    await rpt.count(result(STS, TLSA), result(STS, TLSA, domain="c.example"), result(STS, TLSA, day=TODAY))
    assert await rpt.build(WINDOW, "b.example", MAIL)
    assert await rpt.build(WINDOW, "b.example", MAIL) == ()
    assert await rpt.job.subjects(WINDOW) == ["c.example"]
    (report,) = await rpt.build(WINDOW, "c.example", MAIL)
    assert totals(read(report)) == {"sts": (1, 0), "tlsa": (0, 1)}
    assert sum(len(entry["failure-details"]) for entry in read(report)["policies"]) == 1
    (report,) = await rpt.build(Window.of_day(TODAY), "b.example", MAIL)
    assert totals(read(report)) == {"sts": (1, 0), "tlsa": (0, 1)}
    assert sum(len(entry["failure-details"]) for entry in read(report)["policies"]) == 1


async def test_a_transaction_that_fails_keeps_the_counters(rpt: Any) -> None:
    """A crash before the commit loses nothing."""
    await rpt.count(result(STS, TLSA))

    def build_and_crash(connection: Any) -> None:
        assert rpt.job.build(connection, WINDOW, "b.example", [ReportTarget(uri=MAIL)])
        raise KeyError("crash")

    with pytest.raises(KeyError):
        await rpt.core.store.write(build_and_crash)
    (report,) = await rpt.build(WINDOW, "b.example", MAIL)
    assert totals(read(report)) == {"sts": (1, 0), "tlsa": (0, 1)}


async def test_nobody_asked_no_report_and_the_counters_go(rpt: Any) -> None:
    await rpt.count(result(STS, TLSA))
    assert await rpt.build(WINDOW, "b.example") == ()
    assert await rpt.job.windows() == []


async def test_late_results_make_a_report_of_their_own(rpt: Any) -> None:
    """Another id and another file name, the same dates."""
    await rpt.count(result(STS))
    (first,) = await rpt.build(WINDOW, "b.example", MAIL)
    await rpt.count(result(STS))
    (second,) = await rpt.build(WINDOW, "b.example", MAIL)
    assert first.report_id != second.report_id
    assert first.filename != second.filename
    assert read(first)["date-range"] == read(second)["date-range"]


async def test_a_batch_counts_once(rpt: Any) -> None:
    """A batch that comes again after a crash changes nothing."""
    for batch in await rpt.count(result(STS), result(TLSA)):
        await rpt.plugin.emit(batch)
    (report,) = await rpt.build(WINDOW, "b.example", MAIL)
    assert totals(read(report)) == {"sts": (1, 0), "tlsa": (0, 1)}


async def test_reports_about_reports_do_not_exist(rpt: Any) -> None:
    """§3: the session that carries a report is not counted."""
    await rpt.count(result(STS, is_report=True), result(NONE, is_report=True))
    assert await rpt.job.windows() == []


async def test_only_days_that_are_over(rpt: Any, autojump_clock: MockClock) -> None:
    """§4.1: a UTC day, each with its own report, oldest first."""
    await rpt.count(*(result(STS, day=day) for day in (TODAY, YESTERDAY, "2026-11-20")))
    assert [window.day for window in await rpt.job.windows()] == ["2026-11-20", YESTERDAY]
    await rpt.core.clock.sleep_until(NOON + 12 * 3600 * 10**6)
    assert [window.day for window in await rpt.job.windows()] == ["2026-11-20", YESTERDAY, TODAY]


async def test_counters_of_a_week_ago_are_dropped_once_they_have_been_tried(rpt: Any, autojump_clock: MockClock) -> None:
    """A program that was down for long reports all its days; what then still cannot be reported goes."""
    days = ["2026-10-23", "2026-11-10", "2026-11-20"]
    await rpt.count(*(result(STS, TLSA, day=day) for day in days))
    with structlog.testing.capture_logs() as logs:
        assert [window.day for window in await rpt.job.windows()] == days[1:]
        await rpt.core.clock.sleep_until(NOON + 23 * 3600 * 10**6)
        assert [window.day for window in await rpt.job.windows()] == days[1:]
        await rpt.core.clock.sleep_until(NOON + 25 * 3600 * 10**6)
        assert [window.day for window in await rpt.job.windows()] == days[2:]
    assert [(line["log_level"], line["days"], line["rows"]) for line in logs] == [("warning", [day], 2) for day in days[:2]]
    assert await rpt.core.store.read(
        lambda connection: connection.exec_driver_sql("SELECT DISTINCT day FROM tlsrpt_details").scalars().all()
    ) == ["2026-11-20"]


async def test_where_nothing_is_sent_counters_go_after_a_week(rpt: Any) -> None:
    rpt.configure(send=False)
    await rpt.count(result(STS, day="2026-11-17"), result(STS, day="2026-11-16"))
    assert await rpt.job.windows() == []
    assert await rpt.core.store.read(lambda connection: counters.days_before(connection, TODAY)) == ["2026-11-17"]


async def test_successes_alone_are_reported_unless_told_otherwise(rpt: Any) -> None:
    await rpt.count(result(STS))
    assert len(await rpt.build(WINDOW, "b.example", MAIL)) == 1
    rpt.configure(report_success=False)
    await rpt.count(result(STS))
    assert await rpt.build(WINDOW, "b.example", MAIL) == ()
    await rpt.count(result(STS), result(TLSA))
    assert len(await rpt.build(WINDOW, "b.example", MAIL)) == 1
    note = Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason="timeout+fallback-to-cached-policy")
    await rpt.count(result(replace(STS, notes=(note,))))
    assert len(await rpt.build(WINDOW, "b.example", MAIL)) == 1


async def test_sending_can_be_switched_off(rpt: Any) -> None:
    rpt.configure(send=False)
    await rpt.count(result(STS))
    assert await rpt.job.windows() == []


async def test_without_a_key_nothing_is_sent_and_that_is_said_once() -> None:
    """§3: reports are DKIM-signed, so no key, no report."""
    async with make_core("tlsrpt", tables.SCHEMA, submitter=None) as core:
        plugin = TlsRpt(TlsRpt.Config(), core)
        with structlog.testing.capture_logs() as logs:
            assert await plugin.reporter.windows() == []
            assert await plugin.reporter.windows() == []
        assert [line["log_level"] for line in logs] == ["error"]
        assert await core.store.write(lambda connection: plugin.reporter.build(connection, WINDOW, "b.example", ())) == ()


async def test_organization_and_contact(rpt: Any) -> None:
    rpt.configure(organization="Example Net", contact="tls@mx.sender.example")
    await rpt.count(result(STS))
    (report,) = await rpt.build(WINDOW, "b.example", MAIL)
    document = read(report)
    assert (document["organization-name"], document["contact-info"]) == ("Example Net", "tls@mx.sender.example")


@pytest.mark.parametrize("contact", ["tls@elsewhere.example", "no address"])
async def test_the_contact_is_in_the_domain_that_signs(rpt: Any, contact: str) -> None:
    """§5.3: TLS-Report-Submitter is the domain of contact-info."""
    with pytest.raises(ConfigError, match=r"plugin\.tlsrpt\.contact"):
        rpt.configure(contact=contact)


# --- addresses ---


async def test_targets(rpt: Any) -> None:
    """§3: several rua, in order; asked at the recipient domain."""
    rpt.core.dns.set_zone("b.example", f'_smtp._tls TXT "v=TLSRPTv1; rua={MAIL}" ",https://b.example/r;rua=ftp://b.example/"\n')
    targets = await rpt.job.targets(WINDOW, "b.example")
    assert targets == (ReportTarget(uri=MAIL), ReportTarget(uri="https://b.example/r"))
    assert list(rpt.core.dns.queries) == [("_smtp._tls.b.example", "TXT")]


@pytest.mark.parametrize(
    "records",
    [
        "@ TXT x",
        "_smtp._tls TXT other",
        '_smtp._tls TXT "v=TLSRPTv1; x=1"',
        f'_smtp._tls TXT "v=TLSRPTv1;rua={MAIL}"\n_smtp._tls TXT "v=TLSRPTv1;rua={MAIL};"',
    ],
)
async def test_no_usable_record_no_targets(rpt: Any, records: str) -> None:
    """§3: none, invalid or several: as no TLSRPT."""
    rpt.core.dns.set_zone("b.example", records + "\n")
    assert await rpt.job.targets(WINDOW, "b.example") == ()


async def test_dns_failure_is_tried_again_and_not_taken_for_no(rpt: Any) -> None:
    rpt.core.dns.fault("_smtp._tls.b.example", "TXT", "SERVFAIL")
    with pytest.raises(TryLater, match="dns-servfail"):
        await rpt.job.targets(WINDOW, "b.example")


async def test_a_domain_too_long_for_a_record_has_none(rpt: Any) -> None:
    name = ".".join(["a" * 60] * 4)
    assert await rpt.job.targets(WINDOW, name) == ()


# --- counters survive any cut into batches ---

EVENT = st.tuples(st.sampled_from(["b.example", "c.example"]), st.sampled_from(["sts", "tlsa", "none"]), st.booleans())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(EVENT, min_size=1, max_size=6), max_size=6))
async def test_reports_hold_every_session_once(events: list[list[tuple[str, str, bool]]]) -> None:
    """Whatever is journalled, in whatever batches, with replays: the reports add up to it."""
    failure = Failure(result_type=ResultType.CERTIFICATE_EXPIRED)
    known = {"sts": STS, "tlsa": TLSA, "none": NONE}
    expected: Counter[tuple[str, str]] = Counter()
    async with make_core("tlsrpt", tables.SCHEMA) as core:
        plugin = TlsRpt(TlsRpt.Config(), core)
        for chunk in events:
            for domain, kind, passed in chunk:
                policy = known[kind]
                changed = PolicyResult(
                    kind=policy.kind,
                    mode=policy.mode,
                    domain=policy.domain,
                    evidence=policy.evidence,
                    passed=passed,
                    failure=None if passed else failure,
                )
                await core.store.journal.append(result(changed, domain=domain, protocol="TLSv1.3" if passed else ""))
                expected[domain, policy.kind] += 1
            while (batch := await core.store.journal.read("tlsrpt", 3)) is not None:
                await plugin.emit(batch)
                await plugin.emit(batch)
        found: Counter[tuple[str, str]] = Counter()
        for subject in await plugin.reporter.subjects(WINDOW):
            targets = [ReportTarget(uri=MAIL)]
            (report,) = await core.store.write(
                lambda connection, subject=subject, targets=targets: plugin.reporter.build(connection, WINDOW, subject, targets)
            )
            for kind, numbers in totals(read(report)).items():
                found[subject, kind] += sum(numbers)
        assert found == expected
        assert await plugin.reporter.windows() == []


def test_the_migration_makes_what_the_models_say() -> None:
    """The tables of the SQLModel classes and those of the migrations are the same."""
    import sqlalchemy as sa
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        for migration in tables.SCHEMA.migrations:
            migration(Operations(context))
        assert compare_metadata(context, [tables.Base.metadata, received_tables.Base.metadata]) == []
    engine.dispose()
