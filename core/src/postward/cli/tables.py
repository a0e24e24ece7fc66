"""How a delivery looks to a person: attempts with the verdict of every policy, then the recipients.

On a terminal with colour; in a pipe as plain columns. Text from the network is shown and never obeyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from postward.cli.output import is_terminal, table
from postward.log import escape

if TYPE_CHECKING:
    from rich.text import Text

    from postward.model import ConnectionReport, Delivery, PolicyResult, RecipientOutcome

GOOD, BAD, MILD = "green", "bold red", "yellow"
_ATTEMPTS = ("host", "address", "TLS", "policies", "outcome")
_RECIPIENTS = ("recipient", "outcome", "reply")

# A cell is what it says and how it looks.
Cell = tuple[str, str]


def show_delivery(delivery: Delivery) -> None:
    """Print attempts and recipients to standard output."""
    show("Attempts", _ATTEMPTS, [attempt_row(attempt) for attempt in delivery.attempts])
    if delivery.recipients:
        show("Recipients", _RECIPIENTS, [_recipient_row(outcome) for outcome in delivery.recipients])


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows of styled cells."""
    if not is_terminal():
        table(columns, [[text.replace("\n", " | ") for text, _ in row] for row in rows])
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(_styled(text, style) for text, style in row))
    Console().print(shown)


def attempt_row(attempt: ConnectionReport) -> list[Cell]:
    """Where it went, TLS, every policy with its verdict, and how it ended."""
    return [
        (attempt.host.unicode, ""),
        (attempt.address or "-", ""),
        (attempt.tls.protocol, GOOD) if attempt.tls else ("none", MILD),
        ("\n".join(policy_line(result) for result in attempt.policies) or "-", _worst(attempt.policies)),
        (attempt.error, BAD) if attempt.error else ("delivered" if attempt.delivered else "ready for mail", GOOD),
    ]


def policy_line(result: PolicyResult) -> str:
    """One policy in one line: kind, mode, verdict, and what was the matter."""
    words = [result.kind, result.mode.value, "passed" if result.passed else "failed"]
    for said in (result.failure, *result.notes):
        if said is not None:
            words += [said.result_type.value, said.reason]
    return " ".join(word for word in words if word)


def _worst(results: tuple[PolicyResult, ...]) -> str:
    if any(not result.passed and result.mode.value == "enforce" for result in results):
        return BAD
    return GOOD if all(result.passed for result in results) else MILD


def _recipient_row(outcome: RecipientOutcome) -> list[Cell]:
    word, style = ("delivered", GOOD) if outcome.delivered else ("failed", BAD) if outcome.permanent else ("deferred", MILD)
    return [(str(outcome.address), ""), (word, style), (outcome.reply, "")]


def _styled(text: str, style: str) -> Text:
    from rich.text import Text

    return Text("\n".join(escape(line) for line in text.split("\n")), style)
