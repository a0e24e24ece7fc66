"""How a delivery looks to a person: a table of attempts with the verdict of every policy, and one of recipients."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from postward.model import ConnectionReport, Delivery, PolicyResult

GOOD, BAD, MILD, QUIET = "green", "bold red", "yellow", "dim"


def show_delivery(delivery: Delivery) -> None:
    """Print attempts and recipients to standard output."""
    console = Console()
    console.print(attempts_table(delivery.attempts))
    if delivery.recipients:
        console.print(_recipients_table(delivery))


def attempts_table(attempts: tuple[ConnectionReport, ...]) -> Table:
    """One row per attempt: where, TLS, each policy with its verdict, and how it ended."""
    table = Table(title="Attempts", title_justify="left", header_style="bold")
    for heading in ("host", "address", "TLS", "policies", "outcome"):
        table.add_column(heading, overflow="fold")
    for attempt in attempts:
        tls = Text(attempt.tls.protocol, GOOD) if attempt.tls else Text("none", MILD)
        table.add_row(attempt.host.unicode, attempt.address or "—", tls, _policies(attempt.policies), _outcome(attempt))
    return table


def _policies(results: tuple[PolicyResult, ...]) -> Text:
    lines = Text()
    for number, result in enumerate(results):
        if number:
            lines.append("\n")
        lines.append("✓ " if result.passed else "✗ ", GOOD if result.passed else BAD)
        lines.append(f"{result.kind} {result.mode.value}")
        for said in (result.failure, *result.notes):
            if said is not None:
                lines.append(f"\n  {said.result_type.value} {said.reason}".rstrip(), MILD if result.passed else BAD)
    return lines if results else Text("—", QUIET)


def _outcome(attempt: ConnectionReport) -> Text:
    if attempt.error:
        return Text(attempt.error, BAD)
    return Text("delivered", GOOD) if attempt.delivered else Text("ready for mail", GOOD)


def _recipients_table(delivery: Delivery) -> Table:
    table = Table(title="Recipients", title_justify="left", header_style="bold")
    for heading in ("address", "outcome", "reply"):
        table.add_column(heading, overflow="fold")
    for outcome in delivery.recipients:
        word, style = ("delivered", GOOD) if outcome.delivered else ("failed", BAD) if outcome.permanent else ("deferred", MILD)
        table.add_row(str(outcome.address), Text(word, style), outcome.reply)
    return table
