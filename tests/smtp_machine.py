"""The server's machine with somebody who answers it, for tests that feed it bytes."""

from __future__ import annotations

from postward.model import TlsInfo
from postward.smtp.reply import Reply
from postward.smtp.server_events import Begin, Drop, Login, Piece, Rcpt, StartTls
from postward.smtp.server_protocol import ServerProtocol
from postward.smtp.settings import ServerSettings, Session

OK = Reply(250, ("ok",), "2.0.0")
WELCOME = Reply(235, ("welcome",), "2.7.0")
WRONG = Reply(535, ("wrong",), "5.7.8")
BEGIN = b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"


class Machine:
    """A machine that answers every event with OK, or as `refuse` says, and keeps what it was told.

    `contents` are the whole messages; of each that was begun, `ends` says whether it was taken, dropped, or discarded here.
    """

    def __init__(self, *, tls: bool = False, refuse: dict[str, Reply] | None = None, **settings: object) -> None:
        self.session = Session(peer="192.0.2.1", lmtp=bool(settings.get("lmtp")))
        self.protocol = ServerProtocol(ServerSettings(hostname="mx.example", **settings), self.session)  # type: ignore[arg-type]
        self.refuse = refuse or {}
        self.events: list[object] = []
        self.contents: list[bytes] = []
        self.ends: list[str] = []
        self.largest = 0
        self.said = b""
        self._content: bytes | None = None
        if tls:
            self.protocol.tls_started(TlsInfo(protocol="TLSv1.3", cipher="x"))

    def __call__(self, data: bytes) -> list[str]:
        """Feed, and give what was said since the last time, by line."""
        self.protocol.receive(data)
        while (event := self.protocol.next_event()) is not None:
            if not isinstance(event, Piece):
                self.events.append(event)
            self._act(event)
        out = self.protocol.data_to_send()
        self.said += out
        return out.decode().split("\r\n")[:-1]

    def _act(self, event: object) -> None:
        protocol = self.protocol
        if isinstance(event, Rcpt):
            protocol.answer(self.refuse.get(event.recipient.local, OK))
        elif isinstance(event, StartTls):
            protocol.tls_started(TlsInfo(protocol="TLSv1.3", cipher="x"))
        elif isinstance(event, Login):
            protocol.answer(WELCOME if event.password == "right" else self.refuse.get("AUTH", WRONG))
        elif isinstance(event, Begin):
            assert self._content is None
            if "DATA" in self.refuse:
                protocol.answer(self.refuse["DATA"])
            else:
                self._content = b""
                protocol.go_ahead()
        elif isinstance(event, Piece):
            self._take(event)
        elif isinstance(event, Drop):
            self._end("dropped")
        else:
            protocol.answer(OK)

    def _take(self, piece: Piece) -> None:
        assert self._content is not None
        assert piece.last or piece.content
        assert not piece.content.endswith(b"\r")
        self._content += piece.content
        self.largest = max(self.largest, len(piece.content))
        if piece.last:
            self.contents.append(self._content)
            self._end("taken")
            self.protocol.answer(OK)
        elif "PIECE" in self.refuse:
            self._end("discarded")
            self.protocol.discard(self.refuse["PIECE"])

    def _end(self, how: str) -> None:
        assert self._content is not None
        self._content = None
        self.ends.append(how)

    @property
    def held(self) -> int:
        """How much the machine keeps in memory."""
        incoming = self.protocol._incoming
        return len(self.protocol._buffer) + (sum(map(len, incoming._pieces)) if incoming else 0)


def codes(lines: list[str]) -> list[str]:
    return [" ".join(line.split()[:2]) for line in lines]
