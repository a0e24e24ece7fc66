"""Who may log in: the file, its changes while the service runs, and `postward passwd`."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from argon2 import PasswordHasher

from deliver_kit import write_config
from postward.cli import main
from postward.errors import ConfigError, PostwardError
from postward.listen import users as module
from postward.listen.users import KNOWN_FOR, MAX_PASSWORD, Users, read_users, remove_user, set_password

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real cost is for those who guess."""
    monkeypatch.setattr(module, "PasswordHasher", lambda: CHEAP)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users"


def spoil(file: Path) -> None:
    file.write_text("rubbish\n")


def users(file: Path) -> Users:
    return Users(file, structlog.get_logger())


# --- the file ---


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(file: Path) -> None:
    assert set_password(file, "alice", "secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    assert not set_password(file, "alice", "other")
    assert set_password(file, "bob", "secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(read_users(file)) == ["alice", "bob"]
    assert [one.name for one in file.parent.iterdir()] == ["users"]


def test_everything_else_in_the_file_stays_where_it_is(file: Path) -> None:
    file.write_text(f"# who\n\nalice:{CHEAP.hash('a')}\n  bob : x\n# alice: an old friend\n")
    set_password(file, "alice", "new")
    lines = file.read_text().splitlines()
    assert lines[:2] == ["# who", ""]
    assert lines[2].startswith("alice:$argon2id$")
    assert lines[3:] == ["  bob : x", "# alice: an old friend"]
    assert remove_user(file, "bob")
    assert len(file.read_text().splitlines()) == 4


def test_a_link_stays_a_link(file: Path) -> None:
    file.touch()
    link = file.with_name("link")
    link.symlink_to(file)
    set_password(link, "alice", "secret")
    assert link.is_symlink()
    assert list(read_users(file)) == ["alice"]


def test_removing_nobody_writes_nothing(file: Path) -> None:
    assert not remove_user(file, "alice")
    assert not file.exists()


@pytest.mark.parametrize(
    "name", ["", "a b", "bob ", "a:b", "#a", "a\nb", "a\u2028b", "a\x85b", "a\x00b", "x" * 256, "a\udc80", "\x1fa"]
)
def test_names_that_would_break_the_file_are_refused(name: str, file: Path) -> None:
    with pytest.raises(PostwardError, match="name of a user"):
        set_password(file, name, "secret")
    assert not file.exists()


@pytest.mark.parametrize("password", ["", "x" * (MAX_PASSWORD + 1), "a\udc80"])
def test_passwords_that_could_never_match_are_refused(password: str, file: Path) -> None:
    with pytest.raises(PostwardError, match="password"):
        set_password(file, "alice", password)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("alice", "line 1"),
        ("# x\nalice:plain", "line 2"),
        ("alice:$argon2id$v=19$m=8,t=1,p=1$c2FsdA", "line 1"),
        (f"alice:{CHEAP.hash('x')[:-30]}", "line 1"),
        ("a b:" + CHEAP.hash("x"), "line 1"),
        (f"alice:{CHEAP.hash('x')}\nalice:{CHEAP.hash('x')}", "line 2"),
    ],
    ids=["no hash", "not a hash", "no digest", "cut short", "a space", "twice"],
)
def test_a_line_that_cannot_be_used_is_named_without_its_hash(text: str, key: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_users(file)
    assert caught.value.key == key
    assert "$" not in str(caught.value)


def test_hashes_of_other_programs_and_line_ends_are_read(file: Path) -> None:
    argon2i = "$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$gwYqaO7wl0lJPLuzCNMGrQnMrXqfx4C9Pm5aU0m9HGw"
    file.write_bytes(f"alice:{argon2i}\r\n\r\n# x\r\nbob:{CHEAP.hash('x')}".encode())
    assert list(read_users(file)) == ["alice", "bob"]


# --- logging in ---


async def test_only_the_right_password_of_a_known_user_fits(file: Path) -> None:
    set_password(file, "alice", "sécret")
    known = users(file)
    assert await known.check("alice", "sécret")
    for user, password in (
        ("alice", "wrong"),
        ("alice", ""),
        ("Alice", "sécret"),
        ("bob", "sécret"),
        ("bob", ""),
        ("alice", "x" * (MAX_PASSWORD + 1)),
        ("alice", "\udc80"),
        ("alice\0", "sécret"),
    ):
        assert not await known.check(user, password), (user, password)


async def test_an_unknown_name_costs_a_check_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_password(file, "alice", "secret")
    known, checked = users(file), list[str]()
    monkeypatch.setattr(known, "_verify", lambda stored, password: checked.append(stored) or True)
    assert not await known.check("nobody", "secret")
    assert not await known.check("nobody", "secret")
    assert len(checked) == 2


async def test_what_was_right_is_known_for_a_while_and_no_longer(
    file: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    set_password(file, "alice", "secret")
    known, checked = users(file), list[str]()

    async def inline(fn: object, *arguments: object, limiter: object) -> bool:
        checked.append("")
        return bool(fn(*arguments))  # type: ignore[operator]

    monkeypatch.setattr("trio.to_thread.run_sync", inline)
    for _ in range(3):
        assert await known.check("alice", "secret")
    assert len(checked) == 1
    assert not await known.check("alice", "wrong")
    assert not await known.check("alice", "wrong")
    assert len(checked) == 3
    await trio.sleep(KNOWN_FOR + 1)
    assert await known.check("alice", "secret")
    assert len(checked) == 4


async def test_a_change_counts_at_the_next_login(file: Path) -> None:
    set_password(file, "alice", "old")
    known = users(file)
    assert await known.check("alice", "old")
    set_password(file, "alice", "new")
    assert not await known.check("alice", "old")
    assert await known.check("alice", "new")
    remove_user(file, "alice")
    assert not await known.check("alice", "new")


async def test_a_file_that_breaks_later_keeps_who_was_known(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_password(file, "alice", "secret")
    known = users(file)
    spoil(file)
    assert await known.check("alice", "secret")
    os.remove(file)
    assert await known.check("alice", "secret")
    set_password(file, "bob", "secret")
    assert not await known.check("alice", "secret")
    assert await known.check("bob", "secret")


def test_a_file_that_is_not_there_at_first_is_an_error(file: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        users(file)


# --- the command ---


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_passwd_reads_one_line(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, " with spaces \r\nnext line\n")
    assert main(["passwd", "alice", "--stdin", "--file", str(file)]) == 0
    assert CHEAP.verify(read_users(file)["alice"], " with spaces ")
    out, err = capsys.readouterr()
    assert "added to" in out
    assert "new" in err
    typed(monkeypatch, "again")
    assert main(["passwd", "alice", "--stdin", "--file", str(file)]) == 0
    assert "changed in" in capsys.readouterr().out


def test_passwd_without_a_terminal_asks_for_stdin(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "secret\n")
    assert main(["passwd", "alice", "--file", str(file)]) == 2
    assert "--stdin" in capsys.readouterr().err
    typed(monkeypatch, "")
    assert main(["passwd", "alice", "--stdin", "--file", str(file)]) == 2
    assert not file.exists()


@pytest.mark.parametrize(("second", "code"), [("secret", 0), ("secrte", 2)])
def test_passwd_asks_twice_on_a_terminal(second: str, code: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["secret", second])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    assert main(["passwd", "alice", "--file", str(file)]) == code
    assert file.exists() == (code == 0)


def test_passwd_removes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_password(file, "alice", "secret")
    assert main(["passwd", "alice", "--delete", "--file", str(file)]) == 0
    assert read_users(file) == {}
    assert main(["passwd", "alice", "--delete", "--file", str(file)]) == 1
    assert main(["passwd", "alice", "--delete", "--stdin", "--file", str(file)]) == 2


LISTEN = '[[listen]]\nkind = "submission"\nbind = "127.0.0.1:{port}"\ncert_file = "c"\nkey_file = "k"\nusers_file = "{file}"\n'


@pytest.mark.parametrize(
    ("files", "code", "word"),
    [([], 2, "users_file"), (["users"], 0, ""), (["users", "users"], 0, ""), (["a", "b"], 2, "--file")],
)
def test_passwd_finds_the_file_of_the_listeners(
    files: list[str],
    code: int,
    word: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = file.parent / "postward.toml"
    listeners = "".join(LISTEN.format(port=20000 + number, file=name) for number, name in enumerate(files))
    config.write_text(f'[core]\nhostname = "mx1.example.net"\ndata_dir = "data"\n{listeners}')
    typed(monkeypatch, "secret\n")
    assert main(["passwd", "alice", "--stdin", "--config", str(config)]) == code
    assert file.exists() == (code == 0)
    assert word in capsys.readouterr().err


def test_the_file_of_the_web_pages_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path, web={"users": str(tmp_path / "web-users")})
    typed(monkeypatch, "secret\n")
    assert main(["passwd", "ada", "--stdin", "--config", str(config)]) == 0
    assert "ada" in read_users(tmp_path / "web-users")


def test_what_stands_in_the_file_now(file: Path) -> None:
    set_password(file, "alice", "secret")
    users = Users(file, structlog.get_logger("test"))
    before = users.stored("alice")
    assert before == read_users(file)["alice"]
    set_password(file, "alice", "another")
    assert users.stored("alice") not in ("", before)
    assert users.stored("bob") == ""
