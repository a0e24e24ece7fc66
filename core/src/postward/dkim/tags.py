"""Tag lists: `name=value; name=value`, the shape of signatures and key records (RFC 6376 §3.2)."""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MAX_TAGS: Final = 64
_SPACE: Final = " \t\r\n"


def parse_tags(text: str) -> dict[str, str]:
    """Read a tag list; names keep their case, white space around names and values is dropped.

    Raises `ValueError` for a broken list, a repeated tag (RFC 6376 §3.2), or more than 64 tags.
    """
    parts = text.split(";")
    if not parts[-1].strip(_SPACE):
        parts.pop()
    if not 0 < len(parts) <= _MAX_TAGS:
        raise ValueError("no tags" if not parts else "too many tags")
    tags: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip(_SPACE)
        if not equals or _NAME.fullmatch(name) is None:
            raise ValueError(f"not a tag: {part.strip(_SPACE)[:40]!r}")
        if name in tags:
            raise ValueError(f"tag {name}= is there twice")
        tags[name] = value.strip(_SPACE)
    return tags


def without_space(value: str) -> str:
    """A value with all folding white space removed, as base64 and colon lists want it (RFC 6376 §2.10)."""
    return "".join(value.split())
