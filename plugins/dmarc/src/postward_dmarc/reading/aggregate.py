"""What an aggregate report says, whichever schema it follows: that of RFC 9990, of RFC 7489 appendix C, or of its drafts.

Texts are a stranger's: bounded in length, otherwise as they came. Instants are microseconds UTC.
"""

from __future__ import annotations

import msgspec


class Reason(msgspec.Struct, frozen=True):
    """Why another policy was applied than the published one."""

    kind: str
    comment: str = ""


class DkimResult(msgspec.Struct, frozen=True):
    """What became of one signature, aligned or not. `human` is for people."""

    domain: str
    selector: str
    result: str
    human: str = ""


class SpfResult(msgspec.Struct, frozen=True):
    """What SPF said of an identity; `scope` is `mfrom` or `helo`."""

    domain: str
    scope: str
    result: str
    human: str = ""


class Record(msgspec.Struct, frozen=True):
    """`count` messages of one source with the same results; `dkim` and `spf` are those that DMARC counts, aligned."""

    source: str
    count: int
    disposition: str
    dkim: str
    spf: str
    reasons: tuple[Reason, ...]
    header_from: str
    envelope_from: str
    envelope_to: str
    dkim_results: tuple[DkimResult, ...]
    spf_results: tuple[SpfResult, ...]

    @property
    def passed(self) -> bool:
        """Whether DMARC passed (RFC 9989 §4.5)."""
        return self.dkim == "pass" or self.spf == "pass"


class Policy(msgspec.Struct, frozen=True):
    """The policy that the reporter found; empty where it does not say. `pct` is of RFC 7489 only."""

    domain: str = ""
    p: str = ""
    sp: str = ""
    np: str = ""
    adkim: str = ""
    aspf: str = ""
    fo: str = ""
    pct: str = ""
    testing: str = ""
    discovery_method: str = ""


class Aggregate(msgspec.Struct, frozen=True):
    """A report without its records. `damaged` of its `records` could not be read; `messages` are those of the others."""

    org: str
    email: str
    contact: str
    report_id: str
    begin: int
    end: int
    errors: tuple[str, ...]
    generator: str
    version: str
    policy: Policy
    records: int
    damaged: int
    messages: int
    defects: tuple[str, ...]
