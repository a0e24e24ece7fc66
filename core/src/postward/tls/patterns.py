"""The `mx` patterns of a policy (RFC 8461 §4.1)."""

from __future__ import annotations

from postward.names import Domain


def pattern_matches(pattern: str, host: Domain) -> bool:
    """Whether an MX host name matches a pattern: equal, or `*.` standing for exactly one left-most label."""
    pattern = pattern.lower()
    if not pattern.startswith("*."):
        return pattern == host
    _, dot, rest = host.partition(".")
    return bool(dot) and rest == pattern[2:] and not host.is_literal
