"""The names of a report: its id, its file, its subject (RFC 8460 §5.1, §5.3)."""

from __future__ import annotations

from postward.model import MICROSECONDS, Window
from postward.names import Domain


def report_id(window: Window, policy_domain: Domain, submitter: Domain, unique: str) -> str:
    """An id in the form of a msg-id without brackets. `unique` (letters and digits) tells late reports of a day apart."""
    return f"{window.day.replace('-', '')}.{policy_domain}.{unique}@{submitter}"


def filename(window: Window, policy_domain: Domain, submitter: Domain, unique: str) -> str:
    """`sender!policy-domain!begin!end!unique-id.json.gz`, times in seconds, the end inclusive as in the report."""
    begin, end = window.start // MICROSECONDS, window.end // MICROSECONDS - 1
    return f"{submitter}!{policy_domain}!{begin}!{end}!{unique}.json.gz"


def subject(policy_domain: Domain, submitter: Domain, identifier: str) -> str:
    """The subject of the mail; the words are case-sensitive."""
    return f"Report Domain: {policy_domain} Submitter: {submitter} Report-ID: <{identifier}>"


def explanation(window: Window, policy_domain: Domain, organization: str, contact: str, *, sessions: int, failures: int) -> str:
    """The part of the mail that people read."""
    return (
        f"This is a TLS report (RFC 8460) about {policy_domain} for {window.day} (UTC),\n"
        f"sent by {organization}.\n\n"
        f"TLS sessions: {sessions}, of which {failures} did not comply with a policy.\n"
        "A session counts once for each policy that applied to it.\n\n"
        f"The report itself is attached. Questions: {contact}\n"
    )
