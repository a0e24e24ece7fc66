"""DNS with its security told apart: secure, insecure, absent, failed (RFC 4035 §4.3, RFC 7672 §2.1.1)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from postward.dns.answer import Answer, DnsFailure, Resolver, Status

if TYPE_CHECKING:
    from postward.dns.health import Health
    from postward.dns.resolver import SystemResolver
    from postward.dns.selftest import SelfTest, self_test
    from postward.dns.zones import ZoneResolver

__all__ = ["Answer", "DnsFailure", "Health", "Resolver", "SelfTest", "Status", "SystemResolver", "ZoneResolver", "self_test"]

# Pure modules import the answer types from here; they must not pay for trio and dnspython.
_LAZY: Final = {
    "Health": "health",
    "SelfTest": "selftest",
    "SystemResolver": "resolver",
    "ZoneResolver": "zones",
    "self_test": "selftest",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"postward.dns.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
