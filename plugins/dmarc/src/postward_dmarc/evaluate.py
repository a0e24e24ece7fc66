"""Evaluate a message under DMARC: alignment, policy, disposition (RFC 9989 §4.4, §5.3, §5.4, §7.4).

No I/O: `evaluate` is a generator of DNS questions. A DNS error makes neither a pass nor a fail (§5.3.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from postward.names import Domain
from postward_dmarc.questions import Asker, Question
from postward_dmarc.record import Policy, Record
from postward_dmarc.treewalk import Walk, walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifier:
    """A domain that was authenticated, or not: by DKIM with its `selector`, or by SPF with its `scope`."""

    domain: Domain | None
    result: str
    selector: str = ""
    scope: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What DMARC says of one author domain.

    `result` is a word of RFC 9989 §9.1. `published` is the policy that applies to the author domain, `disposition` what
    becomes of the message in the words of RFC 9990 §3.1.1.9: `none`, `pass`, `quarantine`, `reject`. `overrides` says
    why the disposition differs from the published policy, as (type, comment).
    """

    author: Domain | None
    result: str
    reason: str = ""
    policy_domain: Domain | None = None
    organizational: Domain | None = None
    record: Record | None = None
    published: Policy = Policy.NONE
    aligned_spf: bool = False
    aligned_dkim: bool = False
    disposition: str = "none"
    overrides: tuple[tuple[str, str], ...] = ()
    spf: Identifier | None = None
    dkim: tuple[Identifier, ...] = ()


def evaluate(author: Domain, spf: Identifier | None, dkim: Sequence[Identifier], *, reject: bool = False) -> Asker[Evaluation]:
    """Evaluate one author domain. `spf` is the MAIL FROM result, with postmaster@HELO for the null path (§4.4.2).

    `reject` lets `p=reject` refuse a message by itself; otherwise it quarantines, because DMARC alone must not reject (§7.4).
    """
    start = yield from walk(author)
    known = Evaluation(author=author, result="none", spf=spf, dkim=tuple(dkim))
    policy = start.policy
    if start.failed and start.own is None:
        return replace(known, result="temperror", reason=start.failed)
    if not start.failed:
        known = replace(known, organizational=start.organizational)
    if policy is None or not policy[1].usable:
        return known
    policy_domain, record = policy
    published, trouble = yield from _published(author, policy_domain, record)
    aligner = _Aligner(start)
    aligned_spf = aligned_dkim = False
    if spf is not None:
        aligned_spf, uncertain = yield from aligner.aligned(spf, strict=record.strict_spf)
        trouble = trouble or uncertain
    for identifier in dkim:
        aligned, uncertain = yield from aligner.aligned(identifier, strict=record.strict_dkim)
        aligned_dkim = aligned_dkim or aligned
        trouble = trouble or uncertain
    known = replace(
        known,
        policy_domain=policy_domain,
        record=record,
        published=published,
        aligned_spf=aligned_spf,
        aligned_dkim=aligned_dkim,
    )
    if aligned_spf or aligned_dkim:
        return replace(known, result="pass", disposition="none" if published is Policy.NONE else "pass")
    if trouble:
        return replace(known, result="temperror", reason=trouble)
    applied, overrides = _apply(published, record, reject=reject)
    return replace(known, result="fail", disposition=applied.word, overrides=overrides)


def _published(author: Domain, policy_domain: Domain, record: Record) -> Asker[tuple[Policy, str]]:
    """The policy for the author domain, and why it may be wrong. Whether the name exists is asked only where it matters."""
    if policy_domain == author:
        return record.own(), ""
    existing, missing = record.inherited(exists=True), record.inherited(exists=False)
    if existing is missing:
        return existing, ""
    answer = yield Question(author, "A")
    if answer.failed:
        return existing, answer.failed
    return (missing if answer.nxdomain else existing), ""


def _apply(published: Policy, record: Record, *, reject: bool) -> tuple[Policy, tuple[tuple[str, str], ...]]:
    applied, overrides = published, []
    if record.testing and applied is not Policy.NONE:
        applied = applied.milder
        overrides.append(("policy_test_mode", ""))
    if applied is Policy.REJECT and not reject:
        applied = Policy.QUARANTINE
        overrides.append(("local_policy", "reject is applied as quarantine"))
    return applied, tuple(overrides)


class _Aligner:
    """Alignment with one author domain; each other domain's tree is walked once per message."""

    def __init__(self, author: Walk) -> None:
        self._walks = {author.start: author}
        self._author = author

    def aligned(self, identifier: Identifier, *, strict: bool) -> Asker[tuple[bool, str]]:
        """Whether an identifier passed and is aligned, and the DNS trouble that leaves it open (RFC 9989 §4.4)."""
        domain = identifier.domain
        if identifier.result not in ("pass", "temperror") or domain is None or domain.is_literal:
            return False, ""
        same, trouble = domain == self._author.start, ""
        if not same and not strict:
            same, trouble = yield from self._same_organization(domain)
        if identifier.result == "pass":
            return same, trouble
        return False, trouble or (identifier.reason or "a check failed for now" if same else "")

    def _same_organization(self, domain: Domain) -> Asker[tuple[bool, str]]:
        if self._author.failed:
            return False, self._author.failed if self._author.start.labels[-1] == domain.labels[-1] else ""
        # Whoever is not below it cannot share it. Walking a stranger's tree would let his DNS errors turn a fail into an error.
        if not domain.is_below(self._author.organizational):
            return False, ""
        if domain not in self._walks:
            self._walks[domain] = yield from walk(domain)
        other = self._walks[domain]
        return not other.failed and other.organizational == self._author.organizational, other.failed
