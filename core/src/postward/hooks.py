"""Calling hooks under trio: in order or side by side, each with a time limit, none able to hurt the others or core.

Calls are typed by passing the spec: `await hooks.gather(hookspecs.host_policy, destination=d, mx=m)` is checked against
the spec's arguments and gives `list[Outcome[TlsPolicy]]`.

Whatever plugin code does (raise anything, hang, answer nonsense, exit, leave a nursery open) becomes the `error` of an
`Outcome`, is logged once and counted. One thing passes: a cancellation that comes from outside of the call.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import CoroutineType
from typing import Any, Final, Generic, NoReturn, ParamSpec, TypeVar, overload

import trio

from postward import hookspecs
from postward.contract import Implementation, OnError, Stats
from postward.errors import PluginError, PostwardError

P = ParamSpec("P")
T = TypeVar("T")

# A crash of the judge of a policy never lets another plugin judge in its place, whatever `on_error` says.
_FAIL_CLOSED: Final = frozenset({hookspecs.verify_tls})
_LONGEST_TEXT: Final = 300


class HookFailed(PluginError):
    """One call of one implementation that failed. `__cause__` is what it raised, if it raised."""

    def __init__(self, plugin: str, hook: str, reason: str) -> None:
        self.hook, self.reason = hook, reason
        super().__init__(plugin, f"hook {hook!r} {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[T]):
    """What one implementation came to: a `value`, or the `error`; both None when it had nothing to say.

    `on_error` is what the operator wants of a failure of this plugin.
    """

    plugin: str
    value: T | None = None
    error: BaseException | None = None
    on_error: OnError = "defer"


class Hooks:
    """The implementations of all enabled plugins, callable."""

    def __init__(self) -> None:
        self._by_spec: dict[Callable[..., Any], tuple[Implementation, ...]] = {}

    def register(self, implementations: Iterable[Implementation]) -> None:
        """Add the implementations of one plugin behind those that are there."""
        for one in implementations:
            self._by_spec[one.spec.function] = (*self._by_spec.get(one.spec.function, ()), one)

    @property
    def stats(self) -> Mapping[tuple[str, str], Stats]:
        """Calls, failures and times by (plugin, hook)."""
        return {(one.plugin, one.spec.name): one.stats for group in self._by_spec.values() for one in group}

    def plugins_for(self, spec: Callable[..., Any]) -> tuple[str, ...]:
        """The plugins that implement a hook, in call order."""
        return tuple(one.plugin for one in self._by_spec.get(spec, ()))

    async def gather(self, spec: Callable[P, Awaitable[T | None]], *args: P.args, **kwargs: P.kwargs) -> list[Outcome[T]]:
        """Ask all side by side. Answers and failures in configuration order; who had nothing to say is left out."""
        group = self._by_spec.get(spec)
        if group is None:
            return []
        results = await _ask_all(group, _arguments(group[0], args, kwargs))
        return [_outcome(one, result) for one, result in zip(group, results, strict=True) if result is not None]

    async def first(
        self, spec: Callable[P, Awaitable[T | None]], first: str | None = None, *args: P.args, **kwargs: P.kwargs
    ) -> Outcome[T] | None:
        """Ask in order, the plugin named `first` before the others, until one answers; None when nobody does.

        A failure ends the asking, too, except of a plugin whose failures are to be ignored.
        """
        group = self._by_spec.get(spec)
        if group is None:
            return None
        arguments = _arguments(group[0], args, kwargs)
        if first is not None and group[0].plugin != first:
            group = tuple(sorted(group, key=lambda one: one.plugin != first))
        for one in group:
            result = await _ask(one, arguments)
            if type(result) is HookFailed and one.on_error == "ignore" and spec not in _FAIL_CLOSED:
                continue
            if result is not None:
                return _outcome(one, result)
        return None

    async def notify(self, spec: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Tell all side by side; failures are logged only."""
        group = self._by_spec.get(spec)
        if group is not None:
            await _ask_all(group, _arguments(group[0], args, kwargs))

    @overload
    async def call_one(
        self, plugin: str, spec: Callable[P, Awaitable[T | None]], *args: P.args, **kwargs: P.kwargs
    ) -> Outcome[T]: ...

    @overload
    async def call_one(self, plugin: str, spec: Callable[P, T | None], *args: P.args, **kwargs: P.kwargs) -> Outcome[T]: ...

    async def call_one(self, plugin: str, spec: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Outcome[Any]:
        """Ask one plugin; an empty outcome when it does not implement the hook."""
        for one in self._by_spec.get(spec, ()):
            if one.plugin == plugin:
                return _outcome(one, await _ask(one, _arguments(one, args, kwargs)))
        return Outcome(plugin=plugin)

    def collect(self, spec: Callable[P, T | None], *args: P.args, **kwargs: P.kwargs) -> list[Outcome[T]]:
        """Ask all of a sync hook in order; answers and failures. Needs no trio."""
        group = self._by_spec.get(spec, ())
        if not group:
            return []
        arguments = _arguments(group[0], args, kwargs)
        results = [_ask_sync(one, arguments) for one in group]
        return [_outcome(one, result) for one, result in zip(group, results, strict=True) if result is not None]

    def collect_one(self, plugin: str, spec: Callable[P, T | None], *args: P.args, **kwargs: P.kwargs) -> Outcome[T]:
        """Ask one plugin of a sync hook; an empty outcome when it does not implement the hook. Needs no trio."""
        for one in self._by_spec.get(spec, ()):
            if one.plugin == plugin:
                return _outcome(one, _ask_sync(one, _arguments(one, args, kwargs)))
        return Outcome(plugin=plugin)


def _arguments(one: Implementation, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name; lists become tuples, so that no plugin changes what the next one sees."""
    if args:
        kwargs = dict(zip(one.spec.parameters, args, strict=False)) | kwargs
    for name, value in kwargs.items():
        if type(value) is list:
            kwargs[name] = tuple(value)
    return kwargs


def _outcome(one: Implementation, result: Any) -> Outcome[Any]:
    if type(result) is HookFailed:
        return Outcome(plugin=one.plugin, error=result, on_error=one.on_error)
    return Outcome(plugin=one.plugin, value=result, on_error=one.on_error)


async def _ask_all(group: Sequence[Implementation], arguments: dict[str, Any]) -> list[Any]:
    """Results in order: a value, None, or `HookFailed`. A nursery only where something can wait for something else."""
    waiting = [one for one in group if one.is_async]
    if len(waiting) < 2:
        return [await _ask(one, arguments) for one in group]
    # Equal limits, the usual case, are one deadline of the nursery instead of a scope for each.
    limits = {one.limit for one in waiting}
    shared = limits.pop() if len(limits) == 1 else 0.0
    results: dict[str, Any] = {}
    deadline = trio.current_time() + shared if shared else math.inf
    problem: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            scope.deadline = deadline
            entered = scope if shared else None
            for one in waiting:
                nursery.start_soon(_ask_into, results, one, arguments, entered)
            for one in group:
                if not one.is_async:
                    results[one.plugin] = await _ask(one, arguments)
    except BaseException as exc:  # noqa: BLE001 - a plugin can start tasks in a nursery that it does not own
        problem, cancelled = apart(exc)
        if cancelled is not None and _being_cancelled():
            if problem is not None:
                _log_failure(HookFailed("?", group[0].spec.name, describe(problem)))
            _raise(cancelled)
    if problem is not None:
        _log_failure(HookFailed("?", group[0].spec.name, f"had its nursery used: {describe(problem)}"))
    for one in waiting:
        if one.plugin not in results:
            late = trio.current_time() >= deadline
            results[one.plugin] = _failed(one, _too_long(one) if late else "was cancelled by plugin code")
    return [results[one.plugin] for one in group]


async def _ask_into(
    results: dict[str, Any], one: Implementation, arguments: dict[str, Any], scope: trio.CancelScope | None
) -> None:
    results[one.plugin] = await _ask(one, arguments, scope)


async def _ask(one: Implementation, arguments: dict[str, Any], scope: trio.CancelScope | None = None) -> Any:
    """Call one implementation: its checked answer, None, or `HookFailed`.

    `scope` is an entered scope that carries the time limit; without one, there is a scope of its own.
    Raises `Cancelled` when, and only when, the caller is being cancelled.
    """
    if one.wants is not None:
        arguments = {name: arguments[name] for name in one.wants if name in arguments}
    task = trio.lowlevel.current_task()
    nurseries = len(task.child_nurseries)
    started = perf_counter()
    result: Any = None
    error: BaseException | None = None
    cancelled: trio.Cancelled | None = None
    try:
        result = one.function(**arguments)
        if type(result) is CoroutineType or inspect.isawaitable(result):
            if not one.spec.is_async:
                raise TypeError(_close(result))
            if scope is None and one.limit:
                with trio.CancelScope(deadline=trio.current_time() + one.limit) as scope:
                    result = await result
            else:
                result = await result
    except BaseException as exc:  # noqa: BLE001 - the whole point: nothing that a plugin raises goes on
        result = None
        error, cancelled = apart(exc)
    spent = perf_counter() - started
    if len(task.child_nurseries) > nurseries:
        _abandon(task, nurseries)
        error = error or RuntimeError("it left a nursery open")
    one.stats.note(spent)
    if cancelled is not None and _being_cancelled():
        if error is not None:
            _failed(one, describe(error), error)
        _raise(cancelled)
    if scope is not None and scope.cancel_called:
        late = trio.current_time() >= scope.deadline
        return _failed(one, _too_long(one) if late else "was cancelled by plugin code", error)
    if error is not None or cancelled is not None:
        return _failed(one, describe(error) if error else "raised a Cancelled that nobody asked for", error or cancelled)
    return _checked(one, result)


def _ask_sync(one: Implementation, arguments: dict[str, Any]) -> Any:
    """Call one implementation of a sync hook: its checked answer, None, or `HookFailed`."""
    if one.wants is not None:
        arguments = {name: arguments[name] for name in one.wants if name in arguments}
    started = perf_counter()
    try:
        result = one.function(**arguments)
        if inspect.isawaitable(result):
            raise TypeError(_close(result))
    except BaseException as exc:  # noqa: BLE001 - as above
        return _failed(one, describe(exc), exc)
    finally:
        one.stats.note(perf_counter() - started)
    return _checked(one, result)


def _checked(one: Implementation, result: Any) -> Any:
    if result is None or one.check is None:
        return None
    try:
        return one.check(result)
    except BaseException as exc:  # noqa: BLE001 - iterating a plugin's sequence is running its code
        return _failed(one, f"answered what is no answer: it {describe(exc, named=False)}", exc)


def _close(awaitable: Any) -> str:
    if inspect.iscoroutine(awaitable):
        awaitable.close()
    return "a sync hook was answered by an awaitable"


def apart(error: BaseException) -> tuple[BaseException | None, trio.Cancelled | None]:
    """The real part of an error, and one `Cancelled` of what else was in it."""
    if isinstance(error, trio.Cancelled):
        return None, error
    if not isinstance(error, BaseExceptionGroup):
        return error, None
    cancelled, rest = error.split(trio.Cancelled)
    leaf: BaseException | None = cancelled
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return rest, leaf if isinstance(leaf, trio.Cancelled) else None


def _being_cancelled() -> bool:
    return trio.current_effective_deadline() == -math.inf


def _raise(cancelled: trio.Cancelled) -> NoReturn:
    """Raise without the context of what else went wrong, which is logged."""
    raise cancelled from None


def _abandon(task: trio.lowlevel.Task, known: int) -> None:
    """Cancel nurseries that a plugin opened in our task and left, and forget them, else the task dies of them at its end."""
    mine: list[trio.Nursery] = getattr(task, "_child_nurseries", [])
    for nursery in task.child_nurseries[known:]:
        nursery.cancel_scope.cancel()
        if nursery in mine:
            mine.remove(nursery)


def _too_long(one: Implementation) -> str:
    return f"gave no answer within {one.limit:g} s"


def _failed(one: Implementation, reason: str, cause: BaseException | None = None) -> HookFailed:
    failure = HookFailed(one.plugin, one.spec.name, reason)
    failure.__cause__ = cause
    if not (isinstance(cause, PostwardError) and cause.routine):
        one.stats.failures += 1
        _log_failure(failure)
    return failure


def _log_failure(failure: HookFailed) -> None:
    import structlog  # costs more to import than everything else here, and most programs never fail

    log = structlog.get_logger("postward.hooks")
    log.error("hook-failed", plugin=failure.plugin, hook=failure.hook, error=failure.reason)
    if failure.__cause__ is not None:
        log.debug("hook-failed-at", plugin=failure.plugin, hook=failure.hook, exc_info=failure.__cause__)


def describe(error: BaseException, *, named: bool = True) -> str:
    """An error as one short line, even if it cannot describe itself."""
    leaves = [error]
    while any(isinstance(leaf, BaseExceptionGroup) for leaf in leaves):
        leaves = [inner for leaf in leaves for inner in (leaf.exceptions if isinstance(leaf, BaseExceptionGroup) else (leaf,))]
    return "; ".join(_line(leaf, named) for leaf in leaves[:3])


def _line(error: BaseException, named: bool) -> str:
    try:
        text = " ".join(str(error).split())[:_LONGEST_TEXT]
    except BaseException:  # noqa: BLE001 - its __str__ is plugin code, too
        text = "(it cannot be described)"
    kind = f"raised {type(error).__name__}"
    if not named:
        return text
    return f"{kind}: {text}" if text else kind
