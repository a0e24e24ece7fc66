"""The whole lab through the command line: every kind of mail host, one day, and the reports about it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio

from postward.dkim import SigningKey, dns_record, generate
from postward.lab.cases import CASES
from postward.lab.receive import due
from postward.lab.run import CaseResult, LabRun, Watcher, run
from postward.lab.world import SENDER, World, build

pytestmark = pytest.mark.loopback

COMMAND = [sys.executable, "-c", "import sys; from postward.cli import main; sys.exit(main())", "lab"]
BY_NAME = {case.name: case for case in CASES}


def lab(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False, **options)


@cache
def once(*arguments: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any], int, str]:
    """A run as (lines by case, summary, exit code, standard error)."""
    done = lab("--once", "--json", *arguments)
    *lines, last = [json.loads(line) for line in done.stdout.splitlines()] or [{}]
    return {line["case"]: line for line in lines}, last.get("summary", {}), done.returncode, done.stderr


def essence(line: dict[str, Any]) -> Any:
    """What must not change from run to run: everything but addresses, and words for people, which hold port numbers."""
    attempts = [
        (
            attempt["host"],
            attempt["tls"],
            [{**policy, "detail": ""} for policy in attempt["policies"]],
            attempt["delivered"],
        )
        for attempt in line["attempts"]
    ]
    return line["case"], line["expected"], line["outcome"], line["ok"], attempts


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_every_case_comes_out_as_it_must(name: str) -> None:
    lines, _, _, errors = once()
    line = lines[name]
    assert line["outcome"] == line["expected"], errors[-2000:]
    assert line["ok"] is True
    for attempt in line["attempts"]:
        assert attempt.keys() >= {"domain", "host", "address", "tls", "policies", "delivered", "error"}
        for policy in attempt["policies"]:
            assert policy.keys() >= {"kind", "mode", "domain", "passed", "result_type", "reason"}
        assert attempt["delivered"] != bool(attempt["error"])


def test_the_reports_come_back_true() -> None:
    """RFC 8460 §3-§5: DKIM, gzip, JSON and counts; one line per case, in the order of the table, and a summary."""
    lines, summary, code, errors = once()
    wanted = len(due(CASES))
    assert wanted > len(CASES) / 2
    assert list(lines) == [case.name for case in CASES]
    assert summary == {
        "cases": len(CASES),
        "ok": len(CASES),
        "reports_sent": wanted,
        "reports_received": wanted,
        "problems": [],
    }, errors[-2000:]
    assert code == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize("plugin", ["dane", "mtasts", "tlsrpt", "dmarc"])
def test_unplugging_changes_only_the_plugin_s_own_lines(plugin: str) -> None:
    whole, _, _, _ = once()
    rest, summary, code, errors = once("--without", plugin)
    assert code == 0, errors[-2000:]
    assert summary["ok"] == len(CASES)
    for name, line in rest.items():
        assert line["ok"], line
        assert (essence(line) == essence(whole[name])) == (plugin not in BY_NAME[name].plugins)
    expected = len(due(CASES, {plugin}))
    assert (summary["reports_sent"], summary["reports_received"]) == (expected, expected)


def test_no_plugins_at_all() -> None:
    """Core knows no policy: without plugins all TLS is opportunistic."""
    lines, summary, code, errors = once("--without", "dane", "--without", "mtasts", "--without", "tlsrpt", "--without", "dmarc")
    assert code == 0, errors[-2000:]
    assert summary["ok"] == len(lines) == len(CASES)
    kinds = {policy["kind"] for line in lines.values() for attempt in line["attempts"] for policy in attempt["policies"]}
    assert kinds == {"no-policy-found"}


def test_two_labs_at_once() -> None:
    command = [*COMMAND, "--once", "--json", "--case", "sts-good", "--case", "dane-ee", "--case", "both-sts-fails"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors[-2000:]
        assert [json.loads(line).get("ok") for line in out.splitlines()][:-1] == [True] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="everybody else is an ordinary user anyway")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="without setpriv root cannot give up its powers")
def test_it_needs_no_powers() -> None:
    """No privileged port, no raw socket, no other user's file: root without a single capability is an ordinary user."""
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    command = [*powerless, *COMMAND, "--once", "--json", "--case", "both-good"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_for_people(tmp_path: Path) -> None:
    done = lab("--once", "--case", "sts-expired", "--case", "dane-ee", "--dir", str(tmp_path / "lab"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 of 2 cases came out as they must" in done.stdout
    assert "certificate-expired" in done.stdout
    assert (tmp_path / "lab" / "postward.toml").exists()


def test_in_a_pipe_there_are_plain_columns() -> None:
    done = lab("--once", "--case", "sts-expired", env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "40"})
    assert done.returncode == 0, done.stderr[-2000:]
    heading, line, *_ = done.stdout.splitlines()
    assert heading.split() == ["case", "what", "it", "is", "what", "came", "of", "it"]
    assert line.startswith("ok  sts-expired  ")
    assert "certificate-expired" in line


def test_a_terminated_lab_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--once", "--json"], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(os.listdir(tmp_path)) == 1
        process.terminate()
        process.stdout.read()
        assert process.wait(30) == 143
    assert os.listdir(tmp_path) == []


def test_it_stays_up_for_mail_from_elsewhere(tmp_path: Path) -> None:
    place = tmp_path / "lab"
    message = tmp_path / "message.eml"
    message.write_text("From: me@sender.test\nSubject: hello\n\nhello\n")
    command = [*COMMAND, "--case", "sts-good", "--dir", str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "postward probe" in line:
                    break
            deliver = ["deliver", "--config", str(place / "postward.toml"), "--from", "me@sender.test", "--json"]
            done = subprocess.run(
                [*COMMAND[:-1], *deliver, "--to", "you@sts-good.test", str(message)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-2000:]
            [attempt] = json.loads(done.stdout)["attempts"]
            assert [(each["kind"], each["passed"]) for each in attempt["policies"]] == [("sts", True)]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--case", "sts-god"), "sts-good"), (("--without", "dame"), "dane"), (("--dir", "/proc/nothing"), "/proc/nothing")],
)
def test_mistakes(arguments: tuple[str, ...], said: str) -> None:
    done = lab("--once", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_used_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("precious")
    done = lab("--once", "--dir", str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


async def run_in(world: World) -> LabRun:
    async with trio.open_nursery() as nursery:
        await nursery.start(world.serve)
        done = await run(world, Watcher())
        nursery.cancel_scope.cancel()
    return done


async def test_a_forged_report_is_not_believed(tmp_path: Path) -> None:
    """RFC 8460 §3: the key in DNS is another one than the relay signs with; what came by HTTPS still counts."""
    world = build(tmp_path, [BY_NAME["plain"], BY_NAME["sts-good"], BY_NAME["sts-expired"]])
    name, value = dns_record(SigningKey(domain=SENDER, selector="lab", key=generate("ed25519")))
    world.zones.add(SENDER, f"relay A 127.0.0.1\n{name}. TXT {value}")
    done = await run_in(world)
    assert [result.ok for result in done.results] == [True] * 3
    assert (done.sent, done.received, done.ok) == (5, 3, False)
    assert all("no valid DKIM signature" in problem for problem in done.problems)


async def test_a_host_that_loses_mail_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay's word is not enough: the mail has to be there, byte for byte."""
    world = build(tmp_path, [BY_NAME["plain"]])
    monkeypatch.setattr(type(world.mailbox), "put", lambda self, mail: True)
    done = await run_in(world)
    [result] = done.results
    assert isinstance(result, CaseResult)
    assert result.outcome.endswith("arrived at no host")
    assert not done.ok
