"""The XML of an aggregate report as groups of fields, record by record, so that memory does not depend on the size of a report.

Document types, and with them entities, are refused (RFC 9990 §8.1). Where XML is broken, as in reports with an unclosed tag of
a schema, the sections are read one by one, and mended where they need it (`mend`). Nothing here knows what a field means.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Final, TypeAlias
from xml.parsers import expat

from postward.errors import PostwardError
from postward_dmarc.reading.mend import mend

Field: TypeAlias = "tuple[str, str | Group]"
Group: TypeAlias = "list[Field]"

MAX_DEPTH: Final = 24
MAX_FIELDS: Final = 20_000
MAX_TEXT: Final = 64 * 1024
MAX_TOKEN: Final = 1 << 20
PIECE: Final = 64 * 1024
_ENCODING: Final = re.compile(rb"""^\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_UTF8: Final = frozenset({"utf-8", "ascii", "us-ascii"})
_SPACE: Final = b" \t\r\n"
_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
_CONTROLS: Final = bytes({*range(0x20), 0x7F} - {0x09, 0x0A, 0x0D, 0x7F})
_SECTION: Final = re.compile(rb"<((?:[A-Za-z_][\w.-]*:)?(?:record|report_metadata|policy_published|version))(?=[\s>])[^>]*>")
_KNOWN: Final = frozenset(
    {"", "urn:ietf:params:xml:ns:dmarc-2.0", "http://dmarc.org/dmarc-xml/0.1", "http://dmarc.org/dmarc-xml/0.2"}
)


class XmlError(PostwardError):
    """Something that is no report, or more than any report is."""


class SectionReader:
    """Bytes in, sections out: `section(name, group)` is called for each record and each other child of the root.

    `defects` are slugs of what was passed over; `damaged` counts records that could not be read. Raises `XmlError`.
    """

    def __init__(self, section: Callable[[str, Group], None]) -> None:
        self.defects: set[str] = set()
        self.damaged = 0
        self._section = section
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begun = False
        self._salvage: bytes | None = None
        # What was fed since the last section that was whole, and where that begins.
        self._tail, self._tail_at, self._whole_at, self._fed = b"", 0, 0, 0
        self._prefix = ""
        self._fields: Group = []
        self._open: list[int] = []
        self._text: list[str] = []
        self._parser = self._new_parser()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        for at in range(0, len(data), PIECE):
            self._feed(data[at : at + PIECE])

    def close(self) -> None:
        """The end has come."""
        if self._begun:
            self._feed(b"", final=True)
        else:
            raise XmlError("empty")

    # --- bytes ---

    def _feed(self, piece: bytes, *, final: bool = False) -> None:
        if not self._begun:
            # A declaration stands at the very beginning, or a parser takes it for something else.
            piece = piece.lstrip(_SPACE)
            if not piece:
                return
            self._begin(piece)
        if self._decoder is not None:
            piece = self._clean(piece, final=final)
        if self._salvage is not None:
            self._save(piece, final=final)
            return
        self._tail = self._tail[self._whole_at - self._tail_at :] + piece
        self._tail_at = self._whole_at
        self._fed += len(piece)
        try:
            self._parser.Parse(piece, final)
        except expat.ExpatError as exc:
            self._broken(exc, final=final)
            return
        self._check()

    def _begin(self, first: bytes) -> None:
        self._begun = True
        stated = _ENCODING.match(first.removeprefix(codecs.BOM_UTF8))
        name = stated[1].decode().lower() if stated else "utf-8"
        if not first.startswith(_BOMS) and (name in _UTF8 or b"\0" not in first[:4]):
            if name in _UTF8:
                self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
            else:
                self._decoder = _decoder(name, self.defects)
            self._parser = self._new_parser("utf-8")

    def _clean(self, piece: bytes, *, final: bool) -> bytes:
        assert self._decoder is not None
        text = self._decoder.decode(piece, final)
        data = text.encode("utf-8", "replace")
        if "\ufffd" in text and b"\xef\xbf\xbd" not in piece:
            self.defects.add("encoding")
        plain = data.translate(None, _CONTROLS)
        if len(plain) != len(data):
            self.defects.add("characters")
        return plain

    def _check(self) -> None:
        """What would take memory without end. Between two checks no more than a piece can come together."""
        if len(self._open) > MAX_DEPTH:
            raise XmlError(f"more than {MAX_DEPTH} elements inside each other")
        if len(self._fields) > MAX_FIELDS:
            raise XmlError(f"more than {MAX_FIELDS} fields in a section")
        if self._fed - self._parser.CurrentByteIndex > MAX_TOKEN or len(self._tail) > 4 * MAX_TOKEN:
            raise XmlError(f"more than {MAX_TOKEN} bytes without an end")
        if len(self._text) > 1 and sum(map(len, self._text)) > MAX_TEXT:
            self.defects.add("long-text")
            self._text[:] = ["".join(self._text)[:MAX_TEXT]]

    # --- elements ---

    def _new_parser(self, encoding: str | None = None) -> expat.XMLParserType:
        parser = expat.ParserCreate(encoding)
        parser.buffer_text = True
        parser.ordered_attributes = True
        parser.StartElementHandler = self._root
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._doctype
        return parser

    def _doctype(self, *_parts: object) -> None:
        raise XmlError("it has a document type, which reports have not")

    def _root(self, name: str, attributes: list[str]) -> None:
        prefix, _, local = name.rpartition(":")
        if local != "feedback":
            raise XmlError(f"its root is {name[:40]!r} and not feedback")
        self._prefix = f"{prefix}:" if prefix else ""
        named = dict(zip(attributes[::2], attributes[1::2], strict=True))
        if named.get(f"xmlns:{prefix}" if prefix else "xmlns", "") not in _KNOWN:
            self.defects.add("namespace")
        self._open.append(0)
        self._text.clear()
        self._parser.StartElementHandler = self._start

    def _start(self, _name: str, _attributes: object) -> None:
        self._open.append(len(self._fields))
        if self._text:
            self._text.clear()

    def _end(self, name: str) -> None:
        at = self._open.pop()
        fields, text = self._fields, self._text
        if self._prefix and name.startswith(self._prefix):
            name = name[len(self._prefix) :]
        if len(self._open) == 1:
            group = fields[at:]
            fields.clear()
            if not group and text:
                group = [("", "".join(text).strip())]
            self._section(name, group)
            self._whole_at = self._parser.CurrentByteIndex
        elif len(fields) == at:
            fields.append((name, (text[0] if len(text) == 1 else "".join(text)).strip() if text else ""))
        else:
            group = fields[at:]
            del fields[at:]
            fields.append((name, group))
        if text:
            text.clear()

    # --- broken XML ---

    def _broken(self, error: expat.ExpatError, *, final: bool) -> None:
        early = final and expat.errors.messages.get(error.code) in _EARLY
        self.defects.add("ends-too-early" if early else "not-well-formed")
        self._salvage = b""
        self._open.clear()
        self._fields.clear()
        self._text.clear()
        if not self._whole_at and b"feedback" not in self._tail:
            raise XmlError(f"no XML: {expat.ErrorString(error.code)}")
        # The end tag of the last whole section stands at the beginning, and opens nothing.
        rest, self._tail = self._tail[self._whole_at - self._tail_at :], b""
        self._save(rest, final=final)

    def _save(self, piece: bytes, *, final: bool) -> None:
        """Look for sections that are whole, and read each by itself."""
        assert self._salvage is not None
        data = self._salvage + piece
        at = 0
        while found := _SECTION.search(data, at):
            close = b"</" + found[1] + b">"
            end = data.find(close, found.end())
            again = _SECTION.search(data, found.end())
            if again is not None and again[1] == found[1] and (end < 0 or again.start() < end):
                # It was opened twice and closed once, so only the second one can be whole.
                self._lost(found[1])
                at = again.start()
                continue
            if end < 0:
                at = found.start()
                break
            end += len(close)
            self._one(found[1], data[found.start() : end])
            at = end
        else:
            at = max(at, len(data) - 256)
        rest = data[at:]
        if (len(rest) > MAX_TOKEN or final) and (cut := _SECTION.search(rest)) is not None:
            self._lost(cut[1])
            rest = b""
        self._salvage = rest[-MAX_TOKEN:]

    def _one(self, name: bytes, data: bytes) -> None:
        prefix = name.rpartition(b":")[0]
        self._prefix = f"{prefix.decode()}:" if prefix else ""
        # A section is handed on at its end tag, which ends the data, so one that is broken has not been.
        if not self._parse_one(data) and (self._decoder is None or not self._parse_one(mend(data))):
            self._lost(name)

    def _parse_one(self, data: bytes) -> bool:
        self._open[:] = [0]
        parser = self._new_parser("utf-8" if self._decoder is not None else None)
        parser.StartElementHandler = self._start
        self._parser = parser
        try:
            parser.Parse(data, True)
        except expat.ExpatError:
            return False
        finally:
            self._open.clear()
            self._fields.clear()
            self._text.clear()
        return True

    def _lost(self, name: bytes) -> None:
        if name.endswith(b"record"):
            self.damaged += 1
            self.defects.add("record-damaged")


_EARLY: Final = frozenset({expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_TOKEN})


def _decoder(name: str, defects: set[str]) -> codecs.IncrementalDecoder:
    try:
        if codecs.lookup(name)._is_text_encoding:
            return codecs.getincrementaldecoder(name)("replace")
    except (LookupError, AttributeError):
        pass
    defects.add("encoding")
    return codecs.getincrementaldecoder("utf-8")("replace")
