"""The lab as a whole: zones, certificates, hosts and a configuration, made from the table of cases.

Everything lives in one directory and on loopback; what a relay in this world needs to know stands in `postward.toml` there.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import tomli_w
import trio

from postward.dkim import SigningKey, dns_record, generate, private_pem
from postward.hookspecs import GROUP
from postward.lab.ca import DAY, Authority, Issued, self_signed, spki
from postward.lab.case import Case, Certificate, Host, Policy, expect
from postward.lab.dnsserver import serve_tcp, serve_udp
from postward.lab.ground import DNS, WEB, Ground, claim, host_address
from postward.lab.https import REPORT_PATH, Serving, Site, WebHosts
from postward.lab.mx import Mailbox, MailHost
from postward.lab.zones import Signing, Zones
from postward.model import Mode
from postward.names import Address, Domain

PLUGINS: Final = ("dane", "mtasts", "tlsrpt", "dmarc")
SENDER: Final = Domain("sender.test")
HOSTNAME: Final = Domain("relay.sender.test")
REPORTS: Final = Domain("reports.test")
REPORT_ADDRESS: Final = Address("tls", REPORTS)
COLLECTOR: Final = Domain("collector.reports.test")
LISTENER: Final = "127.0.0.1:2525"
_SELECTOR: Final = "lab"
_OTHER_NAME: Final = "another-host.test"


@dataclass(slots=True)
class World:
    """A built lab: what is in it, where it listens, and what its receivers got.

    `missing` are plugins that the lab would use but that are not installed; `without` includes them.
    """

    cases: Sequence[Case]
    without: frozenset[str]
    missing: tuple[str, ...]
    directory: Path
    zones: Zones
    ground: Ground
    web: WebHosts
    mailbox: Mailbox = field(default_factory=Mailbox)
    hosts: dict[str, MailHost] = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        """The configuration of a relay in this world."""
        return self.directory / "postward.toml"

    @property
    def plugins(self) -> list[str]:
        """The plugins of the relay, in order."""
        return [name for name in PLUGINS if name not in self.without]

    @property
    def nameserver(self) -> str:
        """Address and port of the name server."""
        return f"{DNS}:{self.ground.port}"

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all servers until cancelled, then close every socket."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_udp, self.zones, self.ground.datagrams)
                nursery.start_soon(serve_tcp, self.zones, self.ground.listeners[DNS])
                nursery.start_soon(self.web.serve, self.ground.listeners[WEB])
                for address, host in self.hosts.items():
                    nursery.start_soon(host.serve, self.ground.listeners[address])
                task_status.started()
        finally:
            self.ground.close()


def installed_plugins() -> frozenset[str]:
    """The names of the plugins that are installed, without importing any."""
    return frozenset(point.name for point in entry_points(group=GROUP))


def build(directory: Path, cases: Sequence[Case], *, without: Collection[str] = (), listener: str = LISTENER) -> World:
    """Make everything and open the sockets; nothing is served yet. Raises `LabError` where loopback does not allow it.

    `directory` must exist; it gets the configuration, the roots of the lab's WebPKI and the relay's keys. `listener` is
    where the relay will take mail.
    """
    missing = tuple(name for name in PLUGINS if name not in installed_plugins() and name not in without)
    hosts = sum(len(case.hosts) for case in cases)
    ground = claim([WEB, *(host_address(number) for number in range(hosts + 2))])
    world = World(
        cases=cases,
        without=frozenset({*without, *missing}),
        missing=missing,
        directory=directory,
        zones=Zones(),
        ground=ground,
        web=WebHosts(sites={}),
    )
    try:
        _Builder(world, listener).build()
    except BaseException:
        ground.close()
        raise
    return world


class _Builder:
    """Fills a world. One authority is what the lab's WebPKI trusts; of the other nobody but DNS knows."""

    def __init__(self, world: World, listener: str) -> None:
        self._world, self._listener = world, listener
        self._webpki = Authority("Lab WebPKI", intermediate=True)
        self._private = Authority("Private Mail Authority", intermediate=True)
        self._now = time.time_ns() // 1000
        self._next = 0

    def build(self) -> None:
        for case in self._world.cases:
            self._add_case(case)
        self._add_receivers()
        self._add_sender()
        self._world.zones.add("bogus.test", "@ A 127.0.0.1", signing=Signing.BOGUS)
        (self._world.directory / "ca.pem").write_bytes(self._webpki.root_pem)
        with self._world.config_file.open("wb") as file:
            tomli_w.dump(self._config(), file)

    def _add_case(self, case: Case) -> None:
        lines = ["@ MX 0 ."] if case.null_mx else []
        for number, host in enumerate(case.hosts):
            lines += self._add_host(case, host, preference=10 * (number + 1))
        if case.policy is not None:
            lines += self._add_policy(case, case.policy)
        if expect(case).sessions:
            addresses = {"mail": f"mailto:{REPORT_ADDRESS}", "https": f"https://{COLLECTOR}{REPORT_PATH}"}
            lines.append(f'_smtp._tls TXT "v=TLSRPTv1; rua={",".join(addresses[way] for way in case.by)}"')
        self._world.zones.add(case.domain, "\n".join(lines), signing=case.signing)
        if case.mx_fault is not None:
            self._world.zones.fault(case.domain, "MX", case.mx_fault)

    def _add_host(self, case: Case, host: Host, *, preference: int) -> list[str]:
        name = Domain(case.host_name(host))
        issued = self._issue(host.certificate, name)
        address = self._start(
            MailHost(
                name=name,
                domains=frozenset({Domain(case.domain)}),
                context=issued.server_context(),
                mailbox=self._world.mailbox,
                behaviour=host.behaviour,
            )
        )
        if host.tlsa_fault is not None:
            self._world.zones.fault(f"_25._tcp.{name}", "TLSA", host.tlsa_fault)
        records = [f"_25._tcp.{host.label} TLSA {self._tlsa(template, issued)}" for template in host.tlsa]
        if case.implicit_mx:
            return [f"@ A {address}", *records]
        if host.alias:
            return [f"@ MX {preference} {host.label}", f"{host.label} CNAME real", f"real A {address}", *records]
        return [f"@ MX {preference} {host.label}", f"{host.label} A {address}", *records]

    def _tlsa(self, template: str, issued: Issued) -> str:
        issuer = issued.chain[-1]
        return template.format(
            spki=sha256(spki(issued.certificate)).hexdigest(),
            cert=sha256(issued.certificate).hexdigest(),
            issuer=sha256(issuer).hexdigest(),
            wrong="00" * 32,
        )

    def _start(self, host: MailHost) -> str:
        address = host_address(self._next)
        self._next += 1
        self._world.hosts[address] = host
        return address

    def _add_policy(self, case: Case, policy: Policy) -> list[str]:
        name = Domain(f"mta-sts.{case.domain}")
        patterns = [f"mx: {label}.{case.domain}" for label in policy.mx]
        text = "\r\n".join(["version: STSv1", f"mode: {policy.mode.value}", *patterns, "max_age: 86400", ""])
        self._world.web.sites[name] = Site(
            context=self._issue(policy.certificate, name).server_context(),
            policy=policy.text or text,
            serving=policy.serving,
        )
        return [f"mta-sts A {WEB}", *(f'_mta-sts TXT "{record}"' for record in policy.records)]

    def _add_receivers(self) -> None:
        """Where reports go: by mail to a host that fails its own enforcing policy, because reports must arrive all the
        same (RFC 8460 §3, §5.3.1), and it asks for reports itself, because reports must not cause reports."""
        name = Domain(f"mx.{REPORTS}")
        host = MailHost(
            name=name,
            domains=frozenset({REPORTS}),
            context=self._issue(Certificate.EXPIRED, name).server_context(),
            mailbox=self._world.mailbox,
        )
        case = Case(name=REPORTS.removesuffix(".test"), why="")
        records = [f"@ MX 10 mx\nmx A {self._start(host)}", f"{COLLECTOR}. A {WEB}"]
        records += self._add_policy(case, Policy(mode=Mode.ENFORCE, serving=Serving.GOOD))
        records.append(f'_smtp._tls TXT "v=TLSRPTv1; rua=mailto:{REPORT_ADDRESS}"')
        self._world.zones.add(REPORTS, "\n".join(records))
        context = self._issue(Certificate.GOOD, COLLECTOR).server_context()
        self._world.web.sites[COLLECTOR] = Site(context=context, takes_reports=True)

    def _add_sender(self) -> None:
        key = SigningKey(domain=SENDER, selector=_SELECTOR, key=generate("ed25519"))
        self._write("dkim.pem", private_pem(key.key))
        name, value = dns_record(key, ("email", "tlsrpt"))
        mx = Domain(f"mx.{SENDER}")
        host = MailHost(
            name=mx,
            domains=frozenset({SENDER}),
            context=self._issue(Certificate.GOOD, mx).server_context(),
            mailbox=self._world.mailbox,
        )
        records = f"@ MX 10 mx\nmx A {self._start(host)}\nrelay A {DNS}\n{name}. TXT {value}"
        self._world.zones.add(SENDER, records)
        relay = self._issue(Certificate.GOOD, HOSTNAME)
        self._write("relay.pem", relay.chain_pem)
        self._write("relay-key.pem", relay.key_pem)

    def _write(self, name: str, content: bytes) -> None:
        path = self._world.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)

    def _issue(self, kind: Certificate, name: Domain) -> Issued:
        begin = self._now - 60 * DAY
        match kind:
            case Certificate.GOOD:
                return self._webpki.issue([name], not_before=begin)
            case Certificate.WRONG_NAME:
                return self._webpki.issue([_OTHER_NAME], not_before=begin)
            case Certificate.EXPIRED:
                return self._webpki.issue([name], not_before=begin, not_after=self._now - 30 * DAY)
            case Certificate.SELF_SIGNED:
                return self_signed([name], not_before=begin, cn=name)
            case Certificate.PRIVATE:
                return self._private.issue([name], not_before=begin)
            case Certificate.PRIVATE_WRONG_NAME:
                return self._private.issue([_OTHER_NAME], not_before=begin)

    def _config(self) -> dict[str, Any]:
        world = self._world
        config: dict[str, Any] = {
            "plugins": world.plugins,
            "core": {"hostname": str(HOSTNAME), "data_dir": str(world.directory / "data")},
            "dns": {
                "nameservers": [world.nameserver],
                "trust_ad": "loopback",
                "self_test": {"secure": str(SENDER), "bogus": "bogus.test"},
            },
            "tls": {"ca_file": str(world.directory / "ca.pem")},
            "net": {"port_map": {"25": world.ground.port, "443": world.ground.port}},
            "reports": {"submitter": str(SENDER), "private_addresses": True},
            "listen": [
                {
                    "kind": "smtp",
                    "bind": self._listener,
                    "cert_file": str(world.directory / "relay.pem"),
                    "key_file": str(world.directory / "relay-key.pem"),
                }
            ],
            "dkim": [{"domain": str(SENDER), "selector": _SELECTOR, "key_file": str(world.directory / "dkim.pem")}],
        }
        if "tlsrpt" in world.plugins:
            config["plugin"] = {"tlsrpt": {"organization": "Postward lab"}}
        return config
