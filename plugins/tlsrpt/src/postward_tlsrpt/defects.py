"""What may be wrong with a received report that is counted all the same: stable slugs, each with a sentence for people.

Reports of the field differ from RFC 8460 in small ways, and a domain's owner wants to see them nevertheless. What is passed
over is recorded with the report, so nobody has to guess what was read and what was written.
"""

from __future__ import annotations

from typing import Final

DEFECTS: Final[dict[str, str]] = {
    "byte-order-mark": "The JSON begins with a byte order mark (RFC 8259 §8.1).",
    "contact-info-missing": "There is no contact-info, or it is null (RFC 8460 §4.4).",
    "content-type": "The media type and the content disagree: gzip where it says JSON, or JSON where it says gzip.",
    "count-not-integer": "A count is not written as a whole number (RFC 8460 §4.4).",
    "counts-disagree": "The counts of the details cannot be those of the summary (RFC 8460 §4.4).",
    "date-format": "A date is not in the form of RFC 3339 §5.6.",
    "date-without-zone": "A date has no zone and was read as UTC (RFC 3339 §5.6).",
    "draft-name": "A field has the name that it had in a draft of RFC 8460.",
    "failure-details-missing": "There are failures, and nothing is said about them (RFC 8460 §4.4).",
    "forwarded": "The report is in a message that another one forwards; only files are read so.",
    "long-range": "The report covers more than two days (RFC 8460 §4.1).",
    "media-type": "The media type is not one of RFC 8460 §6.2, §6.4.",
    "mx-host-not-array": "mx-host is no array (RFC 8460 §4.4, erratum 6241).",
    "not-text": "A text is written as a number.",
    "null-value": "A field that may be left out is null.",
    "organization-name-missing": "There is no organization-name, or it is null (RFC 8460 §4.4).",
    "policies-not-array": "The policies, or the details of one, are no array (RFC 8460 §4).",
    "policy-domain-missing": "A policy has no policy-domain (RFC 8460 §4.4).",
    "policy-string-missing": "A policy has no policy-string (RFC 8460 §4.4).",
    "policy-string-not-array": "A policy-string is no array of strings (RFC 8460 §4.4).",
    "policy-type-unknown": "A policy-type is none of RFC 8460 §4.4.",
    "result-type-missing": "A failure has no result-type (RFC 8460 §4.3).",
    "result-type-unknown": "A result-type is none of RFC 8460 §4.3.",
    "structure": "The report is not a part of multipart/report with report-type tlsrpt (RFC 8460 §5.3).",
    "submitter-disagrees": "TLS-Report-Submitter is not the domain of contact-info (RFC 8460 §5.3).",
    "trailing-data": "Something stands behind the JSON.",
    "u-label": "A domain is not written in A-labels (RFC 8460 §4.4).",
}
"""Slug and sentence of everything that can be passed over."""

NO_TYPE: Final = "unspecified"
"""Stands for a result type that was left out: an empty one would be invisible."""
