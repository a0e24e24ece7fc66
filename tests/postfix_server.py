"""Postfix as a mail exchanger on loopback, in a directory of its own: no file of the system's Postfix is touched.

Needs root, as Postfix does.

Mail lies in maildirs; `take` gives and removes it, and `trace` is what Postfix wrote on top of the last one.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from interop import need

_START_LIMIT = 20.0
_MAIL_LIMIT = 20.0
_TRACE = re.compile(rb"(?:(?:Return-Path|X-Original-To|Delivered-To|Received):[^\n]*\n(?:[ \t][^\n]*\n)*)+", re.IGNORECASE)

MASTER = """
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""


class Postfix:
    """A receiving Postfix. `listen` are its addresses and ports; `mailboxes` what it takes mail for, in their U-label form."""

    def __init__(
        self, directory: Path, *, hostname: str, listen: Sequence[tuple[str, int]], pem: bytes, mailboxes: Sequence[str]
    ) -> None:
        self._postfix = need("postfix")
        self._dir, self._listen = directory, listen
        self._boxes = {address: f"{number}/" for number, address in enumerate(mailboxes)}
        self._process: subprocess.Popen[bytes] | None = None
        self.trace = b""
        conf = directory / "conf"
        for name in ("conf", "queue", "data", "mail"):
            (directory / name).mkdir()
        directory.chmod(0o755)
        owner = pwd.getpwnam("postfix")
        os.chown(directory / "data", owner.pw_uid, owner.pw_gid)
        nobody = pwd.getpwnam("nobody")
        os.chown(directory / "mail", nobody.pw_uid, nobody.pw_gid)
        (directory / "server.pem").touch(mode=0o600)
        (directory / "server.pem").write_bytes(pem)
        (conf / "boxes").write_text("".join(f"{address} {box}\n" for address, box in self._boxes.items()))
        domains = sorted({address.rpartition("@")[2] for address in mailboxes})
        services = "".join(f"{address}:{port} inet n - n - - smtpd\n" for address, port in listen)
        (conf / "master.cf").write_text(services + MASTER)
        (conf / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
myhostname = {hostname}
mydestination =
mynetworks = 127.255.255.254/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
local_header_rewrite_clients =
smtpd_peername_lookup = no
disable_dns_lookups = yes
default_transport = error:nothing leaves this machine
relay_transport = error:nothing leaves this machine
smtputf8_enable = yes
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
smtpd_tls_chain_files = {directory}/server.pem
virtual_mailbox_domains = {", ".join(domains)}
virtual_mailbox_base = {directory}/mail
virtual_mailbox_maps = texthash:{conf}/boxes
virtual_uid_maps = static:{nobody.pw_uid}
virtual_gid_maps = static:{nobody.pw_gid}
""")

    def start(self) -> None:
        """Start, and wait until it answers on every address. Raises `RuntimeError` with its log when it does not."""
        log = (self._dir / "start.log").open("wb")
        with log:
            self._process = subprocess.Popen([self._postfix, "-c", str(self._dir / "conf"), "start-fg"], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_LIMIT
        waiting = list(self._listen)
        while waiting and time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.create_connection(waiting[0], 1) as connection, connection.makefile("rb") as lines:
                    if lines.readline().startswith(b"220 "):
                        waiting.pop(0)
                    connection.sendall(b"QUIT\r\n")
            except OSError:
                time.sleep(0.05)
        if waiting:
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

    def take(self, address: str) -> bytes:
        """Wait for mail to a mailbox, remove it, and give it without the trace fields on top, with LF lines.

        Raises `RuntimeError` when none comes, or more than one.
        """
        box = self._dir / "mail" / self._boxes[address] / "new"
        deadline = time.monotonic() + _MAIL_LIMIT
        while time.monotonic() < deadline:
            if files := list(box.glob("*")):
                if len(files) > 1:
                    raise RuntimeError(f"{len(files)} messages for {address}")
                content = files[0].read_bytes()
                files[0].unlink()
                match = _TRACE.match(content)
                self.trace = match[0] if match else b""
                return content.removeprefix(self.trace)
            time.sleep(0.02)
        raise RuntimeError(f"no mail for {address}:\n{self.log[-3000:]}")

    def empty(self, address: str) -> bool:
        """Whether a mailbox holds no mail now."""
        return not list((self._dir / "mail" / self._boxes[address] / "new").glob("*"))
