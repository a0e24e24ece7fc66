"""Stacked bars as SVG that stands in the page itself: no script, no style of its own, colours from the style sheet.

A `title` and a `desc` tell what it shows to who cannot see it (SVG-AAM); the numbers stand in a table below it as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from postward.web.page import Chart, Tone

MOST: Final = 120
WIDTH: Final = 480
HEIGHT: Final = 150
_LEFT: Final = 44
_TOP: Final = 12
_BOTTOM: Final = 24
_PLOT: Final = HEIGHT - _TOP - _BOTTOM
_LABELS: Final = 3


def svg(chart: Chart, name: str) -> str:
    """The picture; `name` is unique in the page. Of more than `MOST` points the last are shown."""
    points = list(chart.points)[-MOST:]
    top = nice_top(max((sum(values) for _, values in points), default=0))
    parts = [
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-labelledby="{escape(name)}-t {escape(name)}-d"',
        ' preserveAspectRatio="xMinYMin meet">',
        f'<title id="{escape(name)}-t">{escape(chart.title)}</title>',
        f'<desc id="{escape(name)}-d">{escape(describe(chart))}</desc>',
        *_axis(top),
        *_bars(chart, points, top),
        *_labels([label for label, _ in points]),
        "</svg>",
    ]
    return "".join(parts)


def describe(chart: Chart) -> str:
    """What the picture shows, in a sentence."""
    if not chart.points:
        return "No data."
    sums = [sum(values[at] for _, values in chart.points) for at in range(len(chart.series))]
    told = ", ".join(f"{total:,} {name}" for name, total in zip(chart.series, sums, strict=True))
    return f"From {chart.points[0][0]} to {chart.points[-1][0]}: {told}."


def nice_top(highest: int) -> int:
    """The end of the axis: the next of 1, 2, 5, 10, 20, 50 …"""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor >= highest:
                return step * factor
        step *= 10


def tone_of(chart: Chart, at: int) -> Tone:
    """The tone of a series."""
    return chart.tones[at] if at < len(chart.tones) else Tone.PLAIN


def _axis(top: int) -> Iterator[str]:
    for share in (0, 0.5, 1) if top > 1 else (0, 1):
        y = round(_TOP + _PLOT * (1 - share), 1)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}"/>'
        yield f'<text class="axis end" x="{_LEFT - 6}" y="{y + 4}">{_brief(top * share)}</text>'


def _bars(chart: Chart, points: Sequence[tuple[str, Sequence[int]]], top: int) -> Iterator[str]:
    slot = (WIDTH - _LEFT) / max(len(points), 1)
    width = min(slot * 0.8, 48)
    for number, (label, values) in enumerate(points):
        x = _LEFT + slot * number + (slot - width) / 2
        y: float = _TOP + _PLOT
        for at, value in enumerate(values):
            if value <= 0:
                continue
            # What is there can be seen, also beside a million.
            height = max(_PLOT * value / top, 1.5)
            y -= height
            told = escape(f"{label}: {value:,} {chart.series[at]}")
            yield (
                f'<rect class="bar {tone_of(chart, at)} s{at % 4}" x="{x:.1f}" y="{max(y, 0):.1f}" width="{width:.1f}"'
                f' height="{height:.1f}"><title>{told}</title></rect>'
            )


def _labels(labels: Sequence[str]) -> Iterator[str]:
    if not labels:
        return
    shown = sorted({0, len(labels) // 2, len(labels) - 1})[:_LABELS]
    slot = (WIDTH - _LEFT) / len(labels)
    for at in shown:
        middle = _LEFT + slot * (at + 0.5)
        anchor = "middle" if len(labels) < 3 or at not in (0, len(labels) - 1) else "start" if at == 0 else "end"
        x = {"start": _LEFT, "end": WIDTH, "middle": middle}[anchor]
        yield f'<text class="axis {anchor}" x="{x:.1f}" y="{HEIGHT - 6}">{escape(labels[at][:24])}</text>'


def _brief(value: float) -> str:
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
