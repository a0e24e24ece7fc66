"""What of a received report is about us: our mail domains, and our MX hosts (RFC 8460 §1.1, §7).

Reports are a stranger's text. What is about other domains is left out, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from postward_tlsrpt.read import Reading, domain_or_nothing
from postward_tlsrpt.report import PolicyResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Our `domains`, and our `hosts`; what is below one of our domains is taken for a host of it."""

    domains: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    def is_host(self, domain: str) -> bool | None:
        """Whether a policy domain is a host of ours rather than a domain; None when it is neither."""
        if domain in self.domains:
            return domain in self.hosts
        if domain in self.hosts or any(domain.endswith(f".{own}") for own in self.domains):
            return True
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A policy of a report that is about `domain`, which is ours."""

    domain: str
    is_host: bool
    result: PolicyResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What of a report is `kept`, and the policy domains that are `foreign`: distinct, at most ten."""

    kept: tuple[Kept, ...]
    foreign: tuple[str, ...]


def share(reading: Reading, own: Own) -> Share:
    """Divide a report. A policy that names no domain is about the one that the mail or the other policies are about."""
    named = [domain_or_nothing(result.policy.policy_domain) for result in reading.report.policies]
    others = {name for name in named if name}
    unnamed = reading.about or (next(iter(others)) if len(others) == 1 else "")
    kept: list[Kept] = []
    foreign: dict[str, None] = {}
    for name, result in zip(named, reading.report.policies, strict=True):
        domain = name or ("" if result.policy.policy_domain else unnamed)
        is_host = own.is_host(domain) if domain else None
        if is_host is None:
            foreign[domain or result.policy.policy_domain[:253] or "no domain"] = None
        else:
            kept.append(Kept(domain=domain, is_host=is_host, result=result))
    return Share(kept=tuple(kept), foreign=tuple(foreign)[:10])


def parse_names(names: Sequence[object]) -> frozenset[str]:
    """Names as a set of plain text."""
    return frozenset(str(name) for name in names)
