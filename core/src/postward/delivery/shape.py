"""The JSON that scripts rely on: what `deliver`, `probe` and `lab` print of recipients, attempts and policies."""

from __future__ import annotations

from typing import Any

from postward.model import ConnectionReport, Delivery, PolicyResult


def policy_json(result: PolicyResult) -> dict[str, Any]:
    """One policy of an attempt.

    `result_type` and `reason` are those of the failure; where the policy was satisfied although something about it had to
    be worked around (a cached copy, unusable records), those of the first note.
    """
    said = result.failure or (result.notes[0] if result.notes else None)
    return {
        "kind": result.kind,
        "mode": result.mode.value,
        "domain": str(result.domain),
        "passed": result.passed,
        "result_type": said.result_type.value if said else None,
        "reason": said.reason if said else "",
        "detail": said.detail if said else "",
    }


def attempt_json(report: ConnectionReport) -> dict[str, Any]:
    """One attempt at one host; `tls` is null where none was established."""
    tls = report.tls
    return {
        "domain": str(report.domain),
        "host": str(report.host),
        "address": report.address,
        "tls": {"protocol": tls.protocol, "cipher": tls.cipher} if tls else None,
        "policies": [policy_json(result) for result in report.policies],
        "delivered": report.delivered,
        "error": report.error,
    }


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    """A whole delivery, or a probe, which has no recipients."""
    return {
        "recipients": [
            {
                "address": str(outcome.address),
                "delivered": outcome.delivered,
                "permanent": outcome.permanent,
                "reply": outcome.reply,
            }
            for outcome in delivery.recipients
        ],
        "attempts": [attempt_json(report) for report in delivery.attempts],
    }
