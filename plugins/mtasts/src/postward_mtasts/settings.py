"""`[plugin.mtasts]`: the domains whose policy is served here.

[plugin.mtasts.host."example.org"]
mode = "enforce"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, field_validator

from postward.errors import InvalidName
from postward.model import Mode
from postward.names import Domain
from postward_mtasts import policy
from postward_mtasts.hosting import HostedPolicy


def _pattern(text: str) -> str:
    """An `mx` pattern; U-labels become A-labels (RFC 8461 §3.2)."""
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        return policy.pattern(f"{wildcard}{Domain(name)}")
    except InvalidName:
        raise ValueError(f"{text[:80]!r} is not a host name or '*.' and a domain") from None


class Hosted(BaseModel, extra="forbid", frozen=True):
    """The policy of one own domain. Without `mx`, this host is the one that takes its mail; `max_age` is seconds."""

    mode: Mode = Mode.TESTING
    mx: Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], Field(max_length=policy.MAX_MX)] = ()
    max_age: Annotated[int, Field(strict=True, ge=0, le=policy.MAX_AGE)] = 604_800


class Settings(BaseModel, extra="forbid", frozen=True):
    """What stands in `[plugin.mtasts]`."""

    host: dict[Domain, Hosted] = {}

    @field_validator("host", mode="before")
    @classmethod
    def _own_domains(cls, value: Any) -> Any:
        """Refuse what would be taken for two names of one domain, and what can have no policy."""
        seen: dict[Domain, str] = {}
        for name in value if isinstance(value, Mapping) else ():
            try:
                domain = Domain(name)
                policy.policy_host(domain)
            except (InvalidName, TypeError, AttributeError):
                raise ValueError(f"{str(name)[:80]!r} is not a domain that can have a policy") from None
            if domain.is_literal:
                raise ValueError(f"{name!r} is an address, which has no policy")
            if domain in seen:
                raise ValueError(f"{name!r} and {seen[domain]!r} are the same domain")
            seen[domain] = name
        return value

    def policies(self, hostname: Domain) -> dict[Domain, HostedPolicy]:
        """The policies that are served, by domain."""
        return {
            domain: HostedPolicy(
                domain=domain,
                mode=hosted.mode,
                mx=hosted.mx or (() if hosted.mode is Mode.NONE else (str(hostname),)),
                max_age=hosted.max_age,
            )
            for domain, hosted in self.host.items()
        }
