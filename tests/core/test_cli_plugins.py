"""`postward plugins`, `postward PLUGIN VERB`, and what holds for every command: exit codes, one line, no traceback."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.cli import main
from postward.config_edit import disabled_in, enabled_in, minimal, replace_file
from postward.errors import ConfigError, PluginError

Install = Callable[[str, str], None]

GOOD = """
from postward.hookspecs import hookimpl
class Plugin:
    def __init__(self, config, core): ...
    @hookimpl
    def register_schema(self): ...
    @hookimpl
    async def domain_policy(self, destination): ...
"""
OPTIONS = """
from pydantic import BaseModel
from postward.hookspecs import hookimpl
class Plugin:
    class Config(BaseModel, extra="forbid", frozen=True):
        organization: str
    def __init__(self, config, core): ...
    @hookimpl
    def register_schema(self): ...
"""
COMMENTED = """\
# The relay of the second floor.
plugins = [   # in order
    "alpha",  # first
    "beta",
]  # no more

[core]      # who we are
hostname = "mx.example.net"

# What alpha needs.
[plugin.alpha]
organization = "Example"  # shown in reports

# Where mail comes in.
[[listen]]
kind = "smtp"
bind = "127.0.0.1:2525"
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a plugin from the code of its class `Plugin`, and takes the working directory away from the checkout."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("POSTWARD_CONFIG", raising=False)
    monkeypatch.syspath_prepend(str(packages))
    before = set(sys.modules)

    def make(name: str, code: str, *, group: str = "postward.v1") -> None:
        (packages / f"y_{name}.py").write_text(code)
        info = packages / f"dist_{name}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = y_{name}:Plugin\n")

    yield make
    for module in set(sys.modules) - before:
        if module.startswith("y_"):
            del sys.modules[module]


def run(*arguments: str) -> int:
    return main(list(arguments))


def rows(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, dict[str, object]]:
    assert run("plugins", "list", "--json", *arguments) == code
    return {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}


# --- list ---


def test_list_shows_distribution_version_order_and_hooks(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("alpha", GOOD)
    install("beta", GOOD)
    install("gamma", "raise SystemExit('imported')")
    Path("postward.toml").write_text('plugins = ["beta", "alpha"]\n')
    found = rows(capsys)
    assert [name for name in found if name in ("alpha", "beta", "gamma")] == ["beta", "alpha", "gamma"]
    assert found["beta"] == {
        "name": "beta",
        "distribution": "dist-beta",
        "version": "2.5",
        "enabled": True,
        "order": 1,
        "hooks": ["register_schema", "domain_policy"],
        "contract": "postward.v1",
        "compatible": True,
        "error": "",
    }
    assert (found["gamma"]["enabled"], found["gamma"]["hooks"]) == (False, [])
    assert "y_gamma" not in sys.modules
    assert run("plugins", "list") == 0
    assert "dist-alpha" in capsys.readouterr().out


def test_list_needs_no_configuration(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("alpha", GOOD)
    assert rows(capsys)["alpha"]["enabled"] is False


def test_list_shows_what_cannot_be_used(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("broken", "raise ValueError('no luck')")
    install("old", GOOD, group="postward.v0")  # type: ignore[call-arg]
    Path("postward.toml").write_text('plugins = ["broken", "old", "gone"]\n')
    found = rows(capsys, code=1)
    assert "raised ValueError: no luck" in str(found["broken"]["error"])
    assert found["old"]["error"] == "made for postward.v0"
    assert found["gone"]["error"] == "not installed"
    assert "y_old" not in sys.modules


# --- enable ---


def test_enable_keeps_comments_and_layout(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("beta", "gamma"):
        install(name, GOOD)
    install("alpha", OPTIONS)
    file = Path("postward.toml")
    file.write_text(COMMENTED)
    file.chmod(0o640)
    assert run("plugins", "enable", "gamma") == 0
    after = file.read_text()
    assert tomllib.loads(after)["plugins"] == ["alpha", "beta", "gamma"]
    assert [line for line in after.splitlines() if "gamma" not in line] == COMMENTED.splitlines()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir() == ["postward.toml"]


def test_enable_makes_a_file_where_there_is_none(install: Install) -> None:
    install("alpha", GOOD)
    assert run("plugins", "enable", "alpha", "--config", "new.toml") == 0
    assert tomllib.loads(Path("new.toml").read_text()) == {"plugins": ["alpha"]}
    assert run("plugins", "enable", "alpha") == 0
    assert tomllib.loads(Path("postward.toml").read_text()) == {"plugins": ["alpha"]}


def test_enabling_twice_changes_nothing(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    Path("postward.toml").write_text('plugins = ["alpha"]')
    install("alpha", GOOD)
    assert run("plugins", "enable", "alpha") == 0
    assert "already enabled" in capsys.readouterr().out
    assert Path("postward.toml").read_text() == 'plugins = ["alpha"]'


@pytest.mark.parametrize(
    ("name", "code", "content", "complaint"),
    [
        ("alpa", GOOD, "", "plugin 'alpa': is not installed; did you mean 'alpha'?"),
        ("alpha", "raise SystemExit", "", "cannot be imported"),
        ("alpha", OPTIONS, "", "postward.toml: plugin.alpha.organization: is missing"),
        ("alpha", "from postward.hookspecs import hookimpl\nclass Plugin: ...", "", "it implements no hook"),
        ("alpha", GOOD.replace("config, core)", "config)", 1), "", "cannot be made as Plugin(config, core): too many"),
        ("alpha", GOOD.replace("domain_policy", "domain_polcy"), "", "did you mean 'domain_policy'?"),
        ("alpha", GOOD, "plugins = 3", "postward.toml: plugins: should be a list"),
        ("alpha", GOOD, "plugins = [", "postward.toml: is not TOML"),
        ("alpha", GOOD, "plugin = 3", "postward.toml: plugin: should be a table"),
        ("alpha", GOOD, '[core]\nhostname = "a.example"\ndata_dir = "a\\u0000"', "core.data_dir: holds a NUL character"),
        ("alpha", GOOD, "x = 1", "postward.toml: x: is not a known key"),
        ("alpha", GOOD, 'plugins = ["none"]', "postward.toml: plugins[0]: plugin 'none' is not installed"),
    ],
)
def test_nothing_is_written_when_anything_is_wrong(
    install: Install, capsys: pytest.CaptureFixture[str], name: str, code: str, content: str, complaint: str
) -> None:
    install("alpha", code)
    Path("postward.toml").write_text(content)
    assert run("plugins", "enable", name) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert Path("postward.toml").read_text() == content
    assert os.listdir() == ["postward.toml"]


def test_options_may_stand_there_before_enabling(install: Install) -> None:
    install("alpha", OPTIONS)
    Path("postward.toml").write_text('[plugin.alpha]\norganization = "x"\n')
    assert run("plugins", "enable", "alpha") == 0
    assert tomllib.loads(Path("postward.toml").read_text()) == {
        "plugins": ["alpha"],
        "plugin": {"alpha": {"organization": "x"}},
    }


# --- disable ---


def test_disable_keeps_the_options_as_comments_and_enable_brings_them_back(install: Install) -> None:
    install("alpha", OPTIONS)
    install("beta", GOOD)
    file = Path("postward.toml")
    file.write_text(COMMENTED)
    assert run("plugins", "disable", "alpha") == 0
    after = file.read_text()
    assert tomllib.loads(after)["plugins"] == ["beta"]
    assert '#(alpha) organization = "Example"  # shown in reports\n' in after
    assert "plugin" not in tomllib.loads(after)
    assert "# Where mail comes in.\n[[listen]]\n" in after
    assert run("plugins", "enable", "alpha") == 0
    again = tomllib.loads(file.read_text())
    assert again == tomllib.loads(COMMENTED) | {"plugins": ["beta", "alpha"]}


def test_disable_works_for_what_is_no_longer_installed(install: Install) -> None:
    Path("postward.toml").write_text('plugins = ["gone"]\n[plugin.gone]\nx = 1\n')
    assert run("plugins", "disable", "gone") == 0
    assert tomllib.loads(Path("postward.toml").read_text()) == {"plugins": []}


def test_disable_names_the_nearest(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    Path("postward.toml").write_text('plugins = ["gone"]')
    assert run("plugins", "disable", "gon") == 2
    assert "there is no plugin 'gon'; did you mean 'gone'?" in capsys.readouterr().err


def test_disabling_what_is_not_enabled_changes_nothing(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("alpha", GOOD)
    Path("postward.toml").write_text("")
    assert run("plugins", "disable", "alpha") == 0
    assert "is not enabled" in capsys.readouterr().out


@pytest.mark.parametrize("text", ['plugins = ["x"]\nplugin = { x = { a = 1 } }\n', 'plugins = ["x"]\nplugin.x.a = 1\n'])
def test_options_in_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"plugin\.x: move the options of 'x' away first"):
        disabled_in(text, "x")


@pytest.mark.parametrize(
    "text",
    [
        "plugins = []",
        "# nothing yet\n",
        '[core]\nhostname = "a.b"\n',
        'plugins=["a","b"]#c\r\n[core]\r\nnode = "n"\r\n',
        "'plugins'   =   [\n]\n[web]\n",
        'plugins = ["a"]\n[core]\nnode = """\nplugins = ["a"]\n"""\n',
        '[listen]\nx = [\n  ["plugins = []"],\n]\n',
        'plugins = [\n  "a" # one\n  , "b" # two\n]\n',
        "plugins = [ # \",\n  'a' # one \"\n  # two\n]\n",
        'plugins = [\n  """a#""" # one\r\n  # two\n]\n',
    ],
)
def test_enable_then_disable_is_as_before(text: str) -> None:
    enabled = enabled_in(text, "x")
    before = tomllib.loads(text)
    assert tomllib.loads(enabled)["plugins"] == [*before.get("plugins", []), "x"]
    assert tomllib.loads(disabled_in(enabled, "x")) == before | {"plugins": before.get("plugins", [])}


names = st.text("abcxyz_", min_size=1, max_size=6)
comments = st.sampled_from(["", "  # a comment", "  # [plugin.x]", '  # plugins = ["q"]'])


@given(st.lists(names, unique=True, max_size=5), st.data())
def test_edits_change_the_plugin_and_nothing_else(plugins: list[str], data: st.DataObject) -> None:
    lines = [f"plugins = [{data.draw(comments)}", *(f'    "{name}",{data.draw(comments)}' for name in plugins), "]", ""]
    for name in plugins:
        if data.draw(st.booleans()):
            lines += [f"[plugin.{name}]{data.draw(comments)}", f"key = [ # {name}", '  ["nested"],', "]", ""]
            if data.draw(st.booleans()):
                lines += [f"# below\n[plugin.{name}.more]", 'text = "x # y"', ""]
        lines += [data.draw(comments).strip()]
    lines += ["[web]", 'bind = "127.0.0.1:1"']
    text = "\n".join(lines)
    before = tomllib.loads(text)
    if plugins:
        name = data.draw(st.sampled_from(plugins))
        off = disabled_in(text, name)
        on = tomllib.loads(enabled_in(off, name))
        assert on == before | {"plugins": [*(one for one in plugins if one != name), name]}
        uncommented = [line.removeprefix(f"#({name}) ") for line in off.splitlines()]
        assert uncommented == [line for line in text.splitlines() if f'"{name}",' not in line]


# --- writing ---


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("# by somebody else")
    with pytest.raises(ConfigError, match="changed by somebody else"):
        replace_file(file, b"# what I read", "plugins = []")
    with pytest.raises(ConfigError, match="changed by somebody else"):
        replace_file(file, None, minimal("x"))
    assert file.read_text() == "# by somebody else"
    assert os.listdir(tmp_path) == ["p.toml"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("")
    (tmp_path / "link.toml").symlink_to("real.toml")
    replace_file(tmp_path / "link.toml", b"", "plugins = []")
    assert (tmp_path / "link.toml").is_symlink()
    assert (tmp_path / "real.toml").read_text() == "plugins = []"


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="loop"):
        replace_file(tmp_path / "loop", None, "")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        replace_file(tmp_path / "none" / "p.toml", None, "")


# --- what holds for every command ---


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (PluginError("x", "is odd"), 2, "postward: plugin 'x': is odd\n"),
        (ExceptionGroup("g", [ConfigError("bad", key="a.b")]), 2, "postward: a.b: bad\n"),
        (FileNotFoundError(2, "No such file or directory", "mail.eml"), 2, "postward: mail.eml: No such file or directory\n"),
        (RuntimeError("\x1b[31mred"), 2, "postward: internal error: RuntimeError: \\x1b[31mred (set POSTWARD_DEBUG=1"),
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), 130, ""),
        (SystemExit(1), 1, ""),
    ],
)
def test_errors_become_exit_codes(
    raised: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise raised

    monkeypatch.setattr("postward.cli.frame.invoke", fail)
    assert main([]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(said)
    assert "Traceback" not in captured.err
    assert len(captured.err.splitlines()) == (1 if said else 0)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("here")

    monkeypatch.setattr("postward.cli.frame.invoke", fail)
    monkeypatch.setenv("POSTWARD_DEBUG", "1")
    with pytest.raises(RuntimeError, match="here"):
        main([])


@pytest.mark.parametrize(
    "arguments", [["plugins", "lst"], ["plugins", "enable"], ["plugins", "list", "--jsn"], ["delivr"], ["--x"]]
)
def test_usage_errors_are_two(arguments: list[str], install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_lists_every_command_and_enabled_plugin(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    Path("postward.toml").write_text('plugins = ["somebody"]')
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for name in ("deliver", "probe", "run", "lab", "plugins", "db", "somebody"):
        assert name in shown


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_streams_may_be_closed(tmp_path: Path, closed: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m postward plugins list {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=tmp_path, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "postward", "plugins", "list", "--json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


# --- a plugin's verbs ---

VERBS = """
from typing import Annotated
import typer
from postward.hookspecs import hookimpl
class Plugin:
    def __init__(self, config, core):
        self.core = core
    @hookimpl
    def register_commands(self, commands):
        def greet(name: str, times: Annotated[int, typer.Option()] = 1) -> int:
            "Say hello."
            async def work(core):
                typer.echo(f"{core.plugin} on {core.hostname}: hello {name}" * times)
                return 1
            return commands.run(work)
        commands.add(greet)
        commands.add(lambda: None, name="quiet", help="Says nothing.")
"""
ENABLED = (
    'plugins = ["verbs"]\n[core]\nhostname = "mx.example.net"\ndata_dir = "d"\n[dns]\nself_test = { secure = "", bogus = "" }\n'
)


def test_what_a_plugin_prints_never_mixes_with_the_answer(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("noisy", "print('imported')\n" + GOOD.replace("core): ...", "core): print('made')"))
    for words in (["plugins", "enable", "noisy"], ["plugins", "list", "--json"], ["db", "status", "--json"]):
        if words[0] == "db":
            file = Path("postward.toml")
            file.write_text(file.read_text() + f'[core]\nhostname = "a.example"\ndata_dir = "{Path.cwd()}/data"\n')
        assert run(*words) in (0, 1)
        captured = capsys.readouterr()
        assert "imported" not in captured.out
        assert "made" not in captured.out
        if "--json" in words:
            assert all(json.loads(line) for line in captured.out.splitlines())
    assert "made" in captured.err


def test_a_verb_that_fails_is_named(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("verbs", VERBS.replace("commands.add(greet)", "commands.add(greet); commands.add(lambda: 1 / 0, 'fail')"))
    Path("postward.toml").write_text(ENABLED)
    assert run("verbs", "fail") == 2
    assert capsys.readouterr().err.startswith(
        "postward: plugin 'verbs': its command raised ZeroDivisionError: division by zero"
    )


def test_a_verb_runs_in_the_assembled_program(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("verbs", VERBS)
    Path("other.toml").write_text(ENABLED)
    assert run("verbs", "greet", "you", "--config", "other.toml") == 1
    assert capsys.readouterr().out == "verbs on mx.example.net: hello you\n"
    assert run("verbs", "--config=other.toml", "quiet") == 0
    assert run("verbs", "--help", "--config", "other.toml") == 0
    shown = capsys.readouterr().out
    assert "Say hello." in shown
    assert "Says nothing." in shown


def test_verbs_may_come_in_groups(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """`commands.add(function, "cache list")`: a plugin with much to say sorts it."""
    groups = """
        commands.add(lambda: print("listed"), name="cache list", help="Lists.")
        commands.add(lambda: print("shown"), name="cache show", help="Shows.")
"""
    install("verbs", VERBS + groups)
    Path("postward.toml").write_text(ENABLED)
    assert run("verbs", "cache", "list") == 0
    assert run("verbs", "cache", "show") == 0
    assert capsys.readouterr().out == "listed\nshown\n"
    assert run("verbs", "greet", "you") == 1
    assert run("verbs", "cache", "--help") == 0
    shown = capsys.readouterr().out
    assert "Lists." in shown
    assert "Shows." in shown
    assert run("verbs", "cache", "drop") == 2


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ("cache list", "cache list", "command 'cache list' is added twice"),
        ("cache list", "cache", "command 'cache' is added twice"),
        ("cache", "cache list", "command 'cache' is a verb and cannot have verbs below it"),
    ],
)
def test_a_name_is_a_verb_or_a_group(
    install: Install, capsys: pytest.CaptureFixture[str], first: str, second: str, complaint: str
) -> None:
    added = "".join(f"        commands.add(lambda: None, name={name!r})\n" for name in (first, second))
    install("verbs", VERBS + added)
    Path("postward.toml").write_text(ENABLED)
    assert run("verbs", "greet", "you") == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "content", "complaint"),
    [
        (VERBS, "plugins = []", "plugin 'verbs': is not enabled in postward.toml; `postward plugins enable verbs` does that"),
        (VERBS, None, "plugin 'verbs': is not enabled where there is no configuration"),
        (GOOD, ENABLED, "plugin 'verbs': has no commands"),
        (
            VERBS.replace("commands.add(greet)", "raise ValueError('x')"),
            ENABLED,
            "hook 'register_commands' raised ValueError: x",
        ),
        (VERBS.replace("commands.add(greet)", "commands.add(greet); commands.add(greet)"), ENABLED, "'greet' is added twice"),
        (VERBS.replace("def greet", "async def greet"), ENABLED, "command 'greet' is async"),
    ],
)
def test_verbs_that_cannot_be_had(
    install: Install, capsys: pytest.CaptureFixture[str], code: str, content: str | None, complaint: str
) -> None:
    install("verbs", code)
    if content is not None:
        Path("postward.toml").write_text(content)
    assert run("verbs", "greet", "you") == 2
    error = capsys.readouterr().err
    assert complaint in error.splitlines()[-1]
    assert "Traceback" not in error


def test_without_a_configuration_the_verbs_of_shipped_plugins_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is read by the defaults of `postward run`, and nothing is written beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTWARD_CONFIG", raising=False)
    Path("report.json").write_text("{}")
    assert run("tlsrpt", "parse", "--json", "report.json") == 1
    assert '"ok": false' in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert run("--help") == 0
    listed = capsys.readouterr().out
    assert all(f"Commands of the plugin {name}" in listed for name in ("dane", "mtasts", "tlsrpt", "dmarc"))
