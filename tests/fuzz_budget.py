"""How long a fuzz target runs: a few hundred inputs by default, or `POSTWARD_FUZZ_SECONDS` seconds each, as in CI.

POSTWARD_FUZZ_SECONDS=60 python -m pytest tests/fuzz
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

ROUND = 500


def fuzz(target: Callable[..., object], *inputs: SearchStrategy[Any]) -> int:
    """Call `target` with inputs until the time is up, and give the number of rounds. What it raises comes out, shrunk."""
    deadline = time.monotonic() + float(os.environ.get("POSTWARD_FUZZ_SECONDS", "0"))
    rounds = 0
    while not rounds or time.monotonic() < deadline:
        # Each round begins anew from another seed: within one, hypothesis would stop at its number of examples.
        run = given(*inputs)(target)
        run = settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))(run)
        seed(random.getrandbits(64))(run)()
        rounds += 1
    return rounds
