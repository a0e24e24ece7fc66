"""From the XML of an aggregate report to its records: lenient where the field is, strict about numbers (RFC 9990 §3.1).

Both schemas and what came before them are read by the same rules; whatever had to be passed over is a defect of the report, and
a record is kept with what can be understood of it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from postward.errors import InvalidName, PostwardError
from postward.model import MICROSECONDS
from postward.names import Domain
from postward_dmarc.reading.aggregate import Aggregate, DkimResult, Policy, Reason, Record, SpfResult
from postward_dmarc.reading.xml import Group, SectionReader, XmlError

MAX_COUNT: Final = 10**12
"""No source sends as many messages in a period; what is said beyond it is counted as nothing."""
MAX_TEXT: Final = 1000
MAX_RESULTS: Final = 200
_TWO_DAYS: Final = 2 * 86_400 * MICROSECONDS
_MILLISECONDS: Final = 100_000_000_000
_DIGITS: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_DECIMAL: Final = re.compile(r"([0-9]{1,15})(?:\.[0-9]*)?", re.ASCII)
_WHOLE: Final = re.compile(r"([0-9]{1,15})\.0*", re.ASCII)
_UNUSED: Final = frozenset({"", "unused", "none", "null", "nil", "-", "unknown"})

_DKIM: Final = frozenset({"none", "pass", "fail", "policy", "neutral", "temperror", "permerror"})
_SPF: Final = frozenset({"none", "neutral", "pass", "fail", "softfail", "policy", "temperror", "permerror"})
_ALIGNED: Final = frozenset({"pass", "fail"})
_DISPOSITIONS: Final = frozenset({"none", "pass", "quarantine", "reject"})
_REASONS: Final = frozenset(
    {"local_policy", "mailing_list", "other", "policy_test_mode", "trusted_forwarder", "forwarded", "sampled_out"}
)
# Words of older drafts and of programs that never read any.
_OTHER_WORDS: Final = {"hardfail": "fail", "error": "temperror", "unknown": "permerror", "invalid": "permerror"}
_POLICIES: Final = frozenset({"none", "quarantine", "reject"})
_MODES: Final = frozenset({"r", "s"})


class ReportError(PostwardError):
    """Something that is no report, or says nothing that could be used; `str` is one line."""


class AggregateReader:
    """Bytes in, records out: `on_record` is called for each, and `close` says what they are records of. `records` so far.

    Raises `ReportError` for what cannot be read at all, also from `feed`.
    """

    def __init__(self, on_record: Callable[[Record], None]) -> None:
        self._on_record = on_record
        self._sections = SectionReader(self._section)
        self._defects = self._sections.defects
        self.records = self._messages = 0
        self._metadata: Group = []
        self._policy: Policy | None = None
        self._version = ""

    @property
    def domain(self) -> str | None:
        """The domain of the policy, once that has come."""
        return self._policy.domain if self._policy is not None else None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        try:
            self._sections.feed(data)
        except XmlError as exc:
            raise ReportError(str(exc)) from None

    def close(self) -> Aggregate:
        """The end has come."""
        try:
            self._sections.close()
        except XmlError as exc:
            raise ReportError(str(exc)) from None
        defects, damaged = self._defects, self._sections.damaged
        if not self._metadata and not self.records:
            raise ReportError("neither metadata nor a record in it")
        if not self.records and not damaged:
            defects.add("no-records")
        head = dict(_texts(self._metadata, defects))
        begin, end = self._period()
        if not head.get("org_name"):
            defects.add("org-name-missing")
        if not head.get("report_id"):
            defects.add("report-id-missing")
        if self._policy is None:
            defects.add("policy-missing")
        errors = (value for name, value in self._metadata if name == "error" and isinstance(value, str) and value)
        return Aggregate(
            org=head.get("org_name", ""),
            email=head.get("email", ""),
            contact=head.get("extra_contact_info", ""),
            report_id=head.get("report_id", "").removeprefix("<").removesuffix(">"),
            begin=begin,
            end=end,
            errors=tuple(_short(each, defects) for each, _ in zip(errors, range(100), strict=False)),
            generator=head.get("generator", ""),
            version=self._version,
            policy=self._policy or Policy(),
            records=self.records + damaged,
            damaged=damaged,
            messages=self._messages,
            defects=tuple(sorted(defects)),
        )

    def _section(self, name: str, group: Group) -> None:
        if name == "record":
            record = _record(group, self._defects)
            self.records += 1
            self._messages += record.count
            self._on_record(record)
        elif name == "report_metadata":
            self._metadata = self._metadata or group
        elif name == "policy_published":
            self._policy = self._policy or _policy(group, self._defects)
        elif name == "version":
            self._version = next((value[:20] for _, value in group if isinstance(value, str)), "")

    def _period(self) -> tuple[int, int]:
        """The period as instants; an end that is not said is the beginning, so that nothing looks longer than it was."""
        defects = self._defects
        parts = dict(_texts(_group(self._metadata, "date_range"), defects))
        begin, end = (_instant(parts.get(name, ""), defects) for name in ("begin", "end"))
        if begin is None or end is None:
            defects.add("period-missing")
            begin = end = begin or end or 0
        if end < begin:
            defects.add("period-reversed")
            begin, end = end, begin
        if end - begin > _TWO_DAYS:
            defects.add("period-long")
        return begin, end


def read(pieces: Iterable[bytes], on_record: Callable[[Record], None]) -> Aggregate:
    """Read a whole report. Raises `ReportError`."""
    reader = AggregateReader(on_record)
    for piece in pieces:
        reader.feed(piece)
    return reader.close()


# --- sections ---


def _record(group: Group, defects: set[str]) -> Record:
    row: Group = []
    identifiers: Group = []
    auth: Group = []
    for name, value in group:
        if isinstance(value, str):
            if name in ("row", "identifiers", "auth_results") and value:
                defects.add("structure")
        elif name == "row":
            row = value
        elif name in ("identifiers", "identities"):
            identifiers = value
        elif name == "auth_results":
            auth = value
    source = count = ""
    evaluated: Group = []
    for name, value in row:
        if isinstance(value, str):
            if name == "source_ip":
                source = value
            elif name == "count":
                count = value
        elif name == "policy_evaluated":
            evaluated = value
    disposition = dkim = spf = ""
    reasons: list[Reason] = []
    for name, value in evaluated:
        if name == "reason":
            reasons += _reason(value, defects)
        elif not isinstance(value, str):
            defects.add("structure")
        elif name == "disposition":
            disposition = value
        elif name == "dkim":
            dkim = value
        elif name == "spf":
            spf = value
    names = {"header_from": "", "envelope_from": "", "envelope_to": ""}
    for name, value in identifiers:
        if isinstance(value, str) and name in names:
            names[name] = value
    dkim_results, spf_results = _results(auth, defects)
    if not names["header_from"]:
        defects.add("header-from-missing")
    return Record(
        _source(source, defects),
        _count(count, defects),
        _word(disposition, _DISPOSITIONS, "disposition-unknown", defects),
        _word(dkim, _ALIGNED, "result-unknown", defects),
        _word(spf, _ALIGNED, "result-unknown", defects),
        tuple(reasons[:MAX_RESULTS]),
        _domain(names["header_from"], defects),
        _domain(names["envelope_from"], defects),
        _domain(names["envelope_to"], defects),
        dkim_results,
        spf_results,
    )


def _results(auth: Group, defects: set[str]) -> tuple[tuple[DkimResult, ...], tuple[SpfResult, ...]]:
    dkim: list[DkimResult] = []
    spf: list[SpfResult] = []
    for name, value in auth:
        if isinstance(value, str):
            if value and value.lower() not in _UNUSED:
                defects.add("structure")
            continue
        parts = {each: text for each, text in value if isinstance(text, str)}
        result, human = parts.get("result", ""), parts.get("human_result", "")
        domain = _domain(parts.get("domain", ""), defects)
        if human:
            human = _short(human, defects)
        if name == "dkim":
            selector = _short(parts.get("selector", ""), defects)
            dkim.append(DkimResult(domain, selector, _word(result, _DKIM, "result-unknown", defects), human))
        elif name == "spf":
            scope = parts.get("scope", "").lower()
            spf.append(SpfResult(domain, scope[:20] or "mfrom", _word(result, _SPF, "result-unknown", defects), human))
    return tuple(dkim[:MAX_RESULTS]), tuple(spf[:MAX_RESULTS])


def _reason(value: str | Group, defects: set[str]) -> Iterable[Reason]:
    if isinstance(value, str):
        # A text in place of an element, as several programs write it.
        defects.add("structure" if value else "reason-empty")
        return (Reason("other", _short(value, defects)),) if value else ()
    parts = dict(_texts(value, defects))
    kind, comment = parts.get("type", ""), parts.get("comment", "")
    if not kind and not comment:
        defects.add("reason-empty")
        return ()
    return (Reason(_word(kind, _REASONS, "reason-unknown", defects) or "other", comment),)


def _policy(group: Group, defects: set[str]) -> Policy:
    parts = dict(_texts(group, defects))
    for names, words in ((("p", "sp", "np"), _POLICIES), (("adkim", "aspf"), _MODES)):
        for name in names:
            if parts.get(name):
                parts[name] = _word(parts[name], words, "policy-unknown", defects)
    known = {name: parts.get(name, "") for name in Policy.__struct_fields__ if name != "domain"}
    return Policy(domain=_domain(parts.get("domain", ""), defects), **known)


def _group(group: Group, wanted: str) -> Group:
    return next((value for name, value in group if name == wanted and not isinstance(value, str)), [])


def _texts(group: Group, defects: set[str]) -> Iterable[tuple[str, str]]:
    """The first text of each name."""
    seen: dict[str, str] = {}
    for name, value in group:
        if isinstance(value, str) and name not in seen:
            seen[name] = _short(value, defects)
    return seen.items()


# --- values ---


def _short(text: str, defects: set[str]) -> str:
    if len(text) > MAX_TEXT:
        defects.add("long-text")
        return text[:MAX_TEXT]
    return text


def _word(text: str, known: frozenset[str], slug: str, defects: set[str]) -> str:
    """A word of a list, in lower case; one that is in none stays, for people to see."""
    if text in known:
        return text
    word = text.lower()
    if not word:
        defects.add("result-missing" if slug == "result-unknown" else slug)
        return ""
    if word in known:
        defects.add("result-case")
        return word
    defects.add(slug)
    return _OTHER_WORDS.get(word, word[:40])


def _count(text: str, defects: set[str]) -> int:
    if _DIGITS.fullmatch(text) and (count := int(text)) <= MAX_COUNT:
        return count
    defects.add("count-not-a-count")
    found = _WHOLE.fullmatch(text)
    return int(found[1]) if found and int(found[1]) <= MAX_COUNT else 0


def _source(text: str, defects: set[str]) -> str:
    address = _address(text)
    if address is None:
        defects.add("source-not-an-address")
        return _short(text, defects)[:100]
    return address


@lru_cache(maxsize=16_384)
def _address(text: str) -> str | None:
    try:
        ip = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def _domain(text: str, defects: set[str]) -> str:
    """The name in the form in which names are compared; what is none stays, for people to see."""
    if not text or text.lower() in _UNUSED:
        return ""
    name = _name(text)
    if name is None:
        defects.add("domain-not-a-domain")
        return _short(text, defects)[:255]
    return name


@lru_cache(maxsize=16_384)
def _name(text: str) -> str | None:
    try:
        return str(Domain(text.strip("<>").rpartition("@")[2]))
    except InvalidName:
        return None


def _instant(text: str, defects: set[str]) -> int | None:
    """Seconds since 1970 as microseconds; also with a fraction, in milliseconds, or as a date."""
    if not text:
        return None
    whole = _DECIMAL.fullmatch(text)
    if whole is None or "." in text:
        defects.add("date-format")
    if whole is not None:
        number = int(whole[1])
        if number < _MILLISECONDS:
            return number * MICROSECONDS
        defects.add("date-format")
        return number * 1000
    try:
        date = datetime.fromisoformat(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()) * MICROSECONDS
    except (ValueError, OverflowError):
        return None
