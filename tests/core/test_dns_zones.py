"""The resolver made of zone texts (RFC 1034 §4.3.2, RFC 4592, RFC 8020)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postward.dns import Answer, Status, ZoneResolver
from postward.errors import InvalidName
from postward.names import Domain

ZONE = """
@ SOA ns h 1 2 3 4 300
@ MX 10 mx
mx A 192.0.2.1
mx AAAA 2001:db8::1
mx 30 TXT "one" "two"
_25._tcp.mx TLSA 3 1 1 aabb
alias CNAME mx
out CNAME mx.example.net.
lost CNAME nowhere.invalid.
loop CNAME loop2
loop2 CNAME loop
a.b.c A 192.0.2.2
*.wild A 192.0.2.3
there.wild TXT "x"
*.aliased CNAME mx
"""


@pytest.fixture
def resolver() -> ZoneResolver:
    zones = ZoneResolver({"example.com": ZONE})
    zones.set_zone("example.net.", "mx A 192.0.2.9", "insecure")
    zones.set_zone("example.org", "mx A 192.0.2.9", "bogus")
    return zones


def brief(answer: Answer) -> tuple[str, bool, bool]:
    return answer.status.value, answer.authenticated, answer.nxdomain


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("mx.example.com", "A", ("secure", True, False)),
        ("MX.Example.Com.", "aaaa", ("secure", True, False)),
        ("_25._tcp.mx.example.com", "TLSA", ("secure", True, False)),
        ("mx.example.com", "MX", ("absent", True, False)),
        ("no.example.com", "A", ("absent", True, True)),
        ("c.example.com", "A", ("absent", True, False)),
        ("b.c.example.com", "A", ("absent", True, False)),
        ("x.b.c.example.com", "A", ("absent", True, True)),
        ("any.wild.example.com", "A", ("secure", True, False)),
        ("any.deep.wild.example.com", "A", ("secure", True, False)),
        ("any.wild.example.com", "TXT", ("absent", True, False)),
        ("there.wild.example.com", "A", ("absent", True, False)),
        ("under.there.wild.example.com", "A", ("absent", True, True)),
        ("any.aliased.example.com", "A", ("secure", True, False)),
        ("alias.example.com", "A", ("secure", True, False)),
        ("alias.example.com", "CNAME", ("secure", True, False)),
        ("out.example.com", "A", ("insecure", False, False)),
        ("out.example.com", "TXT", ("absent", False, False)),
        ("lost.example.com", "A", ("absent", False, True)),
        ("mx.example.net", "A", ("insecure", False, False)),
        ("elsewhere.invalid", "A", ("absent", False, True)),
        ("mx.example.org", "A", ("failed", False, False)),
        ("loop.example.com", "A", ("failed", False, False)),
    ],
)
async def test_answers(resolver: ZoneResolver, name: str, rdtype: str, expected: tuple[str, bool, bool]) -> None:
    assert brief(await resolver.query(name, rdtype)) == expected


async def test_an_answer_has_what_the_contract_says(resolver: ZoneResolver) -> None:
    answer = await resolver.query("alias.example.com", "TXT")
    assert (answer.canonical, answer.texts, answer.ttl) == ("mx.example.com", ("onetwo",), 30)
    v4, v6 = await resolver.addresses(Domain("mx.example.com"))
    assert [record.address for found in (v4, v6) for record in found.records] == ["192.0.2.1", "2001:db8::1"]
    bogus = await resolver.query("mx.example.org", "A")
    assert bogus.failure is not None
    assert bogus.failure.slug == "extended-dns-error-6-dnssec-bogus"
    loop = await resolver.query("loop.example.com", "A")
    assert loop.failure is not None
    assert loop.failure.rcode == "LOOP"


async def test_zones_can_change(resolver: ZoneResolver) -> None:
    resolver.set_zone("sub.example.com", "@ A 192.0.2.5", "insecure")
    assert brief(await resolver.query("sub.example.com", "A")) == ("insecure", False, False)
    resolver.remove("sub.example.com")
    assert brief(await resolver.query("sub.example.com", "A")) == ("absent", True, True)


async def test_faults(resolver: ZoneResolver, autojump_clock: trio.testing.MockClock) -> None:
    resolver.fault("mx.example.com", "A", "SERVFAIL", [(7, "expired")])
    failed = await resolver.query("alias.example.com", "A")
    assert failed.failure is not None
    assert failed.failure.slug == "extended-dns-error-7-signature-expired"
    assert (await resolver.query("mx.example.com", "AAAA")).status is Status.SECURE
    resolver.mend("mx.example.com", "A")
    assert (await resolver.query("mx.example.com", "A")).status is Status.SECURE
    resolver.fault("mx.example.com", rcode="TIMEOUT", delay=30)
    start = trio.current_time()
    timeout = await resolver.query("mx.example.com", "TXT")
    assert timeout.failure is not None
    assert (timeout.failure.slug, trio.current_time() - start) == ("dns-timeout", 30)
    resolver.fault("mx.example.com", rcode="", delay=5)
    assert (await resolver.query("mx.example.com", "TXT")).found


async def test_tlsa_records_may_have_any_data() -> None:
    """RFC 7671 §9: what cannot be used must be possible to test."""
    zones = ZoneResolver(
        {"example.com": f"_25._tcp TLSA 3 1 1 {'ab' * 32}\n_25._tcp TLSA 3 1 1 aa bb\n_25._tcp TLSA 9 9 9 ; none\n"}
    )
    answer = await zones.query("_25._tcp.example.com", "TLSA")
    assert [(record.usage, record.cert.hex()) for record in answer.records] == [(3, "ab" * 32), (3, "aabb"), (9, "")]


async def test_questions_are_counted(resolver: ZoneResolver) -> None:
    await resolver.query("MX.example.com", "a")
    await resolver.query("mx.example.com", "A")
    assert resolver.queries["mx.example.com", "A"] == 2


async def test_bad_input_is_a_clear_error(resolver: ZoneResolver) -> None:
    with pytest.raises(ValueError, match=r"zone 'bad.example' cannot be read: .*line|:2"):
        resolver.set_zone("bad.example", "mx A not-an-address")
    with pytest.raises(ValueError, match="bogus"):
        resolver.set_zone("bad.example", "", "wrong")  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        resolver.remove("nothing.example")
    with pytest.raises(InvalidName):
        await resolver.query("[192.0.2.1]", "A")
    with pytest.raises(ValueError, match="record type"):
        await resolver.query("example.com", "NONSENSE")
