"""Results as bytes, for the journal: JSON under a kind that carries its version, so that old journals stay readable.

A pack is a list of `[count, result]`. A new shape gets a new kind (`tls.2`) and keeps the decoder of the old one. What was
packed or read lately is remembered: a result that is read soon, by several consumers, costs no parsing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import msgspec

from postward.errors import StoreError
from postward.model import MessageResult, TlsResult
from postward.names import Domain

Result: TypeAlias = TlsResult | MessageResult
Counted: TypeAlias = tuple[int, Result]
"""How often a result happened, and the result."""

MAX_RESULT: Final = 1 << 20
_NAMES: Final = 20_000
_REMEMBERED: Final = 4096  # results; twice this stays in memory, at about 2 KiB each where no two are alike
_KNOWN: Final = 4096

TLS: Final = "tls.1"
MESSAGE: Final = "message.1"


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """An entry that is no result, and why."""

    reason: str


_names: dict[str, Domain] = {}


def _from_text(kind: type[Any], value: Any) -> Any:
    if kind is not Domain:
        raise TypeError(f"a result cannot hold a {kind.__name__}")
    known = _names.get(value)
    if known is None:
        if len(_names) >= _NAMES:
            _names.clear()
        known = _names[value] = Domain(value)
    return known


# Domain is a str of its own class, which msgspec leaves to a hook; this one, in C, refuses whatever is no str.
_ENCODER: Final = msgspec.json.Encoder(enc_hook=str.__str__)
_TYPES: Final[dict[str, type[Result]]] = {TLS: TlsResult, MESSAGE: MessageResult}
_KINDS: Final[dict[type[Any], str]] = {shape: kind for kind, shape in _TYPES.items()}
_PACKS: Final[dict[str, Callable[[bytes], list[Counted]]]] = {
    kind: msgspec.json.Decoder(list[tuple[int, shape]], dec_hook=_from_text).decode  # type: ignore[valid-type]
    for kind, shape in _TYPES.items()
}
_LOOSE: Final = msgspec.json.Decoder(list[tuple[int, msgspec.Raw]])


class _Memory:
    """The last packs by their payload, in two generations: the older one goes when the younger one is full."""

    def __init__(self) -> None:
        self._size = 0
        self._young: dict[bytes, list[Counted]] = {}
        self._old: dict[bytes, list[Counted]] = {}

    def put(self, payload: bytes, entries: list[Counted]) -> None:
        if self._size >= _REMEMBERED:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[payload] = entries
        self._size += len(entries)

    def get(self, payload: bytes) -> list[Counted] | None:
        return self._young.get(payload) or self._old.get(payload)

    def forget(self) -> None:
        self._young, self._old, self._size = {}, {}, 0


# Results by their encoding, so that equal ones are one object, however many packs hold them.
_known: Final[dict[bytes, Result]] = {}

# By payload alone: the kinds have no field names in common that would let one be read as the other.
memory: Final = _Memory()


def encode(result: Result) -> tuple[str, bytes, Result]:
    """A result as kind and bytes, and as it will be read. Text that is no Unicode (from a peer) is replaced, never refused.

    Raises `ValueError` for more than 1 MiB, `TypeError` for anything that is no result.
    """
    kind = _KINDS.get(type(result))
    if kind is None:
        raise TypeError(f"not a result: {type(result).__name__}")
    try:
        encoded = _ENCODER.encode(result)
    except UnicodeEncodeError:
        result = _printable(result)
        encoded = _ENCODER.encode(result)
    known = _known.get(encoded)
    if known is not None:
        return kind, encoded, known
    if len(encoded) > MAX_RESULT:
        raise ValueError(f"a result of {len(encoded)} bytes is too large for the journal: {MAX_RESULT} are possible")
    if len(_known) >= _KNOWN:
        _known.clear()
    _known[encoded] = result
    return kind, encoded, result


def pack(entries: Iterable[tuple[int, bytes]]) -> bytes:
    """Encoded results of one kind, with their counts, as one payload."""
    pieces = []
    for count, encoded in entries:
        pieces.append(b"],[1," if count == 1 else b"],[%d," % count)
        pieces.append(encoded)
    pieces[0] = b"[" + pieces[0].removeprefix(b"],")
    pieces.append(b"]]")
    return b"".join(pieces)


def unpack(kind: str, payload: bytes) -> list[tuple[int, Result | Unreadable]] | list[Counted] | Unreadable:
    """The entries of a payload; those that are damaged, or all of it, as `Unreadable`.

    Raises `StoreError` for a kind that only a newer program knows.
    """
    decode = _PACKS.get(kind)
    if decode is None:
        raise StoreError(f"the journal holds results of kind {kind!r}, which only a newer version can read")
    if (known := memory.get(payload)) is not None:
        return known
    try:
        entries = decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return _unpack_one_by_one(kind, payload)
    memory.put(payload, entries)
    return entries


def _unpack_one_by_one(kind: str, payload: bytes) -> list[tuple[int, Result | Unreadable]] | Unreadable:
    try:
        loose = _LOOSE.decode(payload)
    except (msgspec.MsgspecError, ValueError) as exc:
        return Unreadable(str(exc))
    return [(count, _read_one(kind, raw)) for count, raw in loose]


def _read_one(kind: str, raw: msgspec.Raw) -> Result | Unreadable:
    try:
        return msgspec.json.decode(raw, type=_TYPES[kind], dec_hook=_from_text)
    except (msgspec.MsgspecError, ValueError) as exc:
        return Unreadable(str(exc))


def _printable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _printable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, tuple):
        return tuple(_printable(item) for item in value)
    if type(value) is str:
        return value.encode("utf-8", "replace").decode()
    return value
