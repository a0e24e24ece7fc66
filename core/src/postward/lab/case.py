"""One case of the lab: what a domain publishes, how its hosts behave, and what must come of mail to it.

A case says what every policy must come to at every host. What that means for the mail follows from it by the rules that any
sender has to keep: hosts in order, every enforcing policy satisfied, plaintext only where nothing forbids it. Take a plugin
away and its policies are gone from the expectation, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from postward.lab.https import Serving
from postward.lab.mx import Behaviour
from postward.lab.zones import Fault, Signing
from postward.model import Mode, ResultType, TlsWish

if TYPE_CHECKING:
    from postward.model import Delivery, PolicyResult

NO_POLICY: Final = "no-policy-found"
TOP: Final = "test"

# What TLS comes to with a host, whoever asks; hosts that are not listed have good TLS.
_BROKEN: Final = {
    Behaviour.NO_STARTTLS: ResultType.STARTTLS_NOT_SUPPORTED,
    Behaviour.STARTTLS_REFUSED: ResultType.STARTTLS_NOT_SUPPORTED,
    Behaviour.OLD_TLS: ResultType.VALIDATION_FAILURE,
    Behaviour.CLIENT_CERTIFICATE: ResultType.VALIDATION_FAILURE,
    Behaviour.GARBAGE: ResultType.VALIDATION_FAILURE,
    Behaviour.INJECTION: ResultType.VALIDATION_FAILURE,
    Behaviour.HANGS_UP: ResultType.VALIDATION_FAILURE,
    Behaviour.SILENT: ResultType.VALIDATION_FAILURE,
}


class Certificate(StrEnum):
    """What a host shows. WebPKI vouches for the first three; `private` ones come from an authority that nobody trusts."""

    GOOD = "good"
    WRONG_NAME = "wrong-name"
    EXPIRED = "expired"
    SELF_SIGNED = "self-signed"
    PRIVATE = "private"
    PRIVATE_WRONG_NAME = "private-wrong-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one policy must come to at one host. `plugin` is who brings it, empty for core's own `no-policy-found`."""

    plugin: str
    kind: str
    mode: Mode
    passed: bool
    result_type: ResultType | None = None

    def __str__(self) -> str:
        word = "passed" if self.passed else "failed"
        return f"{self.kind} {self.mode.value} {word}" + (f" {self.result_type.value}" if self.result_type else "")


def sts(mode: Mode, failure: ResultType | None = None) -> Line:
    """An MTA-STS policy that passes, or fails with `failure`."""
    return Line(plugin="mtasts", kind="sts", mode=mode, passed=failure is None, result_type=failure)


def tlsa(failure: ResultType | None = None, *, note: ResultType | None = None) -> Line:
    """TLSA records that pass, fail with `failure`, or pass for want of a usable one with `note`."""
    return Line(plugin="dane", kind="tlsa", mode=Mode.ENFORCE, passed=failure is None, result_type=failure or note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One MX host.

    `tlsa` are records for `_25._tcp` of it, in which `{spki}` and `{cert}` stand for the SHA-256 of its key and certificate,
    `{issuer}` for that of its issuer's certificate and `{wrong}` for that of nothing. `alias`: the MX record names an alias
    of the host. `lines` is what the policies come to.
    """

    label: str = "mx"
    behaviour: Behaviour = Behaviour.NORMAL
    certificate: Certificate = Certificate.GOOD
    tlsa: tuple[str, ...] = ()
    tlsa_fault: Fault | None = None
    alias: bool = False
    lines: tuple[Line, ...] = ()

    @property
    def failure(self) -> ResultType | None:
        """What is wrong with its TLS, judged by nobody's policy."""
        return _BROKEN.get(self.behaviour)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a domain publishes of MTA-STS. Empty `text`: a good policy of `mode` for `mx`, relative to the domain."""

    mode: Mode = Mode.ENFORCE
    mx: tuple[str, ...] = ("mx",)
    text: str = ""
    serving: Serving = Serving.GOOD
    certificate: Certificate = Certificate.GOOD
    records: tuple[str, ...] = ("v=STSv1; id=1;",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A domain of the lab. `by` says how it wants its TLS reports: `mail`, `https`, or both."""

    name: str
    why: str
    hosts: tuple[Host, ...] = (Host(),)
    policy: Policy | None = None
    signing: Signing = Signing.SECURE
    null_mx: bool = False
    implicit_mx: bool = False
    mx_fault: Fault | None = None
    wish: TlsWish = TlsWish.FOLLOW
    by: tuple[str, ...] = ("mail",)

    @property
    def domain(self) -> str:
        """The recipient domain."""
        return f"{self.name}.{TOP}"

    @property
    def secure_mx(self) -> bool:
        """Whether DNSSEC vouches for the names of its hosts."""
        return self.signing is Signing.SECURE and not (self.mx_fault and self.mx_fault.unsigned)

    def host_name(self, host: Host) -> str:
        """The full name of a host."""
        return self.domain if self.implicit_mx else f"{host.label}.{self.domain}"

    @property
    def plugins(self) -> frozenset[str]:
        """The plugins that its expectation depends on."""
        return frozenset(line.plugin for host in self.hosts for line in host.lines)


@dataclass(frozen=True, slots=True)
class Session:
    """A host that was tried, or ruled out, and what the policies came to there."""

    host: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must come of one message: how it ends, where it arrives (empty: nowhere), and what is counted on the way."""

    fate: str
    arrives: str
    sessions: tuple[Session, ...]

    def __str__(self) -> str:
        return _describe(self.fate, {session.host: [str(line) for line in session.lines] for session in self.sessions})


def expect(case: Case, without: Collection[str] = ()) -> Expectation:
    """What must come of mail to a case, with some plugins unplugged."""
    if case.null_mx:
        return Expectation("refused", "", ())
    if case.mx_fault is not None and case.mx_fault.rcode is not None:
        failure = _no_policy(ResultType.DNSSEC_INVALID)
        return Expectation("deferred", "", (Session(case.domain, (failure,)),))
    sessions: list[Session] = []
    unmet = 0
    for host in case.hosts:
        acting = tuple(line for line in host.lines if line.plugin not in without)
        lines = acting or (_no_policy(host.failure),)
        name = case.host_name(host)
        sessions.append(Session(name, lines))
        bound = [line for line in lines if line.mode is Mode.ENFORCE]
        if case.wish is not TlsWish.IGNORE and not all(line.passed for line in bound):
            continue
        # Unusable records prove nothing, and TLSA records nothing of the next hop where anybody could have named the host.
        vouching = [line for line in bound if line.result_type is None and (line.kind != "tlsa" or case.secure_mx)]
        proven = bool(vouching) or (case.secure_mx and host.certificate is Certificate.GOOD)
        if case.wish is TlsWish.REQUIRE and (host.failure or not proven):
            unmet += 1
            continue
        return Expectation("delivered in clear" if host.failure else "delivered over TLS", name, tuple(sessions))
    return Expectation("refused" if unmet == len(case.hosts) else "deferred", "", tuple(sessions))


def _no_policy(failure: ResultType | None) -> Line:
    return Line(plugin="", kind=NO_POLICY, mode=Mode.NONE, passed=failure is None, result_type=failure)


def outcome(delivery: Delivery) -> str:
    """What came of a delivery to one recipient, in the words of an expectation."""
    hosts: dict[str, list[str]] = {}
    for attempt in delivery.attempts:
        # Where TLS broke, a second attempt in clear repeats the verdicts of the first.
        if attempt.policies:
            hosts.setdefault(str(attempt.host), [str(_line(policy)) for policy in attempt.policies])
    return _describe(_fate(delivery), hosts)


def _line(policy: PolicyResult) -> Line:
    said = policy.failure or (policy.notes[0] if policy.notes else None)
    return Line(
        plugin=policy.source,
        kind=policy.kind,
        mode=policy.mode,
        passed=policy.passed,
        result_type=said.result_type if said else None,
    )


def _fate(delivery: Delivery) -> str:
    recipient = delivery.recipients[0]
    if not recipient.delivered:
        return "refused" if recipient.permanent else "deferred"
    last = next(attempt for attempt in delivery.attempts if attempt.delivered)
    return "delivered over TLS" if last.tls else "delivered in clear"


def _describe(fate: str, hosts: Mapping[str, Iterable[str]]) -> str:
    return "; ".join([fate, *(f"{host}: {' + '.join(sorted(lines))}" for host, lines in hosts.items())])


def named(cases: Sequence[Case], names: Collection[str]) -> list[Case]:
    """The cases with these names, in their own order; all of them when none is named. Raises `KeyError`."""
    known = {case.name for case in cases}
    for name in names:
        if name not in known:
            raise KeyError(name)
    return [case for case in cases if not names or case.name in names]
