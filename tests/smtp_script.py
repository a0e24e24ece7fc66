"""A peer that follows a transcript, for tests that read as the dialogue they are about.

Each line is `C: what the client must say`, `S: what the server says`, `close`, or `stall`. Consecutive lines of one side go
together, each with CRLF; `C-` and `S-` have none, and understand escapes. The transcript may be played as either side.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import groupby
from typing import TypeVar

import pytest
import trio
import trio.testing

from postward.names import Address, Domain
from postward.smtp.client import Envelope, SmtpConnection, SmtpError

T = TypeVar("T")


def acts(transcript: str) -> Iterator[tuple[str, bytes]]:
    rows = [row.strip() for row in transcript.splitlines() if row.strip()]
    for who, group in groupby(rows, key=lambda row: row[0]):
        texts = list(group)
        if who not in "CS":
            yield texts[0], b""
            continue
        yield who, b"".join(text[3:].encode() + b"\r\n" if text[1] == ":" else unescape(text[3:]) for text in texts)


def unescape(text: str) -> bytes:
    return text.encode().decode("unicode-escape").encode("latin-1")


async def play(stream: trio.abc.Stream, transcript: str, *, side: str = "S") -> None:
    """Be one side of the transcript; fails where the other one does not keep to it. Closes when it is at its end."""
    async with stream:
        for who, said in acts(transcript):
            if who == "stall":
                await trio.sleep_forever()
            elif who == "close":
                return
            elif who == side:
                await stream.send_all(said)
            else:
                heard = b""
                while len(heard) < len(said):
                    data = await stream.receive_some(len(said) - len(heard))
                    assert data, f"closed after {heard!r}, awaited {said!r}"
                    heard += data
                    assert said.startswith(heard), f"{heard!r}, awaited {said!r}"
        rest = await stream.receive_some(1024)
        assert not rest, f"not in the transcript: {rest!r}"


async def talk(transcript: str, client: Callable[[trio.abc.Stream], Awaitable[T]]) -> T:
    """Let `client` meet a server that follows the transcript; the client's result, or the first thing that went wrong."""
    ours, theirs = trio.testing.memory_stream_pair()
    failed: list[Exception] = []
    result: list[T] = []

    async def serve() -> None:
        try:
            await play(theirs, transcript)
        except Exception as exc:  # noqa: BLE001 - raised below, ahead of what it caused
            failed.insert(0, exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            result.append(await client(ours))
        except Exception as exc:  # noqa: BLE001
            failed.append(exc)
        await trio.aclose_forcefully(ours)
        nursery.cancel_scope.deadline = trio.current_time() + 1
    if failed:
        raise failed[0]
    return result[0]


A, B, C = (Address(name, Domain("rcpt.example")) for name in "abc")
ME = Address("me", Domain("sender.example"))
BODY = b"Subject: x\r\n\r\n.hi\r\n"

HELLO = """
S: 220 mx.example hello
C: EHLO me.example
S: 250-mx2.example
"""
PIPELINED = HELLO + "S: 250 PIPELINING"


def to(*recipients: Address, **more: object) -> Envelope:
    return Envelope(sender=ME, recipients=recipients, **more)  # type: ignore[arg-type]


async def session(transcript, *envelopes, content=BODY, quit=True, **options):
    """Greet, EHLO, send each envelope, QUIT: the replies as text."""

    async def client(stream):
        connection = SmtpConnection(stream, **options)
        assert (await connection.greet()).positive
        assert (await connection.ehlo("me.example")).positive
        said = [[str(reply) for reply in await connection.send(envelope, content)] for envelope in envelopes]
        if quit:
            await connection.quit()
        return said

    return await talk(transcript, client)


async def failure(transcript, *envelopes, **options):
    with pytest.raises(SmtpError) as caught:
        await session(transcript, *envelopes, quit=False, **options)
    return caught.value


LAST = f"""{PIPELINED}
    C: MAIL FROM:<me@sender.example>
    C: RCPT TO:<a@rcpt.example>
    C: DATA
    S: 250 ok
    S: 250 ok
    S: 354 go
    C: x
    C: .
    """
