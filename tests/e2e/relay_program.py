"""`postward` whose long waits are short, so that a test sees what comes behind them; its workers are the same program.

`RELAY_FIRST_RETRY` is the first pause before a retry and `RELAY_COMMAND` the time for a command, in seconds; `RELAY_MIN_FREE`
are the octets that must stay free on the disk.
"""

from __future__ import annotations

import os
import sys

from postward.cli import main
from postward.queue import disk
from postward.queue.retry import RetryRules
from postward.service import workers
from postward.smtp.settings import ServerTimeouts

if text := os.environ.get("RELAY_FIRST_RETRY"):
    pause = int(float(text) * 1_000_000)
    RetryRules.__init__.__kwdefaults__.update(first=pause, longest=4 * pause)
if text := os.environ.get("RELAY_COMMAND"):
    ServerTimeouts.__init__.__kwdefaults__.update(command=float(text), data_block=float(text))
if text := os.environ.get("RELAY_MIN_FREE"):
    object.__setattr__(disk.RULES, "min_free_bytes", int(text))
workers.command_of_this_program = lambda arguments: [sys.executable, __file__, *arguments]

if __name__ == "__main__":
    sys.exit(main())
