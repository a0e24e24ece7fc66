"""What is wrong with the MTA-STS of a domain, why it matters, and what mends it: findings from what was seen, without I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.model import Finding, Mode, Severity
from postward.names import Domain
from postward.tls import pattern_matches
from postward_mtasts.hosting import HostedPolicy, Served
from postward_mtasts.policy import PATH, StsPolicy, policy_host
from postward_mtasts.record import RecordError, StsRecord

if TYPE_CHECKING:
    from postward_mtasts.fetch import Fetched, FetchError

AREA: Final = "mta-sts"
SHORT: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a domain publishes, seen from outside.

    `texts` are the TXT records at `_mta-sts`, `alias` the name that a CNAME there leads to, `hosts` its mail hosts. Where
    something could not be looked up, the error stands in its place.
    """

    domain: Domain
    texts: tuple[str, ...] = ()
    alias: Domain | None = None
    record: StsRecord | None = None
    record_error: RecordError | None = None
    dns_error: str = ""
    fetched: Fetched | None = None
    fetch_error: FetchError | None = None
    hosts: tuple[Domain, ...] = ()
    mx_error: str = ""

    @property
    def nothing(self) -> bool:
        """Whether the domain does not use MTA-STS at all."""
        return not (self.record or self.record_error or self.dns_error or self.fetched)


def findings(seen: Seen, own: HostedPolicy | None, served: Served | None, hostname: Domain, now: int) -> list[Finding]:
    """Everything there is to say. `own` is the policy that we serve, `served` what we served before; `now` is microseconds."""
    return [
        *_withdrawn(served if own is None else None, now),
        *_record(seen, own),
        *_policy(seen, own),
        *_hosts(seen, own, hostname),
    ]


def _withdrawn(served: Served | None, now: int) -> Iterator[Finding]:
    """RFC 8461 §8.3: a policy ends with mode none and the patience of its max_age, not by taking it away."""
    if served is not None and now < (until := served.missed_until()):
        yield _finding(
            Severity.ERROR,
            f"the policy of {served.domain} is no longer served here",
            f"Senders that know it hold the domain to it for up to {_days((until - now) // 1_000_000)} more.",
            f'Serve mode = "none" under [plugin.mtasts.host."{served.domain}"] with a new record until then (RFC 8461 §8.3).',
        )


def _record(seen: Seen, own: HostedPolicy | None) -> Iterator[Finding]:
    name = f"_mta-sts.{seen.domain}"
    publish = f'{name}. TXT "{own.record}"' if own else f'{name}. TXT "v=STSv1; id=<new id>;"'
    if seen.dns_error:
        yield _finding(Severity.ERROR, f"{name} cannot be looked up: {seen.dns_error}", "Senders see no policy.", "")
    elif seen.record_error is not None:
        error = seen.record_error
        where = f" (octet {error.position})" if error.slug == "record-syntax-error" else ""
        why = "To senders, a domain without exactly one valid record has no policy (RFC 8461 §3.1)."
        yield _finding(Severity.ERROR, f"{name}: {error}{where}", why, publish)
    elif seen.record is None and (own is not None or seen.fetched is not None):
        yield _finding(Severity.ERROR, f"{name} has no record", "Senders do not look for a policy without it.", publish)
    elif seen.record is None:
        why = "Whoever can meddle with DNS or the network can have mail for the domain sent to himself, or in clear."
        yield _finding(Severity.WARNING, f"{seen.domain} does not use MTA-STS", why, publish)
    elif own is not None and seen.record.id != own.id:
        why = "Senders that know an older policy do not learn of the one that is served now."
        yield _finding(Severity.ERROR, f"the record has id {seen.record.id}, the policy that is served {own.id}", why, publish)
    else:
        yield _finding(Severity.OK, f"{name} has a record with id {seen.record.id}")


def _policy(seen: Seen, own: HostedPolicy | None) -> Iterator[Finding]:
    if seen.nothing and own is None:
        return
    url = f"https://{policy_host(seen.domain)}{PATH}"
    if seen.fetch_error is not None:
        why = "Senders that know no policy yet send as if there were none, the others may soon know none (RFC 8461 §3.3)."
        yield _finding(Severity.ERROR, str(seen.fetch_error), why, f"Serve the policy at {url}.")
        return
    if seen.fetched is None:
        return
    policy = seen.fetched.policy
    if own is not None and seen.fetched.text != own.text:
        why = "What senders get is not what is configured here."
        fix = f"Let {policy_host(seen.domain)} lead to this host, or remove the copy that is served elsewhere."
        yield _finding(Severity.ERROR, f"{url} serves another policy", why, fix)
    else:
        yield _finding(Severity.OK, f"{url} serves a policy of mode {policy.mode}")
    yield from _strength(seen.fetched.policy)
    if seen.fetched.media_type != "text/plain":
        why = "Senders may refuse it (RFC 8461 §3.2)."
        kind = seen.fetched.media_type or "no media type"
        yield _finding(Severity.WARNING, f"{url} is served as {kind}", why, "Content-Type: text/plain")


def _strength(policy: StsPolicy) -> Iterator[Finding]:
    if policy.mode is Mode.NONE:
        yield _finding(Severity.WARNING, "the policy has mode none", "It protects nothing (RFC 8461 §5).", "mode: enforce")
    elif policy.mode is Mode.TESTING:
        why = "Failures are reported and mail is delivered all the same (RFC 8461 §5)."
        yield _finding(Severity.WARNING, "the policy has mode testing", why, "mode: enforce, once reports show no failures")
    if policy.mode is not Mode.NONE and policy.max_age <= SHORT:
        why = "Senders forget it soon, so it protects only against attacks that are shorter (RFC 8461 §3.2, §10.2)."
        yield _finding(Severity.WARNING, f"max_age is {policy.max_age} seconds, a day or less", why, "max_age: 604800 or more")


def _hosts(seen: Seen, own: HostedPolicy | None, hostname: Domain) -> Iterator[Finding]:
    policy = seen.fetched.policy if seen.fetched else None
    if policy is None or policy.mode is Mode.NONE:
        return
    if seen.mx_error:
        yield _finding(Severity.ERROR, f"the MX records cannot be looked up: {seen.mx_error}", "Nobody can send mail.", "")
        return
    bad = Severity.ERROR if policy.mode is Mode.ENFORCE else Severity.WARNING
    missing = [host for host in seen.hosts if not _named(policy, host)]
    for host in missing:
        why = "Senders do not use it for this domain" if bad is Severity.ERROR else "Senders report it as a failure"
        yield _finding(bad, f"the policy does not name the mail host {host}", f"{why} (RFC 8461 §4.1).", f"mx: {host}")
    if own is not None and hostname not in seen.hosts and not _named(policy, hostname):
        why = "Mail cannot be moved here under this policy."
        yield _finding(Severity.WARNING, f"the policy does not name this host, {hostname}", why, f"mx: {hostname}")
    for pattern in policy.mx:
        if seen.hosts and not any(pattern_matches(pattern, host) for host in seen.hosts):
            why = "Whoever gets hold of such a name may take the domain's mail; a host that is to come may well be named."
            yield _finding(Severity.WARNING, f"no mail host of the domain is {pattern}", why, f"Remove mx: {pattern}")
    if seen.hosts and not missing:
        yield _finding(Severity.OK, f"the policy names every mail host: {', '.join(seen.hosts)}")


def _named(policy: StsPolicy, host: Domain) -> bool:
    return any(pattern_matches(pattern, host) for pattern in policy.mx)


def _days(seconds: int) -> str:
    days, hours = seconds // 86_400, seconds % 86_400 // 3600
    return f"{days} days" if days else f"{hours} hours"


def _finding(severity: Severity, what: str, why: str = "", fix: str = "") -> Finding:
    return Finding(area=AREA, severity=severity, what=what, why=why, fix=fix)
