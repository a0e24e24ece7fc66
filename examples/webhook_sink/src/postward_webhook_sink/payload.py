"""Results as JSON, the same for the same results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from postward import JournalEntry, PolicyResult, TlsResult


def encode(node: str, entries: Sequence[JournalEntry]) -> bytes:
    """One post."""
    whole = {
        "node": node,
        "first": entries[0].sequence,
        "last": entries[-1].sequence,
        "results": [_entry(entry) for entry in entries],
    }
    return json.dumps(whole, separators=(",", ":"), sort_keys=True).encode()


def _entry(entry: JournalEntry) -> dict[str, Any]:
    head = {"sequence": entry.sequence, "count": entry.count, "day": entry.result.day}
    result = entry.result
    if not isinstance(result, TlsResult):
        return {**head, "kind": result.kind, "data": result.data}
    return {
        **head,
        "kind": "tls",
        "domain": result.domain,
        "host": result.host,
        "protocol": result.protocol,
        "cipher": result.cipher,
        "policies": [_policy(policy) for policy in result.policies],
    }


def _policy(policy: PolicyResult) -> dict[str, Any]:
    failure = policy.failure.result_type if policy.failure else None
    return {
        "kind": policy.kind,
        "mode": policy.mode,
        "domain": policy.domain,
        "passed": policy.passed,
        "result_type": failure,
    }
