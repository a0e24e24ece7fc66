"""Postfix's policy client beside our MTA-STS: the same domains and mail hosts, and the same fate per case.

Postfix knows no MTA-STS: a resolver beside it translates each policy into an entry of its policy table, level `secure` with the
`mx` patterns as the names that a certificate may have. Where that comes out otherwise than RFC 8461 wants it, the case says by
which line. Policies come over real HTTPS, names through Unbound and Knot.
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
from postward.lab.ca import DAY, Authority, Issued, self_signed
from postward.lab.https import Site, WebHosts
from postward.lab.mx import Behaviour, Mailbox, MailHost
from postward.names import Domain
from signed_dns import SignedDns, free_port, may_use

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

NOW = time.time_ns() // 1000
ROOT = Authority("Root")
MIDDLE = ROOT.subordinate("Middle")
SENT, DEFERRED = "sent", "deferred"
WEB = "127.73.3.1"
ZONE = "secure.test"


@dataclass(frozen=True)
class Case:
    """A domain: its policy, its mail hosts with the names in their certificates, and what is expected.

    `hosts` are labels below the domain. `names` are those in the certificate of every host, `{}` standing for the domain;
    None: no TLS. `difference` says why Postfix does the opposite.
    """

    expected: str
    mx: tuple[str, ...] = ("mx.{}",)
    names: tuple[str, ...] | None = ("mx.{}",)
    mode: str = "enforce"
    hosts: tuple[str, ...] = ("mx",)
    cn: str = ""
    issuer: Authority | None = MIDDLE
    days: tuple[int, int] = (-1, 90)
    difference: str = ""


CASES = {
    "good": Case(SENT),
    "wildcard-pattern": Case(SENT, ("*.{}",)),
    "several-patterns": Case(SENT, ("*.elsewhere.test", "mx.{}")),
    "wildcard-certificate": Case(SENT, names=("*.{}",)),
    "several-names": Case(SENT, names=("other.test", "mx.{}")),
    "other-name": Case(DEFERRED, names=("other.test",)),
    "domain-in-certificate": Case(DEFERRED, names=("{}", "mta-sts.{}")),
    "expired": Case(DEFERRED, days=(-90, -1)),
    "not-yet-valid": Case(DEFERRED, days=(1, 90)),
    "self-signed": Case(DEFERRED, issuer=None),
    "stranger": Case(DEFERRED, issuer=Authority("Stranger")),
    "no-tls": Case(DEFERRED, names=None),
    "testing-no-tls": Case(SENT, names=None, mode="testing"),
    "testing-other-name": Case(SENT, names=("other.test",), mode="testing"),
    "testing-not-named": Case(SENT, ("nobody.test",), mode="testing"),
    "none": Case(SENT, names=None, mode="none"),
    "not-named": Case(DEFERRED, ("nobody.test",)),
    "second-host": Case(SENT, hosts=("a", "mx")),
    "deeper-host": Case(DEFERRED, ("*.{}",), ("mx.deep.{}",), hosts=("mx.deep",), difference="RFC 8461 §4.1: `*` is one label"),
    "name-of-another-host": Case(
        DEFERRED,
        ("mx.{}", "other.{}"),
        ("other.{}",),
        difference="RFC 8461 §4.2: the certificate is that of the host that was dialled, not of any that the policy names",
    ),
    "not-named-with-a-good-name": Case(
        DEFERRED,
        ("other.{}",),
        ("other.{}", "mx.{}"),
        difference="RFC 8461 §4.1: the policy does not name the host; Postfix compares the certificate alone",
    ),
    "common-name": Case(
        DEFERRED, names=(), cn="mx.{}", difference="RFC 8461 §4.2 wants a DNS-ID; Postfix takes the CN where there is none"
    ),
}


def domain_of(name: str) -> str:
    return f"s-{name}.{ZONE}"


def filled(texts: tuple[str, ...], name: str) -> list[str]:
    return [text.format(domain_of(name)) for text in texts]


def issued(name: str, case: Case) -> Issued | None:
    """What the hosts of a case show."""
    if case.names is None:
        return None
    names, cn = filled(case.names, name), case.cn.format(domain_of(name))
    first, last = (NOW + days * DAY for days in case.days)
    if case.issuer is None:
        return self_signed(names, cn=cn)
    return case.issuer.issue(names, not_before=first, not_after=last, cn=cn)


def address_of(name: str) -> str:
    return f"127.73.2.{1 + list(CASES).index(name)}"


def records() -> str:
    lines = []
    for name, case in CASES.items():
        domain = f"s-{name}"
        lines += [f'_mta-sts.{domain} TXT "v=STSv1; id=1"', f"mta-sts.{domain} A {WEB}"]
        for place, host in enumerate(case.hosts):
            lines += [f"{domain} MX {place} {host}.{domain}", f"{host}.{domain} A {address_of(name)}"]
    return "\n".join(lines)


def policy(name: str, case: Case) -> str:
    patterns = "".join(f"mx: {pattern}\r\n" for pattern in filled(case.mx, name))
    return f"version: STSv1\r\nmode: {case.mode}\r\n{patterns}max_age: 86400\r\n"


def table() -> str:
    """The policies as a resolver for Postfix gives them to it."""
    lines = []
    for name, case in CASES.items():
        names = ":".join(pattern.removeprefix("*") for pattern in filled(case.mx, name))
        level = f"secure match={names} servername=hostname" if case.mode == "enforce" else "may"
        lines.append(f"{domain_of(name)} {level}")
    return "\n".join([*lines, ""])


async def serve(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    sites: dict[Domain, Site] = {}
    async with trio.open_nursery() as nursery:
        for name, case in CASES.items():
            shown = issued(name, case)
            context: ssl.SSLContext | None = shown.server_context() if shown else None
            [listener] = await trio.open_tcp_listeners(25, host=address_of(name))
            host = MailHost(
                name=Domain("mx.test"),
                domains=frozenset({Domain(domain_of(name))}),
                context=context,
                mailbox=Mailbox(),
                behaviour=Behaviour.NORMAL if shown else Behaviour.NO_STARTTLS,
            )
            nursery.start_soon(host.serve, listener)
            front = Domain(f"mta-sts.{domain_of(name)}")
            sites[front] = Site(context=MIDDLE.issue([front]).server_context(), policy=policy(name, case))
        [listener] = await trio.open_tcp_listeners(443, host=WEB)
        nursery.start_soon(WebHosts(sites).serve, listener)
        task_status.started()


@pytest.fixture(scope="module")
def fates(signed_dns: SignedDns) -> Iterator[tuple[dict[str, Fate], dict[str, tuple[str, str]]]]:
    """What Postfix and what Postward did with mail to each case."""
    usable = signed_dns.resolv_conf and may_use(address_of("good"), 25) and may_use(WEB, 443)
    if os.geteuid() != 0 or not usable:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root, and ports 25, 53 and 443 of 127.73.0.0/16")
    signed_dns.add(ZONE, records())
    directory = Path(tempfile.mkdtemp(prefix="postward-sts"))
    directory.chmod(0o755)
    (directory / "postfix").mkdir()
    (directory / "ca.pem").write_bytes(ROOT.root_pem)
    (directory / "policies").write_text(table())
    more = f"""smtp_tls_security_level = may
smtp_tls_CAfile = {directory}/ca.pem
smtp_tls_policy_maps = texthash:{directory}/policies
"""
    sender = PostfixSender(directory / "postfix", port=free_port(), resolv_conf=signed_dns.resolv_conf, more=more)
    addresses = {name: f"you@{domain_of(name)}" for name in CASES}
    try:
        with serving(serve):
            sender.start()
            theirs = sender.send(list(addresses.values()))
            yield {name: theirs[address] for name, address in addresses.items()}, ours(signed_dns, directory, addresses)
    finally:
        sender.stop()
        shutil.rmtree(directory, ignore_errors=True)


def ours(signed_dns: SignedDns, directory: Path, addresses: dict[str, str]) -> dict[str, tuple[str, str]]:
    config = write_config(
        directory / "ours",
        plugins=["mtasts"],
        dns={"nameservers": [signed_dns.nameserver], "self_test": {"secure": "", "bogus": ""}},
        tls={"ca_file": str(directory / "ca.pem")},
    )
    message = b"From: me@sender.test\r\nSubject: x\r\n\r\nhello\r\n"
    words = ["deliver", "--config", config, "--json", "--from", "me@sender.test", "--to", *addresses.values(), "-"]
    done = partial(call, stdin=message)(*words)
    found = {each["address"]: (SENT if each["delivered"] else DEFERRED, each["reply"]) for each in done.recipients}
    assert not any(each["permanent"] for each in done.recipients)
    policies = {each["domain"]: policy for each in done.attempts for policy in each["policies"] if policy["kind"] == "sts"}
    assert len(policies) == sum(case.mode != "none" for case in CASES.values()), "every policy came over HTTPS"
    return {name: found[address] for name, address in addresses.items()}


@pytest.mark.parametrize("name", CASES)
def test_postfix_and_our_mta_sts_do_the_same(name: str, fates: tuple[dict[str, Fate], dict[str, tuple[str, str]]]) -> None:
    """RFC 8461 §4, §4.1, §4.2, §5: accept or defer, never a bounce; a difference has a line of the RFC behind it."""
    case, theirs, mine = CASES[name], fates[0][name], fates[1][name]
    assert mine[0] == case.expected, (mine, theirs)
    opposite = SENT if case.expected == DEFERRED else DEFERRED
    assert theirs.status == (opposite if case.difference else case.expected), (theirs, mine)
