"""Reports that are kept: each once, what is ours of them, and how they are shown (RFC 8460 §4, §5.4, §7)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from plugin_rig import NOON, make_core
from postward.cli.commands import PluginVerbs
from postward.errors import ConfigError
from postward.metrics import unread
from postward_tlsrpt import received_tables, tables
from postward_tlsrpt.message import reports_in
from postward_tlsrpt.own import Own, share
from postward_tlsrpt.plugin import TlsRpt
from postward_tlsrpt.read import Reading
from postward_tlsrpt.receiving import Receiver
from tlsrpt_samples import SAMPLES, as_json, detail, plain, policy

OWN = Own(domains=frozenset({"example.com"}), hosts=frozenset({"mx1.example.com"}))
FOREVER = (0, 1 << 60)


def reading(value: dict[str, Any]) -> Reading:
    (found,) = reports_in(as_json(value), now=NOON)
    assert isinstance(found, Reading), found
    return found


def about(domain: str | None, good: int = 10, bad: int = 0) -> dict[str, Any]:
    """A policy about a domain; None: it names none."""
    value = policy(good, bad)
    if domain is None:
        del value["policy"]["policy-domain"]
    else:
        value["policy"]["policy-domain"] = domain
    return value


@pytest.fixture
async def receiver() -> Any:
    async with make_core("tlsrpt", tables.SCHEMA) as core:
        yield Receiver(core, OWN, keep_days=400)


async def take(receiver: Any, value: dict[str, Any], via: str = "mail", voucher: str = "company-x.example") -> str:
    return str((await receiver.take(reading(value), via=via, voucher=voucher)).state)


async def looked(receiver: Any) -> dict[str, Any]:
    found = await receiver._core.store.read(lambda connection: received_tables.domains(connection, *FOREVER))
    return {each.domain: each for each in found}


async def lines(receiver: Any, what: Any, domain: str = "example.com") -> list[Any]:
    return list(await receiver._core.store.read(lambda connection: what(connection, domain, *FOREVER)))


# --- once ---


@pytest.mark.parametrize("via", ["mail", "https", "file"])
async def test_a_report_counts_once_by_whatever_way_it_comes_again(receiver: Any, via: str) -> None:
    """RFC 8460 §5.3: a report is known by its submitter and its id."""
    assert await take(receiver, plain()) == "stored"
    assert await take(receiver, plain(), via, "other.example") == "duplicate"
    total = (await looked(receiver))["example.com"]
    assert (total.reports, total.successes, total.failures) == (1, 5326, 303)


async def test_another_report_under_the_same_id_does_not_count(receiver: Any) -> None:
    """RFC 8460 §4.4: the id is unique, so nobody can replace what was said."""
    assert await take(receiver, plain()) == "stored"
    assert await take(receiver, plain(policies=[policy(1, 0)])) == "conflict"
    assert await take(receiver, plain(policies=[policy(1, 0)]), voucher="b.example") == "stored"


async def test_one_report_counts_once_whatever_the_number_of_its_policies(receiver: Any) -> None:
    """RFC 8460 §4: several policies in one report."""
    await take(receiver, plain(policies=[about("example.com", 3), about("example.com", 4), about("mx1.example.com", 5)]))
    found = await looked(receiver)
    assert {name: (each.reports, each.successes) for name, each in found.items()} == {
        "example.com": (1, 7),
        "mx1.example.com": (1, 5),
    }
    assert [each.is_host for each in found.values()] == [False, True]


async def test_what_became_of_reports_is_counted(receiver: Any) -> None:
    await take(receiver, plain())
    await take(receiver, plain(), "https")
    await take(receiver, plain(policies=[policy(1, 0)]))
    found = dict(receiver._received.family().values)
    assert found == {("mail", "stored"): 1, ("https", "duplicate"): 1, ("mail", "conflict"): 1}


# --- ours ---


@pytest.mark.parametrize(
    ("domains", "kept", "foreign"),
    [
        (["example.com"], ["example.com"], []),
        (["EXAMPLE.com."], ["example.com"], []),
        (["stranger.example"], [], ["stranger.example"]),
        (["example.com", "stranger.example"], ["example.com"], ["stranger.example"]),
        (["mx9.example.com"], ["mx9.example.com"], []),
        (["notexample.com"], [], ["notexample.com"]),
        (["example.com", None], ["example.com", "example.com"], []),
        ([None], [], ["no domain"]),
        (["no domain at all"], [], ["no domain at all"]),
    ],
)
def test_what_is_about_others_is_left_out(domains: list[str | None], kept: list[str], foreign: list[str]) -> None:
    """RFC 8460 §7: a report is a stranger's text."""
    found = share(reading(plain(policies=[about(each) for each in domains])), OWN)
    assert ([each.domain for each in found.kept], list(found.foreign)) == (kept, foreign)


async def test_a_report_about_others_alone_is_not_kept(receiver: Any) -> None:
    assert await take(receiver, plain(policies=[about("stranger.example")])) == "foreign"
    assert await looked(receiver) == {}


async def test_old_reports_are_not_taken_and_are_forgotten(receiver: Any) -> None:
    old = {"start-datetime": "2020-01-01T00:00:00Z", "end-datetime": "2020-01-01T23:59:59Z"}
    assert await take(receiver, plain(**{"date-range": old})) == "old"
    assert await take(receiver, plain()) == "stored"
    receiver._keep = 0
    await receiver.forget_old()
    assert await looked(receiver) == {}


async def test_texts_that_databases_do_not_take_are_kept_all_the_same(receiver: Any) -> None:
    odd = "\0" + "x" * 5000
    details = [detail(odd, 1, **{"failure-reason-code": odd})]
    value = plain(**{"organization-name": odd, "policies": [policy(1, 1, **{"failure-details": details})]})
    assert await take(receiver, value) == "stored"
    (found,) = await lines(receiver, received_tables.timeline)
    assert found.organization == "\ufffd" + "x" * 999


async def test_a_thousand_details_are_kept_and_the_rest_by_its_type(receiver: Any) -> None:
    many = [detail("certificate-expired", 1, **{"failure-reason-code": str(number)}) for number in range(1500)]
    assert await take(receiver, plain(policies=[policy(0, 1500, **{"failure-details": many})])) == "stored"
    found = await lines(receiver, received_tables.failures)
    assert sum(line.n for line in found) == 1500
    assert len(found) == 1001


# --- shown ---


async def test_every_report_of_the_field_is_shown(receiver: Any) -> None:
    for name, value in SAMPLES.items():
        assert await take(receiver, value, voucher=f"{name}.example") == "stored", name
    total = (await looked(receiver))["example.com"]
    timeline = await lines(receiver, received_tables.timeline)
    assert total.reports == len(SAMPLES)
    assert {each.organization for each in timeline} == {value["organization-name"] for value in SAMPLES.values()}
    assert sum(each.successes for each in timeline) == total.successes


async def test_failures_stay_with_who_reported_them(receiver: Any) -> None:
    await take(receiver, plain(), voucher="a.example")
    other = plain(**{"organization-name": "B", "report-id": "b"}, policies=[policy(5, 0)])
    await take(receiver, other, voucher="b.example")
    found = await lines(receiver, received_tables.failures)
    assert [(each.organization, each.result_type, each.n) for each in found] == [("Company-X", "certificate-expired", 303)]
    assert [each.organization for each in await lines(receiver, received_tables.timeline)] == ["B", "Company-X"]


class Program:
    """`postward tlsrpt received` over memory, and a database that stays."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/results.db"
        self.config = SimpleNamespace(core=SimpleNamespace(data_dir=folder))
        self.values: list[dict[str, Any]] = []
        self.core: Any = None

    async def __aenter__(self) -> Program:
        self.opened = make_core("tlsrpt", tables.SCHEMA, url=self.url)
        self.core = await self.opened.__aenter__()
        self.core.clock = SimpleNamespace(now=lambda: NOON)
        self.core.log = Mock()
        for value in self.values:
            await take(Receiver(self.core, OWN, keep_days=400), value)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.opened.__aexit__(*error)

    def core_for(self, name: str) -> Any:
        return self.core

    def __call__(self, *words: str) -> Any:
        verbs = PluginVerbs(self, "tlsrpt")  # type: ignore[arg-type]
        core: Any = SimpleNamespace(submitter=None, metrics=unread())
        TlsRpt(TlsRpt.Config(), core).register_commands(verbs)
        return CliRunner().invoke(verbs._typer, list(words), standalone_mode=False)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_nothing_received_is_said(program: Program) -> None:
    result = program("received")
    assert (result.return_value, result.output) == (0, "no TLS reports about us in 30 days\n")
    assert program("received", "--json").output == ""
    assert program("received", "example.com").output == "no TLS reports about example.com\n"


def test_the_timeline_and_what_to_do(program: Program) -> None:
    program.values = [plain()]
    assert program("received").return_value == 1
    result = program("received", "example.com")
    assert result.return_value == 1
    for text in ("2026-11-23", "Company-X", "5326", "303", "certificate-expired", "was out of date", "Renew it"):
        assert text in result.output


def test_one_domain_as_json(program: Program) -> None:
    program.values = [plain(policies=[about("example.com", 2), about("mx1.example.com", 3, 1)])]
    first, second = (json.loads(each) for each in program("received", "MX1.Example.com", "--json").output.splitlines())
    day = {"day": "2026-11-23", "organization": "Company-X", "submitter": "company-x.example", "policy_type": "sts"}
    assert first == {"kind": "day", "domain": "mx1.example.com", **day, "reports": 1, "successes": 3, "failures": 1}
    assert (second["kind"], second["result_type"], second["n"]) == ("failure", "certificate-expired", 1)
    assert second["happened"]
    assert second["do"]
    assert [json.loads(each)["is_host"] for each in program("received", "--json").output.splitlines()] == [False, True]


def test_what_is_longer_ago_is_not_shown(program: Program) -> None:
    dates = {"start-datetime": "2026-10-01T00:00:00Z", "end-datetime": "2026-10-01T23:59:59Z"}
    program.values = [plain(**{"date-range": dates})]
    assert json.loads(program("received", "--json", "--days", "90").output)["reports"] == 1
    assert program("received", "--json").output == ""


def test_a_name_that_is_none_is_an_error_of_use(program: Program) -> None:
    assert isinstance(program("received", "no name").exception, ConfigError)
