"""Whether there is room for more mail: before the disk is full, mail is answered with 452 4.3.1."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRules:
    """What must stay free: octets, and files as a share of all (0 to 1)."""

    min_free_bytes: int = 256 * 1024 * 1024
    min_free_files: float = 0.01


RULES: Final = DiskRules()
FRESH_SECONDS: Final = 0.1
PLENTY: Final = 64 * 1024 * 1024


class Room:
    """What `room` says of one path, looked up ten times a second at most while there is plenty."""

    def __init__(self, path: Path, rules: DiskRules = RULES, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._rules, self._clock = path, rules, clock
        self._free, self._until = -1, -math.inf

    def has(self, size: int) -> bool:
        """Whether a message of `size` octets may be taken."""
        now = self._clock()
        if now >= self._until or self._free - size < PLENTY:
            self._free, self._until = free(self._path, self._rules), now + FRESH_SECONDS
        return size <= self._free


def room(path: Path, rules: DiskRules = RULES, *, size: int = 0) -> bool:
    """Whether a message of `size` octets may be taken into `path`. False where that cannot be found out."""
    return size <= free(path, rules)


def free(path: Path, rules: DiskRules = RULES) -> int:
    """How many octets may still be taken into `path`; negative where not even an empty message may, or nobody can say."""
    try:
        found = os.statvfs(path)
    except OSError:
        return -1
    # What only root may use does not count. A file system without a fixed number of files says 0 of 0.
    if found.f_files and found.f_favail < found.f_files * rules.min_free_files:
        return -1
    return max(found.f_bavail * found.f_frsize - rules.min_free_bytes, -1)
