"""The relay against Postfix: one run, one machine, the same messages, senders and sink; then long queues and large messages.

    python benchmarks/relay [--messages 4000] [--rounds 3] [--only load|queue|large] [--json FILE]

Twenty senders (smtp-source) each wait for 250 on their own connection; the sink takes mail behind STARTTLS only. The relays
take turns, and what is shown is the median of their rounds: messages per second from the start of the senders to the last
delivery, CPU of all processes of the relay for each message, and their memory at the end of the load. Both sides fsync before
250. Needs root and Debian's package postfix; everything lies in a temporary directory and stays on loopback.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from extremes import large_message, long_queue
from processes import cpu, memory
from relays import Postfix, Postward, Relay, send, wait_until_taken
from surroundings import World, world

MIB: Final = 1024 * 1024
WARM_UP: Final = 200
_SETTLE: Final = 1.0
_WITHIN: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One round, or the median of several. Memory in MiB."""

    relay: str
    destinations: int
    per_second: float
    cpu_ms: float
    rss: float
    pss: float
    processes: float


def load(relay: Relay, world: World, directory: Path, domains: tuple[str, ...], messages: int) -> Figure:
    """One round of one relay."""
    with relay.running(world, directory) as (process, port):
        before = world.taken
        wait_until_taken(world, before + WARM_UP, _WITHIN, send(port, domains, WARM_UP))
        time.sleep(_SETTLE)
        used, started = cpu(process), time.monotonic()
        wait_until_taken(world, before + WARM_UP + messages, _WITHIN, send(port, domains, messages))
        took = world.last - started
        held = memory(process)
        time.sleep(_SETTLE)
        used = cpu(process) - used
    return Figure(
        relay=relay.name,
        destinations=len(domains),
        per_second=messages / took,
        cpu_ms=used / messages * 1000,
        rss=held.rss / MIB,
        pss=held.pss / MIB,
        processes=held.processes,
    )


def median(figures: list[Figure]) -> Figure:
    """The middle of each figure by itself."""
    rows: list[dict[str, Any]] = [asdict(figure) for figure in figures]
    names = ("per_second", "cpu_ms", "rss", "pss", "processes")
    return Figure(**{**rows[0], **{name: statistics.median(row[name] for row in rows) for name in names}})


def compare(place: World, directory: Path, options: argparse.Namespace) -> list[Figure]:
    """All relays in turn, several rounds."""
    relays: list[Relay] = [
        Postfix(reuse=True),
        Postfix(reuse=False),
        Postward(),
        Postward(workers=2),
        Postward(plugins=True),
        Postward(workers=2, plugins=True),
    ]
    relays = [relay for relay in relays if options.relay in relay.name]
    found: dict[tuple[str, int], list[Figure]] = {}
    for number in range(options.rounds):
        for domains in (place.domains[:1], place.domains):
            for relay in relays:
                figure = load(relay, place, directory / f"relay{number}", domains, options.messages)
                found.setdefault((relay.name, len(domains)), []).append(figure)
                print(line(figure), flush=True)
    return [median(figures) for figures in found.values()]


def line(figure: Figure) -> str:
    """A row of the table."""
    return (
        f"{figure.relay:<50} {figure.destinations:>3} {figure.per_second:>8.0f} {figure.cpu_ms:>8.2f}"
        f" {figure.rss:>8.0f} {figure.pss:>8.0f} {figure.processes:>5.0f}"
    )


HEAD: Final = f"{'relay':<50} {'dst':>3} {'msg/s':>8} {'CPU ms':>8} {'RSS MiB':>8} {'PSS MiB':>8} {'procs':>5}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=4000, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queued", type=int, default=100_000, help="messages of the long queue, by the thousand")
    parser.add_argument("--only", choices=("load", "queue", "large"))
    parser.add_argument("--relay", default="", help="only relays whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="relay-benchmark-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with world(directory, 20) as place:
            if options.only in (None, "load"):
                print(HEAD)
                figures = compare(place, directory, options)
                print(f"\nmedian of {options.rounds} rounds of {options.messages} messages\n{HEAD}")
                for figure in figures:
                    print(line(figure))
                result["load"] = [asdict(figure) for figure in figures]
            if options.only in (None, "queue"):
                found = [long_queue(place, directory / f"queue{workers}", options.queued, workers) for workers in (1, 2)]
                result["queue"] = [asdict(one) for one in found]
                print("\na long queue\n" + "\n".join(str(one) for one in found))
            if options.only in (None, "large"):
                large = large_message(place, directory / "large", 100 * MIB)
                result["large"] = asdict(large)
                print(f"\na large message\n{large}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
