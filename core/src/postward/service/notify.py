"""Tell systemd how the service does (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names; nothing without it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import trio


def notify(state: str) -> bool:
    """Send a state such as `READY=1` or `STATUS=…`. Whether somebody was there to be told; a failure stops nothing."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place:
        return False
    address = "\0" + place[1:] if place.startswith("@") else place
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(1)
        sock.sendto(state.encode(), address)
        return True
    return False


def ignore_signals() -> None:
    """Take no further signal to stop: stopping has begun and is bounded. A worker gets one from each above it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def watchdog_interval() -> float | None:
    """Seconds between two signs of life that systemd wants of this process, half of its limit; None for none."""
    text, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (process and process != str(os.getpid())):
        return None
    return int(text) / 2e6


async def keep_alive() -> None:
    """Give signs of life as long as the loop runs; return at once where nobody wants any."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await trio.sleep(interval)
