"""What a TLS report says of each outcome of DANE, from the delivery to the counters (RFC 8460 §4.3, §4.4)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from delivery_rig import make_rig
from postward.lab.ca import DAY, Authority, Issued, tlsa
from postward.metrics import unread
from postward.model import JournalEntry
from postward.names import Domain
from postward_dane.plugin import Dane
from postward_tlsrpt.counting import count

MX = Domain("mx1.example.test")
AUTHORITY = Authority("Private")
LEAF = AUTHORITY.issue([MX], with_root=True)
OTHER = AUTHORITY.issue(["other.example.test"], with_root=True)
OLD = AUTHORITY.issue([MX], not_before=0, not_after=DAY, with_root=True)
WRONG = f"3 1 1 {'01' * 32}"
ANCHOR = tlsa(AUTHORITY.root, 2, 0, 1)
UNUSABLE = f"1 1 1 {'01' * 32}"
SIGNATURE_EXPIRED = "extended-dns-error-7-signature-expired"


@dataclass(frozen=True)
class Row:
    """What happens, and what the report says: the policy type, sessions that failed of all, and details."""

    records: tuple[str, ...] = ()
    issued: Issued | None = LEAF
    fault: tuple[str, str, tuple[tuple[int, str], ...]] | None = None
    security: str = "secure"
    validating: bool = True
    config: dict[str, Any] = field(default_factory=dict)
    kind: str = "tlsa"
    domain: str = MX
    failed: int = 1
    details: tuple[tuple[str, str], ...] = ()
    delivered: bool = False


TLSA, A = f"_25._tcp.{MX}", str(MX)
ROWS = {
    "match": Row((tlsa(LEAF.certificate),), failed=0, delivered=True),
    "trust anchor": Row((ANCHOR,), failed=0, delivered=True),
    "no match": Row((WRONG,), details=(("validation-failure", "dane-no-match"),)),
    "no match, audit": Row(
        (WRONG,), config={"audit": ["example.test"]}, details=(("validation-failure", "dane-no-match"),), delivered=True
    ),
    "other name": Row((ANCHOR,), OTHER, details=(("certificate-host-mismatch", ""),)),
    "expired": Row((ANCHOR,), OLD, details=(("certificate-expired", ""),)),
    "no starttls": Row((WRONG,), None, details=(("starttls-not-supported", "smtp-starttls-reply-code-502"),)),
    "all unusable": Row((UNUSABLE,), failed=0, details=(("tlsa-invalid", "all-unusable-records"),), delivered=True),
    "all unusable, no starttls": Row(
        (UNUSABLE,),
        None,
        details=(("starttls-not-supported", "smtp-starttls-reply-code-502"), ("tlsa-invalid", "all-unusable-records")),
    ),
    "lookup, extended error": Row(
        (WRONG,), fault=(TLSA, "SERVFAIL", ((7, "x"),)), details=(("dnssec-invalid", SIGNATURE_EXPIRED),)
    ),
    "lookup, another extended error": Row(
        (WRONG,),
        fault=(TLSA, "SERVFAIL", ((22, ""),)),
        details=(("dnssec-invalid", "extended-dns-error-22-no-reachable-authority"),),
    ),
    "lookup, time-out": Row((WRONG,), fault=(TLSA, "TIMEOUT", ()), details=(("dnssec-invalid", "dns-timeout"),)),
    "lookup, audit": Row(
        (WRONG,),
        fault=(TLSA, "SERVFAIL", ()),
        config={"audit": ["example.test"]},
        details=(("dnssec-invalid", "dns-servfail"),),
        delivered=True,
    ),
    "addresses, extended error": Row(
        fault=(A, "SERVFAIL", ((7, ""),)),
        kind="no-policy-found",
        domain="example.test",
        details=(("dnssec-invalid", SIGNATURE_EXPIRED),),
    ),
    "mandatory, none": Row(config={"mandatory": ["example.test"]}, details=(("dane-required", "no-tlsa-records"),)),
    "mandatory, unsigned": Row(
        (tlsa(LEAF.certificate),),
        security="insecure",
        config={"mandatory": ["example.test"]},
        details=(("dane-required", "insecure-address"),),
    ),
    "mandatory, unusable": Row(
        (UNUSABLE,), config={"mandatory": ["example.test"]}, details=(("dane-required", "all-unusable-records"),)
    ),
    "resolver off": Row((WRONG,), validating=False, kind="no-policy-found", domain="example.test", failed=0, delivered=True),
    "resolver off, mandatory": Row(
        (tlsa(LEAF.certificate),),
        validating=False,
        config={"mandatory": ["example.test"]},
        details=(("dane-required", "resolver-does-not-validate"),),
    ),
    "none": Row(kind="no-policy-found", domain="example.test", failed=0, delivered=True),
    "unsigned": Row((WRONG,), security="insecure", kind="no-policy-found", domain="example.test", failed=0, delivered=True),
}


@pytest.mark.parametrize("name", ROWS)
async def test_what_is_counted(name: str) -> None:
    """RFC 8460 §4.3, §4.4: one session is one success or one failure, in testing too, with the reason that it had."""
    row = ROWS[name]
    async with make_rig() as rig:
        core: Any = SimpleNamespace(
            plugin="dane",
            dns=rig.dns,
            clock=rig.pipeline.clock,
            log=structlog.get_logger(),
            hostname=MX,
            certificates=(),
            metrics=unread(),
        )
        rig.plugins.add("dane", Dane(Dane.Config(**row.config), core))
        zone = "@ MX 10 mx1\nmx1 A 192.0.2.1\n" + "".join(f"_25._tcp.mx1 TLSA {record}\n" for record in row.records)
        rig.dns.set_zone("example.test", zone, row.security)  # type: ignore[arg-type]
        rig.dns.validating = row.validating
        if row.fault:
            rig.dns.fault(row.fault[0], rcode=row.fault[1], ede=row.fault[2])
        rig.mx1.context = row.issued.server_context() if row.issued else None
        done = await rig.deliver()
    assert done.recipients[0].delivered == row.delivered
    assert not done.recipients[0].permanent
    counts = count(JournalEntry(sequence=number, count=1, result=each) for number, each in enumerate(rig.journal.results))
    [policy] = counts.policies.values()
    assert f'"policy-type":"{row.kind}"' in policy.text
    assert policy.domain == row.domain
    assert (sum(counts.failures.values()), sum(counts.successes.values())) == (row.failed, 1 - row.failed)
    assert len(rig.journal.results) == 1
    assert details(counts.details) == Counter(row.details)


def details(found: Counter[Any]) -> Counter[tuple[str, str]]:
    told: Counter[tuple[str, str]] = Counter()
    for key, number in found.items():
        value = json.loads(key.detail)
        told[value["result-type"], value.get("failure-reason-code", "")] += number
    return told


async def test_records_do_not_change_the_order_of_hosts() -> None:
    """RFC 7672 §2.2.1: a host of worse preference must not jump ahead because it has TLSA records."""
    async with make_rig() as rig:
        core: Any = SimpleNamespace(
            plugin="dane", dns=rig.dns, clock=rig.pipeline.clock, log=structlog.get_logger(), metrics=unread()
        )
        rig.plugins.add("dane", Dane(Dane.Config(), core))
        rig.mx2.context = LEAF.server_context()
        zone = "@ MX 10 mx1\n@ MX 20 mx2\nmx1 A 192.0.2.1\nmx2 A 192.0.2.2\n"
        rig.dns.set_zone("example.test", f"{zone}_25._tcp.mx2 TLSA {tlsa(LEAF.certificate)}\n")
        done = await rig.deliver()
        assert [attempt.host for attempt in done.attempts] == [MX]
        rig.dns.set_zone("example.test", f"{zone}_25._tcp.mx1 TLSA {WRONG}\n_25._tcp.mx2 TLSA {tlsa(LEAF.certificate)}\n")
        done = await rig.deliver()
        assert [attempt.host for attempt in done.attempts] == [MX, "mx2.example.test"]
        assert done.recipients[0].delivered


async def test_addresses_come_before_records() -> None:
    """RFC 7672 §2.2.2: MUST look up addresses first; a host with insecure ones is not asked for records at all."""
    asked: list[tuple[str, str]] = []
    async with make_rig() as rig:
        core: Any = SimpleNamespace(
            plugin="dane", dns=rig.dns, clock=rig.pipeline.clock, log=structlog.get_logger(), metrics=unread()
        )
        rig.plugins.add("dane", Dane(Dane.Config(), core))
        query = rig.dns.query

        async def noted(name: Domain | str, rdtype: str) -> Any:
            asked.append((str(name), rdtype))
            return await query(name, rdtype)

        rig.dns.query = noted  # type: ignore[method-assign]
        assert (await rig.deliver()).recipients[0].delivered
    order = [rdtype for _, rdtype in asked]
    assert {"A", "AAAA"} <= set(order)
    assert max(order.index("A"), order.index("AAAA")) < order.index("TLSA")


async def test_the_name_in_the_handshake_is_the_base_domain() -> None:
    """RFC 7672 §8.1, RFC 7671 §10.2: SNI is the TLSA base domain, behind an alias the name at its end."""
    shown: list[str] = []
    async with make_rig() as rig:
        core: Any = SimpleNamespace(
            plugin="dane", dns=rig.dns, clock=rig.pipeline.clock, log=structlog.get_logger(), metrics=unread()
        )
        rig.plugins.add("dane", Dane(Dane.Config(), core))
        context = LEAF.server_context()
        context.sni_callback = lambda connection, name, _: shown.append(name)
        rig.mx1.context = context
        rig.dns.set_zone("example.test", "@ MX 10 mx1\nmx1 CNAME real.provider.test.\n")
        rig.dns.set_zone("provider.test", f"real A 192.0.2.1\n_25._tcp.real TLSA {tlsa(LEAF.certificate)}\n")
        assert (await rig.deliver()).recipients[0].delivered
    assert shown == ["real.provider.test"]
