"""dkimpy, kept to what it does well: canonicalization, hashes and the mathematics of one signature.

Which signature may count at all is decided before, by our own reading of field and key record, because dkimpy refuses lists
of service types, ignores `h=` of a key, and raises for much that a message may say. So it is given a bare key of the right
kind, and whatever it raises becomes a reason.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Collection, Sequence
from typing import Final

import dkim
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from dkim.util import parse_tag_value

from postward.dkim.canonical import Field, split_message
from postward.dkim.key import KeyRecord

BODY_CHANGED: Final = "body was changed"
NO_MATCH: Final = "signature does not match"
_SIGNATURE: Final = b"dkim-signature"
# dkimpy logs what it also raises; those lines say nothing that the result does not.
_QUIET: Final = logging.Logger("dkimpy", logging.CRITICAL + 1)


def trouble(content: bytes, number: int, key: KeyRecord) -> str:
    """Why the DKIM-Signature field `number` (from 0, top first) does not hold under a key; empty when it does."""
    record = _bare(key)
    try:
        fields, body = split_message(content)
        value = [field for field in fields if field.name == _SIGNATURE][number].value
        tags = parse_tag_value(value)
        names = [b"".join(name.split()).lower() for name in tags[b"h"].split(b":")]
        verifier = dkim.DKIM(_what_is_signed(fields, body, names), logger=_QUIET, minkey=0)
        field = [(name, value) for name, value in verifier.headers if name.lower() == _SIGNATURE][number]
        # Not `verify`, which would hold the times in the field against the machine's clock instead of the caller's.
        return "" if verifier.verify_sig(tags, names, field, lambda name, timeout=0: record) else NO_MATCH
    except dkim.ValidationError as exc:
        return BODY_CHANGED if str(exc).startswith("body hash mismatch") else f"dkimpy: {_one_line(exc)}"
    except Exception as exc:  # noqa: BLE001 - hostile input must come to a result, and dkimpy promises none of its types
        return f"dkimpy: {_one_line(exc)}"


def _what_is_signed(fields: Sequence[Field], body: bytes, names: Collection[bytes]) -> bytes:
    """The message without what the signature does not speak of: dkimpy gives up at a line there that is no field.

    A space before the colon is dropped, as relaxed canonicalization does, because dkimpy does not take such a field for one.
    """
    kept = {_SIGNATURE, *names}
    lines = [field.raw[: len(field.name)] + b":" + field.value for field in fields if field.name in kept]
    return b"\r\n".join([*lines, b"", body])


def _bare(key: KeyRecord) -> bytes:
    form = (Encoding.Raw, PublicFormat.Raw) if key.kind == "ed25519" else (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=" + key.kind.encode() + b"; p=" + base64.b64encode(key.key.public_bytes(*form))


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
