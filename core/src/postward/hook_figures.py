"""What the hooks of a running service cost, kept in a file for `postward plugins doctor`: another process cannot ask it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from postward.contract import Stats

FILE: Final = "hooks.json"
EVERY: Final = 30.0


def write(folder: Path, stats: Mapping[tuple[str, str], Stats], at: int) -> None:
    """Put the figures there at an instant, microseconds UTC. A reader sees the old ones or the new ones. Raises `OSError`."""
    rows = [{"plugin": plugin, "hook": hook, **asdict(figures)} for (plugin, hook), figures in stats.items()]
    new = folder / f"{FILE}.new"
    new.write_text(json.dumps({"at": at, "hooks": rows}))
    os.replace(new, folder / FILE)


def read(folder: Path) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    """The instant and the figures by (plugin, hook); 0 and nothing where there are none that can be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((folder / FILE).read_text())
        return int(found["at"]), {(row["plugin"], row["hook"]): row for row in found["hooks"]}
    return 0, {}
