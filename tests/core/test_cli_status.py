"""`postward status`: what it finds, what needs attention and how to mend it, and that it changes nothing."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from postward.cli import main
from postward.cli.measures import ahead, count, octets, shortened, span
from postward.model import day_of
from postward.names import Domain
from postward.queue import Pick
from postward.queue.poke import Answer, Life
from queue_kit import MINUTE, opened

NOW = time.time_ns() // 1000
DAY = 24 * 60 * MINUTE


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "postward.toml"
    file.write_text('[core]\nhostname = "mx1.example.net"\ndata_dir = "data"\n')
    return file


def status(config: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["status", "--json", "--config", str(config)])
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert (code == 1) == bool(found["attention"])
    return code, found


def needs(found: dict[str, Any]) -> str:
    assert all(set(one) == {"what", "mend"} and one["what"] and one["mend"] for one in found["attention"])
    return "; ".join(one["what"] for one in found["attention"])


def change(config: Path, database: str, *statements: str) -> None:
    with closing(sqlite3.connect(config.parent / "data" / database)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def upgraded(config: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    main(["db", "upgrade", "--config", str(config)])
    capsys.readouterr()
    return config


def test_a_node_that_never_ran_is_well_and_stays_untouched(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = status(config, capsys)
    assert (code, found["service"]["state"]) == (0, "not running")
    assert len(found["absent"]) == 2
    assert found["disk"]["room"]
    assert main(["status", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "does not exist yet" in out
    assert "Nothing needs attention." in out
    assert [file.name for file in config.parent.iterdir()] == ["postward.toml"]


def test_no_file_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTWARD_CONFIG", raising=False)
    assert main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] is None
    assert [one["bind"] for one in found["listeners"]] == ["127.0.0.1:2525"]
    assert list(tmp_path.iterdir()) == []


def test_the_queue_in_figures(upgraded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill() -> None:
        async with opened(upgraded.parent / "data", on_disk=True) as rig:
            rig.clock.instant = NOW
            await rig.put("a@one.example", "b@one.example", "c@two.example", received=NOW - 5 * MINUTE)
            await rig.put("d@one.example", received=NOW - 6 * DAY)
            await rig.put("e@three.example", received=NOW - MINUTE)
            await rig.queue.hold(Pick(domain=Domain("two.example")))
            await rig.execute(
                "UPDATE queue_recipients SET attempts = 1, next_try = ?, last_try = ?, host = 'mx', last_reply = '450 later'"
                " WHERE local = 'a'",
                (NOW + DAY, NOW),
            )
            await rig.queue.postpone(Domain("three.example"), NOW + 60 * MINUTE)

    trio.run(fill)
    code, found = status(upgraded, capsys)
    queue = found["queue"]
    assert code == 1
    assert (queue["messages"], queue["oldest"], queue["expired"]) == (3, (NOW - 6 * DAY) // 1_000_000, 1)
    assert queue["recipients"] == {"new": 3, "deferred": 1, "held": 1, "due": 3}
    top = {one["domain"]: one for one in queue["destinations"]}
    assert list(top) == ["one.example", "three.example", "two.example"]
    assert (top["one.example"]["recipients"], top["one.example"]["reply"], top["one.example"]["host"]) == (3, "450 later", "mx")
    assert top["two.example"]["next_due"] is None
    assert top["three.example"]["next_due"] == (NOW + 60 * MINUTE) // 1_000_000
    assert "1 recipient held" in needs(found)
    assert "1 message in the queue older than 120 hours" in needs(found)
    assert "4 recipients wait in the queue and no service answers" in needs(found)
    assert main(["status", "--config", str(upgraded)]) == 1
    out = capsys.readouterr().out
    assert "3 messages" in out
    assert "3 new, 1 deferred, 1 held; 3 due now" in out
    assert sum(line.startswith("! ") for line in out.splitlines()) == 3


@pytest.mark.parametrize(
    ("answer", "word", "wrong"),
    [
        (Answer(life=Life.RUNNING, process=4711, since=NOW), "running as process 4711", ""),
        (Answer(life=Life.SILENT), "does not answer", "did not answer"),
        (Answer(life=Life.UNKNOWN), "may not ask", ""),
        (Answer(life=Life.ABSENT), "not running", ""),
    ],
)
def test_what_is_known_of_the_service_is_said_as_it_is(
    answer: Answer, word: str, wrong: str, upgraded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postward.cli.status_look.ask", lambda path: answer)
    _, found = status(upgraded, capsys)
    assert found["service"]["state"] == answer.life.value
    assert wrong in needs(found)
    assert bool(wrong) == bool(found["attention"])
    main(["status", "--config", str(upgraded)])
    assert word in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(("days", "attention"), [(0, False), (1, False), (2, True)])
def test_a_plugin_that_is_more_than_a_day_behind(
    days: int, attention: bool, upgraded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day = day_of(time.time_ns() // 1000 - days * DAY)
    node = "INSERT INTO core_nodes VALUES ('{}', 'tlsrpt', 7, '', 1)"
    change(upgraded, "results.db", node.format("mx1.example.net"), node.format("another.example.net"))
    row = "INSERT INTO node_journal (sequence, entries, results, day, kind, payload) VALUES ({}, 1, {}, '{}', 'tls', x'')"
    change(upgraded, "node.db", row.format(7, 1000, "2020-01-01"), row.format(9, 5, day))
    _, found = status(upgraded, capsys)
    (one,) = found["journal"]
    assert one == {"plugin": "tlsrpt", "position": 7, "end": 9, "behind": 5, "oldest_day": day, "seen": 0}
    assert ("tlsrpt has not taken 5 results" in needs(found)) == attention
    assert bool(found["attention"]) == attention


def test_tables_of_another_version_need_attention(upgraded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(upgraded, "results.db", "UPDATE reports_schema_version SET version = 0")
    change(upgraded, "node.db", "UPDATE queue_schema_version SET version = 99")
    code, found = status(upgraded, capsys)
    assert code == 1
    assert "tables of reports" in needs(found)
    assert "queue" in needs(found)
    assert [one["mend"] for one in found["attention"] if "reports" in one["what"]] == [
        "postward db upgrade, or restart the service"
    ]


def test_reports_by_state(upgraded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = "report, position, uri, state, attempts, first_try, next_try, lease_by, last_detail"
    target = f"INSERT INTO core_outbox_targets ({columns}) VALUES ('r', {{}}, 'mailto:a@b.example', '{{}}', 0, 0, 0, '', '')"
    change(upgraded, "results.db", *(target.format(n, state) for n, state in enumerate(("pending", "pending", "failed"))))
    assert status(upgraded, capsys)[1]["reports"] == {"failed": 1, "pending": 2}


def test_a_full_disk(upgraded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postward.queue.disk.room", lambda path: False)
    code, found = status(upgraded, capsys)
    assert (code, found["disk"]["room"]) == (1, False)
    assert "no room on the disk" in needs(found)


def test_a_key_that_cannot_be_used_is_told_and_hides_nothing(upgraded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with upgraded.open("a") as file:
        file.write('[[dkim]]\ndomain = "example.net"\nselector = "s1"\nkey_file = "no.pem"\n')
    code, found = status(upgraded, capsys)
    assert code == 1
    assert "the DKIM key s1 of example.net cannot be used" in needs(found)
    assert len(found["attention"]) == 1
    assert {one["name"] for one in found["tables"]} == {"core", "reports", "node", "queue"}
    assert found["dkim"][0]["problem"]


def test_a_database_that_is_none_hides_nothing(upgraded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (upgraded.parent / "data" / "results.db").write_bytes(b"no database" * 1000)
    code, found = status(upgraded, capsys)
    assert code == 1
    assert len(found["attention"]) == 1
    assert "results.db" in needs(found)
    assert {one["name"] for one in found["tables"]} == {"node", "queue"}


def test_a_configuration_that_is_wrong_is_no_status(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("[core]\nhostnam = 'x'\n")
    assert main(["status", "--config", str(config)]) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (3900, "1 h 05"),
        (6 * 3600 + 60, "6 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 d"),
    ],
)
def test_spans(seconds: int, text: str) -> None:
    assert span(seconds * 1_000_000) == text


def test_other_measures() -> None:
    assert [octets(number) for number in (0, 999, 1000, 9_999, 10_000, 2 * 10**9)] == [
        "0 B", "999 B", "1.0 kB", "10.0 kB", "10 kB", "2.0 GB",
    ]  # fmt: skip
    assert (ahead(5, 5), ahead(60_000_005, 5)) == ("now", "in 1 min")
    assert (count(1, "try", "tries"), count(1200, "try", "tries")) == ("1 try", "1,200 tries")
    assert shortened("450 one two\nthree", 9) == "450 one…"


def test_a_resolver_that_does_not_validate_needs_attention(
    upgraded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """RFC 7672 §2.1.1: without a validating resolver there is no DANE, and the operator has to learn of it."""
    health = {"validating": False, "since": NOW, "tested": NOW, "problems": ["no AD"], "outcomes": {"TLSA": {"insecure": 3}}}
    (upgraded.parent / "data" / "resolver.json").write_text(json.dumps(health))
    _, found = status(upgraded, capsys)
    assert found["resolver"] is None  # what a service found that is gone
    running = Answer(life=Life.RUNNING, process=4711, since=NOW)
    monkeypatch.setattr("postward.cli.status_look.ask", lambda path: running)
    code, found = status(upgraded, capsys)
    assert code == 1
    assert "the resolver does not validate DNSSEC, so DANE is off: no AD" in needs(found)
    assert (found["resolver"]["validating"], found["resolver"]["outcomes"]) == (False, {"TLSA": {"insecure": 3}})
    main(["status", "--config", str(upgraded)])
    assert "does not validate, asked " in capsys.readouterr().out
