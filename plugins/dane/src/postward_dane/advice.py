"""What the owner of a domain should know of its DANE: what is wrong, whom it hurts, and the record or step that mends it.

RFC 7672 §2.2 says what senders do; RFC 7672 §3.1 and RFC 7671 §5 what to publish, RFC 7671 §8 how to change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from postward.model import MICROSECONDS, DnsRecord, Finding, Security, Severity
from postward.names import Domain
from postward_dane.base import tlsa_name
from postward_dane.pem import read_certificates
from postward_dane.seen import SeenHost, Survey
from postward_dane.tlsa import CERTIFICATE, DANE_EE, DANE_TA, PUBLIC_KEY, SHA256, TlsaRecord, of_certificate

if TYPE_CHECKING:
    from postward.core import Core

AREA: Final = "dane"
DAY: Final = 86_400 * MICROSECONDS
SOON: Final = 14 * DAY
# What RFC 9715 §3 lets one datagram have, less header, question and a signature; and a TLSA record but for its data.
_DATAGRAM: Final = 1232 - 200
_RECORD_BYTES: Final = 15
_SIGN: Final = "sign the zone with DNSSEC and have its DS record put into the parent zone"


def suggested(chain: Sequence[bytes]) -> tuple[TlsaRecord, ...]:
    """The records to choose from for a chain: `3 1 1` of the server's key, `2 1 1` of each authority (RFC 7672 §3.1)."""
    return tuple(of_certificate(der, DANE_TA if place else DANE_EE, PUBLIC_KEY, SHA256) for place, der in enumerate(chain))


def zone_line(owner: Domain | None, record: TlsaRecord) -> str:
    """A record as a line of a zone file; without an owner, what stands behind it."""
    return f"{owner}. IN TLSA {record}" if owner else f"TLSA {record}"


def own_records(core: Core) -> tuple[DnsRecord, ...]:
    """The records of our own SMTP listeners; a certificate that cannot be read has none, which `own_troubles` tells."""
    found: list[DnsRecord] = []
    for own in core.certificates:
        owner = tlsa_name(core.hostname, own.port)
        if own.kind != "smtp" or owner is None:
            continue
        try:
            leaf = read_certificates(own.file)[0]
        except (OSError, ValueError):
            continue
        record = suggested([leaf])[0]
        why = f"senders with DANE then insist on the key of {own.file.name}; {core.hostname} must be in a signed zone"
        found.append(DnsRecord(name=owner, rdtype="TLSA", value=str(record), why=why))
    return tuple(dict.fromkeys(found))


def findings(survey: Survey, core: Core) -> tuple[Finding, ...]:
    """Everything there is to say, the worst of a host first; OK where senders with DANE are well served."""
    return tuple(_findings(survey, core))


def _findings(survey: Survey, core: Core) -> Iterator[Finding]:
    if survey.validating is False:
        why = "so nothing here can be told apart: " + "; ".join(survey.problems)
        yield _error("the resolver of this machine does not validate DNSSEC", why, "run a validating resolver, such as unbound")
        return
    if survey.error:
        yield _error(
            f"{survey.domain} has no mail hosts that can be looked up: {survey.error}", "no mail can be sent to it", ""
        )
        return
    if survey.from_mx and survey.mx_security is not Security.SECURE:
        yield _warning(
            f"the MX records of {survey.domain} are not signed",
            "whoever forges them leads mail to a host of their own, and DANE proves nothing of the domain",
            _SIGN,
        )
    for host in survey.hosts:
        found = sorted(_of_host(survey, host, core), key=lambda each: _ORDER.index(each.severity))
        yield from found or [_ok(f"{host.name} is protected: {_which(host)}")]


_ORDER: Final = (Severity.ERROR, Severity.WARNING, Severity.OK)


def _which(host: SeenHost) -> str:
    matching = [str(each.record)[:14] for each in host.records if each.verdict is not None and each.verdict.passed]
    if host.verdict is None:
        return f"{len(host.usable)} signed records of {host.base}"
    return f"{'…, '.join(matching)}… matches" if matching else "its records match"


def _of_host(survey: Survey, host: SeenHost, core: Core) -> Iterator[Finding]:
    name = host.name
    if host.error:
        stops = "senders with DANE and all others" if host.failure is None else "who validates DNSSEC"
        yield _error(f"{name} cannot be looked up: {host.error}", f"{stops} cannot deliver to it", "")
        return
    yield from _of_records(survey, host)
    if host.unreachable:
        yield _warning(f"no certificate of {name} was seen: {host.unreachable}", "so nothing could be matched", "")
    if host.chain and host.binds:
        yield from _of_certificate(survey, host, core.clock.now())
    yield from _of_own(survey, host, core)


def _of_records(survey: Survey, host: SeenHost) -> Iterator[Finding]:
    name, where = host.name, f"TLSA records of {host.base or host.name}"
    if not host.asked:
        published = " although it has TLSA records" if host.records else ""
        yield _warning(f"the addresses of {name} are not signed", f"nobody asks for its TLSA records{published}", _SIGN)
    elif host.tlsa == "failed":
        yield _error(
            f"the {where} cannot be looked up: {host.tlsa_failure}",
            "senders with DANE do not deliver to this host",
            "mend the signatures of the zone, or its name servers; see what `delv` says of the name",
        )
    elif host.tlsa == "absent":
        yield _warning(
            f"{name} has no TLSA records",
            "senders encrypt where they can, and who interferes stays unseen",
            _publish(survey, host),
        )
    elif host.tlsa == "insecure":
        yield _warning(f"the {where} are not signed", "so they count for nothing", _SIGN)
    elif not host.usable:
        yield _error(
            f"none of the {where} can be used: {'; '.join(dict.fromkeys(each.why for each in host.records))}"[:300],
            "senders encrypt and do not know with whom",
            _publish(survey, host),
        )
    # RFC 7671 §10.1.1 SHOULD: sets that fit, since fragments and TCP do not get through everywhere.
    if (size := sum(_RECORD_BYTES + len(each.record.data) for each in host.records)) > _DATAGRAM:
        yield _warning(
            f"the {where} take {size} bytes",
            "too much for one datagram: where TCP to the name servers fails, so does mail (RFC 7671 §10.1.1)",
            "publish digests of keys, such as 3 1 1, and remove what matches nothing any more",
        )
    if host.usable:
        for each in host.records:
            if each.why and "stronger" not in each.why:
                yield _warning(f"a record of {host.base} cannot be used: {str(each.record)[:14]}…", each.why, "remove it")


def _of_certificate(survey: Survey, host: SeenHost, now: int) -> Iterator[Finding]:
    if host.verdict is not None and not host.verdict.passed:
        failure = host.verdict.failure
        said = f"{failure.result_type.value} {failure.reason}".strip() if failure else "no match"
        yield _error(
            f"the certificate of {host.name} does not match its TLSA records: {said}",
            "senders with DANE do not deliver to this host",
            _publish(survey, host),
        )
        return
    for each in host.usable:
        if each.verdict is None or each.verdict.passed:
            continue
        yield _ok(f"a record matches nothing that {host.name} shows: {str(each.record)[:14]}…; right only for a key to come")
    matching = [each.record for each in host.usable if each.verdict is not None and each.verdict.passed]
    if all(record.usage == DANE_EE and record.selector == CERTIFICATE for record in matching):
        yield _warning(
            f"only the whole certificate of {host.name} is published",
            "each renewal breaks the match, also with the same key",
            _publish(survey, host),
        )
    if all(record.usage == DANE_TA for record in matching) and host.certificate is not None:
        left = host.certificate.expires - now
        if left < SOON:
            yield _warning(
                f"the certificate of {host.name} expires in {max(0, left) // DAY} days",
                "with DANE-TA senders look at the date, and then do not deliver",
                "renew it, or publish a record `3 1 1` of its key besides",
            )
    yield _ok(f"{host.name} is protected: {_which(host)}")


def _of_own(survey: Survey, host: SeenHost, core: Core) -> Iterator[Finding]:
    """Our own listeners, by their files: what is published must match what they serve after the next restart, too."""
    if host.name != core.hostname or not host.binds:
        return
    for own in core.certificates:
        if own.kind != "smtp" or own.port != survey.port:
            continue
        try:
            chain = read_certificates(own.file)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            yield _error(f"the certificate {own.file} cannot be read: {reason}", "it is configured for a listener", "")
            continue
        matching = [each.record for each in host.usable if _matches(each.record, chain)]
        if not matching:
            yield _error(
                f"none of the records of {host.base} matches {own.file}",
                "senders with DANE do not deliver here",
                f"publish: {zone_line(tlsa_name(host.name, own.port), suggested(chain)[0])}",
            )


def _matches(record: TlsaRecord, chain: Sequence[bytes]) -> bool:
    """Whether a record speaks of a certificate in the place that it names."""
    candidates = chain[:1] if record.usage == DANE_EE else chain[1:]
    return any(of_certificate(der, record.usage, record.selector, record.matching) == record for der in candidates)


def _publish(survey: Survey, host: SeenHost) -> str:
    owner = tlsa_name(host.base or host.name, survey.port)
    if owner is None or not host.chain:
        return f"publish a record `3 1 1` of the server's key at _{survey.port}._tcp.{host.base or host.name}"
    return f"publish: {zone_line(owner, suggested(host.chain[:1])[0])}"


def _error(what: str, why: str, fix: str) -> Finding:
    return Finding(area=AREA, severity=Severity.ERROR, what=what, why=why, fix=fix)


def _warning(what: str, why: str, fix: str) -> Finding:
    return Finding(area=AREA, severity=Severity.WARNING, what=what, why=why, fix=fix)


def _ok(what: str) -> Finding:
    return Finding(area=AREA, severity=Severity.OK, what=what)
