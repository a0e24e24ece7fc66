"""Real DNSSEC on loopback: a Knot server with signed zones behind a validating Unbound.

| zone | how it is |
|---|---|
| `secure.test` | signed, and Unbound knows its key |
| `nsec3.test` | the same, with NSEC3 denial |
| `insecure.test` | not signed, and nobody expects it to be |
| `bogus.test` | the signatures below the apex are wrong |
| `expired.test` | the signatures below the apex ended long ago |
| `unsigned.test` | not signed, although Unbound knows a key for it |
| `parent.test` | signed, with NSEC3 opt-out, and delegates the three below |
| `good.parent.test` | signed, and its parent vouches for its key |
| `wrongds.parent.test` | signed, and its parent vouches for another key |
| `optout.parent.test` | not signed, and its parent says nothing of it |

`add` brings further records; use names that no other test asks for, Unbound remembers answers.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from interop import need

APEX = "@ SOA ns hostmaster {serial} 3600 900 604800 60\n@ NS ns\nns A 127.0.0.1\n"
ANCHORED = ("secure.test", "nsec3.test", "bogus.test", "expired.test", "unsigned.test", "parent.test")
DELEGATED = ("good.parent.test", "wrongds.parent.test", "optout.parent.test")
# A parent comes behind its children, whose keys it has to know.
ZONES = (*DELEGATED, *ANCHORED, "insecure.test")
UNSIGNED = ("insecure.test", "unsigned.test", "optout.parent.test")
PLAIN = "127.73.0.53"
_POLICIES = {"nsec3.test": "nsec3", "parent.test": "optout"}
_MONTH = 30 * 86_400
_START_LIMIT = 20.0


def free_port(address: str = "127.0.0.1") -> int:
    """A port that is free for UDP and TCP now."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind((address, 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind((address, port))
            except OSError:
                continue
            return port


def may_use(address: str, port: int) -> bool:
    """Whether a port is free, and may be used by this user."""
    try:
        with socket.create_server((address, port)):
            return True
    except OSError:
        return False


class SignedDns:
    """Both servers. `nameserver` is the validating one, `authority` the other, as `address:port`.

    `resolv_conf` names the validating one for programs that know no port but 53; empty where that may not be used.
    """

    def __init__(self, directory: Path) -> None:
        self._knotd, self._unbound = need("knotd", "knotc", "kzonesign", "keymgr"), need("unbound")
        self._knotc, self._sign, self._keymgr = need("knotc"), need("kzonesign"), need("keymgr")
        self._dir = directory
        self._ports = free_port(), free_port()
        self.authority, self.nameserver = (f"127.0.0.1:{port}" for port in self._ports)
        self._plain = PLAIN if may_use(PLAIN, 53) else ""
        self.resolv_conf = f"nameserver {self._plain}\noptions edns0 trust-ad\n" if self._plain else ""
        self._records = dict.fromkeys(ZONES, "")
        self._serial = 1
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("db", "run", "plain", "signed", "zones"):
            (directory / name).mkdir()
        self._conf, self._sign_conf = directory / "knot.conf", directory / "sign.conf"
        self._conf.write_text(self._knot_conf())

    def start(self) -> None:
        """Sign, start both servers, and wait until they answer."""
        for zone in ZONES:
            self._write(zone)
        (self._dir / "unbound.conf").write_text(self._unbound_conf())
        self._spawn("knotd", self._knotd, "-c", str(self._conf))
        self._wait(self._ports[0])
        self._spawn("unbound", self._unbound, "-d", "-c", str(self._dir / "unbound.conf"))
        self._wait(self._ports[1])

    def stop(self) -> None:
        """Stop both servers."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def add(self, zone: str, records: str) -> None:
        """Add records, zone file lines relative to the zone; returns once they are served."""
        self._records[zone] += records.rstrip() + "\n"
        self._serial += 1
        self._write(zone)
        subprocess.run(
            [self._knotc, "-c", str(self._conf), "-b", "zone-reload", zone], check=True, capture_output=True, timeout=30
        )

    def _write(self, zone: str) -> None:
        plain = self._dir / "plain" / f"{zone}.zone"
        text = f"$ORIGIN {zone}.\n$TTL 60\n{APEX.format(serial=self._serial * 100)}{self._records[zone]}"
        if zone == "parent.test":
            text += self._delegations()
        served = self._dir / "zones" / f"{zone}.zone"
        if zone in UNSIGNED:
            served.write_text(text)
            return
        plain.write_text(text)
        if zone == "expired.test":
            old = self._signed(zone, int(time.time()) - 3 * _MONTH)
            fresh = self._signed(zone, int(time.time()))
            # The key has to be good, or nothing would be said of the signatures.
            kept = [line for line in fresh.splitlines() if not _below_apex(zone).match(line)]
            served.write_text("\n".join([*kept, *(line for line in old.splitlines() if _below_apex(zone).match(line)), ""]))
            return
        signed = self._signed(zone, int(time.time()))
        if zone == "bogus.test":
            signed = _below_apex(zone).sub(lambda match: f"{match[1]}{'A' if match[2] != 'A' else 'B'}{match[3]}", signed)
        served.write_text(signed)

    def _signed(self, zone: str, when: int) -> str:
        command = [self._sign, "-c", str(self._sign_conf), "-t", str(when), "-o", str(self._dir / "signed"), zone]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        return (self._dir / "signed" / f"{zone}.zone").read_text()

    def _key(self, zone: str) -> str:
        """The trust anchor; an unsigned zone gets that of another one."""
        zone_with_key = "secure.test" if zone == "unsigned.test" else zone
        command = [self._keymgr, "-c", str(self._sign_conf), zone_with_key, "dnskey"]
        line = subprocess.run(command, check=True, capture_output=True, timeout=30, text=True).stdout.strip()
        return line.replace(f"{zone_with_key}.", f"{zone}.", 1)

    def _delegations(self) -> str:
        lines = "".join(f"{zone}. NS ns.{zone}.\nns.{zone}. A 127.0.0.1\n" for zone in DELEGATED)
        for zone, key_of in (("good.parent.test", "good.parent.test"), ("wrongds.parent.test", "good.parent.test")):
            command = [self._keymgr, "-c", str(self._sign_conf), key_of, "ds"]
            found = subprocess.run(command, check=True, capture_output=True, timeout=30, text=True).stdout
            lines += found.replace(f"{key_of}. ", f"{zone}. ")
        return lines

    def _knot_conf(self) -> str:
        head = f"""
server:
    rundir: "{self._dir}/run"
    listen: 127.0.0.1@{self._ports[0]}
database:
    storage: "{self._dir}/db"
policy:
  - id: nsec
    algorithm: ecdsap256sha256
    single-type-signing: on
    rrsig-lifetime: 14d
  - id: nsec3
    algorithm: ecdsap256sha256
    single-type-signing: on
    rrsig-lifetime: 14d
    nsec3: on
    nsec3-iterations: 0
  - id: optout
    algorithm: ecdsap256sha256
    single-type-signing: on
    rrsig-lifetime: 14d
    nsec3: on
    nsec3-iterations: 0
    nsec3-opt-out: on
template:
  - id: default
    storage: "{self._dir}/zones"
    file: "%s.zone"
    journal-content: none
    zonefile-load: whole
zone:
"""
        zones = "".join(f"  - domain: {zone}\n" for zone in ZONES)
        # Signing is done beforehand, so that signatures can be old or broken; knotd serves what it finds.
        plain = "".join(
            f'  - domain: {zone}\n    storage: "{self._dir}/plain"\n    dnssec-signing: on\n'
            f"    dnssec-policy: {_POLICIES.get(zone, 'nsec')}\n"
            for zone in ZONES
            if zone not in UNSIGNED or zone in ANCHORED
        )
        self._sign_conf.write_text(head + plain)
        return head + zones

    def _unbound_conf(self) -> str:
        anchors = "".join(f'    trust-anchor: "{self._key(zone)}"\n' for zone in ANCHORED)
        # The root leads to our server too, which refuses: nothing may leave this machine.
        stubs = "".join(
            f'stub-zone:\n    name: "{zone}"\n    stub-addr: 127.0.0.1@{self._ports[0]}\n' for zone in (*ZONES, ".")
        )
        return f"""
server:
    directory: "{self._dir}"
    pidfile: "{self._dir}/run/unbound.pid"
    chroot: ""
    username: ""
    use-syslog: no
    logfile: ""
    interface: 127.0.0.1@{self._ports[1]}
{f"    interface: {self._plain}@53" if self._plain else ""}
    num-threads: 1
    do-not-query-localhost: no
    local-zone: "test." nodefault
    module-config: "validator iterator"
    aggressive-nsec: no
    qname-minimisation: no
    ede: yes
    val-bogus-ttl: 1
{anchors}remote-control:
    control-enable: no
{stubs}"""

    def _spawn(self, name: str, *command: str) -> None:
        with (self._dir / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self._dir))

    def _wait(self, port: int) -> None:
        query = dns.message.make_query("secure.test", "SOA")
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline and all(process.poll() is None for process in self._processes):
            try:
                if dns.query.udp(query, "127.0.0.1", timeout=1, port=port).answer:
                    return
            except (dns.exception.DNSException, OSError):
                time.sleep(0.05)
        logs = "\n".join(path.read_text() for path in self._dir.glob("*.log"))
        raise RuntimeError(f"the name servers did not start:\n{logs}")


def _below_apex(zone: str) -> re.Pattern[str]:
    """The signatures below the apex, in three parts, the second being the first character of the signature itself."""
    return re.compile(rf"^([^;\s]+\.{re.escape(zone)}\.\s+\d+\s+RRSIG\s.*\s)(\S)(\S+)$", re.MULTILINE)
