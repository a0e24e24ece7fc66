"""Postfix as a sender, in a directory of its own: what it makes of a domain by DANE or by its policy table, as its log says.

Its SMTP client runs in the chroot that is its queue directory, so the resolver is the one that `resolv_conf` there names and
no file of the system is touched. Needs root, as Postfix does.
"""

from __future__ import annotations

import os
import pwd
import re
import smtplib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from interop import need
from postfix_server import MASTER

_START_LIMIT = 20.0
_SENT = re.compile(r"postfix/(?:smtp|error)\[\d+\]: \w+: to=<([^>]+)>.* status=(\w+) \((.*)\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of mail to one recipient: `sent`, `deferred` or `bounced`, and why."""

    status: str
    why: str


class PostfixSender:
    """A sending Postfix that listens on `port` of 127.0.0.1. `more` are lines of main.cf, put over its `dane` level."""

    def __init__(self, directory: Path, *, port: int, resolv_conf: str, more: str = "") -> None:
        self._postfix = need("postfix")
        self._dir, self._port = directory, port
        self._process: subprocess.Popen[bytes] | None = None
        conf = directory / "conf"
        for name in ("conf", "queue", "queue/etc", "data"):
            (directory / name).mkdir()
        directory.chmod(0o755)
        owner = pwd.getpwnam("postfix")
        os.chown(directory / "data", owner.pw_uid, owner.pw_gid)
        (directory / "queue/etc/resolv.conf").write_text(resolv_conf)
        master = MASTER.replace("smtp unix - - n - - smtp", "smtp unix - - y - - smtp")
        (conf / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd\n{master}")
        (conf / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
myhostname = sender.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
smtpd_peername_lookup = no
smtp_host_lookup = dns
smtp_dns_support_level = dnssec
smtp_tls_security_level = dane
smtp_tls_loglevel = 1
smtp_connect_timeout = 5s
smtp_balance_inet_protocols = no
default_destination_concurrency_limit = 5
bounce_queue_lifetime = 1h
notify_classes =
{more}""")

    def start(self) -> None:
        """Start, and wait until it answers. Raises `RuntimeError` with its log when it does not."""
        with (self._dir / "start.log").open("wb") as log:
            self._process = subprocess.Popen([self._postfix, "-c", str(self._dir / "conf"), "start-fg"], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with smtplib.SMTP("127.0.0.1", self._port, timeout=2):
                    return
            except (OSError, smtplib.SMTPException):
                time.sleep(0.05)
        raise RuntimeError(f"Postfix did not start:\n{self.log}{(self._dir / 'start.log').read_text()}")

    def stop(self) -> None:
        """Stop it."""
        if self._process is None:
            return
        subprocess.run([self._postfix, "-c", str(self._dir / "conf"), "stop"], check=False, capture_output=True, timeout=30)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        """What it logged so far."""
        file = self._dir / "mail.log"
        return file.read_text() if file.exists() else ""

    def send(self, recipients: Sequence[str], within: float = 60.0) -> Mapping[str, Fate]:
        """Send one message to all, and wait until each has been tried once. Raises `RuntimeError` when that takes too long."""
        with smtplib.SMTP("127.0.0.1", self._port, timeout=20) as client:
            client.sendmail("me@sender.test", list(recipients), b"From: me@sender.test\r\nSubject: x\r\n\r\nhello\r\n")
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            fates = {match[1]: Fate(match[2], match[3]) for match in _SENT.finditer(self.log)}
            if set(fates) >= set(recipients):
                return fates
            time.sleep(0.1)
        raise RuntimeError(f"Postfix has not tried {sorted(set(recipients) - set(fates))}:\n{self.log[-3000:]}")
