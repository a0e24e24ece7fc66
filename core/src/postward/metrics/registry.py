"""Figures of one process: counters, gauges and histograms that cost next to nothing to move, and are read when asked for.

Moving one is an addition in a dictionary; how it is written for Prometheus is decided elsewhere, when a page is asked for. To
be used from one thread, that of the event loop. Label values may come from the network, so each metric bounds its series.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

PREFIX: Final = "postward"
MOST_SERIES: Final = 500
OTHER: Final = "other"
"""The value of every label of the series that stands for all beyond the bound."""
SECONDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
_LONGEST_VALUE: Final = 100
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_RESERVED: Final = frozenset({"le", "quantile", "worker", "job", "instance"})

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
Distribution = tuple[Sequence[int], float]
"""How many values fell into each bucket, the last without a bound, and their sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a metric is: its full name (a counter's ends in `_total`), its help, the names of its labels, its buckets.

    `of_node` tells that it speaks of the whole node and is the same whichever process is asked.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    of_node: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A metric with the values of its series at one moment. Of a histogram they are distributions."""

    description: Description
    values: Mapping[Labels, float | Distribution]


class Metric:
    """What all kinds share."""

    __slots__ = ("_read", "description")

    def __init__(self, description: Description) -> None:
        self.description = description
        self._read: Callable[[], Mapping[Labels, float | Distribution]] | None = None

    def read_by(self, read: Callable[[], Mapping[Labels, float | Distribution]]) -> None:
        """Ask `read` for all series whenever somebody wants them, for what is counted elsewhere."""
        self._read = read

    def family(self) -> Family:
        """The values now. Raises what a reader raises."""
        return Family(description=self.description, values=self._read() if self._read is not None else self._now())

    def _now(self) -> Mapping[Labels, float | Distribution]:
        raise NotImplementedError


class Counter(Metric):
    """A number that only grows: how often something happened."""

    __slots__ = ("_values",)

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._values: dict[Labels, float] = {} if description.labels else {(): 0.0}

    def inc(self, *labels: str, by: float = 1.0) -> None:
        """Count once more, or `by` more, for the values of the labels in order. Raises `ValueError` for a wrong number."""
        try:
            self._values[labels] += by
        except KeyError:
            labels = _admitted(self.description, labels, self._values)
            self._values[labels] = self._values.get(labels, 0.0) + by

    def _now(self) -> Mapping[Labels, float | Distribution]:
        return dict(self._values)


class Gauge(Metric):
    """A number that goes up and down: how much of something there is."""

    __slots__ = ("_values",)

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._values: dict[Labels, float] = {}

    def set(self, value: float, *labels: str) -> None:
        """Note how much there is. Raises `ValueError` for a wrong number of labels."""
        self._values[labels if labels in self._values else _admitted(self.description, labels, self._values)] = value

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Note all series at once; those that are not among them are gone."""
        self._values = {}
        for labels, value in values.items():
            self.set(value, *labels)

    def _now(self) -> Mapping[Labels, float | Distribution]:
        return dict(self._values)


class Histogram(Metric):
    """How values are spread, mostly lengths of time in seconds."""

    __slots__ = ("_values",)

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._values: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count a value. Raises `ValueError` for a wrong number of labels."""
        found = self._values.get(labels)
        if found is None:
            labels = _admitted(self.description, labels, self._values)
            empty = [0] * (len(self.description.buckets) + 1)
            found = self._values.setdefault(labels, (empty, [0.0]))
        found[0][bisect_left(self.description.buckets, value)] += 1
        found[1][0] += value

    def _now(self) -> Mapping[Labels, float | Distribution]:
        return {labels: (list(counts), total[0]) for labels, (counts, total) in self._values.items()}


AnyMetric = TypeVar("AnyMetric", Counter, Gauge, Histogram)


def _admitted(description: Description, labels: Labels, known: Mapping[Labels, object]) -> Labels:
    """The labels to keep of a new series: cut to a sane length, or those that stand for all others."""
    if len(labels) != len(description.labels):
        raise ValueError(f"{description.name} takes {len(description.labels)} labels, not {len(labels)}")
    if len(known) >= MOST_SERIES:
        return (OTHER,) * len(labels)
    return tuple(str(value)[:_LONGEST_VALUE] for value in labels)


class Metrics:
    """The metrics of core, or of one plugin: declares them, once for each name.

    Declaring one again in the same words gives the same metric. Raises `ValueError` for a name that is none, or is declared
    in other words. Names get the prefix `postward_`, and that of the plugin.
    """

    def __init__(self, registry: Registry, prefix: str = "") -> None:
        self._registry = registry
        self._prefix = f"{PREFIX}_{prefix.replace('-', '_')}" if prefix else PREFIX

    def counter(self, name: str, help: str, labels: Sequence[str] = (), *, of_node: bool = False) -> Counter:
        """A counter; `_total` is put behind its name."""
        return self._declare(Counter, f"{name}_total", "counter", help, labels, of_node=of_node)

    def gauge(self, name: str, help: str, labels: Sequence[str] = (), *, of_node: bool = False) -> Gauge:
        """A gauge."""
        return self._declare(Gauge, name, "gauge", help, labels, of_node=of_node)

    def histogram(
        self, name: str, help: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS, of_node: bool = False
    ) -> Histogram:
        """A histogram. `buckets` are upper bounds, growing, without infinity."""
        return self._declare(Histogram, name, "histogram", help, labels, buckets=tuple(buckets), of_node=of_node)

    def _declare(
        self,
        cls: type[AnyMetric],
        name: str,
        kind: Kind,
        help: str,
        labels: Sequence[str],
        *,
        buckets: tuple[float, ...] = (),
        of_node: bool,
    ) -> AnyMetric:
        for each in (name, *labels):
            if _NAME.fullmatch(each) is None:
                raise ValueError(f"{each!r} is no name of a metric or label: small letters, digits and single underscores")
        if wrong := _RESERVED.intersection(labels):
            raise ValueError(f"{name}: the label {min(wrong)!r} has a meaning of its own")
        if list(buckets) != sorted(set(buckets)):
            raise ValueError(f"{name}: buckets must grow")
        description = Description(
            name=f"{self._prefix}_{name}", kind=kind, help=help, labels=tuple(labels), buckets=buckets, of_node=of_node
        )
        return self._registry.add(cls(description))


def unread() -> Metrics:
    """Metrics that nobody reads, for a plugin that stands alone, such as in a test."""
    return Metrics(Registry())


class Registry:
    """All metrics of a process. Nothing here is global: each assembled program has its own."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def add(self, metric: AnyMetric) -> AnyMetric:
        """Take in a metric, or give the one that is there already. Raises `ValueError` for the same name in other words."""
        known = self._metrics.setdefault(metric.description.name, metric)
        if known.description != metric.description or type(known) is not type(metric):
            raise ValueError(f"{metric.description.name} is declared twice in different words")
        return known

    @property
    def descriptions(self) -> list[Description]:
        """What there is, by name."""
        return sorted((metric.description for metric in self._metrics.values()), key=lambda one: one.name)

    def families(self, failed: Callable[[str, Exception], None] = lambda name, error: None) -> list[Family]:
        """All values now, by name. A reader that fails takes its own metric away and nothing else; `failed` is told."""
        found = []
        for name, metric in sorted(self._metrics.items()):
            try:
                found.append(metric.family())
            except Exception as exc:  # noqa: BLE001 - a figure that cannot be had must not hide the others
                failed(name, exc)
        return found
