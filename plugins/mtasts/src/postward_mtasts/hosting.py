"""Policies of our own domains: the file, its id, the records to publish, and the web page (RFC 8461 §3.1, §3.2, §8).

The id is made of the text. So it changes exactly when the policy does, is the same on every node and behind every restart, and
needs no database. A policy that returns gets its former id back, which is right: ids are compared for equality only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from postward.model import MICROSECONDS, DnsRecord, Mode, WebRoute
from postward.names import Domain
from postward_mtasts import policy
from postward_mtasts.policy import PATH, policy_host

MEDIA_TYPE: Final = "text/plain"
_ID_LENGTH: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedPolicy:
    """The policy of an own domain. `mx` are patterns in A-labels, `max_age` is seconds."""

    domain: Domain
    mode: Mode
    mx: tuple[str, ...]
    max_age: int

    @property
    def text(self) -> str:
        """The policy file (RFC 8461 §3.2): lines end with CRLF, one `mx` per line, names in A-labels."""
        fields = [("version", "STSv1"), ("mode", self.mode.value), *(("mx", each) for each in self.mx)]
        return "".join(f"{key}: {value}\r\n" for key, value in [*fields, ("max_age", str(self.max_age))])

    @property
    def id(self) -> str:
        """The id of this instance of the policy (RFC 8461 §3.1: 1 to 32 letters and digits)."""
        return identify(self.text)

    @property
    def record(self) -> str:
        """The TXT record at `_mta-sts` (RFC 8461 §3.1)."""
        return f"v=STSv1; id={self.id};"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What was served for a domain, `since` when, and when it was `withdrawn` (0: it still is). Microseconds UTC."""

    domain: Domain
    text: str
    since: int
    withdrawn: int = 0

    def missed_until(self) -> int:
        """Until when senders hold us to a policy that is served no more; 0 when they do not (RFC 8461 §8.3)."""
        read = policy.parse(self.text)
        return self.withdrawn + read.max_age * MICROSECONDS if self.withdrawn and read.mode is not Mode.NONE else 0


def identify(text: str) -> str:
    """The id of a policy text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]


def changes(hosted: Mapping[Domain, HostedPolicy], before: Sequence[Served], now: int) -> list[Served]:
    """What has to be noted of the policies served now, knowing what was served before."""
    known = {served.domain: served for served in before}
    noted = []
    for domain, own in hosted.items():
        served = known.get(domain)
        if served is None or served.text != own.text or served.withdrawn:
            noted.append(Served(domain=domain, text=own.text, since=now))
    gone = (served for served in before if served.domain not in hosted and not served.withdrawn)
    return [*noted, *(replace(served, withdrawn=now) for served in gone)]


def dns_records(own: HostedPolicy, hostname: Domain) -> Sequence[DnsRecord]:
    """What the owner publishes. The file comes before the record that announces it (RFC 8461 §8.1 SHOULD)."""
    return (
        DnsRecord(
            name=policy_host(own.domain),
            rdtype="CNAME",
            value=f"{hostname}.",
            why=f"Senders fetch the policy from https://{policy_host(own.domain)}{PATH}; publish this one first.",
        ),
        DnsRecord(
            name=Domain(f"_mta-sts.{own.domain}"),
            rdtype="TXT",
            value=f'"{own.record}"',
            why="Tells senders that there is a policy, and that it changed; publish it once the policy is served.",
        ),
    )


def route(own: HostedPolicy) -> WebRoute:
    """The page that serves the policy (RFC 8461 §3.2)."""
    return WebRoute(path=PATH, host=policy_host(own.domain), handler=PolicyPage(own.text), methods=("GET", "HEAD"))


class PolicyPage:
    """An ASGI application that gives one text, with a media type that senders accept and without leave to cache it."""

    def __init__(self, text: str) -> None:
        self.body = text.encode("ascii")

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(self.body)).encode()),
            (b"cache-control", b"no-cache"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})
