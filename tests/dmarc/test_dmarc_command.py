"""`postward dmarc evaluate`."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import trio
import typer
from typer.testing import CliRunner

from fake_dns import FakeDns
from postward.errors import ConfigError
from postward_dmarc.plugin import Dmarc

ZONE = {
    ("example.com", "TXT"): ['"v=spf1 ip4:192.0.2.1 -all"'],
    ("_dmarc.example.com", "TXT"): ['"v=DMARC1; p=reject; pct=50"'],
}
MAIL = b"From: joe@mail.example.com\n\nHello\n"


class Commands:
    """Runs verbs on a core made of what they need."""

    def __init__(self, core):
        self.core, self.app = core, typer.Typer()
        self.app.callback()(lambda: None)

    def add(self, function):
        self.app.command(function.__name__)(function)

    def run(self, work):
        return trio.run(work, self.core)


def invoke(tmp_path, *arguments, content=MAIL, zone=ZONE, stdin=None):
    file = tmp_path / "mail.eml"
    file.write_bytes(content)
    core = SimpleNamespace(dns=FakeDns(zone), clock=SimpleNamespace(now=lambda: 1))
    commands = Commands(core)
    Dmarc(Dmarc.Config(), core).register_commands(commands)
    name = "-" if stdin else str(file)
    return CliRunner().invoke(commands.app, ["evaluate", *arguments, name], input=stdin, standalone_mode=False)


GOOD = ["--ip", "192.0.2.1", "--helo", "mx.example.com", "--mail-from", "joe@example.com"]


@pytest.mark.parametrize("stdin", [None, MAIL])
def test_json(tmp_path, stdin):
    result = invoke(tmp_path, *GOOD, "--json", stdin=stdin)
    assert result.return_value == 0
    value = json.loads(result.stdout)
    assert value["dmarc"] == "pass"
    assert value["disposition"] == "pass"
    assert (value["policy_domain"], value["org_domain"]) == ("example.com", "example.com")
    assert value["aligned"] == {"spf": True, "dkim": False}
    assert value["dkim"] == []
    assert [(item["domain"], item["result"], item["scope"]) for item in value["spf"]] == [("example.com", "pass", "mfrom")]
    assert value["notes"] == ["pct= is obsolete: t=y replaces it"]


def test_bad_news_is_exit_code_1(tmp_path):
    result = invoke(tmp_path, "--ip", "198.51.100.1", "--mail-from", "joe@example.com", "--json")
    assert result.return_value == 1
    value = json.loads(result.stdout)
    assert (value["dmarc"], value["disposition"]) == ("fail", "quarantine")
    assert value["overrides"] == [{"type": "local_policy", "comment": "reject is applied as quarantine"}]
    assert invoke(tmp_path, *GOOD, zone={}).return_value == 0, "no policy is no bad news"


def test_without_an_author_it_says_what_becomes_of_the_message(tmp_path):
    result = invoke(tmp_path, *GOOD, "--json", content=b"Subject: x\n\nHello\n")
    assert result.return_value == 1
    value = json.loads(result.stdout)
    assert (value["dmarc"], value["disposition"], value["reason"]) == ("permerror", "quarantine", "no From field")


def test_for_people(tmp_path):
    result = invoke(tmp_path, *GOOD)
    assert "DMARC" in result.stdout
    assert "pass" in result.stdout
    assert "{" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ip", "nonsense"], "--ip: not an IP address"),
        (["--ip", "::1", "--mail-from", "nonsense"], "--mail-from: not a mail address"),
        (["--ip", "::1", "/nowhere"], "/nowhere: No such file"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, arguments, message):
    if arguments[-1] == "/nowhere":
        core = SimpleNamespace()
        commands = Commands(core)
        Dmarc(Dmarc.Config(), core).register_commands(commands)
        result = CliRunner().invoke(commands.app, ["evaluate", *arguments], standalone_mode=False)
    else:
        result = invoke(tmp_path, *arguments)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
