"""Figures: declared once, bounded, read when asked for, and written as Prometheus takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from postward.metrics import Metrics
from postward.metrics import shared as files
from postward.metrics.exposition import render
from postward.metrics.registry import MOST_SERIES, Family, Registry


def samples(body: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


def value(body: bytes, name: str, **labels: str) -> float | None:
    """The value of one series; None where it is not there."""
    return samples(body).get((name, frozenset(labels.items())))


def page(registry: Registry, **others: list[Family]) -> bytes:
    return render({"0": registry.families(), **others})[0]


def test_what_is_counted_stands_on_the_page() -> None:
    registry = Registry()
    metrics = Metrics(registry, "my-plugin")
    held = metrics.counter("held", "Held.", ("reason",))
    depth = metrics.gauge("depth", "Depth.")
    took = metrics.histogram("seconds", "Took.", ("what",), buckets=(0.1, 1))
    held.inc("new sender")
    held.inc("new sender", by=2)
    depth.set(7)
    depth.set(5)
    for seconds in (0.1, 0.5, 3):
        took.observe(seconds, "x")
    body = page(registry)
    assert value(body, "postward_my_plugin_held_total", worker="0", reason="new sender") == 3
    assert value(body, "postward_my_plugin_depth", worker="0") == 5
    name = "postward_my_plugin_seconds_bucket"
    assert [value(body, name, worker="0", what="x", le=bound) for bound in ("0.1", "1", "+Inf")] == [1, 2, 3]
    assert value(body, "postward_my_plugin_seconds_sum", worker="0", what="x") == pytest.approx(3.6)
    assert value(body, "postward_my_plugin_seconds_count", worker="0", what="x") == 3


def test_a_counter_without_labels_is_there_before_anything_happens() -> None:
    registry = Registry()
    Metrics(registry).counter("quiet", "Quiet.")
    assert value(page(registry), "postward_quiet_total", worker="0") == 0


def test_openmetrics_for_who_asks_for_it() -> None:
    registry = Registry()
    Metrics(registry).counter("x", "X.", ("a",)).inc('quote " backslash \\ and\nline')
    body, media_type = render({"0": registry.families()}, "application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    (family,) = parse_openmetrics(body.decode())
    assert family.samples[0].labels["a"] == 'quote " backslash \\ and\nline'
    assert render({"0": registry.families()})[1].startswith("text/plain")


def test_text_that_is_no_unicode_spoils_nothing() -> None:
    registry = Registry()
    Metrics(registry).counter("x", "X.", ("a",)).inc("\ud800" * 300)
    (key,) = samples(page(registry))
    assert dict(key[1])["a"] == "?" * 100


def test_a_stranger_cannot_make_series_without_end() -> None:
    registry = Registry()
    counter, spread = Metrics(registry).counter("x", "X.", ("a",)), Metrics(registry).histogram("y", "Y.", ("a",))
    gauge = Metrics(registry).gauge("z", "Z.", ("a",))
    for number in range(3 * MOST_SERIES):
        counter.inc(str(number))
        spread.observe(1, str(number))
        gauge.set(1, str(number))
    for family in registry.families():
        assert len(family.values) == MOST_SERIES + 1
        assert ("other",) in family.values
    assert counter.family().values["other",] == 2 * MOST_SERIES


def test_declared_again_it_is_the_same_and_in_other_words_an_error() -> None:
    registry = Registry()
    first = Metrics(registry).counter("x", "X.", ("a",))
    assert Metrics(registry).counter("x", "X.", ("a",)) is first
    with pytest.raises(ValueError, match="postward_x_total is declared twice"):
        Metrics(registry).counter("x", "X.", ("b",))
    with pytest.raises(ValueError, match="declared twice"):
        Metrics(registry).gauge("x_total", "X.", ("a",))
    assert Metrics(registry, "p").counter("x", "Another.") is not first


@pytest.mark.parametrize("name", ["", "X", "a-b", "1a", "a__b", "a_", "_a", 'a{b="c"}'])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        Metrics(Registry()).gauge(name, "X.")
    with pytest.raises(ValueError, match="is no name"):
        Metrics(Registry()).gauge("good", "X.", (name,))


def test_what_else_is_refused() -> None:
    metrics = Metrics(Registry())
    with pytest.raises(ValueError, match="'worker' has a meaning"):
        metrics.gauge("x", "X.", ("worker",))
    with pytest.raises(ValueError, match="buckets must grow"):
        metrics.histogram("x", "X.", buckets=(1, 1))
    with pytest.raises(ValueError, match="takes 1 labels, not 2"):
        metrics.counter("y", "Y.", ("a",)).inc("a", "b")
    with pytest.raises(ValueError, match="takes 1 labels, not 0"):
        metrics.gauge("z", "Z.", ("a",)).set(1)


def test_a_reader_that_fails_takes_only_its_own_metric_away() -> None:
    registry = Registry()
    metrics = Metrics(registry)

    def broken() -> Mapping[tuple[str, ...], float]:
        raise OSError("no such thing")

    metrics.gauge("broken", "B.").read_by(broken)
    metrics.gauge("read", "R.", ("a",)).read_by(lambda: {("b",): 4.0})
    told: list[tuple[str, str]] = []
    families = registry.families(lambda name, error: told.append((name, str(error))))
    assert [family.description.name for family in families] == ["postward_read"]
    assert told == [("postward_broken", "no such thing")]
    assert value(render({"0": families})[0], "postward_read", worker="0", a="b") == 4


# --- between processes ---


def test_workers_stand_beside_each_other_and_the_node_once(tmp_path: Path) -> None:
    here, there = Registry(), Registry()
    for registry, number in ((here, 1), (there, 2)):
        metrics = Metrics(registry)
        metrics.counter("x", "X.", ("a",)).inc("b", by=number)
        metrics.histogram("h", "H.").observe(number)
        metrics.gauge("g", "G.", of_node=True).set(number)
    path = files.file_of(tmp_path, 1)
    files.write(path, files.packed(there.families(), 17))
    read = files.read(path)
    assert read is not None
    at, families = read
    assert at == 17
    assert [family.description for family in families] == there.descriptions
    body = page(here, **{"1": [family for family in families if not family.description.of_node]})
    assert [value(body, "postward_x_total", worker=worker, a="b") for worker in "01"] == [1, 2]
    assert [value(body, "postward_h_sum", worker=worker) for worker in "01"] == [1, 2]
    assert value(body, "postward_g") == 1
    assert body.count(b"# TYPE postward_x_total counter") == 1


def test_a_worker_of_another_version_spoils_nothing(tmp_path: Path) -> None:
    here, there = Registry(), Registry()
    Metrics(here).counter("x", "X.", ("a",)).inc("b")
    Metrics(there).counter("x", "X.", ("a", "b")).inc("b", "c")
    assert samples(page(here, **{"1": there.families()})) == samples(page(here))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"at":1,"families":[["x"]]}', b"\xff"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = files.file_of(tmp_path, 1)
    assert files.read(path) is None
    files.write(path, content)
    assert files.read(path) is None
    files.remove(tmp_path)
    assert list(path.parent.iterdir()) == []
