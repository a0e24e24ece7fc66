"""Plugins and hooks: which plugin answers which hook, in which order, how long that takes and how often it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from postward import hookspecs
from postward.contract import SPECS
from postward.web.page import Ask, Column, Mark, Page, Table, Tone, view

if TYPE_CHECKING:
    from postward.app import App
    from postward.model import WebRoute


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """An enabled plugin; `on_error` is what its failures mean, `hooks` how many it implements."""

    name: str
    distribution: str
    on_error: str
    hooks: int
    calls: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A hook of a plugin, since the start of this process; times in milliseconds, `limit` in seconds, 0 for none."""

    hook: str
    call: str
    plugin: str
    calls: int
    failures: int
    mean_ms: float
    slowest_ms: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The plugins in the order of their calls, and what they answer by hook; `unanswered` hooks have nobody."""

    plugins: list[Plugin]
    hooks: list[Answered]
    unanswered: list[str]


def routes(app: App) -> Sequence[WebRoute]:
    """The page."""
    return [view("/plugins", partial(show, app), Hooks, title="Plugins and hooks", summary="Which plugin answers which hook")]


async def show(app: App, ask: Ask) -> Page:
    """Read the counts that every call leaves behind."""
    from postward.plugins import installed

    distributions = {one.name: f"{one.distribution} {one.version}" for one in installed()}
    stats = app.hooks.stats
    plugins = [
        Plugin(
            name=name,
            distribution=distributions.get(name, "given by the program"),
            on_error=app.config.settings_for(name).on_error,
            hooks=sum(plugin == name for plugin, _ in stats),
            calls=sum(one.calls for (plugin, _), one in stats.items() if plugin == name),
            failures=sum(one.failures for (plugin, _), one in stats.items() if plugin == name),
        )
        for name in app.plugins.names
    ]
    hooks = [
        Answered(
            hook=spec.name,
            call=spec.call.value,
            plugin=plugin,
            calls=(one := stats[plugin, spec.name]).calls,
            failures=one.failures,
            mean_ms=round(1000 * one.seconds / one.calls, 3) if one.calls else 0.0,
            slowest_ms=round(1000 * one.slowest, 3),
            limit=spec.limit,
        )
        for spec in SPECS.values()
        for plugin in app.hooks.plugins_for(getattr(hookspecs, spec.name))
    ]
    answered = {one.hook for one in hooks}
    data = Hooks(plugins=plugins, hooks=hooks, unanswered=[name for name in SPECS if name not in answered])
    several = " Of several worker processes this is the first one." if app.config.delivery.workers > 1 else ""
    intro = f"Plugins are called in the order of the configuration. Figures are since the start.{several}"
    return Page(title="Plugins and hooks", intro=intro, data=data, blocks=[_plugins(plugins), _hooks(hooks), _nobody(data)])


def _plugins(plugins: Sequence[Plugin]) -> Table:
    return Table(
        title="Plugins",
        columns=["Plugin", "Distribution", "A failure means", _number("Hooks"), _number("Calls"), _number("Failures")],
        rows=[(one.name, one.distribution, one.on_error, one.hooks, one.calls, _failures(one.failures)) for one in plugins],
        empty="No plugin is enabled.",
    )


def _hooks(hooks: Sequence[Answered]) -> Table:
    return Table(
        title="Who answers which hook",
        columns=[
            "Hook",
            "Plugin",
            "Called",
            _number("Calls"),
            _number("Failures"),
            _number("Mean, ms"),
            _number("Slowest, ms"),
        ],
        rows=[
            (
                one.hook,
                one.plugin,
                one.call,
                one.calls,
                _failures(one.failures),
                one.mean_ms if one.calls else None,
                one.slowest_ms if one.calls else None,
            )
            for one in hooks
        ],
        empty="No plugin is enabled.",
    )


def _nobody(data: Hooks) -> Table:
    rows = [(name, SPECS[name].call.value) for name in data.unanswered]
    return Table(title="Hooks that nobody answers", columns=["Hook", "Called"], rows=rows, empty="Every hook is answered.")


def _failures(number: int) -> Mark | int:
    return Mark(f"{number:,}", Tone.BAD) if number else 0


def _number(title: str) -> Column:
    return Column(title=title, number=True)
