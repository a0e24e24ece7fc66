"""Author domains (RFC 9989 §5.3.1, RFC 5322 §3.4, §4.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward_dmarc.from_header import authors


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ("joe@example.com", "example.com"),
        ("Joe <joe@Example.COM>", "example.com"),
        ('"Doe, Joe" <joe@example.com>', "example.com"),
        ('"evil@bank.example" <joe@example.com>', "example.com"),
        ("evil@bank.example <joe@example.com>", "example.com"),
        ('"<evil@bank.example>" <joe@example.com>', "example.com"),
        ("(<evil@bank.example>) joe@example.com (x (nested) y)", "example.com"),
        ("joe(c)@(d)example.(e)com", "example.com"),
        ("=?utf-8?q?Joe=40bank=2Eexample?= <joe@example.com>", "example.com"),
        ('"joe@home"@example.com', "example.com"),
        ('"joe\\"@x.example,"@example.com', "example.com"),
        ("<joe@example.com>, <jim@example.com>", "example.com"),
        ("Group: joe@example.com, Jim <jim@example.com>;", "example.com"),
        ("<@relay.example,@other.example:joe@example.com>", "example.com"),
        ("Joe\r\n <joe@example.com>", "example.com"),
        ("Joe <joe@bücher.example>", "xn--bcher-kva.example"),
        ("Joe <joe@xn--bcher-kva.example>", "xn--bcher-kva.example"),
        ("joe @ example . com", "example.com"),
        ("joe@example.com.", "example.com"),
        ("Joe <joe@example.com", "example.com"),
        ("Doe, Joe <joe@example.com>", "example.com"),
        ("Doe; Sons <joe@example.com>.", "example.com"),
        ("joe@example.com, nonsense", "example.com"),
    ],
)
def test_one_author_domain(value, domain):
    assert authors(f"To: x\r\nFrom: {value}\r\nSubject: y\r\n\r\nFrom: no@body.example\r\n".encode()).single == domain


@pytest.mark.parametrize(
    ("header", "problem", "domains"),
    [
        ("To: x", "no From field", ()),
        ("From: a@one.example\r\nFrom: b@two.example", "several From fields", ("one.example", "two.example")),
        ("From: a@one.example\r\nfrom : a@one.example", "several From fields", ("one.example",)),
        ("From: a@one.example, b@two.example", "From holds addresses of several domains", ("one.example", "two.example")),
        ("From: ", "From holds no address", ()),
        ("From: undisclosed:;", "From holds no address", ()),
        ("From: Joe", "From holds something that is no address", ()),
        ("From: =?utf-8?q?joe=40example=2Ecom?=", "From holds something that is no address", ()),
        ("From: Joe <joe>", "From holds something that is no address", ()),
        ("From: Joe <joe@>", "From holds an address without a good domain", ()),
        ("From: joe@exa mple..com", "From holds an address without a good domain", ()),
        ("From: joe@bank.example@evil.example", "From holds something that is no address", ()),
        ("From: <joe@bank.example\0@evil.example>", "From holds something that is no address", ()),
        ("From: <a@one.example> b@two.example", "From holds addresses of several domains", ("one.example", "two.example")),
        ("From: " + ",".join(f"a@d{i}.example" for i in range(200)), "From holds too many addresses", ()),
    ],
)
def test_not_one_author_domain(header, problem, domains):
    found = authors(f"{header}\r\n\r\nbody".encode())
    assert found.single is None
    assert found.problem == problem
    assert found.domains == domains


def test_the_body_is_not_the_header():
    assert authors(b"\r\nFrom: a@b.example\r\n").problem == "no From field"
    assert authors(b"Subject: x\n\nFrom: a@b.example\n").problem == "no From field"
    assert authors(b"From: a@b.example").single == "b.example"


def test_invalid_bytes():
    assert authors(b"From: \xff\xfe <joe@example.com>\r\n\r\n").single == "example.com"
    assert authors(b"From: joe@ex\xffmple.com\r\n\r\n").problem == "From holds an address without a good domain"


@given(st.one_of(st.text(alphabet='ab@.<>(),;:"\\[] \t', max_size=60), st.text(max_size=60)))
def test_any_field_has_a_domain_or_a_problem(value):
    found = authors(f"From: {value}\r\n\r\n".encode("utf-8", "replace"))
    assert (found.single is None) == bool(found.problem)


@given(st.binary(max_size=300))
def test_any_bytes(content):
    assert isinstance(authors(content).problem, str)
