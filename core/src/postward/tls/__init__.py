"""TLS judged after the handshake: one connection, every policy on the same chain, every failure in the words of RFC 8460."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from postward.tls.patterns import pattern_matches

if TYPE_CHECKING:
    from postward.tls.causes import classify
    from postward.tls.certificates import check_names, names_match
    from postward.tls.failures import TlsError
    from postward.tls.handshake import client_handshake, late_alert, server_handshake
    from postward.tls.path import check_path
    from postward.tls.stream import TlsStream
    from postward.tls.trust import TrustStore

__all__ = [
    "TlsError",
    "TlsStream",
    "TrustStore",
    "check_names",
    "check_path",
    "classify",
    "client_handshake",
    "late_alert",
    "names_match",
    "pattern_matches",
    "server_context",
    "server_handshake",
]

# Pure modules take `pattern_matches` from here; they must not pay for OpenSSL and trio.
_LAZY: Final = {
    "TlsError": "failures",
    "TlsStream": "stream",
    "TrustStore": "trust",
    "check_names": "certificates",
    "check_path": "path",
    "classify": "causes",
    "client_handshake": "handshake",
    "late_alert": "handshake",
    "names_match": "certificates",
    "server_context": "handshake",
    "server_handshake": "handshake",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"postward.tls.{_LAZY[name]}"), name)
