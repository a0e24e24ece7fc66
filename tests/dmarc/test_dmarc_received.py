"""Received DMARC reports: who vouches for them, what is kept and once, and how it is shown, over memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from typer.testing import CliRunner

from dmarc_samples import FEEDBACK, RECORD, failure_mail, mail, new, old, report_mail
from plugin_rig import make_core
from postward.cli.commands import PluginVerbs
from postward.errors import ConfigError, StoreError
from postward.model import MICROSECONDS, AuthResult, InboundMessage, ReportReceipt
from postward.names import Address
from postward_dmarc import received_tables, receiving, shown_tables, tables
from postward_dmarc.plugin import Dmarc
from postward_dmarc.reading import message as reading_message
from postward_dmarc.reading.message import stream_in

BEGIN = 1_767_225_600  # 2026-01-01
NOW = (BEGIN + 2 * 86_400) * MICROSECONDS
OURS = Address.parse("dmarc@example.com")
PASS = AuthResult(method="dmarc", result="pass", properties=(("header.from", "big-mailbox.example"),))
ALWAYS = (0, 1 << 60)


@pytest.fixture
async def core() -> AsyncIterator[Any]:
    async with make_core("dmarc", tables.SCHEMA) as made:
        made.signer = SimpleNamespace(domains=())
        made.clock = SimpleNamespace(now=lambda: NOW)
        yield made


@pytest.fixture
async def plugin(core: Any) -> Dmarc:
    return Dmarc(Dmarc.Config(addresses=(OURS,)), core)


async def receive(plugin: Dmarc, content: bytes, *results: AuthResult, to: Address = OURS) -> ReportReceipt | None:
    message = InboundMessage(client_ip=None, helo="x.test", sender=None, recipients=(to,), content=content)
    return await plugin.receive_report(message, results)


async def take(plugin: Dmarc, content: bytes, via: str = "file", voucher: str = "") -> list[str | None]:
    return [each.state for each in await plugin.receiver.take(stream_in(content), via=via, voucher=voucher)]


async def counts(core: Any) -> dict[str, int]:
    """Rows in the tables."""

    def read(connection: Any) -> dict[str, int]:
        names = ("", "_records", "_failures", "_unfinished")
        return {name: connection.exec_driver_sql(f"SELECT count(*) FROM dmarc_received{name}").scalar() for name in names}

    return await core.store.read(read)  # type: ignore[no-any-return]


async def view(core: Any, domain: str = "example.com") -> Any:
    return await core.store.read(lambda connection: shown_tables.domain_view(connection, domain, *ALWAYS))


def changed(before: str, after: str, content: bytes | None = None) -> bytes:
    data = content or old()
    assert before.encode() in data
    return data.replace(before.encode(), after.encode())


def about(domain: str) -> bytes:
    return changed("<domain>example.com</domain><adkim>", f"<domain>{domain}</domain><adkim>")


# --- who vouches ---


async def test_a_dmarc_pass_vouches(plugin: Dmarc, core: Any) -> None:
    """RFC 9990 §3.5.2: the mail of a report passes DMARC itself; a report counts once."""
    receipts = [await receive(plugin, report_mail(), PASS) for _ in range(2)]
    assert [each and (each.accepted, each.kind, each.summary) for each in receipts] == [
        (True, "dmarc", f'id="13987654321098765432" {state} records=2 messages=3') for state in ("stored", "duplicate")
    ]
    assert await counts(core) == {"": 1, "_records": 2, "_failures": 0, "_unfinished": 0}


@pytest.mark.parametrize(
    ("results", "temporary"),
    [
        ([], False),
        ([AuthResult(method="dmarc", result="fail", properties=(("header.from", "a.example"),))], False),
        ([AuthResult(method="dmarc", result="none", properties=(("header.from", "a.example"),))], False),
        ([AuthResult(method="dkim", result="pass", properties=(("header.from", "a.example"),))], False),
        ([AuthResult(method="dmarc", result="temperror")], True),
    ],
)
async def test_nothing_else_does(plugin: Dmarc, core: Any, results: list[AuthResult], temporary: bool) -> None:
    """RFC 9989 §5.3.6: a DNS error is neither, so the sender is asked to come back."""
    receipt = await receive(plugin, report_mail(), *results)
    assert receipt is not None
    assert (receipt.accepted, receipt.reason, receipt.temporary) == (False, "no DMARC pass", temporary)
    assert receipt.error_header == "X-Postward-DMARCReport-Error"
    assert (await counts(core))[""] == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (report_mail(about("stranger.example")), "published policy domain unrecognized"),
        (report_mail(about("notexample.com")), "published policy domain unrecognized"),
        (report_mail(changed("<end>1767311999", "<end>1777311999")), "report has no period, or one of more than 32 days"),
        (report_mail(changed("<begin>1767225600</begin><end>1767311999</end>", "")), "report has no period"),
        (report_mail(changed("17672256", "17673984", changed("17673119", "17674847"))), "report has end date in the future"),
        (report_mail(changed("17672256", "16672256", changed("17673119", "16673119"))), "report is older than"),
        (report_mail(changed("<count>1<", "<count>999999999999<", changed("<count>2<", "<count>2<"))), "report counts more"),
        (mail(("application/gzip", "x.gz", b"rubbish")), "could not parse report: a part application/gzip that is none"),
        (mail(), "could not parse report: no report in it"),
    ],
)
async def test_a_refusal_says_why(plugin: Dmarc, core: Any, content: bytes, reason: str) -> None:
    """RFC 9990 §3.1.1.4: a period that can be, of a domain of ours."""
    receipt = await receive(plugin, content, PASS)
    assert receipt is not None
    assert not receipt.accepted
    assert receipt.reason.startswith(reason)
    assert await counts(core) == {"": 0, "_records": 0, "_failures": 0, "_unfinished": 0}


async def test_domains_below_ours_are_ours(plugin: Dmarc) -> None:
    receipt = await receive(plugin, report_mail(about("news.example.com")), PASS)
    assert receipt is not None
    assert receipt.accepted


async def test_all_reports_of_a_message_count(plugin: Dmarc, core: Any) -> None:
    """RFC 9990 §3.5.2: what cannot be read or is about others hides no other report."""
    parts = [gzip.compress(each) for each in (old(), b"rubbish", about("stranger.example"), new())]
    receipt = await receive(plugin, mail(*(("application/gzip", "x.gz", part) for part in parts)), PASS)
    assert receipt is not None
    assert receipt.accepted
    assert receipt.summary == (
        'id="13987654321098765432" stored records=2 messages=3; id="abc.def@receiver.example" stored records=1 messages=12'
    )
    assert (await counts(core))["_records"] == 3


async def test_other_addresses_are_not_ours(plugin: Dmarc) -> None:
    assert await receive(plugin, report_mail(), PASS, to=Address.parse("me@example.com")) is None


async def test_a_database_that_fails_makes_the_sender_come_back(plugin: Dmarc, core: Any, monkeypatch: Any) -> None:
    async def write(_: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreError("disk full")

    monkeypatch.setattr(core.store, "write", write)
    receipt = await receive(plugin, report_mail(), PASS)
    assert receipt is not None
    assert (receipt.accepted, receipt.temporary) == (False, True)


# --- once ---


async def test_one_report_counts_once_whatever_way_it_comes(plugin: Dmarc, core: Any) -> None:
    """RFC 9990 §3.5.1: a report is known by its id; and by its content, so that a file is no second one."""
    assert await take(plugin, report_mail(), "mail", "big-mailbox.example") == ["stored"]
    assert await take(plugin, report_mail(), "mail", "big-mailbox.example") == ["duplicate"]
    assert await take(plugin, old()) == ["duplicate"]
    other = changed("<count>2<", "<count>7<")
    assert await take(plugin, other, "mail", "big-mailbox.example") == ["conflict"]
    # An id belongs to who vouches for it: a stranger cannot use it up.
    assert await take(plugin, other, "mail", "else.example") == ["stored"]
    assert (await counts(core))[""] == 2


async def test_an_id_that_is_used_again_for_another_day_is_another_report(plugin: Dmarc) -> None:
    assert await take(plugin, old()) == ["stored"]
    assert await take(
        plugin, changed("<begin>1767225600</begin><end>1767311999", "<begin>1767139200</begin><end>1767225599")
    ) == ["stored"]


async def test_reports_without_an_id_are_told_apart_by_their_content(plugin: Dmarc) -> None:
    nameless = changed("<report_id>13987654321098765432</report_id>", "")
    assert await take(plugin, nameless) == ["stored"]
    assert await take(plugin, changed("<count>2<", "<count>7<", nameless)) == ["stored"]
    assert await take(plugin, nameless) == ["duplicate"]


# --- many records ---


def large(records: int, *, end: str = "</feedback>") -> Iterator[bytes]:
    head, _, _ = old(0).partition(b"</feedback>")
    yield head
    for at in range(records // 10):
        yield RECORD.format(ip=f"192.0.2.{at % 250}", count=2).encode() * 10
    yield end.encode()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "STAGE", 50)
    monkeypatch.setattr(reading_message, "BATCH", 20)
    monkeypatch.setattr(received_tables, "SWEPT", 70)


@pytest.mark.usefixtures("small_steps")
async def test_a_report_of_many_records_comes_in_pieces(plugin: Dmarc, core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = 0

    class Watched(receiving._Coming):
        def add(self, batch: Any) -> None:
            nonlocal held
            super().add(batch)
            held = max(held, len(self.rows))

    monkeypatch.setattr(receiving, "_Coming", Watched)
    [taken] = await plugin.receiver.take(reading_message.stream_pieces(large(1000)), via="file")
    assert taken.state == "stored"
    assert held < 100
    assert await counts(core) == {"": 1, "_records": 1000, "_failures": 0, "_unfinished": 0}
    shown = await view(core)
    assert (shown.counts.messages, shown.all_sources, len(shown.sources)) == (2000, 100, 50)


@pytest.mark.usefixtures("small_steps")
async def test_what_was_staged_of_a_report_that_does_not_count_goes_again(plugin: Dmarc, core: Any) -> None:
    assert [each.state for each in await plugin.receiver.take(reading_message.stream_pieces(large(200)), via="file")] == [
        "stored"
    ]
    before = await counts(core)
    for stream, state in [
        (reading_message.stream_pieces(large(200)), "duplicate"),
        (reading_message.stream_pieces(large(210)), "conflict"),
        (reading_message.stream_pieces(large(200, end="<a>" * 30)), None),
    ]:
        assert [each.state for each in await plugin.receiver.take(stream, via="file")] == [state]
        before = before or await counts(core)
        assert await counts(core) == before
    assert (await view(core)).counts.messages == 400


@pytest.mark.usefixtures("small_steps")
async def test_what_a_program_that_died_left_is_not_shown_and_goes_after_a_day(plugin: Dmarc, core: Any) -> None:
    def dies() -> Iterator[bytes]:
        yield from large(200, end="")
        raise StoreError("killed")

    with pytest.raises(StoreError):
        await plugin.receiver.take(reading_message.stream_pieces(dies()), via="file")
    assert (await counts(core))["_records"] >= 150
    assert await core.store.read(lambda connection: shown_tables.domains(connection, *ALWAYS)) == []
    await plugin.receiver.forget_old()
    assert (await counts(core))["_records"] >= 150
    core.clock = SimpleNamespace(now=lambda: NOW + 2 * receiving.DAY)
    await plugin.receiver.forget_old()
    assert await counts(core) == {"": 0, "_records": 0, "_failures": 0, "_unfinished": 0}


@pytest.mark.usefixtures("small_steps")
async def test_old_reports_are_forgotten(plugin: Dmarc, core: Any) -> None:
    await plugin.receiver.take(reading_message.stream_pieces(large(200)), via="file")
    await take(plugin, failure_mail(FEEDBACK.replace("8 Jan 2026", "2 Jan 2026")))
    core.clock = SimpleNamespace(now=lambda: NOW + 398 * receiving.DAY)
    await plugin.receiver.forget_old()
    assert await counts(core) == {"": 1, "_records": 200, "_failures": 1, "_unfinished": 0}
    core.clock = SimpleNamespace(now=lambda: NOW + 402 * receiving.DAY)
    await plugin.receiver.forget_old()
    assert await counts(core) == {"": 0, "_records": 0, "_failures": 0, "_unfinished": 0}


# --- failure reports ---


async def test_failure_reports_are_kept_and_shown(plugin: Dmarc, core: Any) -> None:
    """RFC 9991 §4: who failed, where, and what became of it."""
    content = failure_mail(FEEDBACK.replace("8 Jan 2026", "2 Jan 2026"))
    receipt = await receive(plugin, content, PASS)
    assert receipt is not None
    assert receipt.summary == "failure stored domain=example.com incidents=3"
    assert await take(plugin, content) == ["duplicate"]
    [failure] = (await view(core)).failures
    assert (failure.source_ip, failure.auth_failure, failure.delivery_result) == ("192.0.2.1", ("dmarc",), "reject")
    assert (failure.reporter, failure.subject) == ("big-mailbox.example", "Hello")
    [domain] = await core.store.read(lambda connection: shown_tables.domains(connection, *ALWAYS))
    assert (domain.domain, domain.reports, domain.failure_reports) == ("example.com", 0, 1)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("Reported-Domain: Example.com", "Reported-Domain: stranger.example", "published policy domain unrecognized"),
        ("8 Jan 2026", "8 Feb 2026", "report has end date in the future"),
        ("8 Jan 2026", "8 Jan 2016", "report is older than reports are kept"),
    ],
)
async def test_failure_reports_that_are_not_taken(plugin: Dmarc, before: str, after: str, reason: str) -> None:
    receipt = await receive(plugin, failure_mail(FEEDBACK.replace(before, after)), PASS)
    assert receipt is not None
    assert (receipt.accepted, receipt.reason) == (False, reason)


async def test_a_failure_report_that_names_no_domain_is_about_the_author(plugin: Dmarc) -> None:
    content = failure_mail(FEEDBACK.replace("Reported-Domain: Example.com\r\n", "").replace("8 Jan 2026", "2 Jan 2026"))
    assert await take(plugin, content) == ["stored"]


# --- shown ---


async def test_who_sends_as_me(plugin: Dmarc, core: Any) -> None:
    await take(plugin, old(3))
    await take(plugin, changed("1767225600", "1767139200", changed("1767311999", "1767225599", new())))
    shown = await view(core)
    assert (shown.counts.messages, shown.counts.passed, shown.counts.failed) == (18, 6, 12)
    assert [(each.day, each.counts.messages) for each in shown.days] == [("2025-12-31", 12), ("2026-01-01", 6)]
    assert [(each.who, each.stands, each.sources, each.counts.messages) for each in shown.senders] == [
        ("forwarded", "lists.example.org", 1, 12),
        ("ours", "example.com", 3, 6),
    ]
    assert [(each.source_ip, each.counts.messages) for each in shown.sources][:2] == [("2001:db8::25", 12), ("192.0.2.3", 3)]
    assert [(each.org, each.reports) for each in shown.reporters] == [("Receiver", 1), ("big-mailbox.example", 1)]
    assert [(each.reasons, each.messages) for each in shown.reasons] == [("mailing_list policy_test_mode", 12)]
    assert shown.policy["p"] == "reject"
    assert "discovery_method" not in shown.policy


async def test_a_report_without_records_is_shown(plugin: Dmarc, core: Any) -> None:
    assert await take(plugin, old(0)) == ["stored"]
    shown = await view(core)
    assert [(each.day, each.reports, each.counts.messages) for each in shown.days] == [("2026-01-01", 1, 0)]


class Program:
    """`postward dmarc received` and `parse` over memory, and a database that stays."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/results.db"
        self.config = SimpleNamespace(core=SimpleNamespace(data_dir=folder))
        self.contents: list[bytes] = []
        self.plugin: Dmarc
        self.core: Any = None

    async def __aenter__(self) -> Program:
        self.opened = make_core("dmarc", tables.SCHEMA, url=self.url)
        self.core = await self.opened.__aenter__()
        self.core.clock = SimpleNamespace(now=lambda: NOW)
        self.core.log = Mock()
        self.core.signer = SimpleNamespace(domains=())
        self.plugin._core = self.core
        for content in self.contents:
            await take(self.plugin, content)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.opened.__aexit__(*error)

    def core_for(self, name: str) -> Any:
        return self.core

    def __call__(self, *words: str) -> Any:
        verbs = PluginVerbs(self, "dmarc")  # type: ignore[arg-type]
        self.plugin = Dmarc(Dmarc.Config(addresses=(OURS,)), SimpleNamespace())  # type: ignore[arg-type]
        self.plugin.register_commands(verbs)
        return CliRunner().invoke(verbs._typer, list(words), standalone_mode=False)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_nothing_received_is_said(program: Program) -> None:
    result = program("received")
    assert (result.return_value, result.output) == (0, "no DMARC reports about us in 30 days\n")
    assert program("received", "--json").output == ""
    assert program("received", "example.com").output == "no DMARC reports about example.com in 30 days\n"


def test_all_domains(program: Program) -> None:
    program.contents = [old()]
    result = program("received", "--json")
    assert json.loads(result.output) == {
        "domain": "example.com",
        "reports": 1,
        "reporters": 1,
        "act": 0,
        "failure_reports": 0,
        "messages": 3,
        "passed": 3,
        "dkim": 3,
        "spf": 0,
        "quarantined": 0,
        "rejected": 0,
        "failed": 0,
    }
    assert result.return_value == 0
    assert "100.0" in program("received").output


def test_one_domain(program: Program) -> None:
    program.contents = [new(), failure_mail(FEEDBACK.replace("8 Jan 2026", "2 Jan 2026"))]
    result = program("received", "Example.com")
    assert result.return_value == 0
    for text in ("is it me?", "probably", "lists.example.org", "2001:db8::25", "mailing_list policy_test_mode", "Receiver",
                 "sign all mail", "p=reject", "2026-01-02 19:40:27"):  # fmt: skip
        assert text in result.output
    values = [json.loads(each) for each in program("received", "example.com", "--json").output.splitlines()]
    assert [each["kind"] for each in values] == ["total", "day", "sender", "source", "reporter", "reason", "failure"]
    assert {each["domain"] for each in values} == {"example.com"}
    assert (values[2]["who"], values[2]["is_me"], values[2]["failed"]) == ("forwarded", "probably", 12)


def test_own_mail_that_fails_is_bad_news(program: Program) -> None:
    program.contents = [changed("<dkim>pass</dkim>", "<dkim>fail</dkim>")]
    assert program("received").return_value == 1
    result = program("received", "example.com")
    assert result.return_value == 1
    assert "misaligned" in result.output


def test_what_is_longer_ago_is_not_shown(program: Program) -> None:
    program.contents = [changed("17672256", "17622256", changed("17673119", "17623119"))]
    assert program("received", "--json").output == ""
    assert json.loads(program("received", "--json", "--days", "90").output)["reports"] == 1


def test_a_name_that_is_none_is_an_error_of_use(program: Program) -> None:
    assert isinstance(program("received", "no name").exception, ConfigError)


def test_parse_stores(program: Program, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(old())
    (tmp_path / "b.xml").write_bytes(about("stranger.example"))
    (tmp_path / "c.xml").write_bytes(b"rubbish")
    names = [str(tmp_path / f"{name}.xml") for name in "abc"]
    for state in ("stored", "duplicate"):
        result = program("parse", "--store", "--json", *names)
        assert [json.loads(each).get("stored") for each in result.output.splitlines()] == [state, "foreign", None]
        assert result.return_value == 1
    assert json.loads(program("received", "--json").output)["messages"] == 3
    assert "duplicate" in program("parse", "--store", names[0]).output
