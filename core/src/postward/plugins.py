"""Which plugins are installed, and loading those that are enabled, and no other.

Entry points of the group `postward.v1` are read without importing anything. The number is that of the hook contract: plugins of
another one are shown as incompatible. The order of `plugins = [...]` is the order of calls.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final

import pluggy
from pydantic import BaseModel, ValidationError

from postward import hookspecs
from postward.config_errors import ConfigErrors, Problem, explain, nearest
from postward.contract import OnError, implementations
from postward.errors import PluginError
from postward.hooks import Hooks, describe

if TYPE_CHECKING:
    from postward.config import Config
    from postward.core import Core

# Commands of today and words that later ones may want; a plugin's verbs stand below its name.
_WORDS: Final = """
check completion config core db deliver dkim help lab logs metrics passwd plugins postward probe queue quickstart records report
reports run serve status store version web
"""
# First parts of the paths of web pages: those of a plugin stand below its name.
_PATHS: Final = "api dns log login logout queue reports static"
RESERVED: Final = frozenset([*_WORDS.split(), *_PATHS.split()])
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_GROUPS: Final = re.compile(r"postward\.v\d+")
_SETTINGS: Final = ("on_error", "time_limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An entry point of an installed distribution; nothing of it has been imported."""

    name: str
    distribution: str
    version: str
    group: str
    target: str
    entry_point: EntryPoint

    @property
    def compatible(self) -> bool:
        """Whether it is made for this version of the hook contract."""
        return self.group == hookspecs.GROUP


def installed() -> tuple[Installed, ...]:
    """All installed plugins of all versions of the contract, by name. Imports none of them."""
    points = entry_points()
    found = [
        Installed(
            name=point.name,
            distribution=point.dist.name if point.dist else "?",
            version=point.dist.version if point.dist else "?",
            group=group,
            target=point.value,
            entry_point=point,
        )
        for group in sorted(points.groups)
        if _GROUPS.fullmatch(group)
        for point in points.select(group=group)
    ]
    return tuple(sorted(found, key=lambda one: (one.name, one.group, one.distribution)))


def choose(name: str, among: Sequence[Installed]) -> Installed:
    """The one installed plugin of a name. Raises `PluginError`."""
    named = [one for one in among if one.name == name]
    fitting = [one for one in named if one.compatible]
    if len(fitting) > 1:
        offers = " and ".join(f"{one.distribution} {one.version}" for one in fitting)
        raise PluginError(name, f"{offers} both offer it; uninstall one")
    if not fitting and named:
        other = named[0]
        raise PluginError(name, f"{other.distribution} {other.version} is made for {other.group}, not {hookspecs.GROUP}")
    if not fitting:
        near = nearest(name, (one.name for one in among if one.compatible))
        raise PluginError(name, f"is not installed; did you mean {near!r}?" if near else "is not installed")
    check_name(name)
    return fitting[0]


def check_name(name: str) -> None:
    """Whether a plugin can have this name. Raises `PluginError`."""
    if not _NAME.fullmatch(name):
        raise PluginError(name, "is no good name: lower-case letters, digits and _, at most 32")
    if name in RESERVED:
        raise PluginError(name, "has the name of a command of postward itself")


def load_class(plugin: Installed) -> type[Any]:
    """Import a plugin's class. Raises `PluginError`, whatever the import does."""
    try:
        found = plugin.entry_point.load()
    except KeyboardInterrupt:  # the operator's: nothing of ours runs yet that could be protected from it
        raise
    except BaseException as exc:
        raise PluginError(plugin.name, f"cannot be imported from {plugin.target!r}: it {describe(exc)}") from exc
    if not isinstance(found, type):
        raise PluginError(plugin.name, f"{plugin.target!r} is {type(found).__name__}, not a class")
    options_class(plugin.name, found)
    return found


def check_made(name: str, kind: type[Any]) -> None:
    """Whether a class takes what it will be made with, without making it. Raises `PluginError`."""
    try:
        signature = inspect.signature(kind)
    except (TypeError, ValueError):  # without one, only making it will tell
        return
    try:
        signature.bind(None, None)
    except TypeError as exc:
        raise PluginError(name, f"cannot be made as {kind.__name__}(config, core): {exc}") from None


def options_class(name: str, kind: type[Any]) -> type[BaseModel] | None:
    """The model of a plugin's options, None without. Raises `PluginError` for one that takes unknown or reserved keys."""
    model = getattr(kind, "Config", None)
    if model is None:
        return None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise PluginError(name, "its Config is no pydantic model")
    if model.model_config.get("extra") != "forbid":
        raise PluginError(name, "its Config takes unknown keys; declare it with extra='forbid', so that a typing error is seen")
    for key in _SETTINGS:
        if key in model.model_fields:
            raise PluginError(name, f"its Config has the key {key!r}, which is reserved")
    return model


class Plugins:
    """The plugins of one program. Each `App` has its own, so two in one process do not meet."""

    def __init__(self) -> None:
        self.hooks = Hooks()
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._instances: dict[str, object] = {}
        self._loaded = False

    @property
    def instances(self) -> Mapping[str, object]:
        """The plugin objects by name, in call order."""
        return dict(self._instances)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in call order."""
        return tuple(self._instances)

    def add(self, name: str, instance: object, *, on_error: OnError = "defer", time_limit: float | None = None) -> None:
        """Register a plugin object behind those that are there, as tests and programs do that bring their own.

        Raises `PluginError` where it breaks the contract of `hookspecs`, and then nothing is registered.
        """
        if name in self._instances:
            raise PluginError(name, "there is already a plugin of this name")
        checked = implementations(name, instance, on_error=on_error, time_limit=time_limit)
        try:
            self._manager.register(instance, name)
        except (pluggy.PluginValidationError, ValueError) as exc:
            raise PluginError(name, " ".join(str(exc).split())) from exc
        self._instances[name] = instance
        self.hooks.register(checked)

    def load(self, config: Config, core_for: Callable[[str], Core]) -> None:
        """Import, configure, make and register the enabled plugins, in order; a second call does nothing.

        A name that was added by hand is left as it is. Raises `ConfigError` with all that is wrong with the configuration,
        before any plugin is made, and `PluginError` for a plugin that cannot be used.
        """
        if self._loaded:
            return
        for name, (kind, options) in prepare(config, given=self._instances).items():
            self._bring(name, kind, options, config, core_for)
        self._loaded = True

    def bring(self, name: str, kind: type[Any], config: Config, core_for: Callable[[str], Core]) -> None:
        """Configure, make and register a class that is at hand, as `load` does with those that are installed.

        Raises `ConfigError`, `PluginError`.
        """
        check_options(name, kind, config)
        self._bring(name, kind, _options(name, kind, config)[0], config, core_for)

    def _bring(
        self, name: str, kind: type[Any], options: BaseModel | None, config: Config, core_for: Callable[[str], Core]
    ) -> None:
        settings = config.settings_for(name)
        instance = _make(name, kind, options, core_for)
        self.add(name, instance, on_error=settings.on_error, time_limit=settings.time_limit)


def prepare(config: Config, *, given: Container[str] = ()) -> dict[str, tuple[type[Any], BaseModel | None]]:
    """The classes of the enabled plugins, except the `given`, and their checked options.

    Raises `ConfigError`, `PluginError`.
    """
    available = installed()
    problems = _not_installed(config, available, given)
    prepared: dict[str, tuple[type[Any], BaseModel | None]] = {}
    for name in config.plugins:
        if name not in given and any(one.name == name for one in available):
            kind = load_class(choose(name, available))
            options, wrong = _options(name, kind, config)
            prepared[name] = (kind, options)
            problems += wrong
    if problems:
        raise ConfigErrors(str(config.file or ""), problems)
    return prepared


def _not_installed(config: Config, available: Iterable[Installed], given: Container[str]) -> list[Problem]:
    names = {one.name for one in available if one.compatible}
    known = names | {one.name for one in available}
    return [
        Problem(key=f"plugins[{index}]", message=f"plugin {name[:64]!r} is not installed", hint=nearest(name, names))
        for index, name in enumerate(config.plugins)
        if name not in known and name not in given
    ]


def _options(name: str, kind: type[Any], config: Config) -> tuple[BaseModel | None, list[Problem]]:
    """The plugin's own `Config`, filled in from its table; and what is wrong with the table."""
    model = options_class(name, kind) or _NoOptions
    options: BaseModel | None = None
    problems: list[Problem] = []
    context = {"base": config.file.absolute().parent} if config.file else {}
    try:
        options = model.model_validate(config.table_for(name), context=context)
    except ValidationError as exc:
        problems += explain(exc, model, prefix=f"plugin.{name}", also=_SETTINGS)
    try:
        config.settings_for(name)
    except ConfigErrors as exc:
        problems += exc.problems
    return (None if model is _NoOptions else options), problems


def check_options(name: str, kind: type[Any], config: Config) -> None:
    """Whether a class takes its table of the configuration. Raises `ConfigError`, `PluginError`."""
    problems = _options(name, kind, config)[1]
    if problems:
        raise ConfigErrors(str(config.file or ""), problems)


class _NoOptions(BaseModel, extra="forbid", frozen=True):
    """Of plugins without a `Config`: no key is right."""


def _make(name: str, kind: type[Any], options: BaseModel | None, core_for: Callable[[str], Core]) -> object:
    core = core_for(name)
    try:
        instance: object = kind(options, core)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        raise PluginError(name, f"cannot be made: it {describe(exc)}") from exc
    return instance
