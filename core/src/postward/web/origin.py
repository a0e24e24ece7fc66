"""Where a request comes from, and whether it was meant for this machine: another site may have lent it its name."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope


def is_local(scope: Scope) -> bool:
    """Whether a request came from this machine, and was meant for it by a name that only this machine has."""
    return is_meant_for(scope, ())


def is_meant_for(scope: Scope, hosts: Collection[str]) -> bool:
    """Whether a request came from this machine, by itself or through a proxy here, for one of `hosts` or this machine."""
    client = scope.get("client")
    if client and client[0] and not _is_loopback(client[0]):
        return False
    name = _asked_for(scope)
    return name is not None and (is_loopback_name(name) or _bare(name) in hosts)


def client_of_request(scope: Scope, hosts: Collection[str]) -> str:
    """The address that a request comes from: what the proxy says where one is configured, which adds it at the end."""
    name = _asked_for(scope) or ""
    if hosts and _bare(name) in hosts:
        for field, value in reversed(scope["headers"]):
            if field == b"x-forwarded-for":
                return str(value.decode("latin-1")).rpartition(",")[2].strip()[:64]
    client = scope.get("client")
    return str(client[0]) if client and client[0] else "this machine"


def is_loopback_name(name: str) -> bool:
    """Whether a Host field names this machine."""
    bare = _bare(name)
    return bare == "localhost" or _is_loopback(bare.removeprefix("[").removesuffix("]"))


def _asked_for(scope: Scope) -> str | None:
    names = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return names[0] if len(names) == 1 else None


def _bare(name: str) -> str:
    host, _, port = name.rpartition(":")
    return (host if host and port.isdecimal() else name).lower()


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
