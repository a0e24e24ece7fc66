"""`postward queue`: what it shows, what it changes, and its exit codes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from postward.cli import main, queue_show
from postward.names import Domain
from postward.queue import Pick
from postward.queue.survey import Conditions, survey
from queue_kit import BODY, MINUTE, Rig, opened

NOW = time.time_ns() // 1000
HOUR = 60 * MINUTE


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "postward.toml"
    file.write_text('[core]\nhostname = "mx1.example.net"\ndata_dir = "data"\n')
    return file


def fill(config: Path, *work: Callable[[Rig], Any]) -> list[Any]:
    """Do things with the queue as the service does them."""
    data = config.parent / "data"
    data.mkdir(mode=0o700, exist_ok=True)

    async def run() -> list[Any]:
        async with opened(data, on_disk=True) as rig:
            rig.clock.instant = NOW
            return [await one(rig) for one in work]

    return trio.run(run)


def run(config: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """The exit code, the objects on stdout and the words on stderr."""
    code = main(["queue", *arguments, "--json", "--config", str(config)])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def rows(config: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(config.parent / "data" / "node.db")) as connection:
        return connection.execute(query).fetchall()


async def three(rig: Rig) -> dict[str, str]:
    """One new, one whose recipients differ, one from the null sender that is held."""
    new = await rig.put("alice@example.org", received=NOW - MINUTE)
    mixed = await rig.put("bob@example.org", "carol@other.example", body=BODY + b"x" * 70_000 + b"\r\n", received=NOW - HOUR)
    null = await rig.put("dave@third.example", sender=None)
    await rig.execute(
        "UPDATE queue_recipients SET attempts = 3, next_try = ?, last_try = ?, host = 'mx.example.org', last_reply = ?"
        " WHERE local = 'bob'",
        (NOW + 12 * MINUTE, NOW - MINUTE, "450 4.7.1 Greylisted\x1b[31m"),
    )
    await rig.queue.hold(Pick(cid=null))
    return {"new": new, "mixed": mixed, "null": null}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list"], 0),
        (["list", "--held"], 1),
        (["show", "0123456789ab"], 1),
        (["retry", "0123456789ab"], 1),
        (["flush"], 0),
        (["flush", "example.org"], 1),
        (["drop", "--all"], 0),
    ],
)
def test_without_a_database_the_queue_is_empty_and_nothing_is_made(
    arguments: list[str], code: int, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["queue", *arguments, "--config", str(config)]) == code
    assert [file.name for file in config.parent.iterdir()] == ["postward.toml"]


def test_no_file_means_the_queue_of_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTWARD_CONFIG", raising=False)
    assert main(["queue", "list"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_listed_message_has_all_its_fields(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ids,) = fill(config, three)
    code, listed, err = run(config, capsys, "list")
    assert (code, err) == (0, "")
    assert [one["id"] for one in listed] == [ids["new"], ids["mixed"], ids["null"]]
    mixed = listed[1]
    assert mixed == {
        "id": ids["mixed"],
        "sender": "from@sender.example",
        "received": (NOW - HOUR) // 1_000_000,
        "size": len(BODY) + 70_002,
        "wish": "follow",
        "recipients": [
            {
                "address": "bob@example.org",
                "state": "deferred",
                "attempts": 3,
                "next_try": (NOW + 12 * MINUTE) // 1_000_000,
                "last_try": (NOW - MINUTE) // 1_000_000,
                "reply": "450 4.7.1 Greylisted\x1b[31m",
                "host": "mx.example.org",
            },
            {
                "address": "carol@other.example",
                "state": "new",
                "attempts": 0,
                "next_try": (NOW - HOUR) // 1_000_000,
                "last_try": None,
                "reply": "",
                "host": "",
            },
        ],
        "problem": "",
    }
    assert listed[2]["sender"] == ""
    assert (listed[2]["recipients"][0]["state"], listed[2]["recipients"][0]["next_try"]) == ("held", None)


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["--domain", "EXAMPLE.org"], ["new", "mixed"]),
        (["--domain", "example.org", "--held"], []),
        (["--recipient", "carol@other.example"], ["mixed"]),
        (["--recipient", "carol@example.org"], []),
        (["--sender", "<>"], ["null"]),
        (["--sender", "from@sender.example", "--domain", "other.example"], ["mixed"]),
        (["--sender", "from@sender.example", "--domain", "third.example"], []),
        (["--held"], ["null"]),
    ],
)
def test_conditions_hold_together(
    conditions: list[str], names: list[str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ids,) = fill(config, three)
    code, listed, _ = run(config, capsys, "list", *conditions)
    assert [one["id"] for one in listed] == [ids[name] for name in names]
    assert code == (0 if names else 1)


def test_pages_come_to_the_whole_and_say_how_to_go_on(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def many(rig: Rig) -> list[str]:
        return [await rig.put(f"user{number}@example.org", received=NOW) for number in range(7)]

    (ids,) = fill(config, many)
    seen: list[str] = []
    cursor: list[str] = []
    for _ in range(3):
        code, listed, err = run(config, capsys, "list", "--limit", "3", *cursor)
        assert code == 0
        seen += [one["id"] for one in listed]
        cursor = err.split()[-2:] if err else ["--after", "none"]
    assert seen == ids
    assert cursor == ["--after", "none"]
    assert len(run(config, capsys, "list", "--limit", "0")[1]) == 7


def test_all_pages_are_read_in_pieces(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def many(rig: Rig) -> list[str]:
        return [await rig.put(f"user{number}@example.org", received=NOW) for number in range(7)]

    (ids,) = fill(config, many)
    monkeypatch.setattr("postward.cli.queue._PIECE", 3)
    code, listed, err = run(config, capsys, "list", "--limit", "0")
    assert (code, [one["id"] for one in listed], err) == (0, ids, "")
    main(["queue", "list", "--limit", "5", "--config", str(config)])
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[1:]] == ids[:5]


def test_a_bad_cursor_domain_or_address_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bad in (["--after", "x"], ["--domain", "a b"], ["--recipient", "nobody"], ["--sender", "a@"]):
        code, listed, err = run(config, capsys, "list", *bad)
        assert (code, listed, len(err.splitlines())) == (2, [], 1)


def test_a_destination_that_waits_moves_the_next_try(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def postponed(rig: Rig) -> None:
        await rig.put("alice@example.org", received=NOW)
        await rig.queue.postpone(Domain("example.org"), NOW + HOUR)

    fill(config, postponed)
    _, (listed,), _ = run(config, capsys, "list")
    assert listed["recipients"][0]["next_try"] == (NOW + HOUR) // 1_000_000


def test_a_damaged_message_spoils_no_list(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ids, _) = fill(config, three, lambda rig: rig.execute("UPDATE queue_recipients SET domain = '..' WHERE local = 'alice'"))
    code, listed, _ = run(config, capsys, "list")
    assert code == 0
    assert len(listed) == 3
    assert listed[0]["problem"]
    assert not listed[1]["problem"]
    code, (shown,), _ = run(config, capsys, "show", ids["new"])
    assert (code, bool(shown["problem"])) == (0, True)


def test_plain_columns_in_a_pipe_obey_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ids,) = fill(config, three)
    assert main(["queue", "list", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "1 new, 1 deferred" in lines[2]
    assert "\\x1b[31m" in lines[2]
    assert lines[3].split()[0] == ids["null"]
    assert "<>" in lines[3]


def test_a_person_sees_a_table_a_summary_and_how_to_go_on(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(config, three)
    monkeypatch.setattr(queue_show, "is_terminal", lambda: True)
    monkeypatch.setattr(queue_show, "time", SimpleNamespace(time_ns=lambda: NOW * 1000))
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["queue", "list", "--domain", "example.org", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "→ bob@example.org" in out
    assert "in 12 min" in out
    assert "carol" not in out
    assert "2 messages to 2 recipients (all that match)." in out
    assert main(["queue", "list", "--limit", "2", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "3 messages to 4 recipients, 1 of them held; 2 shown." in out
    assert "More with: --after 2" in out
    assert "\x1b[31m" not in out


def test_show_tells_everything(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ids,) = fill(config, three)
    code, (shown,), _ = run(config, capsys, "show", ids["mixed"], "--header")
    assert code == 0
    assert shown["header"].startswith("From: a\r\nSubject: x")
    assert [one["state"] for one in shown["recipients"]] == ["deferred", "new"]
    assert main(["queue", "show", ids["mixed"], "--header", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "deferred (3 tries)" in out
    assert "mx.example.org: 450 4.7.1 Greylisted" in out
    assert "\nSubject: x\n" in out
    code, (shown,), _ = run(config, capsys, "show", ids["null"])
    assert "header" not in shown


@pytest.mark.parametrize("verb", ["retry", "hold", "release", "drop"])
@pytest.mark.parametrize(
    "options", [[], ["--all", "0123456789ab"], ["--domain", "a.example", "--sender", "b@c.example"], [""]], ids=str
)
def test_what_is_not_clear_is_refused(verb: str, options: list[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config, three)
    assert run(config, capsys, verb, *options)[0] == 2
    assert rows(config, "SELECT COUNT(*), SUM(state) FROM queue_recipients") == [(4, 1)]


def test_hold_release_retry_and_flush(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ids,) = fill(config, three)
    code, (said,), _ = run(config, capsys, "hold", ids["mixed"], "0123456789ab")
    assert code == 0
    assert said == {"action": "hold", "recipients": 2, "missing": ["0123456789ab"], "service": False}
    assert run(config, capsys, "hold", ids["mixed"])[:2] == (0, [{**said, "recipients": 0, "missing": []}])
    assert run(config, capsys, "release", "--sender", "from@sender.example")[1][0]["recipients"] == 2
    assert run(config, capsys, "hold", "--domain", "example.org")[1][0]["recipients"] == 2
    assert run(config, capsys, "release", "--all")[1][0]["recipients"] == 3  # with the one that was held at first

    async def later(rig: Rig) -> None:
        await rig.execute("UPDATE queue_recipients SET next_try = ?", (NOW + HOUR,))

    fill(config, later)
    assert run(config, capsys, "retry", ids["new"])[1][0]["recipients"] == 1
    assert run(config, capsys, "flush", "other.example")[1][0]["recipients"] == 1
    assert run(config, capsys, "flush")[1][0]["recipients"] == 2
    assert run(config, capsys, "flush", "nowhere.example")[0] == 1
    assert rows(config, "SELECT COUNT(*) FROM queue_destinations WHERE next_due > strftime('%s') * 1000000 + 1000000") == [(0,)]


def test_drop_takes_it_out_and_tells_who_may_be_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ids,) = fill(config, three)
    code, (said,), _ = run(config, capsys, "drop", "--held", "--bounce")
    assert (code, said["recipients"]) == (0, 1)
    assert rows(config, "SELECT COUNT(*) FROM queue_messages") == [(2,)]  # nobody is told about the null sender's mail
    code, (said,), _ = run(config, capsys, "drop", ids["mixed"], "--bounce")
    assert (code, said["recipients"]) == (0, 2)
    notices = rows(config, "SELECT m.cid, sender, is_bounce, local || '@' || domain, data FROM queue_messages AS m"
                           " JOIN queue_recipients AS r ON r.message = m.id JOIN queue_bodies AS b ON b.message = m.id"
                           " WHERE is_bounce")  # fmt: skip
    assert [(sender, to) for _, sender, _, to, _ in notices] == [("", "from@sender.example")]
    assert b"bob@example.org" in notices[0][4]
    assert b"550 5.3.0" in notices[0][4]
    assert run(config, capsys, "drop", ids["mixed"])[0] == 1
    assert run(config, capsys, "drop", "--all")[1][0]["recipients"] == 2
    assert rows(config, "SELECT (SELECT COUNT(*) FROM queue_messages), (SELECT COUNT(*) FROM queue_bodies)") == [(0, 0)]
    assert list((config.parent / "data" / "spool").iterdir()) == []


@pytest.mark.parametrize(("answer", "left"), [("n\n", 3), ("\n", 3), ("y\n", 2)])
def test_a_person_is_asked_before_mail_is_dropped(
    answer: str, left: int, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (ids,) = fill(config, three)
    monkeypatch.setattr("postward.cli.queue._is_asked", lambda json: True)
    monkeypatch.setattr("typer.confirm", lambda question, err: answer == "y\n" and "1 recipient of 1 message" in question)
    assert main(["queue", "drop", ids["new"], "--config", str(config)]) == (0 if left == 2 else 1)
    assert rows(config, "SELECT COUNT(*) FROM queue_messages") == [(left,)]
    assert main(["queue", "drop", ids["mixed"], "--yes", "--config", str(config)]) == 0


def test_tables_of_another_version_are_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config, three)
    for version, word in ((99, "newer"), (0, "older")):
        with closing(sqlite3.connect(config.parent / "data" / "node.db")) as connection:
            connection.execute("UPDATE queue_schema_version SET version = ?", (version,))
            connection.commit()
        for verb in (["list"], ["hold", "--all"]):
            code, _, err = run(config, capsys, *verb)
            assert code == 2
            assert word in err
            assert len(err.splitlines()) == 1


def test_a_database_that_is_none_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "data").mkdir()
    (config.parent / "data" / "node.db").write_bytes(b"no database" * 1000)
    for verb in (["list"], ["show", "0123456789ab"], ["retry", "--all"]):
        code, _, err = run(config, capsys, *verb)
        assert (code, len(err.splitlines())) == (2, 1)


def test_it_works_while_the_service_has_the_database(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = config.parent / "data"
    data.mkdir()

    async def both() -> None:
        async with opened(data, on_disk=True, inline=False) as rig:
            await rig.put("alice@example.org", received=NOW)
            code = await trio.to_thread.run_sync(main, ["queue", "hold", "--all", "--json", "--config", str(config)])
            assert code == 0
            assert await rig.rows("SELECT state FROM queue_recipients") == [(1,)]
            assert await rig.wrong() == []

    trio.run(both)


async def test_totals_count_what_meets_the_conditions(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await three(rig)
        whole = await rig.store.node_db.read(
            lambda c: survey(c.connection.driver_connection, Conditions(), after="", limit=1)  # type: ignore[arg-type]
        )
        assert (whole.messages, whole.recipients, whole.held, whole.next) == (3, 4, 1, "1")
        some = await rig.store.node_db.read(
            lambda c: survey(c.connection.driver_connection, Conditions(domain=Domain("example.org")), after="1", limit=9)  # type: ignore[arg-type]
        )
        assert (some.messages, some.recipients, len(some.page), some.next) == (2, 2, 1, "")
