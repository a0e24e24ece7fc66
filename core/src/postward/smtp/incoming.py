"""A message on its way in: what of it is handed on, and why it will be refused (RFC 5321 §2.3.8, §4.5.3.1.7, RFC 1870 §6).

It is judged as it comes and never held as a whole. What is wrong with it is answered behind its end, as the client hears no
earlier; until then the rest is read and forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from postward.smtp.content import CRLF, has_proper_lines
from postward.smtp.reply import Reply
from postward.smtp.server_commands import too_large

if TYPE_CHECKING:
    from postward.smtp.settings import ServerSettings

# Small pieces are worth waiting for, because each one costs the sink a call.
_ENOUGH: Final = 32 * 1024
MAX_BEYOND: Final = 16 * 1024 * 1024
_BAD_LINES: Final = Reply(554, ("a CR or LF stands alone in the message (RFC 5321 section 2.3.8)",), "5.6.0")
_HEADER_END: Final = b"\r\n\r\n"


class Incoming:
    """The content of one message. Feed it with `add`, and hand on what `take` gives while `refusal` is None."""

    def __init__(self, settings: ServerSettings) -> None:
        self.refusal: Reply | None = None
        self._settings = settings
        self._size = self._read = self._waiting = 0
        self._pieces: list[bytes] = []
        # A CR whose LF has not come.
        self._carry = b""
        # The end of the last line, because an empty one behind it ends the header.
        self._line_end: bytes | None = CRLF

    @property
    def endless(self) -> bool:
        """Whether so much came that nobody should wait for the end."""
        # Dots make content larger by a third at most.
        return self._read > self._settings.max_size * 4 // 3 + MAX_BEYOND

    @property
    def ready(self) -> bool:
        """Whether enough is here to be handed on."""
        return self._waiting >= _ENOUGH

    def refuse(self, reply: Reply) -> None:
        """Refuse the message, and forget what is here of it."""
        self.refusal = reply
        self._pieces.clear()
        self._waiting = 0

    def add(self, piece: bytes, read: int) -> None:
        """Take the next piece, which was `read` octets on the wire; it may end within a CRLF."""
        self._read += read
        if self.refusal is not None or not piece:
            return
        self._size += len(piece)
        piece, self._carry = self._carry + piece, b""
        if piece.endswith(b"\r"):
            piece, self._carry = piece[:-1], b"\r"
        if self._size > self._settings.max_size:
            self.refuse(too_large(self._settings).reply)
        elif not has_proper_lines(piece):
            self.refuse(_BAD_LINES)
        elif self._line_end is not None and self._header_too_large(piece, self._line_end):
            self.refuse(Reply(552, (f"a header has at most {self._settings.max_header} octets",), "5.3.4"))
        else:
            self._pieces.append(piece)
            self._waiting += len(piece)

    def finish(self) -> None:
        """The end has come."""
        if self._carry and self.refusal is None:
            self.refuse(_BAD_LINES)

    def take(self) -> bytes:
        """What is to be handed on now; it never ends within a CRLF."""
        content = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        return content

    def _header_too_large(self, piece: bytes, line_end: bytes) -> bool:
        end = (line_end + piece).find(_HEADER_END)
        if end >= 0:
            self._line_end = None
            size = self._size - len(self._carry) - len(piece) + end - len(line_end)
        else:
            self._line_end = (line_end + piece[-2:])[-2:]
            # The empty line may have begun.
            size = self._size - len(_HEADER_END) + 1
        return size > self._settings.max_header
