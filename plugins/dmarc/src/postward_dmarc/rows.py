"""What an aggregate report needs to know of one message, as canonical JSON (RFC 9990 §3.1).

Equal messages give equal text, so that a day's thousand messages from one server are one row with a count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from postward.model import InboundMessage
from postward_dmarc.evaluate import Evaluation, Identifier
from postward_dmarc.record import Record

KIND: Final = "dmarc"
MAX_SIGNATURES: Final = 100


def row_of(message: InboundMessage, evaluation: Evaluation) -> str | None:
    """The row for one message; None when there is nothing to report, or nobody to report to."""
    record = evaluation.record
    if record is None or evaluation.policy_domain is None or not record.rua or message.client_ip is None:
        return None
    row: dict[str, Any] = {
        "domain": evaluation.policy_domain,
        "published": _published(record),
        # A socket for both kinds of addresses shows IPv4 as `::ffff:…`.
        "source_ip": str(getattr(message.client_ip, "ipv4_mapped", None) or message.client_ip),
        "disposition": evaluation.disposition,
        "dkim": "pass" if evaluation.aligned_dkim else "fail",
        "spf": "pass" if evaluation.aligned_spf else "fail",
        "reasons": [list(reason) for reason in evaluation.overrides],
        "header_from": evaluation.author,
        "envelope_from": message.sender.domain if message.sender else "",
        "auth_dkim": [_signature(item) for item in _ordered(evaluation)[:MAX_SIGNATURES]],
        "auth_spf": _spf(evaluation.spf),
    }
    domains = {recipient.domain for recipient in message.recipients}
    if len(domains) == 1:
        row["envelope_to"] = domains.pop()
    return canonical(row)


def canonical(value: Any) -> str:
    """JSON with one spelling for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _published(record: Record) -> dict[str, str]:
    """The policy as found, defaults included (RFC 9990 §3.1.1.5)."""
    published = {
        "p": record.own().word,
        "adkim": "s" if record.strict_dkim else "r",
        "aspf": "s" if record.strict_spf else "r",
        "fo": ":".join(record.failure_options),
        "testing": "y" if record.testing else "n",
        "discovery_method": "treewalk",
    }
    for tag, policy in (("sp", record.subdomain), ("np", record.nonexistent)):
        if policy is not None:
            published[tag] = policy.word
    return published


def _ordered(evaluation: Evaluation) -> Sequence[Identifier]:
    """Signatures with the telling ones first: passed by the author, passed in his organization, passed, others (§3.1.3)."""

    def rank(item: Identifier) -> int:
        if item.result != "pass" or item.domain is None:
            return 3
        if item.domain == evaluation.author:
            return 0
        organization = evaluation.organizational
        return 1 if organization is not None and item.domain.is_below(organization) else 2

    return sorted((item for item in evaluation.dkim if item.domain is not None), key=rank)


def _signature(item: Identifier) -> dict[str, str]:
    signature = {"domain": str(item.domain), "selector": item.selector, "result": item.result}
    return signature | ({"human_result": item.reason} if item.reason else {})


def _spf(item: Identifier | None) -> dict[str, str] | None:
    if item is None or item.domain is None:
        return None
    return {"domain": str(item.domain), "scope": "mfrom", "result": item.result}
