"""The relays that are compared, each in a directory of its own: Postward, and Postfix with its limits raised."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import tomli_w
from processes import free_port, wait_for_greeting
from surroundings import World

SENDERS: Final = 20
_STOP_WITHIN: Final = 90

_MASTER: Final = """
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
tlsproxy unix - - n - 0 tlsproxy
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
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""


class Relay(ABC):
    """A mail server that can be started in an empty directory."""

    name: str

    @contextmanager
    def running(self, world: World, directory: Path) -> Iterator[tuple[int, int]]:
        """Start it; its process and the port it takes mail on. Everything it wrote is removed afterwards."""
        directory.mkdir()
        port = free_port()
        process = self._start(world, directory, port)
        try:
            wait_for_greeting(port)
            yield process.pid, port
        finally:
            self._stop(process, directory)
            try:
                process.wait(_STOP_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if "KEEP" not in os.environ:
                shutil.rmtree(directory)

    @abstractmethod
    def _start(self, world: World, directory: Path, port: int) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _stop(self, process: subprocess.Popen[bytes], directory: Path) -> None: ...


class Postward(Relay):
    """`postward run`, logging as it does by default, into a file."""

    def __init__(self, *, workers: int = 1, plugins: bool = False) -> None:
        self.name = f"Postward, {workers} worker{'s' if workers > 1 else ''}{', with DANE, MTA-STS, TLSRPT' if plugins else ''}"
        self._workers, self._plugins = workers, plugins

    def _start(self, world: World, directory: Path, port: int) -> subprocess.Popen[bytes]:
        file = self.configure(world, directory, port)
        with (directory / "log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-m", "postward", "run", "--config", str(file)], stdout=log, stderr=log)

    def configure(self, world: World, directory: Path, port: int) -> Path:
        """Write the configuration."""
        file = directory / "postward.toml"
        tables = {
            "plugins": ["dane", "mtasts", "tlsrpt"] if self._plugins else [],
            "core": {"hostname": "relay.sender.test", "data_dir": str(directory / "data")},
            "dns": {"nameservers": [f"127.0.0.1:{world.dns_port}"], "self_test": {"secure": "d1.test.", "bogus": ""}},
            "tls": {"ca_file": str(world.directory / "ca.pem")},
            "net": {"port_map": {"25": world.sink_port}},
            "delivery": {"workers": self._workers, "connections_per_destination": SENDERS, "min_tls": "required"},
            "listen": [{"kind": "smtp", "bind": f"127.0.0.1:{port}", "max_message_bytes": 200_000_000}],
        }
        file.write_text(tomli_w.dumps(tables))
        return file

    def _stop(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        process.terminate()


class Postfix(Relay):
    """Postfix as a relay without DNS. `reuse` sends several messages over one TLS connection (tlsproxy)."""

    def __init__(self, *, reuse: bool) -> None:
        self.name = f"Postfix, {'TLS connections reused' if reuse else 'a TLS connection a message'}"
        self._reuse = reuse

    def _start(self, world: World, directory: Path, port: int) -> subprocess.Popen[bytes]:
        directory.chmod(0o755)
        conf = directory / "conf"
        for name in ("conf", "queue", "data"):
            (directory / name).mkdir()
        owner = pwd.getpwnam("postfix")
        os.chown(directory / "data", owner.pw_uid, owner.pw_gid)
        (conf / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd\n{_MASTER}")
        routes = "".join(f"{domain} smtp:[{world.address_of(domain)}]:{world.sink_port}\n" for domain in world.domains)
        (conf / "transport").write_text(routes)
        (conf / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
myhostname = relay.sender.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
message_size_limit = 200000000
mailbox_size_limit = 0
disable_dns_lookups = yes
smtp_host_lookup = native
transport_maps = texthash:{conf}/transport
default_transport = error:nothing leaves this machine
smtp_tls_security_level = encrypt
smtp_tls_connection_reuse = {"yes" if self._reuse else "no"}
smtp_tls_session_cache_database = btree:{directory}/data/smtp_scache
default_process_limit = 200
default_destination_concurrency_limit = {SENDERS}
initial_destination_concurrency = {SENDERS}
in_flow_delay = 0
""")
        with (directory / "start.log").open("wb") as log:
            return subprocess.Popen([postfix(), "-c", str(conf), "start-fg"], stdout=log, stderr=log)

    def _stop(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        subprocess.run([postfix(), "-c", str(directory / "conf"), "stop"], check=False, capture_output=True, timeout=60)


def postfix() -> str:
    """The program. Ends this one where there is none."""
    found = shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None or os.geteuid():
        sys.exit("the comparison needs Debian's package postfix, and root to start it")
    return found


def send(port: int, domains: tuple[str, ...], messages: int, size: int = 10_240) -> list[subprocess.Popen[bytes]]:
    """Start twenty senders, which share the destinations; each waits for the reply to a message before the next."""
    program = shutil.which("smtp-source", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None, "smtp-source belongs to Debian's package postfix"
    return [
        subprocess.Popen(
            [
                program,
                *("-d", "-s", str(SENDERS // len(domains)), "-l", str(size), "-m", str(messages // len(domains))),
                *("-f", "from@sender.test", "-t", f"to@{domain}", f"127.0.0.1:{port}"),
            ],
            stdout=subprocess.DEVNULL,
        )
        for domain in domains
    ]


def wait_until_taken(world: World, wanted: int, within: float, senders: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the last message to arrive. Raises `RuntimeError` when it does not."""
    until = time.monotonic() + within
    while world.taken < wanted:
        if time.monotonic() > until:
            raise RuntimeError(f"only {world.taken} of {wanted} messages arrived within {within:.0f} s")
        time.sleep(0.01)
    for sender in senders:
        if sender.wait(10):
            raise RuntimeError("smtp-source failed")
