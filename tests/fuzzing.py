"""Fuzzing by hypothesis for as long as one wants: a moment by default, `POSTWARD_FUZZ_SECONDS` for each target otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

T = TypeVar("T")

SECONDS: Final = float(os.environ.get("POSTWARD_FUZZ_SECONDS", "0"))
_QUICK, _ROUND = 60, 500


def fuzz(inputs: st.SearchStrategy[T], check: Callable[[T], None]) -> None:
    """Call `check` with one input after the other until the time is up; what it raises is a finding, shown at its smallest."""

    def one(value: T) -> None:
        check(value)

    run = settings(
        max_examples=_ROUND if SECONDS else _QUICK,
        deadline=None,
        # Each round starts from a new seed, so nothing is gained by remembering. In CI hypothesis would repeat the same one.
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )(given(inputs)(one))
    until = time.monotonic() + SECONDS
    run()
    while time.monotonic() < until:
        run()


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes], *, most: int = 6) -> bytes:
    """One of `seeds` with a few changes: bytes set, cut out, put in, doubled; or its end cut off. Sometimes none at all."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, most))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from((1, 1, 2, 4, 16, 300)))
        match draw(st.sampled_from(("set", "interesting", "cut", "put", "double", "end"))):
            case "set":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "interesting":
                data[place : place + 1] = draw(
                    st.sampled_from((b"\0", b"\x7f", b"\x80", b"\xc0", b"\xff", b"\x84\xff\xff\xff\xff"))
                )
            case "cut":
                del data[place : place + length]
            case "put":
                data[place:place] = draw(st.binary(min_size=1, max_size=min(length, 32)))
            case "double":
                data[place:place] = data[place : place + length]
            case "end":
                del data[place:]
    return bytes(data)
