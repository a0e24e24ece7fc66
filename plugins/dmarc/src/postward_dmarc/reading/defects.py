"""What reports from the field get wrong and can be read all the same: each is recorded with the report, none hides a record."""

from __future__ import annotations

from typing import Final

DEFECTS: Final = {
    "arf-base64": "The report is encoded in a way that is not said, or not allowed (RFC 5965 §2).",
    "arf-field-count": "A field is missing that must be there, or there are several (RFC 5965 §3).",
    "auth-failure-missing": "It is not said what failed (RFC 6591 §3.1).",
    "characters": "There are characters that XML does not allow.",
    "count-not-a-count": "A count is no number, or a negative or impossible one (RFC 9990 §3.1.1.8).",
    "date-format": "The period is not in seconds since 1970 (RFC 9990 §3.1.1.4).",
    "disposition-unknown": "A disposition is none of RFC 9990 §3.1.1.9.",
    "domain-not-a-domain": "A name that should be a domain is none.",
    "encoding": "The text is not in the encoding that it claims.",
    "ends-too-early": "The report ends before its end.",
    "header-from-missing": "A record does not say which author domain it is about (RFC 9990 §3.1.1.10).",
    "long-text": "A text is too long and was cut.",
    "namespace": "The elements are in no namespace that is known (RFC 9990 §3.1.1.1).",
    "no-records": "There is no record (RFC 9990 §3.1.1.2).",
    "not-well-formed": "The XML is broken; what could be told apart was read.",
    "org-name-missing": "It is not said who reports (RFC 9990 §3.1.1.3).",
    "period-missing": "There is no period, or only half of one (RFC 9990 §3.1.1.4).",
    "period-reversed": "The period ends before it begins.",
    "period-long": "The period is longer than two days (RFC 9990 §3.1.1.4).",
    "policy-missing": "The policy that was found is not said (RFC 9990 §3.1.1.5).",
    "policy-unknown": "A value of the policy is none of RFC 9989 §4.7.",
    "reason-empty": "A reason is empty (RFC 9990 §3.1.1.9).",
    "reason-unknown": "A reason is none of RFC 9990 §3.1.1.9 or RFC 7489 appendix C.",
    "record-damaged": "A record cannot be read; only that it is there is known.",
    "report-id-missing": "There is no report_id (RFC 9990 §3.5.1).",
    "result-case": "A result or a word is written in capital letters (RFC 9990 §3.1.1.11).",
    "result-missing": "A result is missing or empty.",
    "result-unknown": "A result is none of RFC 8601 §2.7.",
    "source-not-an-address": "A source_ip is no IP address (RFC 9990 §3.1.1.8).",
    "structure": "An element stands where none is expected, or a text where elements are.",
    "trailing-data": "Something stands behind the compressed data.",
    "media-type": "The media type is not one of RFC 9990 §3.5.2.",
}
"""Slug and sentence of everything that can be passed over."""
