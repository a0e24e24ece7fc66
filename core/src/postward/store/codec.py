"""Results as bytes, for the journal: JSON under a kind that carries its version, so that old journals stay readable.

A new shape gets a new kind (`tls.2`) and keeps its decoder for the old one. What was encoded lately is remembered: a result
that is read back soon, by several consumers, costs no parsing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from postward.errors import StoreError
from postward.model import MessageResult, TlsResult

Result: TypeAlias = TlsResult | MessageResult

MAX_PAYLOAD: Final = 1 << 20
_REMEMBERED: Final = 4096  # results; twice this stays in memory, at about 2 KiB each
_REMEMBERED_SIZE: Final = 4096

TLS: Final = "tls.1"
MESSAGE: Final = "message.1"


class UnreadableResult(Exception):
    """Bytes in the journal that are no result."""


def _from_text(kind: type[Any], value: Any) -> Any:
    return kind(value)


# Domain is a str of its own class, which msgspec leaves to these hooks.
_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)
_DECODERS: Final[dict[str, Callable[[bytes], Result]]] = {
    TLS: msgspec.json.Decoder(TlsResult, dec_hook=_from_text).decode,
    MESSAGE: msgspec.json.Decoder(MessageResult, dec_hook=_from_text).decode,
}


class _Memory:
    """The results of the last payloads, in two generations: the older one goes when the younger one is full."""

    def __init__(self) -> None:
        self._young: dict[bytes, Result] = {}
        self._old: dict[bytes, Result] = {}

    def put(self, payload: bytes, result: Result) -> None:
        if len(payload) <= _REMEMBERED_SIZE:
            if len(self._young) >= _REMEMBERED:
                self._old, self._young = self._young, {}
            self._young[payload] = result

    def get(self, payload: bytes) -> Result | None:
        return self._young.get(payload) or self._old.get(payload)

    def forget(self) -> None:
        self._young, self._old = {}, {}


# By payload alone: the kinds have no field names in common that would let one be read as the other.
_memory: Final = _Memory()


def encode(result: Result) -> tuple[str, bytes]:
    """A result as kind and payload. Text that is no Unicode (from a peer) is replaced, never refused.

    Raises `ValueError` for more than 1 MiB, `TypeError` for anything that is no result.
    """
    if not isinstance(result, TlsResult | MessageResult):
        raise TypeError(f"not a result: {type(result).__name__}")
    kind = TLS if isinstance(result, TlsResult) else MESSAGE
    try:
        payload = _ENCODER.encode(result)
    except UnicodeEncodeError:
        result = _printable(result)
        payload = _ENCODER.encode(result)
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a result of {len(payload)} bytes is too large for the journal: {MAX_PAYLOAD} are possible")
    _memory.put(payload, result)
    return kind, payload


def decode(kind: str, payload: bytes) -> Result:
    """The result of a kind and payload.

    Raises `UnreadableResult` for a damaged payload, `StoreError` for a kind that only a newer program knows.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise StoreError(f"the journal holds results of kind {kind!r}, which only a newer version can read")
    if (known := _memory.get(payload)) is not None:
        return known
    try:
        return decoder(payload)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise UnreadableResult(str(exc)) from exc


def _printable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _printable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, tuple):
        return tuple(_printable(item) for item in value)
    if type(value) is str:
        return value.encode("utf-8", "replace").decode()
    return value
