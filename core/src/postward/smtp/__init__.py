"""SMTP, both sides: sans-IO machines and the trio shells around them (RFC 5321)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postward.smtp.peer import NoPeer, fetch_peer

__all__ = ["NoPeer", "fetch_peer"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("postward.smtp.peer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
