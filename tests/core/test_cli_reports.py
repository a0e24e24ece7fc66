"""`postward reports` and `postward tlsrpt results|suppress`: what they show, what they change, and their exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from deliver_kit import write_config
from postward.app import App
from postward.cli import main
from postward.clock import SystemClock, today
from postward.config import load
from postward.dkim import generate
from postward.dkim.sign import private_pem
from postward.dns import ZoneResolver
from postward.log import configure
from postward.model import MICROSECONDS, Delivered, Failure, Mode, PolicyResult, ReportTarget, ResultType, TlsResult, Window
from postward.names import Domain
from postward.reports.rows import put
from postward.store.cursors import day_before
from report_kit import make_report

TODAY = today(SystemClock())
YESTERDAY = day_before(TODAY)
A, B = ReportTarget(uri="mailto:a@b.example"), ReportTarget(uri="https://r.example/x")


class Names(ZoneResolver):
    """What the commands ask instead of anybody outside."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.set_zone("b.example", '_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@b.example"\n')
        self.fault("_smtp._tls.broken.example", "TXT", "SERVFAIL")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    key = tmp_path / "key.pem"
    key.write_bytes(private_pem(generate("ed25519")))
    key.chmod(0o600)
    monkeypatch.setattr("postward.app.SystemResolver", Names)
    configure("error")
    return write_config(
        tmp_path,
        plugins=["tlsrpt"],
        core={"hostname": "mx.sender.example", "data_dir": str(tmp_path / "data")},
        dkim=[{"domain": "sender.example", "selector": "s1", "key_file": str(key)}],
    )


def inside(config: Path, work: Callable[[App], Awaitable[Any]]) -> Any:
    async def enter() -> Any:
        async with App(load(config)) as app:
            return await work(app)

    return trio.run(enter)


def count(config: Path, *domains: str, day: str = YESTERDAY) -> None:
    """One failed and two successful sessions for each domain."""

    async def work(app: App) -> None:
        for domain in domains:
            for passed in (False, True, True):
                failure = None if passed else Failure(result_type=ResultType.CERTIFICATE_EXPIRED, reason="x509-10")
                policy = PolicyResult(kind="sts", mode=Mode.ENFORCE, domain=Domain(domain), passed=passed, failure=failure)
                result = TlsResult(
                    day=day, domain=Domain(domain), host=Domain(f"mx.{domain}"), policies=(policy,), protocol="TLSv1.3"
                )
                await app.store.journal.append(result)
        assert await app.emitted(20)

    inside(config, work)


def fill(config: Path) -> None:
    """Two reports: one with an end at one address, one that waits."""

    async def work(app: App) -> None:
        now = app.clock.now()
        one, two = make_report("r1"), make_report("r2", policy_domain=Domain("c.example"))
        await app.store.write(lambda connection: put(connection, [one], [A, B], due=now - MICROSECONDS, cid="run-1"))
        claimed = await app.outbox.claim(now)
        await app.outbox.settle(claimed, Delivered(accepted=True, detail="250 2.0.0 ok\x1b[31m"), now)  # type: ignore[arg-type]
        await app.store.write(lambda connection: put(connection, [two], [A], due=now + 60 * MICROSECONDS, cid="run-2"))

    inside(config, work)


def run(config: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """The exit code, the objects on stdout and the words on stderr."""
    code = main([*arguments, "--json", "--config", str(config)])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def say(config: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main([*arguments, "--config", str(config)])
    return code, capsys.readouterr().out


# --- list, show ---


@pytest.mark.parametrize(("arguments", "code"), [(["list"], 0), (["list", "--day", "2026-11-23"], 1), (["show", "abcdef"], 1)])
def test_without_a_database_there_are_no_reports_and_nothing_is_made(
    arguments: list[str], code: int, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reports", *arguments, "--config", str(config)]) == code
    assert not (config.parent / "data").exists()


def test_list(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config)
    code, found, _ = run(config, capsys, "reports", "list")
    assert code == 0
    assert [report["report_id"] for report in found] == ["r2", "r1"], "the newest first"
    old = found[1]
    assert {key: old[key] for key in ("kind", "domain", "submitter", "day", "cid")} == {
        "kind": "tls",
        "domain": "b.example",
        "submitter": "a.example",
        "day": "2026-11-23",
        "cid": "run-1",
    }
    states = {target["uri"]: target["state"] for target in old["targets"]}
    assert sorted(states.values()) == ["delivered", "pending"]
    for target in old["targets"]:
        assert (target["next_try"] is None) == (target["state"] == "delivered")


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        (["--domain", "C.example"], ["r2"]),
        (["--day", "2026-11-23"], ["r2", "r1"]),
        (["--day", "2026-11-22"], []),
        (["--state", "delivered"], ["r1"]),
        (["--state", "queued"], []),
    ],
)
def test_conditions(conditions: list[str], ids: list[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config)
    code, found, _ = run(config, capsys, "reports", "list", *conditions)
    assert (code, [report["report_id"] for report in found]) == (0 if ids else 1, ids)


def test_pages(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config)
    _, first, err = run(config, capsys, "reports", "list", "--limit", "1")
    cursor = err.split()[-1]
    _, second, err = run(config, capsys, "reports", "list", "--limit", "1", "--after", cursor)
    assert [report["report_id"] for report in (*first, *second)] == ["r2", "r1"]
    assert err == ""


def test_show(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count(config, "b.example")
    inside(config, lambda app: app.build_reports())
    _, (listed,), _ = run(config, capsys, "reports", "list")
    for name in (listed["id"][:12], listed["report_id"]):
        code, (shown,), _ = run(config, capsys, "reports", "show", name)
        assert code == 0
        assert shown["content"]["report-id"] == listed["report_id"]
    code, text = say(config, capsys, "reports", "show", listed["id"])
    assert code == 0
    assert "mailto:tls@b.example" in text
    assert '"total-failure-session-count": 1' in text


def test_a_reply_is_shown_and_never_obeyed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config)
    code, text = say(config, capsys, "reports", "list")
    assert code == 0
    assert "1 delivered, 1 pending" in text
    assert "\x1b" not in text


# --- preview ---


def test_preview_takes_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count(config, "b.example")
    count(config, "b.example", day=TODAY)
    for _ in range(2):
        code, found, _ = run(config, capsys, "reports", "preview", "B.example")
        assert code == 0
        assert [each["day"] for each in found] == [YESTERDAY, TODAY]
        assert [each["targets"] for each in found] == [["mailto:tls@b.example"]] * 2
        (policy,) = found[0]["content"]["policies"]
        assert list(policy["summary"].values()) == [2, 1]
    assert run(config, capsys, "reports", "list")[1] == []


def test_preview_says_who_wants_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count(config, "other.example", "broken.example")
    _, (found,), _ = run(config, capsys, "reports", "preview", "other.example")
    assert (found["targets"], found["trouble"]) == ([], "")
    _, (found,), _ = run(config, capsys, "reports", "preview", "broken.example")
    assert "servfail" in found["trouble"]
    code, text = say(config, capsys, "reports", "preview", "other.example")
    assert code == 0
    assert "nobody" in text
    assert run(config, capsys, "reports", "preview", "unseen.example")[0] == 1


# --- send ---


def test_send_a_day(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a service the command delivers; here every host is unreachable, so the report is tried again later."""
    count(config, "b.example", "other.example")
    count(config, "b.example", day=TODAY)
    code, (found,), _ = run(config, capsys, "reports", "send", "--day", YESTERDAY)
    assert {key: found[key] for key in ("day", "built", "nobody", "left_to_service")} == {
        "day": YESTERDAY,
        "built": 1,
        "nobody": 1,
        "left_to_service": False,
    }
    assert found["sent"]["later"] + found["sent"]["failed"] == 1
    assert code == 1
    _, left, _ = run(config, capsys, "tlsrpt", "results")
    assert [row["day"] for row in left] == [TODAY]


def test_a_service_that_runs_does_the_sending(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from postward.queue import poke

    poked: list[Path] = []
    monkeypatch.setattr(poke, "ask", lambda path: poke.Answer(life=poke.Life.RUNNING))
    monkeypatch.setattr(poke, "poke", poked.append)
    count(config, "b.example")
    code, (found,), _ = run(config, capsys, "reports", "send", "--day", YESTERDAY)
    assert (code, found["built"], found["left_to_service"], found["sent"]) == (0, 1, True, None)
    assert len(poked) == 1
    _, (listed,), _ = run(config, capsys, "reports", "list")
    assert [target["state"] for target in listed["targets"]] == ["pending"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "--day", TODAY],
        ["send", "--day", "yesterday"],
        ["list", "--day", "x"],
        ["list", "--state", "x"],
        ["list", "--after", "x"],
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reports", *arguments, "--config", str(config)]) == 2
    assert capsys.readouterr().err.startswith("postward: ")


# --- tlsrpt results, suppress ---


def test_results(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count(config, "b.example", "c.example")
    code, found, _ = run(config, capsys, "tlsrpt", "results")
    assert (code, [row["domain"] for row in found]) == (0, ["b.example", "c.example"])
    row = found[0]
    assert (row["day"], row["successful"], row["failed"]) == (YESTERDAY, 2, 1)
    assert row["policy"]["policy-type"] == "sts"
    assert row["failure_details"][0]["failure-reason-code"] == "x509-10"
    code, found, err = run(config, capsys, "tlsrpt", "results", "--limit", "1")
    assert [row["domain"] for row in found] == ["b.example"]
    _, found, err = run(config, capsys, "tlsrpt", "results", "--after", err.split()[-1])
    assert ([row["domain"] for row in found], err) == (["c.example"], "")
    assert run(config, capsys, "tlsrpt", "results", "--domain", "d.example")[0] == 1
    assert run(config, capsys, "tlsrpt", "results", "--day", "x")[0] == 2
    code, text = say(config, capsys, "tlsrpt", "results", "--domain", "b.example")
    assert "1 certificate-expired x509-10" in text


def test_suppress(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(config, capsys, "tlsrpt", "suppress", "add", "Who@B.example", "--days", "30", "--reason", "asked")[0] == 0
    assert say(config, capsys, "tlsrpt", "suppress", "add", "c.example")[0] == 0
    code, found, _ = run(config, capsys, "tlsrpt", "suppress", "list")
    assert code == 0
    assert [(each["subject"], each["reason"], each["until"] is None) for each in found] == [
        ("c.example", "by hand", True),
        ("who@b.example", "asked", False),
    ]
    begin = Window.of_day(TODAY).start // MICROSECONDS
    assert begin + 30 * 86400 <= found[1]["until"] <= begin + 32 * 86400
    assert "for good" in say(config, capsys, "tlsrpt", "suppress", "list")[1]
    assert say(config, capsys, "tlsrpt", "suppress", "remove", "mailto:who@b.example")[0] == 0
    assert say(config, capsys, "tlsrpt", "suppress", "remove", "who@b.example")[0] == 1
    assert say(config, capsys, "tlsrpt", "suppress", "add", "not an address")[0] == 2


def test_a_suppressed_domain_gets_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(config, capsys, "tlsrpt", "suppress", "add", "b.example")
    count(config, "b.example")
    code, (found,), _ = run(config, capsys, "reports", "send", "--day", YESTERDAY)
    assert (code, found["sent"]["suppressed"]) == (0, 1)


def test_the_tables_on_a_terminal(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    count(config, "b.example")
    inside(config, lambda app: app.build_reports())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for arguments in (["reports", "list"], ["reports", "preview", "b.example"], ["tlsrpt", "suppress", "list"]):
        assert main([*arguments, "--config", str(config)]) in (0, 1)
    assert "1 pending" in capsys.readouterr().out
