"""What a plugin brings to assembly, and what it advises the owner of a domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from postward.names import Domain

if TYPE_CHECKING:
    from alembic.operations import Operations


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A plugin's tables, as the ordered list of functions that make them; never reorder or change one that was released.

    Each takes Alembic's `Operations` and is run once, in order. Table names start with the plugin's name and `_`.
    """

    migrations: tuple[Callable[[Operations], None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRoute:
    """A page below `/<plugin>/`. `handler` is a Starlette endpoint; `title` puts it into the navigation.

    With `host`, it is a page for strangers instead: answered under that host name alone (any port), without login or
    navigation, and `path` is that of the URL, such as `/.well-known/mta-sts.txt`.

    `public`: anybody may ask for it, without logging in and from other sites, as those do who post reports.
    """

    path: str
    handler: Callable[..., Any]
    title: str = ""
    methods: tuple[str, ...] = ("GET",)
    host: Domain | None = None
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsRecord:
    """A record that the owner of a domain should publish. `value` is in presentation form; `why` is one sentence."""

    name: Domain
    rdtype: str
    value: str
    why: str


class Severity(StrEnum):
    """How bad a finding is. OK only where it was really looked at."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: what it is, why it matters, and the exact record or setting that mends it."""

    area: str
    severity: Severity
    what: str
    why: str = ""
    fix: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
