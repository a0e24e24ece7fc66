"""Delivery to a Postfix, over really signed DNS, under DANE and MTA-STS, judged by what lies in the maildir.

Nothing of the other side is ours but the policy host: Postfix takes the mail, Knot signs and serves the zones, Unbound
validates them, dkimpy checks the signatures of what arrived.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dkim
import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deliver_kit import PLUGINS, Ran, call, deliver, run, serving, write_config
from postfix_server import Postfix
from postward.dkim import Signer, SigningKey, dns_record, generate
from postward.lab.ca import Authority, tlsa
from postward.lab.https import Site, WebHosts
from postward.names import Domain
from signed_dns import SignedDns, free_port

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

HERE, REAL = "127.73.0.1", "127.73.0.2"
GOOD, WRONG_KEY, NOT_NAMED, REAL_PORTS = (f"{label}.secure.test" for label in ("pf", "pf-key", "pf-named", "pf-real"))
BOGUS_HOST = "pf-bogus.secure.test"
MX, MX_WRONG_KEY, MX_REAL = f"mx.{GOOD}", f"mx.{WRONG_KEY}", f"mx.{REAL_PORTS}"
YOU, SHE, REALLY = f"you@{GOOD}", f"she@{GOOD}", f"you@{REAL_PORTS}"
UTF8 = f"jörg@{GOOD}"
SENDER = Domain("sender.test")
RELAYED = b"From: me@sender.test\r\nTo: you\r\nSubject: x\r\n\r\nhello\r\n"


@dataclass(slots=True)
class Place:
    """The world: the mail host, and how to deliver into it."""

    postfix: Postfix
    directory: Path
    settings: dict[str, Any]
    real_ports: bool

    def config(self, plugins: Sequence[str] = PLUGINS, **tables: Any) -> Path:
        """A configuration; equal plugins share databases."""
        directory = self.directory / "-".join(("relay", *plugins, *tables))
        return write_config(directory, plugins=list(plugins), **{**self.settings, **tables})

    def deliver(
        self, to: str | Sequence[str], message: bytes = RELAYED, *options: str, process: bool = False, **tables: Any
    ) -> Ran:
        """Deliver with the whole configuration, or with other `plugins`; `process` starts the program for it."""
        return deliver(self.config(**tables), to, message, *options, how=run if process else call)


@pytest.fixture(scope="module")
def place(signed_dns: SignedDns) -> Iterator[Place]:
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Postfix starts as root only")
    directory = Path(tempfile.mkdtemp(prefix="postward-pf"))
    directory.chmod(0o755)
    authority = Authority("Test WebPKI", intermediate=True)
    issued = authority.issue([MX, MX_WRONG_KEY, MX_REAL], key="rsa")
    (directory / "ca.pem").write_bytes(authority.root_pem)
    smtp, https = free_port(HERE), free_port(HERE)
    real = may_listen(REAL, 25) and may_listen(REAL, 443)
    (directory / "postfix").mkdir()
    postfix = Postfix(
        directory / "postfix",
        hostname=MX,
        listen=[(HERE, smtp), *([(REAL, 25)] if real else [])],
        pem=issued.key_pem + issued.chain_pem,
        mailboxes=[YOU, SHE, UTF8, REALLY, *(f"you@{domain}" for domain in (WRONG_KEY, NOT_NAMED))],
    )
    records = [*zone_of(GOOD, MX, HERE), f"_25._tcp.{MX}. TLSA {tlsa(issued.certificate)}"]
    records += [*zone_of(WRONG_KEY, MX_WRONG_KEY, HERE), f"_25._tcp.{MX_WRONG_KEY}. TLSA 3 1 1 {'00' * 32}"]
    records += [f"{NOT_NAMED}. MX 10 {MX}.", *policy_records(NOT_NAMED, HERE)]
    records += [*zone_of(REAL_PORTS, MX_REAL, REAL), f"_25._tcp.{MX_REAL}. TLSA {tlsa(issued.certificate)}"]
    records += [f"{BOGUS_HOST}. MX 10 mx.bogus.test."]
    signed_dns.add("secure.test", "\n".join(records))
    signed_dns.add("bogus.test", f"pf MX 10 {MX}.\nmx A {HERE}")
    named = {GOOD: MX, WRONG_KEY: MX_WRONG_KEY, NOT_NAMED: "another.host.test", REAL_PORTS: MX_REAL}
    web = WebHosts(
        sites={
            Domain(f"mta-sts.{domain}"): Site(
                context=authority.issue([f"mta-sts.{domain}"]).server_context(),
                policy=f"version: STSv1\r\nmode: enforce\r\nmx: {mx}\r\nmax_age: 86400\r\n",
            )
            for domain, mx in named.items()
        }
    )
    settings = {
        "dns": {"nameservers": [signed_dns.nameserver], "self_test": {"secure": "secure.test", "bogus": "ns.bogus.test"}},
        "tls": {"ca_file": str(directory / "ca.pem")},
        "net": {"port_map": {"25": smtp, "443": https}},
    }
    try:
        postfix.start()
        with serving(partial(serve_web, web, [(HERE, https), *([(REAL, 443)] if real else [])])):
            yield Place(postfix, directory, settings, real)
    finally:
        postfix.stop()
        shutil.rmtree(directory, ignore_errors=True)


def zone_of(domain: str, mx: str, address: str) -> list[str]:
    return [f"{domain}. MX 10 {mx}.", f"{mx}. A {address}", *policy_records(domain, address)]


def policy_records(domain: str, address: str) -> list[str]:
    return [f'_mta-sts.{domain}. TXT "v=STSv1; id=1"', f"mta-sts.{domain}. A {address}"]


def may_listen(address: str, port: int) -> bool:
    try:
        with socket.create_server((address, port)):
            return True
    except OSError:
        return False


async def serve_web(
    web: WebHosts, places: Sequence[tuple[str, int]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with trio.open_nursery() as nursery:
        for address, port in places:
            [listener] = await trio.open_tcp_listeners(port, host=address)
            nursery.start_soon(web.serve, listener)
        task_status.started()


# --- what arrives ---

ATTACHMENT = base64.encodebytes(os.urandom(2_300_000))
MESSAGES = {
    "eight-bit": "From: me@sender.test\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Transfer-Encoding: 8bit\r\n\r\nGrüße aus Köln, żółw, 日本\r\n".encode(),
    "dots": b"From: me@sender.test\r\nSubject: x\r\n\r\n.\r\n..\r\n.a\r\nb.\r\n...c\r\n\r\n.\r\n",
    "long-lines": b"From: me@sender.test\r\nSubject: x\r\n\r\n" + b"a" * 998 + b"\r\n." + b"b" * 997 + b"\r\nend\r\n",
    "long-header": b"From: me@sender.test\r\nSubject: x\r\n"
    + b"X-Long: "
    + b"\r\n ".join([b"c" * 900] * 20)
    + b"\r\n\r\nx\r\n",
    "lf-only": b"From: me@sender.test\nSubject: x\n\nfirst\n\n.second\n",
    "attachment": b"From: me@sender.test\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + ATTACHMENT.replace(b"\n", b"\r\n"),
    "empty-body": b"From: me@sender.test\r\nSubject: x\r\n\r\n",
    "no-last-line-end": b"From: me@sender.test\r\nSubject: x\r\n\r\nno end",
}
OURS = [SigningKey(domain=SENDER, selector=kind, key=generate(kind)) for kind in ("rsa", "ed25519")]  # type: ignore[arg-type]
THEIRS = SigningKey(domain=SENDER, selector="dkimpy", key=generate("rsa"))
KEYS = {f"{name}.": value for name, value in (dns_record(key) for key in (*OURS, THEIRS))}


def signed(message: bytes) -> bytes:
    """The message under three signatures: two of ours, and one of dkimpy's below them."""
    pem = THEIRS.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    field = dkim.sign(message, b"dkimpy", b"sender.test", pem, canonicalize=(b"relaxed", b"relaxed"))
    if b"\r\n" not in message:
        return Signer(OURS).sign(to_crlf(field + message), SENDER).replace(b"\r\n", b"\n")
    return Signer(OURS).sign(field + message, SENDER)


def to_crlf(message: bytes) -> bytes:
    return message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def key_record(name: bytes, timeout: int = 0) -> bytes | None:
    value = KEYS.get(name.decode())
    return value.strip('"').replace('" "', "").encode() if value else None


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_delivered_is_what_arrives(place: Place, name: str) -> None:
    """RFC 5321 §4.1.1.4, §4.5.2, §4.5.3.1.6, RFC 6152; signatures by two hands still hold (RFC 6376 §6)."""
    message = signed(MESSAGES[name])
    done = place.deliver(YOU, message)
    assert done.code == 0, done.err
    arrived = place.postfix.take(YOU)
    sent = message.replace(b"\r\n", b"\n")
    assert arrived == sent + (b"" if sent.endswith(b"\n") else b"\n")
    verifier = dkim.DKIM(to_crlf(arrived))
    assert [verifier.verify(index, dnsfunc=key_record) for index in range(3)] == [True] * 3


def test_both_policies_hold(place: Place) -> None:
    """RFC 7672 §2, RFC 8461 §2; the JSON that scripts rely on."""
    done = place.deliver(YOU, process=True)
    place.postfix.take(YOU)
    assert b"(using TLSv1.3 " in place.postfix.trace
    assert b" with ESMTPS " in place.postfix.trace
    [recipient], [attempt] = done.recipients, done.attempts
    assert recipient.items() >= {"address": YOU, "delivered": True, "permanent": False}.items()
    assert recipient["reply"].startswith("250 2.0.0 Ok: queued as ")
    wanted = {"domain": GOOD, "host": MX, "address": HERE, "delivered": True, "error": ""}
    assert attempt.items() >= wanted.items()
    assert attempt["tls"]["protocol"] == "TLSv1.3"
    assert attempt["tls"]["cipher"]
    policies = {each["kind"]: each for each in attempt["policies"]}
    assert {kind: (each["mode"], each["domain"], each["passed"], each["result_type"]) for kind, each in policies.items()} == {
        "tlsa": ("enforce", MX, True, None),
        "sts": ("enforce", GOOD, True, None),
    }
    assert done.err == ""


@pytest.mark.parametrize(
    ("plugins", "kinds"),
    [
        (["mtasts", "tlsrpt", "dmarc"], {"sts"}),
        (["dane", "tlsrpt", "dmarc"], {"tlsa"}),
        (["tlsrpt", "dmarc"], {"no-policy-found"}),
        (["dane", "mtasts"], {"tlsa", "sts"}),
        ([], {"no-policy-found"}),
    ],
)
def test_a_plugin_less_takes_only_its_own_lines_away(place: Place, plugins: list[str], kinds: set[str]) -> None:
    whole = place.deliver(YOU)
    place.postfix.take(YOU)
    rest = place.deliver(YOU, plugins=plugins)
    place.postfix.take(YOU)
    assert rest.code == 0, rest.err
    kept = [each for each in whole.attempts[0].pop("policies") if each["kind"] in kinds]
    found = rest.attempts[0].pop("policies")
    assert {each["kind"] for each in found} == kinds
    assert all(each["passed"] for each in found)
    assert found == kept or kinds == {"no-policy-found"}
    assert [whole.recipients[0]["delivered"], rest.recipients[0]["delivered"]] == [True, True]


# --- what must not arrive ---


def test_another_key_than_dns_names(place: Place) -> None:
    """RFC 7672 §2.2: delayed, never delivered; RFC 8461 §2: a passing MTA-STS does not help."""
    done = place.deliver(f"you@{WRONG_KEY}", process=True)
    assert done.code == 1
    assert done.policies == {"tlsa": (False, "validation-failure"), "sts": (True, None)}
    assert [(each["delivered"], each["permanent"]) for each in done.recipients] == [(False, False)]
    assert done.recipients[0]["reply"].startswith("451 4.7.5 ")
    assert done.attempts[0]["tls"] is not None
    assert place.postfix.empty(f"you@{WRONG_KEY}")


@pytest.mark.parametrize("domain", ["pf.bogus.test", BOGUS_HOST])
def test_a_zone_whose_signatures_are_wrong(place: Place, domain: str) -> None:
    """RFC 7672 §2.1.2: bogus is no absence, be it of MX records or of addresses; RFC 8460 §4.3.2.1: `dnssec-invalid`."""
    done = place.deliver(f"you@{domain}", process=True)
    assert done.code == 1
    [attempt] = done.attempts
    assert done.policies == {"no-policy-found": (False, "dnssec-invalid")}
    assert attempt["policies"][0]["reason"].startswith("extended-dns-error-6-")
    assert (attempt["tls"], attempt["address"]) == (None, "")
    assert [(each["delivered"], each["permanent"]) for each in done.recipients] == [(False, False)]


def test_a_host_that_the_policy_does_not_name(place: Place) -> None:
    """RFC 8461 §4.1: not even dialled; that DANE is satisfied does not help."""
    done = place.deliver(f"you@{NOT_NAMED}", process=True)
    assert done.code == 1
    [attempt] = done.attempts
    assert (attempt["tls"], attempt["address"], attempt["delivered"]) == (None, "", False)
    assert done.policies == {"sts": (False, "validation-failure")}
    assert "sts" in attempt["error"]
    assert not done.recipients[0]["permanent"]
    assert place.postfix.empty(f"you@{NOT_NAMED}")


def test_require_tls_where_it_is_not_known(place: Place) -> None:
    """RFC 8689 §4.2.1: Postfix has no REQUIRETLS, so the mail goes back with 5.7.30."""
    done = place.deliver(YOU, RELAYED, "--require-tls", process=True)
    assert done.code == 1
    [recipient] = done.recipients
    assert recipient["permanent"]
    assert " 5.7.30 " in recipient["reply"]
    assert all(passed for passed, _ in done.policies.values())
    assert place.postfix.empty(YOU)


@pytest.mark.parametrize("domain", [WRONG_KEY, NOT_NAMED])
def test_the_sender_may_do_without(place: Place, domain: str) -> None:
    """RFC 8689 §3, §4.1: `TLS-Required: No` overrules every policy, and the record still says what was wrong."""
    done = place.deliver(f"you@{domain}", b"TLS-Required: No\r\n" + RELAYED)
    assert done.code == 0, done.out
    assert place.postfix.take(f"you@{domain}").endswith(b"\nhello\n")
    assert done.attempts[0]["tls"] is not None
    assert "validation-failure" in {result_type for _, result_type in done.policies.values()}


# --- recipients ---


def test_several_recipients_and_one_unknown(place: Place) -> None:
    """RFC 5321 §3.3: one transaction, each recipient decided on its own."""
    done = place.deliver([YOU, f"nobody@{GOOD}", SHE])
    assert done.code == 1
    assert [(each["address"], each["delivered"], each["permanent"]) for each in done.recipients] == [
        (YOU, True, False),
        (f"nobody@{GOOD}", False, True),
        (SHE, True, False),
    ]
    assert done.recipients[1]["reply"].startswith("550 5.1.1 ")
    assert len(done.attempts) == 1
    assert place.postfix.take(YOU) == place.postfix.take(SHE)


def test_an_address_outside_ascii(place: Place) -> None:
    """RFC 6531 §3."""
    done = place.deliver(UTF8, process=True)
    assert done.code == 0, done.out
    assert done.recipients[0]["address"] == UTF8
    assert place.postfix.take(UTF8).endswith(b"\nhello\n")


def test_a_header_outside_ascii(place: Place) -> None:
    """RFC 6531 §3.4: raw UTF-8 in the header goes as SMTPUTF8."""
    message = "From: Jörg <me@sender.test>\r\nSubject: Grüße\r\n\r\nhello\r\n".encode()
    assert place.deliver(YOU, message).code == 0
    assert place.postfix.take(YOU) == message.replace(b"\r\n", b"\n")


def test_the_null_sender(place: Place) -> None:
    """RFC 5321 §4.5.5."""
    config = place.config()
    done = run("deliver", "-c", config, "--json", "--from", "<>", "--to", YOU, "-", stdin=RELAYED)
    assert done.code == 0, done.out
    place.postfix.take(YOU)


def test_several_domains_in_one_call(place: Place) -> None:
    """What one domain refuses does not touch the other."""
    done = place.deliver([f"you@{WRONG_KEY}", YOU, "you@pf.bogus.test"])
    assert done.code == 1
    assert [each["delivered"] for each in done.recipients] == [False, True, False]
    assert {each["domain"] for each in done.attempts} == {WRONG_KEY, GOOD, "pf.bogus.test"}
    place.postfix.take(YOU)


def test_the_results_are_kept(place: Place) -> None:
    """A session that was seen is in the journal, or counted by the plugin for reports (RFC 8460 §4.1)."""
    config = place.config(core={"hostname": "relay.sender.test", "data_dir": str(place.directory / "fresh")})
    assert deliver(config, YOU, RELAYED).code == 0
    place.postfix.take(YOU)
    assert deliver(config, f"you@{WRONG_KEY}", RELAYED).code == 1
    with closing(sqlite3.connect(place.directory / "fresh" / "results.db")) as results:
        rows = results.execute("SELECT recipient_domain, policy_domain, successes, failures FROM tlsrpt_sessions").fetchall()
    results.close()
    assert sorted(rows) == sorted(
        [(GOOD, MX, 1, 0), (GOOD, GOOD, 1, 0), (WRONG_KEY, MX_WRONG_KEY, 0, 1), (WRONG_KEY, WRONG_KEY, 1, 0)]
    )


def test_the_ports_that_the_world_uses(place: Place) -> None:
    """No port is mapped: 25 and 443 as they are."""
    if not place.real_ports:
        pytest.skip(f"ports 25 and 443 of {REAL} cannot be bound")
    settings = {key: value for key, value in place.settings.items() if key != "net"}
    config = write_config(place.directory / "real", **settings)
    done = deliver(config, REALLY, RELAYED)
    assert done.code == 0, done.out
    assert done.policies == {"tlsa": (True, None), "sts": (True, None)}
    assert place.postfix.take(REALLY).endswith(b"\nhello\n")
