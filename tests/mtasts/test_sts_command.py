"""`postward mtasts check` and `postward mtasts cache`: what they show and change, and their exit codes."""

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
from postward.http import HttpError
from postward.metrics import unread
from postward.model import MICROSECONDS
from postward.names import Domain
from postward_mtasts import tables
from postward_mtasts.plugin import MtaSts
from postward_mtasts.policy import parse
from postward_mtasts.settings import Settings

TEXT = b"version: STSv1\r\nmode: enforce\r\nmx: mx.b.example\r\nmx: *.c.b.example\r\nmax_age: 604800\r\n"
ZONE = '@ MX 10 mx\n_mta-sts TXT "v=STSv1; id=1"\n'


class Program:
    """`postward mtasts …` over memory, and a database that stays."""

    def __init__(self, folder: Path) -> None:
        self.config = SimpleNamespace(core=SimpleNamespace(data_dir=folder))
        self.url = f"sqlite:///{folder}/results.db"
        self.zones = {"b.example": ZONE, "none.example": "@ MX 10 mx\n"}
        self.pages: dict[str, Any] = {"mta-sts.b.example": TEXT}
        self.core: Any = None
        self.settings, self.hostname = Settings(), Domain("mx.sender.example")
        self.metrics = unread()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)  # the plugin is made before the core is there

    async def __aenter__(self) -> Program:
        self.opened = make_core("mtasts", tables.SCHEMA, url=self.url)
        self.core = await self.opened.__aenter__()
        for origin, text in self.zones.items():
            self.core.dns.set_zone(origin, text)
        self.core.http.pages = self.pages
        self.core.clock = SimpleNamespace(now=lambda: NOON)
        self.core.log = Mock()  # logged lines go to standard error, except in tests
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.opened.__aexit__(*error)

    def core_for(self, name: str) -> Any:
        return self.core

    def __call__(self, *words: str) -> Any:
        verbs = PluginVerbs(self, "mtasts")  # type: ignore[arg-type]
        MtaSts(self.settings, self).register_commands(verbs)  # type: ignore[arg-type]
        result = CliRunner().invoke(verbs._typer, list(words), standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result

    def json(self, *words: str, code: int = 0) -> list[dict[str, Any]]:
        result = self(*words, "--json")
        assert result.return_value == code
        return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


# --- policy ---


def test_an_own_policy_as_a_file(program: Program) -> None:
    """RFC 8461 §3.2: what another web server serves is what ours would, and its record has the id of that text."""
    program.settings = Settings.model_validate(
        {"host": {"own.example": {"mode": "enforce", "mx": ["mx1.own.example", "*.ü.test"]}}}
    )
    [found] = program.json("policy", "own.example")
    own = program.settings.policies(program.hostname)[Domain("own.example")]
    assert found == {
        "domain": "own.example",
        "url": "https://mta-sts.own.example/.well-known/mta-sts.txt",
        "text": own.text,
        "id": own.id,
        "record": f"v=STSv1; id={own.id};",
    }
    result = program("policy", "OWN.example")
    assert result.return_value == 0
    read = parse(result.stdout)
    assert (read, read.mx) == (parse(own.text), ("mx1.own.example", "*.xn--tda.test"))
    assert result.stderr == f'_mta-sts.own.example. IN TXT "v=STSv1; id={own.id};"\n'


def test_no_policy_of_a_domain_that_is_not_ours(program: Program) -> None:
    with pytest.raises(ConfigError, match=r"plugin\.mtasts\.host: it has no policy of b\.example"):
        program("policy", "b.example")


# --- check ---


def test_check_of_a_good_domain(program: Program) -> None:
    (shown,) = program.json("check", "B.example.")
    assert shown["domain"] == "b.example"
    assert shown["record"] == {"texts": ["v=STSv1; id=1"], "alias": None, "id": "1", "error": None, "position": None}
    policy = shown["policy"]
    assert (policy["mode"], policy["max_age"], policy["mx"]) == ("enforce", 604800, ["mx.b.example", "*.c.b.example"])
    assert (policy["media_type"], policy["text"][1], policy["error"], policy["line"]) == (
        "text/plain",
        "mode: enforce",
        None,
        None,
    )
    assert shown["hosts"] == [{"name": "mx.b.example", "matches": True}]
    assert {finding["severity"] for finding in shown["findings"]} == {"ok", "warning"}
    assert set(shown["findings"][0]) >= {"area", "severity", "what", "why", "fix"}
    people = program("check", "b.example")
    assert people.return_value == 0
    for words in (
        "_mta-sts.b.example  v=STSv1; id=1",
        "  mode: enforce",
        "warning",
        "no mail host of the domain is *.c.b.example",
    ):
        assert words in people.stdout


def test_check_shows_the_place_of_an_error_in_the_record(program: Program) -> None:
    program.zones["b.example"] = '@ MX 10 mx\n_mta-sts TXT "v=STSv1; id=a-b"\n'
    (shown,) = program.json("check", "b.example", code=1)
    assert (shown["record"]["id"], shown["record"]["position"]) == (None, 12)
    assert "id is not" in shown["record"]["error"]
    lines = program("check", "b.example").stdout.splitlines()
    assert lines[0].index("a-b") == lines[1].index("^")


def test_check_shows_the_place_of_an_error_in_the_policy(program: Program) -> None:
    program.pages["mta-sts.b.example"] = TEXT.replace(b"mx: *.c", b"mx:  *.*.c\x1b[31m")
    (shown,) = program.json("check", "b.example", code=1)
    policy = shown["policy"]
    assert (policy["line"], policy["column"], policy["result_type"]) == (4, 11, "sts-policy-invalid")
    assert "control character" in policy["error"]
    program.pages["mta-sts.b.example"] = TEXT.replace(b"mx: *.c", b"mx:\t *.*.c")
    lines = program("check", "b.example").stdout.splitlines()
    place = next(number for number, line in enumerate(lines) if "^" in line)
    assert lines[place - 1].index("*.*") == lines[place].index("^")
    assert "line 4, column 6" in lines[place]


def test_check_of_a_domain_without_mta_sts_is_no_error(program: Program) -> None:
    (shown,) = program.json("check", "none.example")
    assert [finding["severity"] for finding in shown["findings"]] == ["warning"]
    assert (shown["record"]["id"], shown["policy"]["mode"]) == (None, None)


@pytest.mark.parametrize("text", ["nonsense..example", "[192.0.2.1]", "b.example/x"])
def test_wrong_use_is_one_line(program: Program, text: str) -> None:
    for words in (("check",), ("cache", "show"), ("cache", "refresh"), ("cache", "drop")):
        with pytest.raises(ConfigError, match="DOMAIN") as caught:
            program(*words, text)
        assert "\n" not in str(caught.value)


# --- cache ---


def test_refresh_show_list_drop(program: Program) -> None:
    (shown,) = program.json("cache", "refresh", "b.example")
    assert (shown["domain"], shown["valid"], shown["error"], shown["mode"]) == ("b.example", True, None, "enforce")
    (shown,) = program.json("cache", "show", "b.example")
    assert shown["text"] == TEXT.decode(), "verbatim"
    assert (shown["id"], shown["max_age"], shown["media_type"]) == ("1", 604800, "text/plain")
    assert shown["fetched"] == shown["last_use"] == shown["last_attempt"] == NOON // MICROSECONDS
    assert shown["expires"] == shown["fetched"] + 604800
    assert shown["fetched"] + 64_800 <= shown["next_look"] <= shown["fetched"] + 86_400
    assert (shown["last_error"], shown["failed_id"]) == (None, None)
    (listed,) = program.json("cache", "list")
    assert listed == {key: value for key, value in shown.items() if key != "text"}
    people = program("cache", "show", "b.example").stdout
    assert "  mx: *.c.b.example\n" in people
    assert "in 7 d" in people
    assert "\nstate         valid\n" in people
    people = program("cache", "list").stdout
    head, row = people.splitlines()
    assert head.split() == ["domain", "mode", "state", "fetched", "expires", "used"]
    assert row.split()[:3] == ["b.example", "enforce", "valid"]
    assert program.json("cache", "drop", "b.example") == [{"domain": "b.example", "dropped": True}]
    assert program.json("cache", "drop", "b.example", code=1) == [{"domain": "b.example", "dropped": False}]
    assert program.json("cache", "show", "b.example", code=1) == [{"domain": "b.example", "valid": False}]
    assert "nothing is remembered" in program("cache", "show", "b.example").stdout
    assert "Nothing is remembered." in program("cache", "list").stdout
    assert program.json("cache", "list") == []


def test_a_refresh_that_fails_keeps_what_is_cached(program: Program) -> None:
    program("cache", "refresh", "b.example")
    program.pages["mta-sts.b.example"] = HttpError("connect", "mta-sts.b.example cannot be reached: \x1b[31m")
    (shown,) = program.json("cache", "refresh", "b.example", code=1)
    assert (shown["valid"], shown["mode"], shown["failed_id"]) == (True, "enforce", "1")
    assert "cannot be reached" in shown["error"]
    people = program("cache", "refresh", "b.example")
    assert people.return_value == 1
    assert "cached policy stays" in people.stdout
    assert "not renewed" in program("cache", "list").stdout
    assert "\x1b" not in people.stdout + program("cache", "list").stdout + program("cache", "show", "b.example").stdout


def test_a_refresh_does_not_mind_the_back_off(program: Program) -> None:
    """The five minutes of RFC 8461 §3.3 hold back programs, not an operator who has just mended something."""
    program.pages["mta-sts.b.example"] = 500
    assert program.json("cache", "refresh", "b.example", code=1)[0]["valid"] is False
    assert "http" in program.json("cache", "list")[0]["last_error"]
    program.pages["mta-sts.b.example"] = TEXT
    assert program.json("cache", "refresh", "b.example")[0]["valid"] is True


def test_a_domain_without_a_policy_cannot_be_refreshed(program: Program) -> None:
    program.pages["mta-sts.none.example"] = TEXT
    first, second = program.json("cache", "refresh", "none.example", "b.example", code=1)
    assert (first["valid"], first["error"]) == (False, "the domain has no policy")
    assert second["error"] is None
    assert [each["domain"] for each in program.json("cache", "list")] == ["b.example"]


def test_a_long_list_comes_in_pages(program: Program) -> None:
    for number in range(5):
        program.zones[f"d{number}.example"] = ZONE
        program.pages[f"mta-sts.d{number}.example"] = TEXT
    program("cache", "refresh", *(f"d{number}.example" for number in range(5)))
    first = program("cache", "list", "--limit", "3", "--json")
    assert [json.loads(line)["domain"] for line in first.stdout.splitlines()] == ["d0.example", "d1.example", "d2.example"]
    assert "--after d2.example" in first.stderr
    rest = program("cache", "list", "--after", "d2.example", "--json")
    assert [json.loads(line)["domain"] for line in rest.stdout.splitlines()] == ["d3.example", "d4.example"]
    assert rest.stderr == ""
    assert len(program.json("cache", "list", "--limit", "0")) == 5
