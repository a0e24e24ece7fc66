"""Broken XML of one section made whole: what can only be text becomes text, and tags without a partner go.

Reporters that put their XML together as text forget to escape an ampersand, a `<` or a message id, or leave a tag open. The
fields around it are right all the same.
"""

from __future__ import annotations

import re
from typing import Final

MAX_OPEN: Final = 24
_TAG: Final = re.compile(rb"<(/?)([A-Za-z_][\w.:-]{0,100})(?:\s[^<>]{0,1000})?(/?)>")
_BARE: Final = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos|#[0-9]{2,6}|#x[0-9A-Fa-f]{2,5});)")


def mend(section: bytes) -> bytes:
    """A section that an XML parser takes, as far as its tags can be told from its text.

    An opening tag that nothing closes goes, and what stands behind it belongs to the element around it.
    """
    out: list[bytes] = []
    opened: list[tuple[bytes, int]] = []
    at = 0
    for tag in _TAG.finditer(section):
        out.append(_text(section[at : tag.start()]))
        at = tag.end()
        closes, name, empty = tag.groups()
        if empty:
            out.append(b"<" + name + b"/>")
        elif not closes:
            if len(opened) == MAX_OPEN:
                return section
            opened.append((name, len(out)))
            out.append(b"<" + name + b">")
        elif any(name == other for other, _ in opened):
            while (last := opened.pop())[0] != name:
                out[last[1]] = b""
            out.append(b"</" + name + b">")
        elif opened and opened[-1][1] == len(out) - 2:
            out.append(b"</" + opened.pop()[0] + b">")  # misspelt: behind a field that was just opened
    for _, place in opened:
        out[place] = b""
    out.append(_text(section[at:]))
    return b"".join(out)


def _text(piece: bytes) -> bytes:
    return _BARE.sub(b"&amp;", piece).replace(b"<", b"&lt;").replace(b">", b"&gt;")
