"""Whether there is room for more mail: before the disk is full, mail is answered with 452 4.3.1."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRules:
    """What must stay free: octets, and files as a share of all (0 to 1)."""

    min_free_bytes: int = 256 * 1024 * 1024
    min_free_files: float = 0.01


RULES: Final = DiskRules()


def room(path: Path, rules: DiskRules = RULES, *, size: int = 0) -> bool:
    """Whether a message of `size` octets may be taken into `path`. False where that cannot be found out."""
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    # What only root may use does not count. A file system without a fixed number of files says 0 of 0.
    if found.f_files and found.f_favail < found.f_files * rules.min_free_files:
        return False
    return found.f_bavail * found.f_frsize - size >= rules.min_free_bytes
