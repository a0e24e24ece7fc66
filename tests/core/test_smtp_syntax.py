"""Paths and parameters (RFC 5321 §4.1.2, RFC 6531 §3.3, RFC 3461 §4)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.smtp.syntax import dsn_value_is_good, parse_mailbox, parse_parameters, split_path


@pytest.mark.parametrize(
    ("argument", "mailbox", "parameters"),
    [
        ("FROM:<>", "", {}),
        ("from:<a@b.example>", "a@b.example", {}),
        ("FROM: <a@b.example>", "a@b.example", {}),
        (
            "FROM:<a@b.example> SIZE=12 body=8bitmime SMTPUTF8",
            "a@b.example",
            {"SIZE": "12", "BODY": "8bitmime", "SMTPUTF8": ""},
        ),
        ("TO:<Postmaster>", "Postmaster", {}),
        ('TO:<"a> b"@b.example> NOTIFY=NEVER', '"a> b"@b.example', {"NOTIFY": "NEVER"}),
        (r'TO:<"a\"<b"@b.example>', r'"a\"<b"@b.example', {}),
        ("TO:<@one.example,@two.example:a@b.example>", "a@b.example", {}),
        ("TO:<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", {}),
        ("FROM:<> AUTH=<>", "", {"AUTH": "<>"}),
        ("TO:<ü@b.example>", "ü@b.example", {}),
    ],
)
def test_paths(argument, mailbox, parameters):
    """RFC 5321 appendix C: a source route is ignored."""
    assert split_path(argument) == (mailbox, parameters)


@pytest.mark.parametrize(
    "argument",
    [
        "FROM:",
        "FROM:a@b.example",
        "FROM:<a@b.example",
        "FROM:<a b@c.example>",
        "FROM:<a@b.example>SIZE=1",
        "FROM:<<a@b.example>>",
        "FROM:<a@b.example> SIZE=",
        "FROM:<a@b.example> SIZE=1 size=2",
        "FROM:<a@b.example> =1",
        "FROM:<a@b.example> A=b=c",
        "TO:<@one:>x",
        "FROM:<> " + " ".join(f"A{number}" for number in range(21)),
        "FROM:<> a_b",
        "FROM:<> -a",
    ],
)
def test_bad_paths(argument):
    with pytest.raises(ValueError):
        split_path(argument)


@pytest.mark.parametrize(
    "text", ["a", "@b.example", "a@", "a@b..example", "a b@c.example", "a@[1.2.3]", f"{'a' * 65}@b.example"]
)
def test_bad_mailboxes(text):
    with pytest.raises(ValueError, match="not a mail address"):
        parse_mailbox(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    for parse in (split_path, parse_parameters):
        with suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("keyword", "value", "good"),
    [
        ("RET", "full", True),
        ("RET", "all", False),
        ("ENVID", "QQ+2B1", True),
        ("ENVID", "a+b", False),
        ("ENVID", "", False),
        ("ENVID", "x" * 101, False),
        ("NOTIFY", "NEVER", True),
        ("NOTIFY", "SUCCESS,delay", True),
        ("NOTIFY", "NEVER,DELAY", False),
        ("NOTIFY", "DELAY,DELAY", False),
        ("NOTIFY", "", False),
        ("ORCPT", "rfc822;a@b.example", True),
        ("ORCPT", "a@b.example", False),
    ],
)
def test_dsn_values(keyword, value, good):
    assert dsn_value_is_good(keyword, value) is good
