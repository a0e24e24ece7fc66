"""Figures of a process in a file, so that the one page shows what all workers count.

A worker writes its file every few seconds, in one step, and the process with the page reads what is there when it is asked. So
a worker that is stuck or dead holds up nobody: its last figures stand there, with their age. Nothing is synced, because
what a process counted is worth nothing behind its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from postward.metrics.registry import Description, Distribution, Family, Kind

FOLDER: Final = "metrics"


class _Series(msgspec.Struct, array_like=True):
    labels: tuple[str, ...]
    value: float = 0.0
    counts: list[int] | None = None


class _Family(msgspec.Struct, array_like=True):
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]
    of_node: bool
    series: list[_Series]


class Snapshot(msgspec.Struct):
    """What a process counted up to `at`, microseconds UTC."""

    at: int
    families: list[_Family]


def file_of(data_dir: Path, worker: int) -> Path:
    """Where a worker writes."""
    return data_dir / FOLDER / f"worker-{worker}.json"


def packed(families: Sequence[Family], at: int) -> bytes:
    """Families as they are written."""
    return msgspec.json.encode(Snapshot(at=at, families=[_packed(family) for family in families]))


def write(path: Path, content: bytes) -> None:
    """Write a file in one step. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def read(path: Path) -> tuple[int, list[Family]] | None:
    """When a file was written, and its families; None where there is none that can be read."""
    try:
        snapshot = msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except (OSError, msgspec.DecodeError):
        return None
    return snapshot.at, [_unpacked(family) for family in snapshot.families]


def remove(data_dir: Path) -> None:
    """Forget what processes of an earlier time have left."""
    for path in (data_dir / FOLDER).glob("worker-*"):
        with suppress(OSError):
            path.unlink()


def _packed(family: Family) -> _Family:
    one = family.description
    series = [
        _Series(labels=labels, value=value[1], counts=list(value[0]))
        if isinstance(value, tuple)
        else _Series(labels=labels, value=value)
        for labels, value in family.values.items()
    ]
    return _Family(
        name=one.name,
        kind=one.kind,
        help=one.help,
        labels=one.labels,
        buckets=one.buckets,
        of_node=one.of_node,
        series=series,
    )


def _unpacked(family: _Family) -> Family:
    values: dict[tuple[str, ...], float | Distribution] = {}
    for one in family.series:
        values[one.labels] = one.value if one.counts is None else (one.counts, one.value)
    description = Description(
        name=family.name,
        kind=family.kind,
        help=family.help,
        labels=family.labels,
        buckets=family.buckets,
        of_node=family.of_node,
    )
    return Family(description=description, values=values)
