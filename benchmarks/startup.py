"""What starting costs: `import postward`, and `postward --help`, over a bare interpreter; wall milliseconds, median of many.

.venv/bin/python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15
POSTWARD = str(Path(sys.executable).with_name("postward"))


def milliseconds(*command: str) -> float:
    """The median of several runs, after one that does not count."""
    figures = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        figures.append((time.perf_counter() - started) * 1000)
    return statistics.median(figures[1:])


def main() -> None:
    """Measure and print."""
    bare = milliseconds(sys.executable, "-c", "pass")
    print(f"a bare interpreter                        {bare:6.0f} ms")
    for code in ("import postward", "from postward import hookimpl, TlsPolicy, Domain"):
        print(f"{code:<50} {milliseconds(sys.executable, '-c', code) - bare:6.0f} ms more")
    print(f"postward --help                           {milliseconds(POSTWARD, '--help'):6.0f} ms")


if __name__ == "__main__":
    main()
