"""`postward dmarc evaluate`: judge a message in a file as if a client had just sent it."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.cli.output import emit_json_line, table
from postward.errors import ConfigError, InvalidName
from postward.model import InboundMessage
from postward.names import Address, IpAddress

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward_dmarc.evaluate import Evaluation, Identifier
    from postward_dmarc.plugin import Dmarc

MAX_FILE: Final = 100 << 20


def register(plugin: Dmarc, commands: Commands) -> None:
    """Add the verbs."""

    def evaluate(
        file: Annotated[Path, typer.Argument(help="The message; - reads standard input.")],
        ip: Annotated[str, typer.Option(help="Address of the client that sent it.")],
        helo: Annotated[str, typer.Option(help="What the client said in EHLO.")] = "",
        mail_from: Annotated[str, typer.Option(help="Envelope sender; empty for the null path.")] = "",
        json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    ) -> int:
        """Judge a message by SPF, DKIM and DMARC. Exit code 1 when DMARC does not pass and a policy exists."""
        client, sender, content = _address(ip), _sender(mail_from), _content(file)

        async def work(core: Core) -> int:
            message = InboundMessage(
                client_ip=client, helo=helo, sender=sender, recipients=(), content=content, received=core.clock.now()
            )
            evaluation = await plugin.evaluate(message, await plugin.authenticate(message))
            _show(evaluation, as_json=json)
            return 0 if evaluation.result in ("pass", "none") else 1

        return commands.run(work)

    commands.add(evaluate)


def _address(text: str) -> IpAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(f"not an IP address: {text[:60]!r}", key="--ip") from None


def _sender(text: str) -> Address | None:
    plain = text.strip().removeprefix("<").removesuffix(">")
    try:
        return Address.parse(plain) if plain else None
    except InvalidName as exc:
        raise ConfigError(str(exc), key="--mail-from") from None


def _content(file: Path) -> bytes:
    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with file.open("rb") as stream:
                content = stream.read(MAX_FILE + 1)
    except OSError as exc:
        raise ConfigError(exc.strerror or "cannot be read", file=str(file)) from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"larger than {MAX_FILE >> 20} MiB", file=str(file))
    return content


def _show(evaluation: Evaluation, *, as_json: bool) -> None:
    value = to_json(evaluation)
    if as_json:
        emit_json_line(value)
        return
    rows: list[tuple[str, object]] = [
        ("DMARC", f"{evaluation.result} {evaluation.reason}".strip()),
        ("disposition", evaluation.disposition),
        ("policy domain", evaluation.policy_domain or "-"),
        ("organizational domain", evaluation.organizational or "-"),
    ]
    rows += [("SPF", f"{item['result']} {item['domain'] or ''} {item['reason']}".strip()) for item in value["spf"]]
    rows += [
        ("DKIM", f"{item['result']} {item['domain'] or ''} {item['selector']} {item['reason']}".strip())
        for item in value["dkim"]
    ]
    rows.append(("aligned", ", ".join(name for name, aligned in value["aligned"].items() if aligned) or "nothing"))
    table(("what", "result"), rows)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "dmarc": evaluation.result,
        "disposition": evaluation.disposition,
        "policy_domain": evaluation.policy_domain,
        "org_domain": evaluation.organizational,
        "aligned": {"spf": evaluation.aligned_spf, "dkim": evaluation.aligned_dkim},
        "spf": [_item(evaluation.spf, scope=evaluation.spf.scope)] if evaluation.spf else [],
        "dkim": [_item(item, selector=item.selector) for item in evaluation.dkim],
        "author": evaluation.author,
        "policy": evaluation.published.word if evaluation.record else None,
        "reason": evaluation.reason,
        "overrides": [{"type": kind, "comment": comment} for kind, comment in evaluation.overrides],
        "notes": list(evaluation.record.notes) if evaluation.record else [],
    }


def _item(item: Identifier, **more: str) -> dict[str, Any]:
    return {"domain": item.domain, "result": item.result, **more, "reason": item.reason}
