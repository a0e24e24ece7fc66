"""SPF of the MAIL FROM identity (RFC 7208), by pyspf behind an adapter that makes its DNS lookups questions.

pyspf is synchronous and asks the DNS whenever it likes. Here it runs on answers that are there already; when one is missing
the run is given up, the question is asked, and the run starts again. It costs 0.1 ms and needs neither thread nor network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from postward.errors import InvalidName
from postward.names import Address, Domain, IpAddress
from postward_dmarc.questions import Asker, Question

# RFC 7208 §4.6.4: ten terms, each with up to ten addresses to look up.
_MAX_QUERIES: Final = 150
_WORDS: Final = frozenset({"pass", "fail", "softfail", "neutral", "none", "permerror", "temperror"})

_Answers = dict[tuple[str, str], "list[Any] | None"]
_answers: ContextVar[_Answers] = ContextVar("spf_answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpfResult:
    """A result of RFC 7208 §2.6 for the domain of MAIL FROM; for the null path that is postmaster@HELO (§2.4).

    `domain` is None when there was no name to ask about.
    """

    domain: Domain | None
    result: str
    reason: str = ""
    null_path: bool = False


class _Missing(BaseException):
    """An answer that is not there yet. No Exception, so that pyspf does not catch it."""

    def __init__(self, name: str, rdtype: str) -> None:
        self.key = name, rdtype


def check(ip: IpAddress | None, helo: str, sender: Address | None) -> Asker[SpfResult]:
    """Evaluate SPF for a client. Never raises for what the client or the DNS says.

    Whoever answers the questions bounds the time: 20 seconds, then `temperror` (RFC 7208 §4.6.4).
    """
    null_path = sender is None
    try:
        domain = Domain(helo) if sender is None else sender.domain
    except InvalidName:
        return SpfResult(domain=None, result="none", reason="HELO is no domain name", null_path=null_path)
    if ip is None or domain.is_literal or "." not in domain:
        reason = "client address is not known" if ip is None else "no domain name to ask about"
        return SpfResult(domain=None if domain.is_literal else domain, result="none", reason=reason, null_path=null_path)
    mailbox = f"postmaster@{domain}" if sender is None else str(sender)
    answers: _Answers = {}
    while len(answers) <= _MAX_QUERIES:
        step = _run(answers, str(ip), mailbox, helo)
        if not isinstance(step, _Missing):
            return SpfResult(domain=domain, result=step[0], reason=step[1], null_path=null_path)
        name, rdtype = step.key
        found = yield Question(name, rdtype)
        answers[step.key] = None if found.failed else [_SHAPES[rdtype](record) for record in found.records]
    return SpfResult(domain=domain, result="permerror", reason="too many DNS queries", null_path=null_path)


_SHAPES: Final[dict[str, Callable[[Any], Any]]] = {
    "A": lambda record: record.address,
    "AAAA": lambda record: record.address,
    "MX": lambda record: (record.preference, record.exchange.to_text(omit_final_dot=True)),
    "PTR": lambda record: record.target.to_text(omit_final_dot=True),
    "TXT": lambda record: tuple(record.strings),
}


def _run(answers: _Answers, ip: str, mailbox: str, helo: str) -> tuple[str, str] | _Missing:
    """One run over the answers that are there."""
    query = _query_class()
    token = _answers.set(answers)
    try:
        result, _, text = query(i=ip, s=mailbox, h=helo, strict=True, querytime=0).check()
    except _Missing as missing:
        return missing
    except Exception as exc:  # noqa: BLE001 - pyspf raises all kinds of things for records that break the grammar
        return "permerror", f"record cannot be evaluated: {type(exc).__name__}"
    finally:
        _answers.reset(token)
    word = str(result).lower()
    return (word, str(text)[:200]) if word in _WORDS else ("permerror", f"unknown result {word[:20]!r}")


_loaded: list[Any] = []


def _query_class() -> Any:
    """pyspf's query, loaded when first needed, asking `_lookup`, and never fetching explanations for people."""
    if not _loaded:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pyspf's source holds escapes that Python warns of when compiling
            import spf

        def lookup(name: str, rdtype: str, *_: object) -> list[tuple[tuple[str, str], Any]]:
            key = name.lower(), rdtype
            answers = _answers.get()
            if key not in answers:
                raise _Missing(*key)
            records = answers[key]
            if records is None:
                raise spf.TempError(f"DNS lookup of {name} {rdtype} failed")
            return [(key, record) for record in records]

        class Query(spf.query):  # type: ignore[misc]  # untyped
            def get_explanation(self, spec: object) -> None:
                return None

        spf.DNSLookup = lookup
        _loaded.append(Query)
    return _loaded[0]
