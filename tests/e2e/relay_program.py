"""`postward` whose long waits are short, so that a test sees what comes behind them; its workers are the same program.

In seconds: `RELAY_FIRST_RETRY` is the first pause before a retry, `RELAY_LONGEST_WAIT` the longest one behind a clock that was
set, `RELAY_LOOK` how often the queue is looked at in any case, `RELAY_COMMAND` the time for a command. `RELAY_MIN_FREE` are the
octets that must stay free on the disk. `RELAY_REPORTS`: reports are due at once, and all that they wait for takes so long.
`RELAY_REPORT_LEASE` is how long a report is leased; with it, all are due at once.
"""

from __future__ import annotations

import os
import sys

from postward import emission
from postward.cli import main
from postward.model import ReportJob
from postward.queue import disk, runner
from postward.queue.retry import RetryRules
from postward.queue.store import Queue
from postward.reports import outbox, schedule, sender
from postward.reports.schedule import Scheduler
from postward.service import workers
from postward.smtp.settings import ServerTimeouts

if text := os.environ.get("RELAY_FIRST_RETRY"):
    pause = int(float(text) * 1_000_000)
    RetryRules.__init__.__kwdefaults__.update(first=pause, longest=4 * pause)
if text := os.environ.get("RELAY_LONGEST_WAIT"):
    Queue.__init__.__kwdefaults__.update(longest_wait=int(float(text) * 1_000_000))
if text := os.environ.get("RELAY_LOOK"):
    runner.LOOK_AGAIN = int(float(text) * 1_000_000)
if text := os.environ.get("RELAY_COMMAND"):
    ServerTimeouts.__init__.__kwdefaults__.update(command=float(text), data_block=float(text))
if text := os.environ.get("RELAY_MIN_FREE"):
    object.__setattr__(disk.RULES, "min_free_bytes", int(text))
if text := os.environ.get("RELAY_REPORTS"):
    instant = int(float(text) * 1_000_000)
    ReportJob.__init__.__kwdefaults__.update(jitter=0)
    schedule._AGAIN_AFTER = emission.HEARTBEAT = sender._LOOK_AGAIN = instant
    # An attempt has nine tenths of a lease.
    outbox.LEASE = sender.LEASE = 10 * instant
    sender.ASK_QUEUE_EVERY = float(text)
if text := os.environ.get("RELAY_REPORT_LEASE"):
    for module in (outbox, sender):
        module.LEASE = int(float(text) * 1_000_000)
    Scheduler._spread = lambda self, most: 0
workers.command_of_this_program = lambda arguments: [sys.executable, __file__, *arguments]

if __name__ == "__main__":
    sys.exit(main())
