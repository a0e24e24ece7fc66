"""The client's side of SOCKS5 (RFC 1928, RFC 1929), without any input or output."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

VERSION: Final = 5
NO_LOGIN: Final = 0
PASSWORD: Final = 2
_FAILURES: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "the host refused the connection",
    6: "the time to live expired",
    7: "it knows no such command",
    8: "it knows no such kind of address",
}
_ADDRESS_LENGTHS: Final = {1: 4, 4: 16}


class SocksError(OSError):
    """The proxy does not do what it was asked for."""


def greeting(login: bool) -> bytes:
    """The first words: the methods of logging in that we have."""
    methods = bytes([NO_LOGIN, PASSWORD]) if login else bytes([NO_LOGIN])
    return bytes([VERSION, len(methods)]) + methods


def method(answer: bytes) -> int:
    """The method that the proxy chose, from its two octets. Raises `SocksError`."""
    if answer[0] != VERSION:
        raise SocksError("the proxy does not speak SOCKS5")
    if answer[1] not in (NO_LOGIN, PASSWORD):
        raise SocksError("the proxy wants another way of logging in")
    return answer[1]


def login(username: str, password: str) -> bytes:
    """RFC 1929: who we are."""
    name, secret = username.encode(), password.encode()
    return bytes([1, len(name)]) + name + bytes([len(secret)]) + secret


def logged_in(answer: bytes) -> None:
    """Whether the proxy believes it, from its two octets. Raises `SocksError`."""
    if answer[1] != 0:
        raise SocksError("the proxy refused the password")


def connect(address: str, port: int) -> bytes:
    """Ask for a connection to an IP address."""
    ip = ip_address(address)
    return bytes([VERSION, 1, 0, 1 if ip.version == 4 else 4]) + ip.packed + port.to_bytes(2, "big")


def rest_length(head: bytes) -> int:
    """How many octets follow the first five of the answer. Raises `SocksError` for a refusal."""
    if head[1] != 0:
        raise SocksError(f"the proxy says: {_FAILURES.get(head[1], f'failure {head[1]}')}")
    # The fifth octet is the length of a name, or the first of an address.
    length = head[4] + 1 if head[3] == 3 else _ADDRESS_LENGTHS.get(head[3], 0)
    if not length:
        raise SocksError("the proxy answers what is no SOCKS5")
    return length - 1 + 2
