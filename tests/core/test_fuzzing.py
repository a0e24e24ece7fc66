"""The fuzz targets themselves: what runs for a minute must not be the same inputs over and over."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st

import fuzzing


def test_each_round_has_new_inputs_in_ci_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `CI` is set, hypothesis derives the inputs from the name of the function, unless told otherwise."""
    before = settings.default
    settings.register_profile("as-in-ci", derandomize=True, deadline=None, database=None)
    settings.load_profile("as-in-ci")
    try:
        rounds: list[list[bytes]] = []
        for _ in range(2):
            rounds.append([])
            fuzzing.fuzz(st.binary(min_size=8, max_size=60), rounds[-1].append)
    finally:
        settings.register_profile("as-before", before)
        settings.load_profile("as-before")
    assert set(rounds[0]) != set(rounds[1])


def test_what_is_found_is_raised() -> None:
    def check(data: bytes) -> None:
        assert len(data) < 5

    with pytest.raises(AssertionError):
        fuzzing.fuzz(st.binary(max_size=60), check)
