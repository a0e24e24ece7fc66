"""Report mail as it comes in: over SMTP and LMTP in memory, vouched for by DKIM, and delivered with what became of it.

The service around it is the real one, from the listener's protocol to the database.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import dkim
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from delivery_rig import Journal
from plugin_rig import make_core
from postward.dkim import Signature, Signer, SigningKey, dns_record
from postward.errors import StoreError
from postward.listen.addresses import ReportAddresses
from postward.listen.inbound import MAX_MESSAGE, Inbound, Intake
from postward.listen.maildir import Full
from postward.listen.next_hop import Declined
from postward.listen.pace import Pace
from postward.listen.relay import Relay, Services
from postward.names import Address, Domain
from postward.plugins import Plugins
from postward.smtp.client import Envelope, SmtpConnection
from postward.smtp.server import ServerSettings, serve
from postward_tlsrpt import received_tables, submitter, tables
from postward_tlsrpt.plugin import TlsRpt
from tlsrpt_samples import mail, plain, policy, zipped

REPORTS, HOST_REPORTS = "tlsrpt@example.com", "tlsrpt@mx1.example.com"
TO, HOST_TO = Address.parse(REPORTS), Address.parse(HOST_REPORTS)
SENDER = Address.parse("reports@company-x.example")
COMPANY, STRANGER = Domain("company-x.example"), Domain("stranger.example")
KEYS = {
    domain: SigningKey(domain=domain, selector="s1", key=Ed25519PrivateKey.generate())
    for domain in (COMPANY, STRANGER, Domain("eu.company-x.example"))
}
GOOD = zipped(plain())


def signed(content: bytes, domain: Domain = COMPANY) -> bytes:
    return Signer([KEYS[domain]]).sign(content, domain)


class Mailbox:
    """Keeps what is delivered, unless it has an `error`."""

    def __init__(self) -> None:
        self.delivered: list[bytes] = []
        self.error: Exception | None = None

    async def put(self, cid: str, envelope: Any, content: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.delivered.append(content)

    def field(self, name: str) -> str | None:
        """A field of the last message."""
        head = self.delivered[-1].partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").decode()
        found = [line.partition(":")[2].strip() for line in head.split("\r\n") if line.lower().startswith(f"{name.lower()}:")]
        return found[0] if found else None


class Server:
    """The service with one listener."""

    def __init__(self, core: Any) -> None:
        self.core = core
        core.signer = Signer([])
        core.log = Mock()
        config = TlsRpt.Config(addresses=(TO,), host_addresses=(HOST_TO,))
        self.plugin = TlsRpt(config, core)
        plugins = Plugins()
        plugins.add("tlsrpt", self.plugin)  # type: ignore[arg-type]
        services = Services(
            hostname=core.hostname,
            queue=SimpleNamespace(),  # type: ignore[arg-type]
            clock=core.clock,
            signer=core.signer,
            log=core.log,
            room=lambda size: True,
            queued=lambda *_: None,
        )
        self.mailbox = Mailbox()
        self.intake = Intake(
            services=services,
            addresses=ReportAddresses(self.plugin.report_addresses()),
            hooks=plugins.hooks,
            journal=Journal(),  # type: ignore[arg-type]
            mailbox=self.mailbox,
            pace=Pace(100),
        )
        self.handler = Inbound(intake=self.intake, relay=Relay(services=services))
        for domain, key in KEYS.items():
            _, record = dns_record(key)
            core.dns.set_zone(str(domain), f"s1._domainkey IN TXT {record}\n")

    async def say(self, content: bytes, *to: str, lmtp: bool = False, peer: str = "203.0.113.9") -> list[str]:
        """Hand a message in as a stranger; the replies to it, or to its first refused recipient."""
        client, server = memory_stream_pair()
        settings = ServerSettings(hostname=str(self.core.hostname), lmtp=lmtp)
        recipients = tuple(map(Address.parse, to or (REPORTS,)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: serve(server, self.handler, settings, peer=peer))
            connection = SmtpConnection(client, lmtp=lmtp)
            await connection.greet()
            await connection.ehlo("client.example")
            replies = await connection.send(Envelope(sender=SENDER, recipients=recipients), content)
            await connection.quit()
        return [str(reply) for reply in replies]

    async def counted(self) -> dict[str, tuple[int, int]]:
        """Reports and failures, by domain or host."""
        found = await self.core.store.read(lambda connection: received_tables.domains(connection, 0, 1 << 60))
        return {each.domain: (each.reports, each.failures) for each in found}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with make_core("tlsrpt", tables.SCHEMA) as core:
        yield Server(core)


# --- accepted ---


@pytest.mark.parametrize("lmtp", [False, True])
async def test_a_signed_report_is_counted_and_delivered(server: Server, lmtp: bool) -> None:
    """RFC 8460 §3, §5.3."""
    (reply,) = await server.say(signed(mail(GOOD)), lmtp=lmtp)
    assert reply.startswith("250 ")
    assert await server.counted() == {"example.com": (1, 303)}
    said = server.mailbox.field("X-Postward-Report")
    assert said is not None
    assert said.startswith('tlsrpt; id="5065427c-23d3@company-x.example" stored policies=1 successful=5326 failed=303')
    assert server.mailbox.field("X-Postward-TLSReport-Error") is None
    assert server.mailbox.delivered[-1].endswith(signed(mail(GOOD)).partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("to", ["TLSRPT@Example.com", "tlsrpt+a@example.com", "tlsrpt-2026-11@example.com", HOST_REPORTS])
async def test_addresses_and_what_hangs_on_them(server: Server, to: str) -> None:
    """RFC 5233: sub-addresses, so that one can tell where a report comes from."""
    assert (await server.say(signed(mail(GOOD)), to))[0].startswith("250 ")
    assert await server.counted() == {"example.com": (1, 303)}


@pytest.mark.parametrize("to", ["tlsrpts@example.com", "other@example.com", "tlsrpt@other.example", "xtlsrpt+a@example.com"])
async def test_no_stranger_can_send_to_anybody_else(server: Server, to: str) -> None:
    assert (await server.say(signed(mail(GOOD)), to))[0].startswith("550 ")
    assert server.mailbox.delivered == []


async def test_a_report_that_comes_twice_counts_once_and_is_delivered_twice(server: Server) -> None:
    """RFC 8460 §5.3, §5.5: senders try again, so 250 both times."""
    for _ in range(2):
        assert (await server.say(signed(mail(GOOD))))[0].startswith("250 ")
    assert await server.counted() == {"example.com": (1, 303)}
    assert "duplicate" in (server.mailbox.field("X-Postward-Report") or "")
    assert len(server.mailbox.delivered) == 2


async def test_a_subdomain_of_the_organization_may_be_vouched_for_by_its_parent(server: Server) -> None:
    """RFC 8460 §3: the RFC does not say which domain; ours or a parent within its organization (RFC 9989 §4.10)."""
    content = mail(GOOD, sender="r@mail.company-x.example")
    server.core.dns.set_zone("mail.company-x.example", "")
    server.core.dns.set_zone("example", "")
    await server.say(signed(content))
    assert server.mailbox.field("X-Postward-TLSReport-Error") is not None  # no DMARC record says what the organization is
    _, record = dns_record(KEYS[COMPANY])
    server.core.dns.set_zone("company-x.example", f's1._domainkey IN TXT {record}\n_dmarc IN TXT "v=DMARC1; p=none"\n')
    await server.say(signed(content))
    assert server.mailbox.field("X-Postward-TLSReport-Error") is None
    assert await server.counted() == {"example.com": (1, 303)}


# --- refused, and delivered all the same ---


def with_length(content: bytes) -> bytes:
    """Signed with `l=`."""
    raw = base64.b64encode(cast("Ed25519PrivateKey", KEYS[COMPANY].key).private_bytes_raw())
    signer = dkim.DKIM(content, signature_algorithm=b"ed25519-sha256")
    return bytes(signer.sign(b"s1", b"company-x.example", raw, length=True)) + content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (mail(GOOD), "no DKIM signature"),
        (signed(mail(GOOD), STRANGER), "is not of the organization"),
        (signed(mail(GOOD), Domain("eu.company-x.example")), "is not of the organization"),
        (signed(mail(GOOD)).replace(b"This is a report", b"This is no report"), "no acceptable DKIM signature"),
        (with_length(mail(GOOD)), "has l="),
        (signed(mail(b"\x1f\x8bbroken")), "could not parse TLS report: not gzip, or damaged"),
        (signed(mail(zipped(plain(policies=[])))), "the report has no policies"),
        (signed(mail(zipped(plain(policies=[policy(-1, 0)])))), "negative"),
        (signed(b"From: reports@company-x.example\r\nSubject: hi\r\n\r\nHello\r\n"), "there is no TLS report"),
        (signed(b"From: a@company-x.example, b@company-x.example\r\n\r\nx\r\n"), "From is not one address"),
    ],
)
async def test_what_is_not_accepted_is_delivered_with_the_reason(server: Server, content: bytes, reason: str) -> None:
    """RFC 8460 §3: reports without a valid signature are ignored; nobody loses mail for it."""
    assert (await server.say(content))[0].startswith("250 ")
    said = server.mailbox.field("X-Postward-TLSReport-Error")
    assert said is not None
    assert reason in said
    assert server.mailbox.field("X-Postward-Report") is None
    assert await server.counted() == {}


async def test_a_key_for_another_service_vouches_for_nothing(server: Server) -> None:
    """RFC 8460 §3, RFC 6376 §3.6.1: s= must allow tlsrpt, and one that allows nothing else is good enough here."""
    _, record = dns_record(KEYS[COMPANY])
    for service, good in (("other", False), ("tlsrpt", True), ("email:tlsrpt", True)):
        text = record.replace("v=DKIM1;", f"v=DKIM1; s={service};")
        assert text != record
        server.core.dns.set_zone("company-x.example", f"s1._domainkey IN TXT {text}\n")
        await server.say(signed(mail(GOOD)))
        assert (server.mailbox.field("X-Postward-TLSReport-Error") is None) is good, service


async def test_a_report_about_others_is_said_to_be_one(server: Server) -> None:
    value = plain()
    value["policies"][0]["policy"]["policy-domain"] = "stranger.example"
    await server.say(signed(mail(zipped(value))))
    assert server.mailbox.field("X-Postward-TLSReport-Error") == "report for unknown domain"


async def test_fields_of_ours_that_a_stranger_wrote_are_taken_away(server: Server) -> None:
    forged = "X-Postward-Report: tlsrpt; forged\r\nx-postward-tlsreport-error: forged\r\n"
    await server.say(signed(mail(GOOD, extra=forged)))
    assert b"forged" not in server.mailbox.delivered[-1]


async def test_a_reason_cannot_add_fields(server: Server) -> None:
    value = plain(**{"report-id": "a\r\nX-Evil: 1"})
    await server.say(signed(mail(zipped(value))))
    assert server.mailbox.field("X-Evil") is None


# --- trouble ---


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("disk"), "451 "),
        (Declined("550 no", permanent=True), "554 "),
        (Declined("451 later", permanent=False), "451 "),
        (Full("full"), "250 "),
    ],
)
async def test_what_cannot_be_delivered_is_not_promised(server: Server, error: Exception, code: str) -> None:
    """RFC 5321 §6.1; a full mailbox does not keep counted reports out."""
    server.mailbox.error = error
    assert (await server.say(signed(mail(GOOD))))[0].startswith(code)


async def test_a_full_mailbox_takes_no_other_mail(server: Server) -> None:
    server.mailbox.error = Full("full")
    assert (await server.say(mail(GOOD)))[0].startswith("452 ")


async def test_a_database_that_fails_makes_the_client_come_back(server: Server) -> None:
    async def fail(*_: Any) -> None:
        raise StoreError("database is gone")

    server.core.store.write = fail
    assert (await server.say(signed(mail(GOOD))))[0].startswith("451 ")
    assert server.mailbox.delivered == []


async def test_too_much_from_one_network_waits(server: Server) -> None:
    server.intake.pace = Pace(2)
    replies = [(await server.say(mail(GOOD)))[0][:3] for _ in range(3)]
    assert replies == ["250", "250", "451"]
    assert (await server.say(mail(GOOD), peer="198.51.100.1"))[0].startswith("250 ")


async def test_a_message_of_any_size_leaves_nothing_in_memory(server: Server) -> None:
    large = b"From: a@b.example\r\n\r\n" + b"x\r\n" * (MAX_MESSAGE // 3 + 1)
    replies = [await server.say(content) for content in (signed(mail(GOOD)), large)]
    assert [reply[0][:3] for reply in replies] == ["250", "552"]
    assert server.intake.held == 0


# --- the pure parts ---


def signature(**changes: Any) -> Signature:
    fields: dict[str, Any] = {
        "domain": COMPANY,
        "selector": "s",
        "identity": "",
        "algorithm": "rsa-sha256",
        "result": "pass",
        "service_types": ("*",),
    }
    return Signature(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"service_types": ("tlsrpt",)}, True),
        ({"service_types": ("email", "tlsrpt")}, True),
        ({"service_types": ("email",)}, False),
        ({"result": "fail"}, False),
        ({"result": "temperror"}, False),
        ({"body_length": True}, False),
        ({"domain": STRANGER}, False),
        ({"domain": None}, False),
        ({"domain": Domain("a.mail.company-x.example")}, False),
        ({"domain": Domain("mail.company-x.example")}, True),
    ],
)
def test_which_signatures_are_usable(changes: dict[str, Any], good: bool) -> None:
    """RFC 8460 §3: passing, without l=, for the service, of the author's domain or above."""
    assert bool(submitter.usable([signature(**changes)], Domain("mail.company-x.example"))) is good


def organization(start: str, records: dict[str, list[str] | None]) -> str | None:
    walk = submitter.organization(Domain(start))
    try:
        name = next(walk)
        while True:
            name = walk.send(records.get(str(name), []))
    except StopIteration as stop:
        return str(stop.value) if stop.value is not None else None


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ({}, "a.b.c.example"),
        ({"c.example": ["v=DMARC1; p=none"]}, "c.example"),
        ({"b.c.example": ["v=DMARC1; p=none; psd=n"], "c.example": ["v=DMARC1"]}, "b.c.example"),
        ({"c.example": ["v=DMARC1; psd=y"]}, "b.c.example"),
        ({"a.b.c.example": ["v=DMARC1; psd=y"], "c.example": ["v=DMARC1"]}, "c.example"),
        ({"c.example": None}, None),
        ({"c.example": ["v=DMARC1", "v=DMARC1"]}, "a.b.c.example"),
        ({"c.example": ["v=spf1"]}, "a.b.c.example"),
    ],
)
def test_the_organization_is_found_by_dmarc_records(records: dict[str, list[str] | None], found: str | None) -> None:
    """RFC 9989 §4.10: the tree walk."""
    assert organization("a.b.c.example", records) == found


@given(st.text("abc+-.", min_size=1, max_size=20))
def test_any_local_part_belongs_to_an_address_or_none(local: str) -> None:
    known = ReportAddresses([TO, HOST_TO, Address("tlsrpt-x", Domain("example.com"))])
    assert known.match(Address(f"tlsrpt+{local}", Domain("example.com"))) == TO
    assert known.match(Address(f"tlsrpt{local}", Domain("other.example"))) is None
    assert str((known.match(Address(f"TLSRPT-X-{local}", Domain("example.com")))) or "") == "tlsrpt-x@example.com"
