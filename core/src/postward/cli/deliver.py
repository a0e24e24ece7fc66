"""`postward deliver` and `postward probe`: one delivery, or a look at a domain, in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from postward.cli.output import emit_json_line, is_terminal, plugins_print_aside
from postward.errors import PostwardError

if TYPE_CHECKING:
    from postward.model import Delivery, Message
    from postward.names import Address

MAX_MESSAGE: Final = 256 * 1024 * 1024
HAND_OVER_WITHIN: Final = 2.0

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def register(app: typer.Typer) -> None:
    """Add the two commands."""
    app.command()(deliver)
    app.command()(probe)


def deliver(
    rest: Annotated[list[str], typer.Argument(metavar="MESSAGE.eml", help="The message; '-' reads standard input.")],
    to: Annotated[list[str], typer.Option("--to", metavar="B...", help="Recipients.", show_default=False)],
    sender: Annotated[str, typer.Option("--from", metavar="A", help="Envelope sender; '<>' for the null path.")],
    config: ConfigOption = None,
    json: JsonOption = False,
    require_tls: Annotated[bool, typer.Option("--require-tls", help="Send with REQUIRETLS (RFC 8689).")] = False,
) -> None:
    """Deliver one message to the MX hosts of its recipients, now, and say what came of it.

    Exits 0 when every recipient was delivered, 1 when any was not, 2 when it could not be tried.
    """
    from postward.delivery.wish import wish_of
    from postward.model import Message
    from postward.smtp.content import to_crlf

    *more, file = rest
    recipients = tuple(_address(text) for text in [*to, *more])
    content = to_crlf(_read(file))
    message = Message(
        sender=None if sender in ("", "<>") else _address(sender),
        recipients=recipients,
        content=content,
        wish=wish_of(content, require=require_tls),
    )
    delivery = _run(config, message=message, quiet=json)
    _show(delivery, json=json)
    raise typer.Exit(0 if delivery.delivered else 1)


def probe(
    domain: Annotated[str, typer.Argument(help="The domain to look at.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Do all that a delivery to a domain does, up to EHLO behind TLS, and send no mail.

    Exits 0 when some host could take mail under every policy, 1 when none could.
    """
    delivery = _run(config, domain=domain, quiet=json)
    _show(delivery, json=json)
    raise typer.Exit(0 if any(not attempt.error for attempt in delivery.attempts) else 1)


def _address(text: str) -> Address:
    from postward.names import Address

    return Address.parse(text.removeprefix("<").removesuffix(">"))


def _read(file: str) -> bytes:
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
            content = source.read(MAX_MESSAGE + 1)
    except OSError as exc:
        raise PostwardError(f"{file}: {exc.strerror or exc}") from exc
    if not content.strip():
        raise PostwardError(f"{file}: there is no message in it")
    if len(content) > MAX_MESSAGE:
        raise PostwardError(f"{file}: larger than {MAX_MESSAGE >> 20} MiB")
    return content


def _run(file: Path | None, *, message: Message | None = None, domain: str | None = None, quiet: bool = False) -> Delivery:
    import trio

    from postward.app import App
    from postward.config import load
    from postward.names import Domain

    config = load(file)
    target = None if domain is None else Domain(domain)

    async def work() -> Delivery:
        async with App(config) as app:
            if target is not None:
                return await app.probe(target)
            assert message is not None
            delivery = await app.deliver(message)
            # They are durable in any case; this only spares the next program the work.
            await app.emitted(HAND_OVER_WITHIN)
            return delivery

    if quiet or not is_terminal():
        with plugins_print_aside():
            return trio.run(work)
    from rich.console import Console

    with Console(stderr=True).status("Looking up policies, connecting, delivering …" if message else "Looking …"):
        return trio.run(work)


def _show(delivery: Delivery, *, json: bool) -> None:
    from postward.delivery.shape import delivery_json

    if json:
        emit_json_line(delivery_json(delivery))
        return
    from postward.cli.tables import show_delivery

    show_delivery(delivery)
