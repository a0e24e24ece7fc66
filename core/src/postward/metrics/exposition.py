"""Families of metrics as Prometheus reads them, by prometheus_client, which is loaded when the first page is asked for.

Each process counts by itself, so its series carry `worker`, the number of the process: when one starts again, Prometheus sees
the reset of that series and of no other. What speaks of the whole node comes from one process and carries no such label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from postward.metrics.registry import Description, Distribution, Family, Labels

if TYPE_CHECKING:
    from prometheus_client import Metric

WORKER = "worker"


def render(families: Mapping[str, Sequence[Family]], accept: str = "") -> tuple[bytes, str]:
    """The page of the families of each worker, and its media type; `accept` is the header of who asks."""
    from prometheus_client import exposition

    encode, media_type = exposition.choose_encoder(accept)
    body: bytes = encode(_Collected(list(merged(families))))
    return body, media_type


class _Collected:
    """What prometheus_client takes for a registry."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def merged(families: Mapping[str, Sequence[Family]]) -> Iterator[Metric]:
    """One metric for each name, with the series of all workers. Of two that differ, the first one's words count."""
    found: dict[str, tuple[Description, Any]] = {}
    for worker, group in families.items():
        for family in group:
            description, metric = found.get(family.description.name) or (family.description, _metric(family.description))
            if description != family.description:
                continue
            found[description.name] = description, metric
            for labels, value in family.values.items():
                _add(metric, description, labels if description.of_node else (worker, *labels), value)
    for name in sorted(found):
        yield found[name][1]


def _metric(description: Description) -> Metric:
    from prometheus_client import core

    names = description.labels if description.of_node else (WORKER, *description.labels)
    kinds: Mapping[str, type[Any]] = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    metric: Metric = kinds[description.kind](description.name, description.help, labels=names)
    return metric


def _add(metric: Any, description: Description, labels: Labels, value: float | Distribution) -> None:
    # Text that came over the network may hold what UTF-8 has no room for.
    values = [label.encode("utf-8", "replace").decode() for label in labels]
    if isinstance(value, tuple):
        counts, total = value
        bounds = [*(f"{bound:g}" for bound in description.buckets), "+Inf"]
        sums, so_far = [], 0
        for bound, count in zip(bounds, counts, strict=True):
            so_far += count
            sums.append((bound, so_far))
        metric.add_metric(values, buckets=sums, sum_value=total)
    else:
        metric.add_metric(values, value)
