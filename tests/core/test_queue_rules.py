"""When to try again, and whether there is room: pure rules."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.queue import DiskRules, RetryRules, delay_notice_due, next_try, room
from postward.queue.disk import FRESH_SECONDS, PLENTY, Room
from postward.queue.retry import DAY, HOUR, MINUTE
from postward.queue.store import LONGEST_WAIT

START = 1_900_000_000_000_000


def test_pauses_double_from_a_minute_to_an_hour() -> None:
    pauses = [(next_try(attempts, START, START, 0.5) or 0) - START for attempts in range(1, 12)]
    assert pauses[:3] == [MINUTE, 2 * MINUTE, 4 * MINUTE]
    assert all(later >= sooner for sooner, later in pairwise(pauses))
    assert pauses[-1] == HOUR


@given(attempts=st.integers(0, 10_000), chance=st.floats(0, 1, exclude_max=True), age=st.integers(-10 * DAY, 5 * DAY - 1))
def test_the_next_try_lies_ahead_and_never_beyond_the_end(attempts: int, chance: float, age: int) -> None:
    now = START + age
    instant = next_try(attempts, START, now, chance)
    assert instant is not None
    assert now < instant <= min(START + 5 * DAY, now + int(1.2 * HOUR))
    assert instant - now < LONGEST_WAIT


def test_jitter_is_a_fifth_to_both_sides() -> None:
    assert next_try(1, START, START, 0.0) == START + int(0.8 * MINUTE)
    assert next_try(1, START, START, 0.999999) == pytest.approx(START + 1.2 * MINUTE, abs=100)


@pytest.mark.parametrize(("null_sender", "lifetime"), [(False, 5 * DAY), (True, DAY)])
def test_mail_expires_behind_an_attempt_at_the_very_end(null_sender: bool, lifetime: int) -> None:
    end = START + lifetime
    assert next_try(99, START, end - MINUTE, 0.5, null_sender=null_sender) == end
    assert next_try(99, START, end, 0.5, null_sender=null_sender) is None


def test_rules_can_be_set() -> None:
    rules = RetryRules(first=10 * MINUTE, longest=15 * MINUTE, lifetime=HOUR, tell_delay=MINUTE)
    assert next_try(2, START, START, 0.5, rules=rules) == START + 15 * MINUTE
    assert next_try(2, START, START + HOUR, 0.5, rules=rules) is None
    assert delay_notice_due(START, START + MINUTE, rules=rules)


def test_a_sender_is_told_after_four_hours() -> None:
    assert not delay_notice_due(START, START + 4 * HOUR - 1)
    assert delay_notice_due(START, START + 4 * HOUR)
    assert not delay_notice_due(START, START - DAY)


@pytest.mark.parametrize(
    ("free", "files", "size", "expected"),
    [(1000, 50, 0, True), (1000, 50, 1, False), (999, 50, 0, False), (5000, 50, 4000, True), (1000, 49, 0, False)],
)
def test_room(monkeypatch: pytest.MonkeyPatch, free: int, files: int, size: int, expected: bool) -> None:
    found = SimpleNamespace(f_bavail=free, f_frsize=1, f_files=100, f_favail=files)
    monkeypatch.setattr(os, "statvfs", lambda _path: found)
    assert room(Path("x"), DiskRules(min_free_bytes=1000, min_free_files=0.5), size=size) is expected


def test_a_file_system_without_a_number_of_files_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=9, f_frsize=1, f_files=0, f_favail=0))
    assert room(Path("x"), DiskRules(min_free_bytes=1))


def test_there_is_no_room_where_nobody_can_look(tmp_path: Path) -> None:
    assert not room(tmp_path / "gone")
    assert room(tmp_path, DiskRules(min_free_bytes=0, min_free_files=0))


def test_room_is_not_looked_up_for_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks, left = 0.0, 0, PLENTY + 100

    def look(_path: Path) -> SimpleNamespace:
        nonlocal looks
        looks += 1
        return SimpleNamespace(f_bavail=left, f_frsize=1, f_files=0, f_favail=0)

    monkeypatch.setattr(os, "statvfs", look)
    place = Room(Path("x"), DiskRules(min_free_bytes=0), clock=lambda: now)
    assert place.has(100)
    left = 50
    assert place.has(100)
    assert looks == 1
    # One for which there may not be enough is worth a look, and so are all when time has passed.
    assert not place.has(101)
    left = PLENTY + 100
    now = FRESH_SECONDS
    assert place.has(0)
    left, now = 0, 2 * FRESH_SECONDS
    assert not place.has(1)
    assert looks == 4
