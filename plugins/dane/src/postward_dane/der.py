"""The SubjectPublicKeyInfo of a certificate, cut out as it stands (RFC 5280 §4.1).

A TLSA record of selector 1 speaks of exactly these bytes (RFC 6698 §2.1.2). A library that reads the key and writes it again
may write others, and refuses kinds of keys that it does not know.
"""

from __future__ import annotations

from typing import Final

_INTEGER: Final = 0x02
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_MAX_LENGTH_BYTES: Final = 3


def public_key_info(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo, DER, of a DER certificate. Raises `ValueError` for bytes that are none."""
    start, end = _inside(certificate, 0, len(certificate), _SEQUENCE)
    start, end = _inside(certificate, start, end, _SEQUENCE)
    if certificate[start : start + 1] == bytes((_VERSION,)):
        start = _element(certificate, start, end)[2]
    # serialNumber, signature, issuer, validity, subject
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE):
        _inside(certificate, start, end, tag)
        start = _element(certificate, start, end)[2]
    _inside(certificate, start, end, _SEQUENCE)
    return certificate[start : _element(certificate, start, end)[2]]


def _inside(data: bytes, start: int, end: int, tag: int) -> tuple[int, int]:
    """Where the content of the element at `start` begins and ends."""
    found, content, after = _element(data, start, end)
    if found != tag:
        raise ValueError(f"not a certificate: tag {found:#x} instead of {tag:#x}")
    return content, after


def _element(data: bytes, start: int, end: int) -> tuple[int, int, int]:
    """The tag of the element at `start`, where its content begins, and where it ends."""
    if end - start < 2:
        raise ValueError("not a certificate: it ends too early")
    length, content = data[start + 1], start + 2
    if length & 0x80:
        count = length & 0x7F
        if not 0 < count <= _MAX_LENGTH_BYTES or end - content < count:
            raise ValueError("not a certificate: a length is malformed")
        length = int.from_bytes(data[content : content + count], "big")
        content += count
    if length > end - content:
        raise ValueError("not a certificate: it ends too early")
    return data[start], content, content + length
