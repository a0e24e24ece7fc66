"""The part for people: what happened to whom, what the server said, and what to do now (RFC 3464 §2, RFC 3463)."""

from __future__ import annotations

import textwrap
from typing import Final

from postward.dsn.fields import date, one_line
from postward.dsn.notice import Notice, Recipient
from postward.dsn.policy import explain_policy
from postward.model import MICROSECONDS

_WIDTH: Final = 72
_LONGEST: Final = 200
_MAX_SHOWN: Final = 100

_OPENING: Final = {
    "failed": "Your message could not be delivered to {whom} below, and will not be tried again.",
    "delayed": (
        "Your message has not been delivered to {whom} below yet. You need not send it again: this system "
        "keeps trying by itself."
    ),
    "delivered": "Your message was delivered to {whom} below.",
    "relayed": (
        "Your message was passed on for {whom} below, to a server that does not confirm deliveries. "
        "No further word will come unless it fails there."
    ),
}
_CHECK_DOMAIN: Final = "Check the part behind the @; if it is right, try again tomorrow."
_SMALLER: Final = "Send it without attachments, or put them somewhere and send a link."
# By subject and detail of the status: what it means, and what the sender can do.
_CODES: Final = {
    "1.1": (
        "There is no such address at {domain}.",
        "Check the part before the @ for typing errors. If it is right, ask the person in another way for the new address.",
    ),
    "1.2": (
        "There is no mail domain {domain}.",
        "Check the part behind the @ for typing errors.",
    ),
    "1.3": ("The server takes this for no mail address.", "Check the address for typing errors and stray characters."),
    "1.6": ("The mailbox has moved.", "Ask the person in another way for the new address."),
    "1.10": (
        "{domain} accepts no mail at all; it says so in DNS (null MX).",
        "Check the part behind the @ for typing errors, or find another address of the person.",
    ),
    "2.1": ("The mailbox is switched off.", "Reach the person in another way."),
    "2.2": ("The mailbox is full.", "Try again in some days, or tell the person in another way that the mailbox is full."),
    "2.3": (
        "The message is too large for this mailbox.",
        _SMALLER,
    ),
    "3.1": ("The server has no room left.", "Try again tomorrow."),
    "3.4": (
        "The message is larger than the server takes.",
        _SMALLER,
    ),
    "4.1": ("No mail server of {domain} answered.", _CHECK_DOMAIN),
    "4.2": ("The connection to the mail server of {domain} broke.", "Try again tomorrow."),
    "4.3": (
        "The name servers of {domain} gave no usable answer.",
        _CHECK_DOMAIN,
    ),
    "4.4": ("No mail server of {domain} can be reached.", _CHECK_DOMAIN),
    "4.6": (
        "The message went round in circles between mail servers.",
        "Tell the administrator of the recipient; this is a fault in how mail is forwarded.",
    ),
    "4.7": ("The time to deliver the message ran out.", "Try again tomorrow, or reach the person in another way."),
    "5.3": ("The server takes fewer recipients at a time.", "Send the message to fewer people at once."),
    "6.3": ("The server cannot take the characters of this message.", "Send it as plain text without special characters."),
    "6.7": ("The server cannot take addresses with international characters.", "Find a plain address of the person."),
    "6.9": ("The server cannot take international characters in a header.", "Use plain characters in subject and names."),
    "7.1": (
        "A rule of the receiving side refuses the message.",
        "Read the reason it gives. If it is a mistake, ask the person in another way, or the postmaster of {domain}.",
    ),
    "7.5": (
        "The connection to {domain} could not be made as secure as it must be.",
        "You can do nothing about it; the administrator of {domain} can.",
    ),
    "7.8": ("The server wants a login, and took none.", "Tell your administrator."),
    "7.10": (
        "An encrypted connection is required, and the other side does not offer one.",
        "Send it in another way, or without the demand for encryption if its content allows that.",
    ),
    "7.30": (
        "You asked that the message only travel encrypted to verified servers (REQUIRETLS), and the way to {domain} does not "
        "promise that.",
        "Send it without this demand if its content allows that, or reach the person in another way.",
    ),
}
_SUBJECTS: Final = {
    "1": "There is a problem with the address.",
    "2": "There is a problem with the mailbox.",
    "3": "There is a problem with the mail system of {domain}.",
    "4": "There is a problem on the way to {domain}.",
    "5": "The servers did not understand each other.",
    "6": "The server cannot take the content of this message.",
    "7": "The message was refused for reasons of security or policy.",
}
_AUTHENTICATION: Final = range(20, 30)


def explanation(notice: Notice) -> str:
    """The text of a notice, in CRLF lines of moderate length."""
    many = "the recipients" if len(notice.recipients) > 1 else "the recipient"
    lines = [f"This is the mail system at {notice.reporting_mta}.", "", *_wrapped(_OPENING[notice.kind].format(whom=many))]
    for recipient in notice.recipients[:_MAX_SHOWN]:
        lines += ["", f"<{one_line(str(recipient.address), collapse=False)}>"]
        lines += _about(recipient, notice)
    if len(notice.recipients) > _MAX_SHOWN:
        lines += ["", f"… and {len(notice.recipients) - _MAX_SHOWN} more, in the delivery report."]
    lines += ["", *_wrapped(f"The message was taken in on {date(notice.arrival)}.")] if notice.arrival else []
    returned = "the message, as far as there is room," if notice.full else "the header of the message"
    lines += ["", *_wrapped(f"A report for mail programs and {returned} are attached.")]
    return "\r\n".join([*lines, ""])


def _about(recipient: Recipient, notice: Notice) -> list[str]:
    lines: list[str] = []
    if recipient.action in ("failed", "delayed"):
        what, to_do = _meaning(recipient)
        if recipient.action == "failed" and recipient.reply.startswith("4"):
            what = f"{_tried(recipient, notice)} {what}"
        lines += _wrapped(what, "    ")
    if reply := one_line(recipient.reply):
        remote = one_line(recipient.remote_mta)
        lines += [*_wrapped(f"At {remote}:" if remote else "In detail:", "    "), *_wrapped(reply, "      > ")]
    if recipient.action == "failed":
        lines += _wrapped(f"What you can do: {to_do}", "    ")
    elif recipient.action == "delayed" and recipient.will_retry_until:
        lines += _wrapped(f"It will be tried until {date(recipient.will_retry_until)}.", "    ")
    return lines


def _tried(recipient: Recipient, notice: Notice) -> str:
    """How long it was tried, where a temporary trouble became the end."""
    hours = (notice.date - notice.arrival) // (3600 * MICROSECONDS) if notice.arrival else 0
    if hours < 1:
        return "It could not be delivered in time."
    length = f"{hours} hours" if hours < 48 else f"{hours // 24} days"
    return f"It was tried for {'an hour' if hours == 1 else length}."


def _meaning(recipient: Recipient) -> tuple[str, str]:
    """What happened, and what to do."""
    domain = recipient.address.domain.unicode
    if said := explain_policy(one_line(recipient.reply)):
        return said, f"Only the administrators can mend this; tell the person in another way, or the postmaster of {domain}."
    subject, _, detail = recipient.status[2:].partition(".")
    what, to_do = _CODES.get(f"{subject}.{detail}", ("", ""))
    if not what and subject == "7" and int(detail) in _AUTHENTICATION:
        what = "The receiving side could not confirm that the message is from its sender (SPF, DKIM or DMARC)."
        to_do = "Tell your administrator."
    if not what:
        what = _SUBJECTS.get(subject, "The server of {domain} did not take the message, and gave no code that says why.")
        to_do = "Read what the server said. If that does not help, show this message to your administrator."
    return what.format(domain=domain), to_do.format(domain=domain)


def _wrapped(text: str, indent: str = "") -> list[str]:
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [piece for line in lines for piece in _pieces(line, indent)]


def _pieces(line: str, indent: str) -> list[str]:
    text = line[len(indent) :]
    return [indent + text[at : at + _LONGEST] for at in range(0, len(text), _LONGEST)]
