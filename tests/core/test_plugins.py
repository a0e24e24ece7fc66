"""Discovering, loading and refusing plugins; with distributions made of a folder, as an installer leaves them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from structlog.testing import capture_logs

from postward import hookspecs
from postward.cli import COMMANDS
from postward.config import Config, from_dict
from postward.contract import SPECS, implemented
from postward.errors import ConfigError, PluginError
from postward.hookspecs import CALLS, LIMITS, Call, hookimpl
from postward.plugins import RESERVED, Plugins, choose, installed

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution: `install("my-dist", "my", code)` offers the class `Plugin` of that code."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(
        distribution: str, name: str, code: str = "class Plugin: ...", *, group: str = "postward.v1", version: str = "1.0"
    ) -> None:
        module = f"x_{distribution.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(f"from postward.hookspecs import hookimpl\n{code}\n")
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:Plugin\n")

    yield make
    for module in set(sys.modules) - before:
        if module.startswith("x_"):
            del sys.modules[module]


GOOD = """
class Plugin:
    def __init__(self, config, core):
        self.config, self.core = config, core
    @hookimpl
    def register_schema(self): ...
"""
OPTIONS = """
from pydantic import BaseModel
class Plugin:
    class Config(BaseModel, extra="forbid", frozen=True):
        organization: str
        colour: str = "red"
    def __init__(self, config, core):
        self.config = config
    @hookimpl
    def register_schema(self): ...
"""


def config_of(*names: str, **tables: dict[str, Any]) -> Config:
    return from_dict({"plugins": list(names), "plugin": tables})


def load(config: Config) -> Plugins:
    plugins = Plugins()
    plugins.load(config, lambda name: f"core of {name}")  # type: ignore[arg-type,return-value]
    return plugins


def test_discovery_imports_nothing(install: Install) -> None:
    install("hot", "hot", "raise SystemExit('imported')")
    (found,) = [one for one in installed() if one.name == "hot"]
    assert (found.distribution, found.version, found.compatible) == ("hot", "1.0", True)
    assert "x_hot" not in sys.modules


def test_only_enabled_plugins_are_imported(install: Install) -> None:
    install("used", "used", GOOD)
    install("unused", "unused", "raise SystemExit('imported')")
    plugins = load(config_of("used"))
    assert plugins.names == ("used",)
    assert "x_used" in sys.modules
    assert "x_unused" not in sys.modules


def test_configuration_order_is_call_order(install: Install) -> None:
    for name in ("a", "b", "c"):
        install(f"d-{name}", name, GOOD)
    plugins = load(config_of("b", "c", "a"))
    assert plugins.hooks.plugins_for(hookspecs.register_schema) == ("b", "c", "a")


def test_a_plugin_gets_its_options_and_its_core(install: Install) -> None:
    install("opt", "opt", OPTIONS)
    install("bare", "bare", GOOD)
    plugins = load(config_of("opt", "bare", opt={"organization": "x", "on_error": "ignore", "time_limit": 3}))
    opt: Any = plugins.instances["opt"]
    assert (opt.config.organization, opt.config.colour) == ("x", "red")
    bare: Any = plugins.instances["bare"]
    assert (bare.config, bare.core) == (None, "core of bare")


async def test_what_the_operator_wants_of_failures_reaches_the_calls(
    install: Install, autojump_clock: trio.testing.MockClock
) -> None:
    code = """
import trio
class Plugin:
    def __init__(self, config, core): ...
    @hookimpl
    async def domain_policy(self, destination):
        await trio.sleep(50)
"""
    install("slow", "slow", code)
    plugins = load(config_of("slow", slow={"on_error": "ignore", "time_limit": 3}))
    with capture_logs():
        (outcome,) = await plugins.hooks.gather(hookspecs.domain_policy, destination=None)  # type: ignore[arg-type]
    assert outcome.on_error == "ignore"
    assert "within 3 s" in str(outcome.error)


def test_loading_twice_is_loading_once(install: Install) -> None:
    install("good", "good", GOOD)
    plugins = load(config_of("good"))
    plugins.load(config_of("good"), lambda name: None)  # type: ignore[arg-type,return-value]
    assert plugins.names == ("good",)


def test_a_plugin_given_by_hand_may_be_configured() -> None:
    plugins = Plugins()
    plugins.add("mine", Good())
    plugins.load(config_of("mine", mine={}), lambda name: None)  # type: ignore[arg-type,return-value]
    assert plugins.names == ("mine",)


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({}, "plugin.opt.organization: is missing"),
        ({"organization": 3}, "plugin.opt.organization: should be text in quotes, not a whole number"),
        ({"organization": "x", "color": "x"}, "plugin.opt.color: is not a known key; did you mean 'colour'?"),
        ({"organization": "x", "on_eror": "defer"}, "plugin.opt.on_eror: is not a known key; did you mean 'on_error'?"),
        ({"organization": "x", "on_error": "stop"}, "plugin.opt.on_error: should be 'defer' or 'ignore', not 'stop'"),
        ({"organization": "x", "time_limit": 0}, "plugin.opt.time_limit: should be greater than 0"),
    ],
)
def test_wrong_options_are_named(install: Install, tables: dict[str, Any], line: str) -> None:
    install("opt", "opt", OPTIONS)
    with pytest.raises(ConfigError) as caught:
        load(config_of("opt", opt=tables))
    assert str(caught.value).startswith(line)


def test_options_of_a_plugin_without_any(install: Install) -> None:
    install("bare", "bare", GOOD)
    with pytest.raises(ConfigError, match=r"plugin\.bare\.x: is not a known key"):
        load(config_of("bare", bare={"x": 1}))


def test_unknown_plugins_are_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"plugins\[0\]: plugin 'mtast' is not installed; did you mean 'mtasts'\?"):
        load(config_of("mtast"))


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import nothing_of_this_name", "cannot be imported from 'x_bad:Plugin': it raised ModuleNotFoundError"),
        ("raise SystemExit(3)", "it raised SystemExit"),
        ("raise BaseException('x')", "it raised BaseException: x"),
        ("def f(:", "it raised SyntaxError"),
        ("x = 1", "it raised AttributeError"),
        ("Plugin = 3", "is int, not a class"),
        ("class Plugin:\n    Config = 3", "its Config is no pydantic model"),
        ("from pydantic import BaseModel\nclass Plugin:\n    class Config(BaseModel): ...", "takes unknown keys"),
        (
            OPTIONS.replace("colour", "on_error"),
            "'on_error', which is reserved",
        ),
        ("class Plugin: ...", "cannot be made: it raised TypeError"),
        (GOOD.replace("self.config, self.core = config, core", "raise SystemExit"), "cannot be made: it raised SystemExit"),
        (GOOD.replace("@hookimpl", ""), "not marked"),
    ],
)
def test_broken_plugins_are_one_line(install: Install, code: str, complaint: str) -> None:
    install("bad", "bad", code)
    with pytest.raises(PluginError) as caught:
        load(config_of("bad"))
    assert str(caught.value).startswith("plugin 'bad': ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_offers_of_one_name_are_refused(install: Install) -> None:
    install("one", "twice", GOOD)
    install("two", "twice", GOOD)
    with pytest.raises(PluginError, match=r"one 1\.0 and two 1\.0 both offer it"):
        load(config_of("twice"))


def test_a_plugin_of_another_contract_is_seen_and_refused(install: Install) -> None:
    install("old", "old", "raise SystemExit", group="postward.v0")
    (found,) = [one for one in installed() if one.name == "old"]
    assert not found.compatible
    with pytest.raises(PluginError, match=r"old 1\.0 is made for postward\.v0, not postward\.v1"):
        load(config_of("old"))
    assert "x_old" not in sys.modules


@pytest.mark.parametrize(("name", "complaint"), [("deliver", "a command of postward"), ("My-Plugin", "no good name")])
def test_names_that_stand_for_something_else(install: Install, name: str, complaint: str) -> None:
    install("named", name, GOOD)
    with pytest.raises(PluginError, match=complaint):
        choose(name, installed())


def test_every_command_is_reserved() -> None:
    assert set(COMMANDS) <= RESERVED


# --- the hook contract ---


class Good:
    @hookimpl
    def register_schema(self) -> None: ...


def _unknown() -> object:
    class Plugin:
        @hookimpl
        def host_polcy(self) -> None: ...

    return Plugin()


def _wrong_argument() -> object:
    class Plugin:
        @hookimpl
        async def host_policy(self, destination: object, host: object) -> None: ...

    return Plugin()


def _near_argument() -> object:
    class Plugin:
        @hookimpl
        async def domain_policy(self, destinaton: object) -> None: ...

    return Plugin()


def _extra_with_default() -> object:
    class Plugin:
        @hookimpl
        async def domain_policy(self, destination: object, cache: object = None) -> None: ...

    return Plugin()


def _any_arguments() -> object:
    class Plugin:
        @hookimpl
        async def domain_policy(self, **everything: object) -> None: ...

    return Plugin()


def _async_of_sync() -> object:
    class Plugin:
        @hookimpl
        async def register_schema(self) -> None: ...

    return Plugin()


def _generator() -> object:
    class Plugin:
        @hookimpl
        async def domain_policy(self) -> Any:
            yield 1

    return Plugin()


def _wrapper() -> object:
    class Plugin:
        @hookimpl(wrapper=True)
        def register_schema(self) -> Any:
            return (yield)

    return Plugin()


def _first() -> object:
    class Plugin:
        @hookimpl(tryfirst=True)
        def register_schema(self) -> None: ...

    return Plugin()


def _unmarked() -> object:
    class Plugin(Good):
        async def host_policy(self) -> None: ...

    return Plugin()


def _twice() -> object:
    class Plugin(Good):
        @hookimpl(specname="register_schema")
        def again(self) -> None: ...

    return Plugin()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (_unknown, "there is no hook 'host_polcy'; did you mean 'host_policy'?"),
        (_wrong_argument, "hook 'host_policy' has no argument 'host'; it has: destination, mx"),
        (_near_argument, "no argument 'destinaton'; did you mean 'destination'?"),
        (_extra_with_default, "has no argument 'cache'"),
        (_any_arguments, "name its arguments"),
        (_async_of_sync, "hook 'register_schema' is called synchronously"),
        (_generator, "must return its answer, not yield it"),
        (_wrapper, "wrappers are not supported"),
        (_first, "tryfirst is not supported"),
        (_unmarked, "method 'host_policy' has the name of a hook but is not marked"),
        (_twice, "hook 'register_schema' is implemented twice"),
        (object, "it implements no hook"),
    ],
)
def test_breaking_the_contract_is_refused_at_registration(make: Callable[[], object], complaint: str) -> None:
    plugins = Plugins()
    with pytest.raises(PluginError) as caught:
        plugins.add("p", make())
    assert str(caught.value).startswith("plugin 'p': ")
    assert complaint in str(caught.value)
    assert plugins.names == ()
    assert dict(plugins.hooks.stats) == {}


def test_a_class_is_checked_like_its_objects() -> None:
    assert list(implemented("p", Good)) == list(implemented("p", Good())) == ["register_schema"]
    with pytest.raises(PluginError, match="no argument 'host'"):
        implemented("p", type(_wrong_argument()))


def test_properties_are_not_run() -> None:
    class Plugin(Good):
        @property
        def dangerous(self) -> int:
            raise SystemExit

    Plugins().add("p", Plugin())


def test_an_optional_hook_of_another_version_is_left_out() -> None:
    class Plugin(Good):
        @hookimpl(optionalhook=True)
        def of_the_future(self) -> None: ...

    plugins = Plugins()
    plugins.add("p", Plugin())
    assert [hook for _, hook in plugins.hooks.stats] == ["register_schema"]


def test_one_name_is_one_plugin() -> None:
    plugins = Plugins()
    plugins.add("p", Good())
    with pytest.raises(PluginError, match="already a plugin"):
        plugins.add("p", Good())


def test_two_programs_share_nothing() -> None:
    one, two = Plugins(), Plugins()
    one.add("p", Good())
    assert two.names == ()


def test_every_spec_declares_how_it_is_called() -> None:
    """A hook without a limit could hang a delivery; one that is called synchronously cannot have one."""
    for name, spec in SPECS.items():
        synchronous = spec.call is Call.COLLECT or name == "lifespan"
        assert spec.is_async == (not synchronous)
        assert (LIMITS[name] > 0) == (CALLS[name] in (Call.GATHER, Call.FIRST, Call.NOTIFY, Call.STREAM))


def test_every_answer_can_be_checked() -> None:
    """Annotations of all specs resolve; a check exists for each that promises an answer."""
    from postward.answers import compile_return
    from postward.contract import _names

    unchecked = [name for name, spec in SPECS.items() if compile_return(spec.function, _names()) is None]
    assert unchecked == ["register_commands", "background", "connection_closed", "emit", "report_done"]


def test_a_config_may_hold_models() -> None:
    class Inner(BaseModel, extra="forbid"):
        colour: str

    class Plugin(Good):
        class Config(BaseModel, extra="forbid"):
            inner: Inner | None = None

    assert implemented("p", Plugin)
