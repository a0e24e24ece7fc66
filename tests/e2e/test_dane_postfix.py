"""Postfix's own DANE beside ours: the same really signed zones, validator and mail hosts, and the same fate per case.

Where the two differ, the case says which line of which RFC explains it. Nothing but the mail hosts is ours: Knot signs and
serves, Unbound validates.
"""

from __future__ import annotations

import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from deliver_kit import call, serving, write_config
from postfix_sender import Fate, PostfixSender
from postward.lab.ca import DAY, Authority, Issued, self_signed, tlsa
from postward.lab.mx import Behaviour, Mailbox, MailHost
from postward.names import Domain
from signed_dns import SignedDns, free_port, may_use

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

NOW = time.time_ns() // 1000
ROOT = Authority("Root")
MIDDLE = ROOT.subordinate("Middle")
OLD = ROOT.subordinate("Old", not_after=NOW - DAY)
STRANGER = Authority("Stranger")
WRONG, WRONG_512 = f"3 1 1 {'01' * 32}", f"3 1 2 {'02' * 64}"
SENT, DEFERRED = "sent", "deferred"

CERTIFICATES: dict[str, Issued | None] = {
    "none": None,
    "own": self_signed(["somebody.else.test"], not_before=NOW - 9 * DAY, not_after=NOW - DAY),
    "other-name": MIDDLE.issue(["other.example.test"]),
    "next-hop": MIDDLE.issue(["d-ta-next-hop.secure.test"]),
    "expired": MIDDLE.issue(["*.d-ta-expired.secure.test"], not_before=NOW - 9 * DAY, not_after=NOW - DAY),
    "common-name": MIDDLE.issue([], cn="mx.d-ta-cn.secure.test"),
    "old-issuer": OLD.issue(["*.d-ta-old-issuer.secure.test"]),
    "old-anchor": OLD.issue(["*.d-ta-old-anchor.secure.test"]),
}
# The name in a certificate has to be that of the case.
for _name in ("ta-middle", "ta-full-root", "ta-key-root", "ta-digest-root", "ta-wildcard", "ta-stranger"):
    CERTIFICATES[_name] = MIDDLE.issue([f"*.d-{_name}.secure.test"])


def own() -> Issued:
    issued = CERTIFICATES["own"]
    assert issued is not None
    return issued


RIGHT = tlsa(own().certificate)
MAIL, HOST = "{name} MX 1 mx.{name}", "mx.{name} A {address}"
ALIAS, REAL = "mx.{name} CNAME r.{name}", "r.{name} A {address}"


def at(host: str, record: str) -> str:
    """A TLSA record of a host of the case."""
    return f"_25._tcp.{host}.{{name}} TLSA {record}"


@dataclass(frozen=True)
class Case:
    """A domain `d-name.zone`: its records, or the usual ones; the certificate that its host shows; and what is expected.

    `difference` says why Postfix does the opposite.
    """

    expected: str
    tlsa: tuple[str, ...] = ()
    shows: str = "own"
    zone: str = "secure.test"
    records: tuple[str, ...] | None = None
    elsewhere: tuple[tuple[str, str], ...] = ()
    difference: str = ""


CASES = {
    "ee": Case(SENT, (RIGHT,)),
    "ee-wrong": Case(DEFERRED, (WRONG,)),
    "ee-several": Case(SENT, (WRONG, RIGHT)),
    "ee-whole": Case(SENT, (tlsa(own().certificate, 3, 0, 0),)),
    "ee-512": Case(SENT, (tlsa(own().certificate, 3, 0, 2),)),
    "agility": Case(DEFERRED, (WRONG_512, RIGHT)),
    "agility-selectors": Case(SENT, (WRONG_512, tlsa(own().certificate, 3, 0, 1))),
    "ee-no-tls": Case(DEFERRED, (RIGHT,), "none"),
    "ta-middle": Case(SENT, (tlsa(MIDDLE.certificate, 2, 1, 1),), "ta-middle"),
    "ta-full-root": Case(SENT, (tlsa(ROOT.root, 2, 0, 0),), "ta-full-root"),
    "ta-key-root": Case(SENT, (tlsa(ROOT.root, 2, 1, 0),), "ta-key-root"),
    "ta-digest-root": Case(DEFERRED, (tlsa(ROOT.root, 2, 0, 1),), "ta-digest-root"),
    "ta-wildcard": Case(SENT, (tlsa(MIDDLE.certificate, 2, 0, 2),), "ta-wildcard"),
    "ta-stranger": Case(DEFERRED, (tlsa(STRANGER.root, 2, 0, 0),), "ta-stranger"),
    "ta-other-name": Case(DEFERRED, (tlsa(MIDDLE.certificate, 2, 1, 1),), "other-name"),
    "ta-next-hop": Case(SENT, (tlsa(MIDDLE.certificate, 2, 1, 1),), "next-hop"),
    "ta-expired": Case(DEFERRED, (tlsa(MIDDLE.certificate, 2, 1, 1),), "expired"),
    "ta-cn": Case(
        DEFERRED,
        (tlsa(MIDDLE.certificate, 2, 1, 1),),
        "common-name",
        difference="RFC 9525 §2 drops the CN that RFC 7672 §3.2.3 still allows; `common_name = true` accepts it",
    ),
    "ta-old-issuer": Case(DEFERRED, (tlsa(ROOT.root, 2, 0, 0),), "old-issuer"),
    "ta-old-anchor": Case(
        DEFERRED,
        (tlsa(OLD.certificate, 2, 0, 1),),
        "old-anchor",
        difference="RFC 7672 §3.1.2 wants the chain unexpired; OpenSSL does not look at an anchor that is not self-signed",
    ),
    "pkix-only": Case(SENT, (f"1 1 1 {'01' * 32}", f"0 0 1 {'01' * 32}")),
    "malformed-only": Case(SENT, ("3 1 1 0102", f"3 1 9 {'01' * 32}", f"3 7 1 {'01' * 32}", f"9 1 1 {'01' * 32}")),
    "unusable-no-tls": Case(DEFERRED, (f"1 1 1 {'01' * 32}",), "none"),
    "malformed-beside": Case(DEFERRED, ("3 1 1 0102", WRONG)),
    "no-records": Case(SENT),
    "no-records-no-tls": Case(SENT, shows="none"),
    "absent-nsec3": Case(SENT, zone="nsec3.test"),
    "tlsa-alias": Case(SENT, records=(MAIL, HOST, "_25._tcp.mx.{name} CNAME t.{name}", f"t.{{name}} TLSA {RIGHT}")),
    "tlsa-alias-wrong": Case(DEFERRED, records=(MAIL, HOST, "_25._tcp.mx.{name} CNAME t.{name}", f"t.{{name}} TLSA {WRONG}")),
    "tlsa-alias-unsigned": Case(
        SENT,
        records=(MAIL, HOST, "_25._tcp.mx.{name} CNAME t.{name}.insecure.test."),
        elsewhere=(("insecure.test", f"t.{{name}} TLSA {WRONG}"),),
    ),
    "tlsa-bogus": Case(
        DEFERRED,
        records=(MAIL, HOST, "_25._tcp.mx.{name} CNAME t.{name}.bogus.test."),
        elsewhere=(("bogus.test", f"t.{{name}} TLSA {RIGHT}"),),
    ),
    "alias": Case(
        SENT,
        records=(MAIL, ALIAS, REAL, at("r", RIGHT), at("mx", WRONG)),
    ),
    "alias-original": Case(
        DEFERRED,
        records=(MAIL, ALIAS, REAL, at("mx", WRONG)),
    ),
    "alias-first-unusable": Case(
        SENT,
        records=(MAIL, ALIAS, REAL, at("r", "3 1 1 00"), at("mx", WRONG)),
    ),
    "alias-into-unsigned": Case(
        DEFERRED,
        records=(MAIL, "mx.{name} CNAME r.{name}.insecure.test.", at("mx", WRONG)),
        elsewhere=(("insecure.test", REAL),),
    ),
    "alias-from-unsigned": Case(
        SENT,
        zone="insecure.test",
        records=(MAIL, "mx.{name} CNAME r.{name}.secure.test.", at("mx", WRONG)),
        elsewhere=(("secure.test", REAL), ("secure.test", at("r", WRONG))),
    ),
    "second-mx": Case(
        SENT,
        records=(
            "{name} MX 1 a.{name}",
            "{name} MX 2 b.{name}",
            "a.{name} A {address}",
            "b.{name} A {address}",
            at("a", WRONG),
            at("b", RIGHT),
        ),
    ),
    "implicit": Case(SENT, records=("{name} A {address}", f"_25._tcp.{{name}} TLSA {RIGHT}")),
    "implicit-wrong": Case(DEFERRED, records=("{name} A {address}", f"_25._tcp.{{name}} TLSA {WRONG}")),
    "unsigned": Case(SENT, (WRONG,), zone="insecure.test"),
    "unsigned-mx": Case(SENT, zone="insecure.test", records=("{name} MX 1 mx.d-ee.secure.test.",)),
    "unsigned-mx-wrong": Case(DEFERRED, zone="insecure.test", records=("{name} MX 1 mx.d-ee-wrong.secure.test.",)),
    "bogus": Case(DEFERRED, (RIGHT,), zone="bogus.test"),
    "bogus-host": Case(DEFERRED, records=("{name} MX 1 mx.d-bogus.bogus.test.",)),
    "expired": Case(DEFERRED, (RIGHT,), zone="expired.test"),
    "delegated": Case(SENT, (RIGHT,), zone="good.parent.test"),
    "delegated-wrong": Case(DEFERRED, (WRONG,), zone="good.parent.test"),
    "wrong-ds": Case(DEFERRED, (RIGHT,), zone="wrongds.parent.test"),
    "opt-out": Case(SENT, (WRONG,), zone="optout.parent.test"),
}


def address_of(shows: str) -> str:
    return f"127.73.1.{1 + list(CERTIFICATES).index(shows)}"


def lines_of(name: str, case: Case) -> list[tuple[str, str]]:
    """The records of a case, each with its zone."""
    usual = (MAIL, HOST, *(at("mx", record) for record in case.tlsa))
    lines = [(case.zone, line) for line in case.records or usual] + list(case.elsewhere)
    return [(zone, line.replace("{name}", f"d-{name}").replace("{address}", address_of(case.shows))) for zone, line in lines]


async def serve_hosts(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    domains = frozenset(Domain(f"d-{name}.{case.zone}") for name, case in CASES.items())
    async with trio.open_nursery() as nursery:
        for shows, issued in CERTIFICATES.items():
            [listener] = await trio.open_tcp_listeners(25, host=address_of(shows))
            context: ssl.SSLContext | None = issued.server_context() if issued else None
            behaviour = Behaviour.NORMAL if issued else Behaviour.NO_STARTTLS
            host = MailHost(name=Domain("mx.test"), domains=domains, context=context, mailbox=Mailbox(), behaviour=behaviour)
            nursery.start_soon(host.serve, listener)
        task_status.started()


@pytest.fixture(scope="module")
def fates(signed_dns: SignedDns) -> Iterator[tuple[dict[str, Fate], dict[str, tuple[str, str]]]]:
    """What Postfix and what Postward did with mail to each case."""
    if os.geteuid() != 0 or not signed_dns.resolv_conf or not may_use(address_of("none"), 25):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root, and ports 25 and 53 of addresses in 127.73.0.0/16")
    lines: dict[str, list[str]] = {}
    for name, case in CASES.items():
        for zone, line in lines_of(name, case):
            lines.setdefault(zone, []).append(line)
    for zone, records in lines.items():
        signed_dns.add(zone, "\n".join(records))
    directory = Path(tempfile.mkdtemp(prefix="postward-dane"))
    directory.chmod(0o755)
    (directory / "postfix").mkdir()
    (directory / "ca.pem").write_bytes(STRANGER.root_pem)
    sender = PostfixSender(directory / "postfix", port=free_port(), resolv_conf=signed_dns.resolv_conf)
    addresses = {name: f"you@d-{name}.{case.zone}" for name, case in CASES.items()}
    try:
        with serving(serve_hosts):
            sender.start()
            theirs = sender.send(list(addresses.values()))
            yield {name: theirs[address] for name, address in addresses.items()}, ours(signed_dns, directory, addresses)
    finally:
        sender.stop()
        shutil.rmtree(directory, ignore_errors=True)


def ours(signed_dns: SignedDns, directory: Path, addresses: dict[str, str]) -> dict[str, tuple[str, str]]:
    config = write_config(
        directory / "ours",
        plugins=["dane"],
        dns={"nameservers": [signed_dns.nameserver], "self_test": {"secure": "secure.test", "bogus": "ns.bogus.test"}},
        tls={"ca_file": str(directory / "ca.pem")},
    )
    message = b"From: me@sender.test\r\nSubject: x\r\n\r\nhello\r\n"
    words = ["deliver", "--config", config, "--json", "--from", "me@sender.test", "--to", *addresses.values(), "-"]
    done = partial(call, stdin=message)(*words)
    found = {each["address"]: (SENT if each["delivered"] else DEFERRED, each["reply"]) for each in done.recipients}
    assert not any(each["permanent"] for each in done.recipients)
    return {name: found[address] for name, address in addresses.items()}


@pytest.mark.parametrize("name", CASES)
def test_postfix_and_we_do_the_same(name: str, fates: tuple[dict[str, Fate], dict[str, tuple[str, str]]]) -> None:
    """RFC 7672 §2.2, §3: accept or defer, never a bounce; a difference has a line of an RFC behind it."""
    case, theirs, mine = CASES[name], fates[0][name], fates[1][name]
    assert mine[0] == case.expected, (mine, theirs)
    opposite = SENT if case.expected == DEFERRED else DEFERRED
    assert theirs.status == (opposite if case.difference else case.expected), (theirs, mine)
