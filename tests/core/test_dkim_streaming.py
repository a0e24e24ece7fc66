"""Signing what is not in memory: body hashes of pieces, signatures from a header, and the domain that signs."""

from __future__ import annotations

import hashlib
import tracemalloc

import dkim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postward.dkim import BodyHasher, NoKey, Signer, SigningKey, canonical, dns_record, generate, signing_domain
from postward.names import Domain

D = Domain("example.com")
SIGNER = Signer([SigningKey(domain=D, selector=kind, key=generate(kind)) for kind in ("rsa", "ed25519")])
RECORDS = {f"{name}.": "".join(value.split('"')[1::2]).encode() for name, value in map(dns_record, SIGNER.keys(D))}
HEADER = b"From: Joe <joe@example.com>\r\nSubject:  a  folded\r\n\t subject \r\nReceived: by x\r\nTo: b@b.example"
# What ends a line, or might: the parts that a cut can separate.
PARTS = st.lists(st.sampled_from([b"a", b" ", b"\t", b"\r", b"\r\n", b"\r\n\r\n", b"  \r\n", b".", b"\xc3\xbc"]), max_size=24)


def whole(body: bytes) -> bytes:
    return hashlib.sha256(canonical.body(body, relaxed=True)).digest()


@settings(max_examples=400, deadline=None)
@given(PARTS, st.lists(st.integers(0, 60), max_size=8))
def test_any_cut_gives_the_digest_of_the_whole(parts: list[bytes], cuts: list[int]) -> None:
    """RFC 6376 §3.4.4. Also a digest in between is that of what has come."""
    body = b"".join(parts)
    hasher, done = BodyHasher(), 0
    for cut in [*sorted(cuts), len(body)]:
        hasher.update(body[done:cut])
        done = max(done, min(cut, len(body)))
        assert hasher.digest() == whole(body[:done])
    assert hasher.digest() == hasher.digest() == BodyHasher(body).digest() == whole(body)


def test_octet_by_octet() -> None:
    body = b" a \t b \r\n\r \r\r\n \r\n\r\nc\t\r\n \r\n\r\n\r"
    hasher = BodyHasher()
    for number in range(len(body)):
        hasher.update(body[number : number + 1])
        assert hasher.digest() == whole(body[: number + 1])


@pytest.mark.parametrize("part", [b" ", b"\r\n", b" \r\n", b"\t\r"])
def test_memory_does_not_grow_with_what_is_held_back(part: bytes) -> None:
    piece = part * (65536 // len(part))
    hasher = BodyHasher(b"a")
    hasher.update(piece)
    tracemalloc.start()
    try:
        for _ in range(100):
            hasher.update(piece)
        hasher.update(b"b")
        assert tracemalloc.get_traced_memory()[1] < 8 * len(piece)
    finally:
        tracemalloc.stop()
    assert hasher.digest() == whole(b"a" + piece * 101 + b"b")


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_fields_from_a_header_are_those_of_the_whole_message(end: bytes) -> None:
    body = b"Hello  world \r\n\r\n.dot\r\n\r\n\r\n"
    content = HEADER + b"\r\n\r\n" + body
    fields = SIGNER.head(HEADER + end, BodyHasher(body).digest(), D, at=1_790_000_000_000_000)
    assert fields + content == SIGNER.sign(content, D, at=1_790_000_000_000_000)
    for index in (0, 1):
        assert dkim.DKIM(fields + content).verify(idx=index, dnsfunc=lambda name, timeout=5: RECORDS[name.decode()])


def test_head_needs_a_key_and_an_author() -> None:
    with pytest.raises(NoKey, match=r"other\.example"):
        SIGNER.head(HEADER, b"", Domain("other.example"))
    with pytest.raises(ValueError, match="From"):
        SIGNER.head(b"To: b@b.example", b"", D)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"From: joe@example.com", D),
        (b"from : <joe@EXAMPLE.com>", D),
        (b"From: Joe <joe@a.b.example.com>", D),
        (b'From: "Doe, Joe <x@other.example>" (of (our) <y@z.example>)\r\n <joe@example.com> (\\) no)', D),
        (b'From: "a@b, c"@example.com', D),
        (b"From: joe@other.example <joe@example.com>", D),
        (b"From: J\xf6rg <joe@example.com>", D),
        (b"From: joe@com", None),
        (b"From: joe@other.example", None),
        (b"From: joe@notexample.com", None),
        (b"From: a@example.com, b@example.com", None),
        (b"From: Doe, Joe <a@example.com>", None),
        (b"From: Team: a@example.com;", None),
        (b"From: <@other.example:joe@example.com>", None),
        (b"From: joe@other.example@example.com", None),
        (b"From: (joe@example.com", None),
        (b"From: joe@example.com (", None),
        (b'From: "joe@example.com', None),
        (b"From: <joe@example.com> <joe@other.example>", None),
        (b"From: joe@example.com\r\nFrom: joe@example.com", None),
        (b"From: joe@[192.0.2.1]", None),
        (b"From: joe@exa_mple..com", None),
        (b"From:", None),
        (b"From: <>", None),
        (b"Sender: joe@example.com", None),
        (b"From: " + b"(" * 20_000, None),
    ],
)
def test_the_domain_that_signs(field: bytes, expected: Domain | None) -> None:
    assert signing_domain(b"To: x@x.example\r\n" + field + b"\r\nDate: x", SIGNER) == expected


@given(st.binary(max_size=60))
def test_any_author_is_survived(value: bytes) -> None:
    signing_domain(b"From: " + value, SIGNER)
