"""Signatures, made and verified; dkimpy, which shares no code with ours, has the last word on canonicalization."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, cast

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_dns import FakeDns
from postward.dkim import BadKey, NoKey, Signer, SigningKey, canonical, dns_record, generate, private_pem, verify
from postward.names import Domain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

D = Domain("example.com")
RSA = SigningKey(domain=D, selector="r", key=generate("rsa"))
ED = SigningKey(domain=D, selector="e", key=generate("ed25519"))
SIGNER = Signer([RSA, ED])
MAIL = (
    b"From: Joe <joe@example.com>\r\nTo: a@b.example\r\nSubject:  a  folded\r\n\t subject \r\n"
    b"TLS-Report-Domain: b.example\r\n\r\nHello  world \r\n\r\n.dot\r\n\r\n\r\n"
)
ZONE = {(str(name), "TXT"): [value] for name, value in map(dns_record, (RSA, ED))}
# Past: dkimpy refuses a `t=` that is far ahead of the machine's clock.
NOW = 1_790_000_000


def txt(name: bytes, timeout: float = 5) -> bytes:
    value = ZONE[name.decode().rstrip("."), "TXT"][0]
    return "".join(value.split('"')[1::2]).encode()


async def results(content, zone=None, **options):
    found = await verify(content, FakeDns(ZONE if zone is None else {**ZONE, **zone}), **options)
    return [(signature.result, signature.reason) for signature in found]


async def test_own_signatures_verify():
    """RFC 6376 §5, §6; RFC 8463: both algorithms, one signature each."""
    signed = SIGNER.sign(MAIL, D)
    found = await verify(signed, FakeDns(ZONE))
    assert [item.result for item in found] == ["pass", "pass"]
    assert [(item.domain, item.selector, item.algorithm) for item in found] == [
        (D, "r", "rsa-sha256"),
        (D, "e", "ed25519-sha256"),
    ]
    assert found[0].identity == "@example.com"
    assert found[0].service_types == ("*",)
    assert not found[0].body_length


def test_dkimpy_accepts_our_signatures():
    signed = SIGNER.sign(MAIL, D, headers=["TLS-Report-Domain"])
    for index in (0, 1):
        assert dkim.DKIM(signed).verify(idx=index, dnsfunc=txt)


@pytest.mark.parametrize("header", [b"simple", b"relaxed"])
@pytest.mark.parametrize("body", [b"simple", b"relaxed"])
async def test_we_accept_dkimpy_signatures(header, body):
    field = dkim.DKIM(MAIL).sign(b"r", b"example.com", private_pem(RSA.key), canonicalize=(header, body))
    assert await results(field + MAIL) == [("pass", "")]


LINE = st.text(alphabet="ab \t.\r", max_size=12).map(str.encode)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(LINE, max_size=8), st.booleans())
def test_canonical_bodies_agree_with_dkimpy(lines, final):
    """RFC 6376 §3.4.3, §3.4.4, on bodies of blank lines, blanks and dots."""
    body = b"\r\n".join(lines) + (b"\r\n" if final else b"")
    body = re.sub(rb"\r(?!\n)", b"", body)
    theirs = dkim.CanonicalizationPolicy.from_c_value(b"relaxed/simple").canonicalize_body(body)
    assert canonical.body(body, relaxed=False) == theirs
    # dkimpy keeps blanks behind the last CRLF, which RFC 6376 §3.4.4 drops: compare complete lines only.
    if body.endswith(b"\r\n") or not body:
        theirs = dkim.CanonicalizationPolicy.from_c_value(b"relaxed/relaxed").canonicalize_body(body)
        assert canonical.body(body, relaxed=True) == (b"" if theirs == b"\r\n" else theirs)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet="xy \t", max_size=10), min_size=1, max_size=4).map(lambda v: "\r\n ".join(v)),
    st.binary(max_size=80),
)
def test_any_message_that_we_sign_verifies_by_dkimpy(subject, body):
    body = re.sub(rb"[\r\n]+", b"\r\n", body)
    signed = SIGNER.sign(b"From: a@example.com\r\nSubject:" + subject.encode() + b"z\r\n\r\n" + body + b"\r\n", D)
    assert dkim.DKIM(signed).verify(idx=1, dnsfunc=txt)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Hello", b"hello", "body was changed"),
        (b"Joe", b"Jim", "signature does not match"),
        (b"a@b.example", b"c@b.example", "signature does not match"),
        (b"From: Joe", b"From: other@evil.example\r\nFrom: Joe", "signature does not match"),
    ],
)
async def test_changes_are_found(old, new, reason):
    """The last case: From is signed once more than it is there (RFC 6376 §8.15)."""
    signed = SIGNER.sign(MAIL, D)
    head, _, rest = signed.partition(b"From: Joe")
    changed = head + (b"From: Joe" + rest).replace(old, new, 1)
    assert await results(changed) == [("fail", reason)] * 2


def test_from_is_signed_once_more_than_it_is_there():
    """RFC 6376 §8.15: a second From breaks the signature, whoever verifies it."""
    names = re.sub(rb"\s", b"", re.search(rb"h=(.*?);", SIGNER.sign(MAIL, D), re.DOTALL)[1]).split(b":")
    assert names.count(b"from") == 2


@pytest.mark.parametrize("hours", [-100_000, 0, 30, 100_000])
async def test_time_is_that_of_the_caller(hours):
    at = (NOW + hours * 3600) * 1_000_000
    signed = SIGNER.sign(MAIL, D, at=at)
    assert await results(signed, at=at) == [("pass", "")] * 2


async def test_extra_headers_are_signed_and_cannot_be_added():
    """RFC 8460 §5.3: the TLS-Report-* fields are covered."""
    signed = SIGNER.sign(MAIL, D, headers=["TLS-Report-Domain", "TLS-Report-Submitter"])
    assert await results(signed) == [("pass", "")] * 2
    assert (await results(signed.replace(b"TLS-Report-Domain: b.", b"TLS-Report-Domain: c.")))[0][0] == "fail"
    more = signed.replace(b"To: a@b", b"TLS-Report-Submitter: evil.example\r\nTo: a@b")
    assert (await results(more))[0][0] == "fail"


def change(signed: bytes, old: bytes, new: bytes) -> bytes:
    assert old in signed
    return signed.replace(old, new, 1)


ONE = Signer([RSA]).sign(MAIL, D, at=NOW * 1_000_000)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"v=1;", b"v=2;", ("neutral", "v= is not 1")),
        (b"v=1;", b"v=1; v=1;", ("neutral", "tag v= is there twice")),
        (b"a=rsa-sha256", b"a=rsa-sha1", ("policy", "rsa-sha1 is not accepted (RFC 8301)")),
        (b"a=rsa-sha256", b"a=x-y", ("neutral", "unknown a=x-y")),
        (b"a=rsa-sha256", b"a=ed25519-sha256", ("permerror", "key is rsa, signature is ed25519")),
        (b"c=relaxed/relaxed", b"c=odd", ("neutral", "unknown c=odd")),
        (b"d=example.com", b"d=-", ("neutral", "d= is no domain")),
        (b"d=example.com;", b"d=example.com; i=joe@other.example;", ("neutral", "i= is not below d=")),
        (b"d=example.com;", b"d=example.com; i=@notexample.com;", ("neutral", "i= is not below d=")),
        (b"d=example.com;", b"d=example.com; q=http;", ("neutral", "unknown q=")),
        (b"d=example.com;", b"d=example.com; l=x;", ("neutral", "l= is no number")),
        (b"d=example.com;", b"d=example.com; l=9999;", ("fail", "signature does not match")),
        (b"h=from:", b"h=form:", ("permerror", "From is not signed")),
        (b"s=r;", b"s=gone;", ("permerror", "no key record")),
        (b"s=r;", b"s=a b;", ("permerror", "no key record")),
        (b"s=r;", b"s=..;", ("neutral", "s= is no selector")),
        (b"t=1790000000;", b"t=1790000000; x=1790000001;", ("permerror", "signature has expired")),
        (b"t=1790000000;", b"t=1790000000; x=1;", ("permerror", "signature has expired")),
    ],
)
async def test_bad_signatures_have_a_result(old, new, expected):
    """RFC 6376 §6.1.1 and RFC 8301 in the words of RFC 8601 §2.7.1."""
    if b"h=from:" in old:
        changed = re.sub(rb"h=from:(.*?);", lambda m: b"h=" + m[1].replace(b"from", b"form") + b";", ONE, count=1, flags=re.S)
    else:
        changed = change(ONE, old, new)
    assert await results(changed, at=(NOW + 1000) * 1_000_000) == [expected]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("SERVFAIL", ("temperror", "key lookup failed: dns-servfail")),
        (['"v=DKIM1; p="'], ("permerror", "key is revoked")),
        (['"nonsense"'], ("permerror", "key record: not a tag: 'nonsense'")),
    ],
)
async def test_key_trouble(record, expected):
    """RFC 6376 §6.1.2: no answer is temporary, no key is not."""
    assert await results(ONE, {("r._domainkey.example.com", "TXT"): record}) == [expected]


def with_tags(tags: str) -> dict[tuple[str, str], list[str]]:
    value = "".join(ZONE["r._domainkey.example.com", "TXT"][0].split('"')[1::2]).replace("v=DKIM1;", f"v=DKIM1; {tags};")
    return {("r._domainkey.example.com", "TXT"): [f'"{value[:200]}" "{value[200:]}"']}


async def test_tags_of_the_key_are_enforced():
    """RFC 6376 §3.6.1: h=, s=, t=s and t=y."""
    assert await results(ONE, with_tags("h=sha1")) == [("permerror", "key does not allow sha256")]
    assert await results(ONE, with_tags("s=tlsrpt")) == [("permerror", "key is not for email")]
    assert await results(ONE, with_tags("s=tlsrpt"), service="tlsrpt") == [("pass", "")]
    assert await results(ONE, with_tags("s=email:tlsrpt")) == [("pass", "")]
    assert await results(ONE, with_tags("t=y")) == [("pass", "testing")]
    assert await results(change(ONE, b"Hello", b"hello"), with_tags("t=y")) == [("neutral", "body was changed (testing)")]
    below = change(ONE, b"d=example.com;", b"d=example.com; i=@sub.example.com;")
    assert await results(below, with_tags("t=s")) == [("permerror", "key wants i= to be d= exactly")]


SHORT = """-----BEGIN PRIVATE KEY-----
MIIBVAIBADANBgkqhkiG9w0BAQEFAASCAT4wggE6AgEAAkEArROjfKp7YT/nVCMn
/DWQ8T1sW3WHk2OQaEg1Al9vS6JjnV3SB1No8Bveie2yILxyZ4H5Ys6t3z3hB9ZP
0UBslQIDAQABAkBnVJ07tbC5q+RZWC/sJLLnRCuoIvARb9TsXYfAZefVeB+M8WCI
ye+z/5q950yWsihvL5NGJZLbL4HXv//KCgMVAiEA2kVduGFz+hPMmV6sQtqwZ+AI
KRaySUIxcvVHxmzkRQMCIQDK/mWzPS9Zn4MQjhWTOENVXQu1XnU5fCR30CKmJA1Y
hwIge+XeIjhnTfAJNpHv9G8QrZYU68XvY/hH+3pRyMes96MCIQCeeZU0JWQ998X+
uq4lTRtkHUvywFeMFVrzHs6uHh89KQIgJFy0DorzSVOUjiMteOhRum68nvr+WmVb
YjB3/Hrts2w=
-----END PRIVATE KEY-----
"""


async def test_short_keys_never_pass():
    """RFC 8301 §3.2: a good signature by a key of 512 bits is refused."""
    key = cast("RSAPrivateKey", serialization.load_pem_private_key(SHORT.encode(), None, unsafe_skip_rsa_key_validation=True))
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    zone = {("r._domainkey.example.com", "TXT"): [f'"p={base64.b64encode(der).decode()}"']}
    short = SigningKey(domain=D, selector="r", key=key)
    with pytest.raises(BadKey, match="bits are too few"):
        SigningKey.load(D, "r", SHORT.encode())
    assert await results(Signer([short]).sign(MAIL, D), zone) == [("policy", "key of 512 bits is too short (RFC 8301)")]


async def test_body_length_is_told():
    """RFC 8460 §3: `l=` is not allowed in reports, so the receiver must know."""
    field = dkim.DKIM(MAIL).sign(b"r", b"example.com", private_pem(RSA.key), length=True)
    found = await verify(field + MAIL + b"more\r\n", FakeDns(ZONE))
    assert [(item.result, item.body_length) for item in found] == [("pass", True)]


async def test_large_messages_are_verified_in_a_thread():
    large = MAIL + b"x" * 76 + b"\r\n" * 200_000
    signed = SIGNER.sign(large + b"end\r\n", D)
    assert await results(signed) == [("pass", "")] * 2
    assert await results(signed, inline=True) == [("pass", "")] * 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"DKIM-Signature", b">From joe Mon Jan  1 00:00:00 2026\r\nDKIM-Signature"),
        (b"To: a@", b"no field at all\r\nTo: a@"),
        (b"To: a@", b"X\xff: y\r\nTo: a@"),
        (b"To: a@", b"X-Spam : no\r\nTo: a@"),
        (b"To: a@", b"To : a@"),
    ],
)
async def test_lines_that_are_no_fields_do_not_matter(old, new):
    """A relay or a mailbox put them there, and nobody signed them."""
    assert await results(SIGNER.sign(MAIL, D).replace(old, new, 1)) == [("pass", ""), ("pass", "")]


async def test_bare_line_feeds_do_not_matter():
    assert await results(SIGNER.sign(MAIL, D).replace(b"\r\n", b"\n")) == [("pass", "")] * 2


async def test_only_the_first_twenty_signatures_are_looked_at():
    resolver = FakeDns(ZONE)
    field = ONE.partition(b"From: Joe")[0]
    fields = b"".join(change(field, b"s=r;", f"s=s{i};".encode()) for i in range(50))
    found = await verify(fields + MAIL, resolver)
    assert len(found) == 20
    assert len(resolver.queries) == 20


@settings(max_examples=200, deadline=None)
@given(value=st.text(max_size=200))
async def test_any_signature_field_has_a_result(value):
    content = b"DKIM-Signature: " + value.encode("utf-8", "replace").replace(b"\n", b"") + b"\r\n" + MAIL
    for signature in await verify(content, FakeDns(ZONE)):
        assert signature.result in {"neutral", "permerror", "policy", "fail"}


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300))
async def test_any_bytes_are_verified(content):
    assert isinstance(await verify(content, FakeDns(ZONE)), tuple)


def test_without_a_key_nothing_is_signed():
    with pytest.raises(NoKey, match=r"no DKIM key for other\.example"):
        SIGNER.sign(MAIL, Domain("other.example"))
    with pytest.raises(ValueError, match="without From"):
        SIGNER.sign(b"To: x\r\n\r\n", D)
    assert SIGNER.domains == {D}
