"""Status codes: `class.subject.detail` (RFC 3463), taken from a reply or, failing that, from its basic code."""

from __future__ import annotations

import re
from typing import Final

_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_REPLY: Final = re.compile(r"([2-5])[0-9]{2}(?:[ -]+([245])\.([0-9]{1,3}\.[0-9]{1,3})(?![0-9.]))?")
# What a basic code alone says for certain (RFC 5321 §4.2.3, RFC 4954 §6, RFC 7504).
_BASIC: Final = {
    **{"421": "3.2", "450": "2.0", "451": "3.0", "452": "3.1", "454": "7.0", "530": "7.0", "535": "7.8", "550": "0.0"},
    **{"500": "5.2", "501": "5.4", "502": "5.1", "503": "5.1", "504": "5.4", "521": "3.2", "523": "7.10", "551": "1.6"},
    **{"552": "2.2", "553": "1.3", "555": "5.4", "556": "1.10"},
}


def is_status(text: str) -> bool:
    """Whether a text is a status code."""
    return _STATUS.fullmatch(text) is not None


def status_of(reply: str, *, permanent: bool) -> str:
    """The status code for the last reply on a recipient, or for our own words in that form.

    `permanent` says whether it is the end: the class follows it, so a message that expired after `451 4.4.1` has 5.4.1. Of a
    positive reply the class is 2.
    """
    match = _REPLY.match(reply)
    kind = "2" if match is not None and match[1] == "2" else "5" if permanent else "4"
    detail = "0.0" if match is None else match[3] or _BASIC.get(reply[:3], "0.0")
    return f"{kind}.{detail}"
