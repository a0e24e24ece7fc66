"""Evaluation: alignment, policy, disposition (RFC 9989 §4.4, §5.3, §5.4, §7.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.names import Domain
from postward_dmarc.evaluate import Evaluation, Identifier, evaluate
from postward_dmarc.questions import Lookup, Question
from postward_dmarc.record import Policy

FAIL = "!"


def run(author, records, *, spf=None, dkim=(), reject=False, missing=()) -> Evaluation:
    """`records` maps policy names to records or FAIL; `spf` is (domain, result); `dkim` a list of them."""
    asker = evaluate(
        Domain(author),
        Identifier(domain=Domain(spf[0]), result=spf[1], scope="mfrom") if spf else None,
        [Identifier(domain=Domain(domain), result=result, selector="s") for domain, result in dkim],
        reject=reject,
    )

    def answer(question: Question) -> Lookup:
        if question.rdtype == "A":
            return Lookup(failed="dns-servfail") if FAIL in missing else Lookup(nxdomain=question.name in missing)
        text = records.get(question.name.removeprefix("_dmarc."), "")
        return Lookup(failed="dns-servfail") if text == FAIL else Lookup(texts=(f"v=DMARC1; {text}",) if text else ())

    try:
        question, count = next(asker), 0
        while True:
            count += 1
            assert count < 200
            question = asker.send(answer(question))
    except StopIteration as stop:
        return stop.value


EX = {"example.com": "p=reject"}


@pytest.mark.parametrize(
    ("author", "records", "spf", "dkim", "result", "aligned"),
    [
        ("example.com", EX, ("example.com", "pass"), [], "pass", (True, False)),
        ("example.com", EX, None, [("example.com", "pass")], "pass", (False, True)),
        ("example.com", EX, ("example.com", "pass"), [("example.com", "pass")], "pass", (True, True)),
        # Relaxed: the same Organizational Domain, in all directions.
        ("example.com", EX, ("mail.example.com", "pass"), [], "pass", (True, False)),
        ("a.example.com", EX, None, [("b.example.com", "pass")], "pass", (False, True)),
        ("a.example.com", EX, None, [("example.com", "pass")], "pass", (False, True)),
        # Strict: the same name.
        ("example.com", {"example.com": "p=reject; aspf=s"}, ("mail.example.com", "pass"), [], "fail", (False, False)),
        ("example.com", {"example.com": "p=reject; adkim=s"}, None, [("mail.example.com", "pass")], "fail", (False, False)),
        ("example.com", {"example.com": "p=reject; adkim=s"}, ("mail.example.com", "pass"), [], "pass", (True, False)),
        # Strangers.
        ("example.com", EX, ("example.org", "pass"), [("evil.com", "pass")], "fail", (False, False)),
        ("example.com", EX, ("com", "pass"), [("notexample.com", "pass")], "fail", (False, False)),
        # What did not pass does not count.
        ("example.com", EX, ("example.com", "softfail"), [("example.com", "fail")], "fail", (False, False)),
        (
            "example.com",
            EX,
            ("example.com", "neutral"),
            [("example.com", "policy"), ("x.example", "pass")],
            "fail",
            (False, False),
        ),
        # One good signature among others is enough.
        ("example.com", EX, None, [("a.b", "pass"), ("example.com", "fail"), ("example.com", "pass")], "pass", (False, True)),
        # psd=n cuts an organization in two.
        ("sub.example.com", EX | {"sub.example.com": "p=none; psd=n"}, ("example.com", "pass"), [], "fail", (False, False)),
        ("example.com", EX | {"sub.example.com": "p=none; psd=n"}, ("a.sub.example.com", "pass"), [], "fail", (False, False)),
        # Two names below a public suffix are not the same organization.
        ("a.bank", {"bank": "p=reject; psd=y"}, ("b.bank", "pass"), [("bank", "pass")], "fail", (False, False)),
        ("x.a.bank", {"bank": "p=reject; psd=y"}, ("y.a.bank", "pass"), [], "pass", (True, False)),
        # Nobody asked.
        ("example.com", {}, ("example.com", "pass"), [("example.com", "pass")], "none", (False, False)),
        ("example.com", {"example.com": "p=bad"}, ("example.com", "pass"), [], "none", (False, False)),
        ("example.com", {"example.com": "p=bad; rua=mailto:a@b.example"}, ("example.org", "pass"), [], "fail", (False, False)),
    ],
)
def test_results(author, records, spf, dkim, result, aligned):
    found = run(author, records, spf=spf, dkim=dkim)
    assert found.result == result
    assert (found.aligned_spf, found.aligned_dkim) == aligned


@pytest.mark.parametrize(
    ("record", "author", "missing", "disposition", "overrides"),
    [
        ("p=none", "example.com", (), "none", ()),
        ("p=quarantine", "example.com", (), "quarantine", ()),
        # RFC 9989 §7.4: p=reject alone must not reject.
        ("p=reject", "example.com", (), "quarantine", ("local_policy",)),
        # RFC 9989 §4.7: t=y is one level lower.
        ("p=reject; t=y", "example.com", (), "quarantine", ("policy_test_mode",)),
        ("p=quarantine; t=y", "example.com", (), "none", ("policy_test_mode",)),
        ("p=none; t=y", "example.com", (), "none", ()),
        ("p=reject; sp=none", "a.example.com", (), "none", ()),
        ("p=none; sp=quarantine", "a.example.com", (), "quarantine", ()),
        ("p=none; np=quarantine", "a.example.com", (), "none", ()),
        ("p=none; np=quarantine", "a.example.com", ("a.example.com",), "quarantine", ()),
        ("p=quarantine; np=none", "a.example.com", ("a.example.com",), "none", ()),
        # sp and np are about names below, not about the record's own.
        ("p=none; sp=quarantine; np=quarantine", "example.com", ("example.com",), "none", ()),
    ],
)
def test_dispositions_of_failures(record, author, missing, disposition, overrides):
    found = run(author, {"example.com": record}, missing=missing)
    assert found.result == "fail"
    assert found.disposition == disposition
    assert tuple(kind for kind, _ in found.overrides) == overrides


def test_reject_when_the_operator_wants_it():
    found = run("example.com", EX, reject=True)
    assert (found.disposition, found.overrides, found.published) == ("reject", (), Policy.REJECT)


@pytest.mark.parametrize(("policy", "disposition"), [("reject", "pass"), ("quarantine", "pass"), ("none", "none")])
def test_a_pass_is_told_as_pass_only_under_an_enforcing_policy(policy, disposition):
    """RFC 9990 §3.1.1.9."""
    found = run("example.com", {"example.com": f"p={policy}"}, spf=("example.com", "pass"))
    assert (found.result, found.disposition) == ("pass", disposition)


@pytest.mark.parametrize(
    ("author", "records", "spf", "dkim", "missing", "result"),
    [
        ("example.com", {"example.com": FAIL}, ("example.com", "pass"), [], (), "temperror"),
        ("a.example.com", {"example.com": FAIL}, ("a.example.com", "pass"), [], (), "temperror"),
        # The own record is there, and a name that is equal needs no Organizational Domain.
        ("example.com", EX | {"com": FAIL}, ("example.com", "pass"), [], (), "pass"),
        ("example.com", EX | {"com": FAIL}, ("a.example.com", "pass"), [], (), "temperror"),
        ("example.com", EX | {"com": FAIL}, ("example.org", "pass"), [], (), "fail"),
        ("example.com", EX | {"a.example.com": FAIL}, ("a.example.com", "pass"), [], (), "temperror"),
        # Checks that failed for now, of names that would be aligned.
        ("example.com", EX, ("example.com", "temperror"), [], (), "temperror"),
        ("example.com", EX, None, [("a.example.com", "temperror")], (), "temperror"),
        ("example.com", EX, ("example.com", "temperror"), [("example.com", "pass")], (), "pass"),
        ("example.com", {"example.com": "p=reject; adkim=s"}, None, [("a.example.com", "temperror")], (), "fail"),
        # A stranger's DNS errors must not turn a fail into an error.
        ("example.com", EX, ("evil.com", "temperror"), [("evil.com", "temperror")], (), "fail"),
        ("example.com", EX | {"evil.com": FAIL}, ("evil.com", "pass"), [("x.evil.com", "pass")], (), "fail"),
        # Whether the name exists cannot be told, and it would matter.
        ("a.example.com", {"example.com": "p=none; np=reject"}, None, [], (FAIL,), "temperror"),
        ("a.example.com", {"example.com": "p=reject"}, None, [], (FAIL,), "fail"),
    ],
)
def test_dns_errors_make_neither_pass_nor_fail(author, records, spf, dkim, missing, result):
    """RFC 9989 §5.3.6."""
    found = run(author, records, spf=spf, dkim=dkim, missing=missing)
    assert found.result == result
    if result == "temperror":
        assert found.disposition == "none"
        assert found.reason


NAMES = st.sampled_from(["example.com", "a.example.com", "b.a.example.com", "example.org", "com", "evil.com"])
RESULTS = st.sampled_from(["pass", "fail", "temperror", "permerror", "none", "neutral"])
RECORDS = st.sampled_from(["p=none", "p=reject", "p=reject; adkim=s; aspf=s", "p=none; psd=y", "p=reject; psd=n", "x", FAIL])
TEXTS = st.dictionaries(NAMES, RECORDS)


@given(NAMES, TEXTS, st.tuples(NAMES, RESULTS), st.lists(st.tuples(NAMES, RESULTS), max_size=5))
def test_a_pass_needs_an_aligned_pass(author, records, spf, dkim):
    found = run(author, records, spf=spf, dkim=dkim)
    assert (found.result == "pass") == (found.aligned_spf or found.aligned_dkim)
    if found.result == "pass":
        passed = [domain for domain, result in [spf, *dkim] if result == "pass"]
        assert any(domain.split(".")[-1] == author.split(".")[-1] for domain in passed)
    if found.disposition in ("quarantine", "reject"):
        assert found.result == "fail"


@given(NAMES, st.lists(st.tuples(st.sampled_from(["evil.com", "example.org"]), RESULTS), max_size=5))
def test_strangers_cannot_change_a_fail(author, dkim):
    records = {"example.com": "p=reject", "com": "p=none; psd=y", "evil.com": FAIL, "example.org": FAIL}
    if author in ("example.com", "a.example.com", "b.a.example.com"):
        assert run(author, records, dkim=dkim).result == "fail"
