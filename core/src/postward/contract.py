"""What a plugin object implements, and whether it keeps the contract of `hookspecs`.

pluggy would accept wrappers, coroutines where a plain answer is expected, and names that are no hook; all of these are
refused here, before anything runs, naming plugin, hook and the nearest right name.
"""

from __future__ import annotations

import difflib
import inspect
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

from postward import hookspecs
from postward.answers import Check, compile_return
from postward.errors import PluginError
from postward.hookspecs import CALLS, LIMITS, PROJECT, Call

OnError = Literal["defer", "ignore"]

HOOK_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
"""Upper bounds of the times that calls of a hook are counted by, seconds."""

_MARK: Final = f"{PROJECT}_impl"
_WRAPPERS: Final = ("wrapper", "hookwrapper")
_ORDERING: Final = ("tryfirst", "trylast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A hook as `hookspecs` declares it. `limit` is seconds, 0 for none."""

    name: str
    function: Callable[..., Any]
    call: Call
    limit: float
    is_async: bool
    parameters: tuple[str, ...]


SPECS: Final[dict[str, Spec]] = {
    name: Spec(
        name=name,
        function=getattr(hookspecs, name),
        call=call,
        limit=LIMITS[name],
        is_async=inspect.iscoroutinefunction(getattr(hookspecs, name)),
        parameters=tuple(inspect.signature(getattr(hookspecs, name)).parameters),
    )
    for name, call in CALLS.items()
}


@dataclass(slots=True, kw_only=True)
class Stats:
    """How often one implementation was called, how often it failed, and the seconds it took, in all and at most.

    `buckets` are the calls by their time, as `HOOK_BUCKETS` has it, and at the end those that took longer.
    """

    calls: int = 0
    failures: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(HOOK_BUCKETS) + 1))

    def note(self, spent: float) -> None:
        """Count a call that has ended."""
        self.calls += 1
        self.seconds += spent
        if spent > self.slowest:
            self.slowest = spent
        self.buckets[bisect_left(HOOK_BUCKETS, spent)] += 1


@dataclass(slots=True, kw_only=True)
class Implementation:
    """One method of one plugin. `wants` are the arguments it takes, None for all; `limit` is seconds, 0 for none."""

    plugin: str
    spec: Spec
    function: Callable[..., Any]
    is_async: bool
    wants: tuple[str, ...] | None
    check: Check | None
    limit: float
    on_error: OnError
    stats: Stats = field(default_factory=Stats)


def implemented(plugin: str, thing: object) -> dict[str, Callable[..., Any]]:
    """The hooks that an object or a class implements, by name, in the order of `hookspecs`. Raises `PluginError`."""
    found: dict[str, Callable[..., Any]] = {}
    for attribute, function, options in _marked(thing):
        name = options.get("specname") or attribute
        if name not in SPECS:
            if options.get("optionalhook"):
                continue
            raise PluginError(plugin, f"there is no hook {name!r}{_did_you_mean(name, SPECS)}")
        if name in found:
            raise PluginError(plugin, f"hook {name!r} is implemented twice")
        _check_options(plugin, name, options)
        _check_kind(plugin, SPECS[name], function)
        _check_arguments(plugin, SPECS[name], function)
        found[name] = function
    _check_unmarked(plugin, thing, found)
    if not found:
        raise PluginError(plugin, "it implements no hook; mark its methods with @postward.hookimpl")
    return {name: found[name] for name in SPECS if name in found}


def implementations(
    plugin: str, instance: object, *, on_error: OnError = "defer", time_limit: float | None = None
) -> list[Implementation]:
    """The checked implementations of a plugin object. `time_limit`, seconds, lowers the limits of the specs."""
    return [
        Implementation(
            plugin=plugin,
            spec=SPECS[name],
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            wants=_wants(SPECS[name], function),
            check=_check_of(name),
            limit=_lowered(SPECS[name].limit, time_limit),
            on_error=on_error,
        )
        for name, function in implemented(plugin, instance).items()
    ]


def _lowered(limit: float, time_limit: float | None) -> float:
    return min(limit, time_limit) if limit and time_limit else limit


@cache
def _check_of(name: str) -> Check | None:
    return compile_return(SPECS[name].function, _names())


def _names() -> dict[str, Any]:
    """What `hookspecs` imports for type checkers only, as far as answers need it."""
    import trio

    from postward import model
    from postward.names import Address

    return {**vars(model), "Address": Address, "trio": trio}


def _marked(thing: object) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Marked functions of an object or class, bound as far as they can be, without running its properties."""
    for name in dir(thing):
        static = inspect.getattr_static(thing, name, None)
        inner = getattr(static, "__func__", static)
        if not (inspect.isfunction(inner) or inspect.ismethod(inner)):
            continue
        options = getattr(static, _MARK, None) or getattr(inner, _MARK, None)
        if isinstance(options, dict):
            yield name, getattr(thing, name), options


def _check_options(plugin: str, name: str, options: dict[str, Any]) -> None:
    for option in _WRAPPERS:
        if options.get(option):
            raise PluginError(plugin, f"hook {name!r}: wrappers are not supported; answer, or observe with another hook")
    for option in _ORDERING:
        if options.get(option):
            raise PluginError(plugin, f"hook {name!r}: {option} is not supported; the order is that of `plugins = [...]`")


def _check_kind(plugin: str, spec: Spec, function: Callable[..., Any]) -> None:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise PluginError(plugin, f"hook {spec.name!r} must return its answer, not yield it")
    if inspect.iscoroutinefunction(function) and not spec.is_async:
        raise PluginError(plugin, f"hook {spec.name!r} is called synchronously; make it a plain `def`")


def _check_arguments(plugin: str, spec: Spec, function: Callable[..., Any]) -> None:
    for parameter in _parameters(function):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise PluginError(plugin, f"hook {spec.name!r}: name its arguments; they are passed by keyword")
        if parameter.name not in spec.parameters:
            raise PluginError(
                plugin,
                f"hook {spec.name!r} has no argument {parameter.name!r}"
                f"{_did_you_mean(parameter.name, spec.parameters)}; it has: {', '.join(spec.parameters) or 'none'}",
            )


def _check_unmarked(plugin: str, thing: object, found: dict[str, Callable[..., Any]]) -> None:
    """A method with a hook's name and no mark would never be called, and nobody would notice."""
    owner = thing if isinstance(thing, type) else type(thing)
    for name in SPECS:
        if name not in found and inspect.isfunction(inspect.getattr_static(owner, name, None)):
            raise PluginError(plugin, f"method {name!r} has the name of a hook but is not marked with @postward.hookimpl")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that a caller fills in; of a method seen on its class, without `self`."""
    parameters = list(inspect.signature(function).parameters.values())
    unbound = inspect.isfunction(function) and "." in function.__qualname__ and parameters[:1] and parameters[0].name == "self"
    return parameters[1:] if unbound else parameters


def _wants(spec: Spec, function: Callable[..., Any]) -> tuple[str, ...] | None:
    names = tuple(parameter.name for parameter in _parameters(function))
    return None if set(names) == set(spec.parameters) else names


def _did_you_mean(name: str, right: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(right), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
