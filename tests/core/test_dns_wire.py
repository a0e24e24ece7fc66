"""DNS responses understood: the four states, aliases, errors, and bytes that are no response (RFC 1035, RFC 6840, RFC 8914)."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.dns import Answer, DnsFailure, Status, ede, wire
from postward.names import Domain

NAME = dns.name.from_text("example.com")
SOA = "example.com. 600 IN SOA ns.example.com. h.example.com. 1 2 3 4 300"


def response(
    *answer: str, rdtype: str = "A", rcode: str = "NOERROR", ad: bool = True, authority: tuple[str, ...] = ()
) -> bytes:
    reply = dns.message.make_response(dns.message.from_wire(wire.make_query(NAME, rdtype)))
    reply.set_rcode(dns.rcode.from_text(rcode))
    reply.flags |= dns.flags.RA | (dns.flags.AD if ad else 0)
    for section, lines in ((reply.answer, answer), (reply.authority, authority)):
        for line in lines:
            owner, ttl, rdclass, kind, data = line.split(maxsplit=4)
            rrset = reply.find_rrset(section, dns.name.from_text(owner), 1, dns.rdatatype.from_text(kind), create=True)
            rrset.update(dns.rrset.from_text(owner, int(ttl), rdclass, kind, data))
    return reply.to_wire(max_size=65_535)


def understand(data: bytes, rdtype: str = "A", *, trusted: bool = True) -> Answer:
    reading = wire.read(data, NAME, rdtype, trusted=trusted, server="127.0.0.1:53")
    return wire.join(Domain("example.com"), rdtype, [reading])


def test_a_query_asks_for_ad_but_not_for_proofs() -> None:
    """RFC 6840 §5.7; RFC 9715 on the size."""
    query = dns.message.from_wire(wire.make_query(NAME, "MX"))
    assert query.flags & dns.flags.AD
    assert query.flags & dns.flags.RD
    assert not query.flags & dns.flags.CD
    assert (query.edns, query.payload, query.ednsflags & dns.flags.DO) == (0, 1232, 0)


@pytest.mark.parametrize(
    ("trusted", "ad", "status"),
    [(True, True, Status.SECURE), (True, False, Status.INSECURE), (False, True, Status.INSECURE)],
)
def test_secure_means_ad_from_a_trusted_server(trusted: bool, ad: bool, status: Status) -> None:
    """RFC 4035 §4.9.3."""
    answer = understand(response("example.com. 60 IN A 192.0.2.1", ad=ad), trusted=trusted)
    assert (answer.status, answer.authenticated, answer.ttl) == (status, status is Status.SECURE, 60)
    assert [record.address for record in answer.records] == ["192.0.2.1"]


@pytest.mark.parametrize(("rcode", "nxdomain"), [("NOERROR", False), ("NXDOMAIN", True)])
@pytest.mark.parametrize("ad", [True, False])
def test_an_absence_keeps_its_ad_and_the_ttl_of_its_soa(rcode: str, nxdomain: bool, ad: bool) -> None:
    """RFC 2308 §5."""
    answer = understand(response(rcode=rcode, ad=ad, authority=(SOA,)))
    assert (answer.status, answer.nxdomain, answer.authenticated, answer.ttl) == (Status.ABSENT, nxdomain, ad, 300)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP", "YXDOMAIN", "BADVERS"])
def test_an_error_has_failed_whatever_its_ad_bit_says(rcode: str) -> None:
    """RFC 7672 §2.1.2: an error is no absence, and AD on it means nothing."""
    answer = understand(response(rcode=rcode, ad=True))
    assert (answer.status, answer.authenticated, answer.found) == (Status.FAILED, False, False)
    assert answer.failure is not None
    assert answer.failure.rcode == rcode
    assert answer.failure.slug == f"dns-{rcode.lower()}"


def test_aliases_are_followed_to_the_canonical_name() -> None:
    answer = understand(
        response(
            "EXAMPLE.com. 600 IN CNAME b.example.net.",
            "b.example.net. 30 IN CNAME c.example.org.",
            "c.example.org. 60 IN A 192.0.2.9",
        )
    )
    assert (answer.status, answer.canonical, answer.ttl) == (Status.SECURE, "c.example.org", 30)


def test_a_question_for_an_alias_is_not_followed() -> None:
    """RFC 7672 §2.2.2 asks for the first CNAME alone."""
    answer = understand(response("example.com. 60 IN CNAME b.example.net.", rdtype="CNAME"), "CNAME")
    assert (answer.status, answer.canonical) == (Status.SECURE, "example.com")
    assert answer.records[0].target.to_text() == "b.example.net."


@pytest.mark.parametrize(("length", "status"), [(16, Status.SECURE), (17, Status.FAILED)])
def test_aliases_have_a_limit(length: int, status: Status) -> None:
    lines = [f"{f'n{i}.' if i else ''}example.com. 60 IN CNAME n{i + 1}.example.com." for i in range(length)]
    answer = understand(response(*lines, f"n{length}.example.com. 60 IN A 192.0.2.1"))
    assert answer.status is status
    assert status is Status.SECURE or (answer.failure is not None and answer.failure.rcode == "LOOP")


def test_aliases_in_a_circle_have_failed() -> None:
    answer = understand(response("example.com. 60 IN CNAME b.example.com.", "b.example.com. 60 IN CNAME example.com."))
    assert answer.failure is not None
    assert (answer.status, answer.failure.slug) == (Status.FAILED, "dns-loop")


def test_an_alias_of_which_nothing_is_said_has_to_be_asked_for() -> None:
    data = response("example.com. 60 IN CNAME b.example.com.")
    assert not wire.read(data, NAME, "A", trusted=True, server="x").finished
    data = response("example.com. 60 IN CNAME b.example.com.", authority=(SOA,))
    assert wire.read(data, NAME, "A", trusted=True, server="x").finished


def test_a_chain_over_several_answers_is_as_secure_as_its_weakest_link() -> None:
    """RFC 7672 §2.1.3."""
    end = dns.name.from_text("b.example.net")
    first = wire.Reading(chain=(NAME, end), authenticated=False, ttl=9, finished=False)
    last = wire.Reading(chain=(end,), authenticated=True, ttl=60, records=("record",))
    answer = wire.join(Domain("example.com"), "A", [first, last])
    assert (answer.status, answer.canonical, answer.ttl) == (Status.INSECURE, "b.example.net", 9)


def test_an_alias_that_is_no_domain_name_is_passed_over_as_canonical() -> None:
    """RFC 2317 §4: names with a slash are fine in the reverse tree."""
    answer = understand(response("example.com. 60 IN CNAME 1.0/25.example.com.", "1.0/25.example.com. 60 IN A 192.0.2.1"))
    assert (answer.status, answer.canonical) == (Status.SECURE, "example.com")


def test_records_of_a_name_that_does_not_exist_are_malformed() -> None:
    answer = understand(response("example.com. 60 IN A 192.0.2.1", rcode="NXDOMAIN"))
    assert answer.failure is not None
    assert answer.failure.rcode == "MALFORMED"


@pytest.mark.parametrize(("count", "status"), [(512, Status.SECURE), (513, Status.FAILED), (1025, Status.FAILED)])
def test_record_sets_have_a_limit(count: int, status: Status) -> None:
    answer = understand(response(*(f"example.com. 60 IN A 10.0.{i // 250}.{i % 250}" for i in range(count))))
    assert answer.status is status
    assert status is Status.SECURE or (answer.failure is not None and answer.failure.rcode == "MALFORMED")


def test_answers_have_a_limit_of_records_of_any_kind() -> None:
    others = [f"other.example.com. 60 IN A 10.0.{i // 250}.{i % 250}" for i in range(1025)]
    answer = understand(response("example.com. 60 IN A 192.0.2.1", *others))
    assert answer.failure is not None
    assert answer.failure.rcode == "MALFORMED"


def with_tlsa(*datas: bytes) -> Answer:
    query = wire.make_query(NAME, "TLSA")
    question = query[12 : 12 + len("example.com") + 2 + 4]
    records = b"".join(b"\xc0\x0c\x00\x34\x00\x01\x00\x00\x00\x3c" + len(data).to_bytes(2, "big") + data for data in datas)
    head = query[:2] + b"\x81\xa0\x00\x01" + len(datas).to_bytes(2, "big") + b"\x00" * 4
    return understand(head + question + records, "TLSA")


def test_a_tlsa_record_that_cannot_be_used_stays_visible() -> None:
    """RFC 7671 §9: a digest of the wrong length makes one record unusable, not the lookup a failure."""
    answer = with_tlsa(b"\x03\x01\x01" + b"a" * 32, b"\x03\x01\x01" + b"a" * 31, b"\xff\x09\x07", b"\x03\x01\x01" + b"a" * 32)
    assert answer.status is Status.SECURE
    assert [(record.usage, record.selector, record.mtype, len(record.cert)) for record in answer.records] == [
        (3, 1, 1, 32),
        (3, 1, 1, 31),
        (255, 9, 7, 0),
    ]
    assert with_tlsa(b"\x03\x01").status is Status.FAILED


def test_several_aliases_of_one_name_are_malformed() -> None:
    """RFC 2181 §10.1."""
    data = response("example.com. 60 IN CNAME b.example.com.", "twin.example.com. 60 IN CNAME c.example.com.")
    answer = understand(data.replace(b"\x04twin\xc0\x0c", b"\xc0\x0c"))
    assert answer.failure is not None
    assert (answer.failure.rcode, answer.failure.detail) == ("MALFORMED", "127.0.0.1:53 sent several CNAMEs for one name")


def test_a_huge_text_is_an_answer() -> None:
    """RFC 8461 §3.1: the strings of a record are joined without spaces."""
    text = " ".join(f'"{"x" * 255}"' for _ in range(200))
    answer = understand(response(f"example.com. 60 IN TXT {text}", rdtype="TXT"), "TXT")
    assert answer.texts == ("x" * 255 * 200,)


def test_the_strings_of_a_record_are_joined() -> None:
    """RFC 8461 §3.1, RFC 8460 §3: with nothing between them; each record for itself."""
    answer = understand(response('example.com. 60 IN TXT "v=STSv1; i" "d=1;"', "example.com. 60 IN TXT x", rdtype="TXT"), "TXT")
    assert sorted(answer.texts) == ["v=STSv1; id=1;", "x"]


def test_a_ttl_with_its_highest_bit_set_is_zero() -> None:
    """RFC 2181 §8."""
    data = bytearray(response("example.com. 60 IN A 192.0.2.1"))
    place = bytes(data).index(b"\x00\x01\x00\x01\x00\x00\x00\x3c") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"
    answer = understand(bytes(data))
    assert answer.ttl == 0


def with_errors(*errors: tuple[int, str | None]) -> Answer:
    reply = dns.message.make_response(dns.message.from_wire(wire.make_query(NAME, "A")))
    reply.set_rcode(dns.rcode.SERVFAIL)
    reply.use_edns(0, options=[dns.edns.EDEOption(code, text) for code, text in errors])
    return understand(reply.to_wire(max_size=65_535))


def test_extended_errors_say_why() -> None:
    """RFC 8914 §4; §6: the text is a stranger's."""
    answer = with_errors((22, None), (7, "RRSIG\r\nexpired\x1b[31m\u202e of  example.com"))
    assert answer.failure is not None
    assert answer.failure.ede == ((22, ""), (7, "RRSIG expired [31m of example.com"))
    assert answer.failure.slug == "extended-dns-error-7-signature-expired"
    assert answer.failure.about_dnssec
    assert "signature-expired (RRSIG expired" in answer.failure.detail
    assert answer.failure.detail.isprintable()


def test_extended_errors_have_a_limit() -> None:
    answer = with_errors(*((0, "x" * 1000) for _ in range(20)))
    assert answer.failure is not None
    assert [len(text) for _, text in answer.failure.ede] == [200] * 8


@pytest.mark.parametrize(
    ("failure", "slug"),
    [
        (DnsFailure(rcode="TIMEOUT"), "dns-timeout"),
        (DnsFailure(rcode="SERVFAIL", ede=((22, ""), (23, ""))), "extended-dns-error-22-no-reachable-authority"),
        (DnsFailure(rcode="SERVFAIL", ede=((60000, "text"),)), "extended-dns-error-60000"),
    ],
)
def test_slugs(failure: DnsFailure, slug: str) -> None:
    assert failure.slug == slug


def test_the_registered_names_are_those_of_dnspython() -> None:
    known = {int(code): code.name.lower().replace("_", "-") for code in dns.edns.EDECode}
    renamed = {0: "other-error", 2: "unsupported-ds-digest-type"}
    for code, name in ede.NAMES.items():
        assert name == renamed.get(code, known[code]), code


@given(st.text(max_size=2000))
def test_cleaned_texts_are_one_short_printable_line(text: str) -> None:
    """RFC 8914 §6: the text comes from the network."""
    cleaned = ede.clean(text)
    assert len(cleaned) <= 200
    assert cleaned.isprintable()
    assert cleaned == cleaned.strip()


@given(st.data(), st.sampled_from(["A", "MX", "TLSA", "TXT", "CNAME", "SOA"]))
def test_no_bytes_make_it_raise(data: st.DataObject, rdtype: str) -> None:
    """A response is what the network says; reading it never raises."""
    good = response("example.com. 60 IN CNAME b.example.com.", "b.example.com. 60 IN MX 10 mx.example.com.", authority=(SOA,))
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(12, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(12, len(raw)))
    answer = understand(bytes(raw[:cut]), rdtype)
    assert (answer.status is Status.FAILED) == (answer.failure is not None)
    assert answer.found == bool(answer.records)


@given(st.binary(max_size=600))
def test_noise_is_no_answer(noise: bytes) -> None:
    """RFC 5452 §9.1: an id and a question have to match."""
    query = wire.make_query(NAME, "A")
    if wire.is_answer(query, noise):
        assert noise[:2] == query[:2]
        assert understand(noise).status is Status.FAILED


@pytest.mark.parametrize("change", ["id", "query", "opcode", "name", "type", "no question", "short"])
def test_an_answer_has_to_match_its_question(change: str) -> None:
    query = wire.make_query(NAME, "A")
    reply = dns.message.make_response(dns.message.from_wire(query))
    good = bytearray(reply.to_wire())
    assert wire.is_answer(query, bytes(good))
    assert wire.is_answer(query, bytes(good).replace(b"example", b"EXAMPLE"))
    if change == "id":
        good[1] ^= 1
    elif change == "query":
        good[2] &= 0x7F
    elif change == "opcode":
        good[2] |= 0x28
    elif change == "name":
        good[14] ^= 1
    elif change == "type":
        good[12 + 13 + 1] = 15
    elif change == "no question":
        good[5] = 0
    else:
        del good[8:]
    assert not wire.is_answer(query, bytes(good))


def test_an_error_may_come_without_its_question() -> None:
    query = wire.make_query(NAME, "A")
    assert wire.is_answer(query, query[:2] + b"\x80\x05" + b"\x00" * 8)


def test_a_referral_is_no_absence() -> None:
    """RFC 2308 §2.2: NS records without SOA say where to ask; a server that answers so is none to ask."""
    referral = "com. 600 IN NS a.gtld-servers.net."
    answer = understand(response(authority=(referral,)), "MX")
    assert answer.failure is not None
    assert (answer.status, answer.failure.rcode, answer.failure.slug) == (Status.FAILED, "LAME", "dns-lame")
    assert understand(response(authority=(referral, SOA)), "MX").status is Status.ABSENT
    assert understand(response("example.com. 60 IN MX 1 mx.example.com.", authority=(referral,), rdtype="MX"), "MX").found
    assert understand(response(authority=(referral,), rcode="NXDOMAIN"), "MX").nxdomain
