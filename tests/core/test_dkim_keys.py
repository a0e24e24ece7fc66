"""Key records and tag lists (RFC 6376 §3.2, §3.6.1; RFC 8460 §3 on service types)."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.dkim import BadKey, SigningKey, dns_record, generate, parse_key, private_pem
from postward.dkim.tags import parse_tags
from postward.names import Domain

ED = SigningKey(domain=Domain("example.com"), selector="s1", key=generate("ed25519"))
P = base64.b64encode(ED.key.public_key().public_bytes_raw()).decode()


def unquote(value: str) -> str:
    return "".join(value.split('"')[1::2])


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_published_record_reads_back(kind):
    key = SigningKey(domain=Domain("example.com"), selector="s1", key=generate(kind))
    name, value = dns_record(key)
    assert name == "s1._domainkey.example.com"
    assert all(len(part) <= 255 for part in value.split('"')[1::2])
    record = parse_key(unquote(value))
    assert record.kind == kind
    assert record.service_types == ("*",)
    assert record.key == key.key.public_key()


def test_service_types_are_a_list():
    """RFC 8460 §3: `s=email:tlsrpt` serves both."""
    _, value = dns_record(ED, ("email", "tlsrpt"))
    record = parse_key(unquote(value))
    assert record.serves("email")
    assert record.serves("tlsrpt")
    assert not parse_key(f"k=ed25519; s=tlsrpt; p={P}").serves("email")
    assert parse_key(f"k=ed25519; p={P}").serves("tlsrpt")
    assert parse_key(f"k=ed25519; s=other : * ; p={P}").serves("email")


def test_flags_and_hashes():
    record = parse_key(f"v=DKIM1; k=ed25519; h=sha1 : sha256; t=y:s; n=note; x9=ignored; p={P[:20]} {P[20:]};")
    assert (record.hashes, record.testing, record.strict, record.bits) == (("sha1", "sha256"), True, True, 256)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "v=DKIM1",
        "v=DKIM1; p=",
        "v=DKIM2; k=ed25519; p=" + P,
        "k=ed25519; v=DKIM1; p=" + P,
        "k=ed25519; p=" + P + "; p=" + P,
        "k=rsa; p=" + P,
        "k=gost; p=" + P,
        "k=ed25519; p=!!",
        "k=ed25519; p=AAAA",
        "p=MIGf",
        "v=spf1 -all",
        "; ".join(f"a{i}=1" for i in range(99)),
    ],
)
def test_bad_records_are_refused(text):
    with pytest.raises(BadKey):
        parse_key(text)


@given(st.text(max_size=300))
def test_any_text_is_a_record_or_refused(text):
    with contextlib.suppress(BadKey):
        parse_key(text)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), st.from_regex(r"[!-:<-~]{0,20}", fullmatch=True), min_size=1
    )
)
def test_tag_lists_read_back(tags):
    assert parse_tags(" ;\r\n\t".join(f"{name} = {value} " for name, value in tags.items())) == tags


def test_private_keys_load_and_are_checked():
    for kind in ("rsa", "ed25519"):
        assert SigningKey.load(Domain("example.com"), "s", private_pem(generate(kind))).key
    with pytest.raises(BadKey, match="not an unencrypted PEM"):
        SigningKey.load(Domain("example.com"), "s", b"nonsense")
    assert "PRIVATE" not in repr(ED)
