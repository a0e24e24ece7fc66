"""The shared look of the commands: JSON Lines for programs, tables for people, plain columns in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import asdict, is_dataclass
from typing import Any

from postward.log import escape


def is_terminal() -> bool:
    """Whether standard output goes to a person."""
    return sys.stdout.isatty()


def emit_json_line(value: Any) -> None:
    """Print one JSON object on a line of its own, at once. Dataclasses become objects, other unknown things their text."""
    sys.stdout.write(json.dumps(value, default=_plain, ensure_ascii=not _utf8()) + "\n")
    sys.stdout.flush()


def plugins_print_aside() -> AbstractContextManager[object]:
    """Send to stderr what plugin code prints meanwhile: standard output is for the answer, which scripts read."""
    return redirect_stdout(sys.stderr)


def say(text: str) -> None:
    """Print one line for people. What a terminal would obey is shown instead."""
    sys.stdout.write(escape(text) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print rows: a table on a terminal (NO_COLOR is obeyed), aligned columns without frames elsewhere."""
    texts = [[escape(str(cell)) for cell in row] for row in rows]
    if is_terminal():
        _rich_table(columns, texts, title)
    else:
        _plain_table(columns, texts)


def line(text: str = "", *, style: str = "", error: bool = False) -> None:
    """Print one line, harmless whatever it holds: wrapped between words on a terminal, as it is elsewhere.

    `style` is rich's, such as `bold red`. `error` sends it to standard error.
    """
    stream = sys.stderr if error else sys.stdout
    text = escape(text)
    if not text or not stream.isatty():
        stream.write(text + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=error).print(Text(text, style))


def _rich_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))  # Text: what stands in brackets is no markup
    Console().print(shown)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [tuple(columns), *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
