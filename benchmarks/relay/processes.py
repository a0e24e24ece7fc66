"""What a tree of processes has used: CPU of all of it, the ended ones included, and memory."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Octets: what each process has, summed, and the same with shared pages counted once (PSS)."""

    rss: int
    pss: int
    processes: int
    largest: int


def family(root: int) -> Iterator[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += children.get(one, [])


def cpu(root: int) -> float:
    """Seconds of CPU, user and system, with those of children that were waited for."""
    return sum(sum(int(field) for field in fields[11:15]) for one in family(root) if (fields := _stat(one))) / _TICK


def memory(root: int) -> Memory:
    """What the tree holds now."""
    rss, pss, sizes = 0, 0, []
    for one in family(root):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()[1:]}
        if values:
            sizes.append(values["Rss"])
            rss, pss = rss + values["Rss"], pss + values["Pss"]
    return Memory(rss, pss, len(sizes), max(sizes, default=0))


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for_greeting(port: int, within: float = 30.0) -> None:
    """Wait until a mail server answers. Raises `TimeoutError`."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection, connection.makefile("rb") as lines:
                if lines.readline().startswith(b"220 "):
                    connection.sendall(b"QUIT\r\n")
                    lines.read()
                    return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"nobody answers on port {port}")


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name, which may hold anything."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
