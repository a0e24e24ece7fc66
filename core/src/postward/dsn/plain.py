"""A notice of ours once more, for a server that takes no 8-bit content (RFC 6152 §3): with no more than the header returned.

What a multipart holds cannot be encoded as a whole (RFC 2045 §6.4), so the returned message goes, and its header is encoded.
"""

from __future__ import annotations

import re
from typing import Final

from postward.dsn.original import quoted_printable
from postward.model.content import header_of

_BOUNDARY: Final = re.compile(rb'(?i)boundary="([0-9a-f]+)"')
_EIGHT_BIT: Final = b"Content-Transfer-Encoding: 8bit\r\n"
_NEW_PART: Final = (
    b"Content-Description: Message header\r\nContent-Type: text/rfc822-headers\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
)


def without_eight_bit(notice: bytes) -> bytes | None:
    """A notice that `build` has made, without its signatures and in ASCII; None where its addresses need more than that."""
    at = re.search(rb"(?m)^From:", notice)
    match = _BOUNDARY.search(header_of(notice))
    if at is None or match is None:
        return None
    parts = notice[at.start() :].split(b"--" + match[1] + b"\r\n")
    head, *middle, last = parts
    returned = header_of(last.partition(b"\r\n\r\n")[2])
    part = _NEW_PART + quoted_printable(returned + b"\r\n") + b"\r\n--" + match[1] + b"--\r\n"
    plain = (b"--" + match[1] + b"\r\n").join([head.replace(_EIGHT_BIT, b"", 1), *middle, part])
    return plain if plain.isascii() else None
