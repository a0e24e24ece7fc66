"""DNS records and DNS check: what the owner of a domain should publish, and what is wrong with what is published.

Plugins say both. A check asks the network, so few are made at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs
from postward.model import Finding, Severity
from postward.names import Domain
from postward.web.page import Ask, Block, Code, Mark, Note, Page, Pre, Table, Tone, link, view
from postward.web.params import DOMAIN

if TYPE_CHECKING:
    from postward.app import App
    from postward.model import WebRoute

_AT_ONCE: Final = 2
_TONES: Final = {Severity.OK: Tone.GOOD, Severity.WARNING: Tone.WARNING, Severity.ERROR: Tone.BAD}
_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.OK: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record to publish; `value` as in a zone file."""

    name: str
    type: str
    value: str
    why: str
    plugin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What `domain` should publish."""

    domain: str
    records: list[Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A finding, as `postward check --json` has it."""

    area: str
    severity: str
    what: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found of `domain`; `failed` are plugins that could not look."""

    domain: str
    findings: list[Found]
    failed: list[str]


class DnsPages:
    """Both pages."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._limit = trio.CapacityLimiter(_AT_ONCE)

    async def records(self, ask: Ask) -> Page:
        """What a domain should publish; without one, that of the reports."""
        app = self._app
        domain = ask.text("domain") or str(app.submitter or app.config.core.hostname)
        found = [
            Record(name=str(one.name), type=one.rdtype, value=one.value, why=one.why, plugin=outcome.plugin)
            for outcome in app.hooks.collect(hookspecs.dns_records, domain=Domain(domain))
            for one in outcome.value or ()
        ]
        table = Table(
            title=f"Records of {Domain(domain).unicode}",
            columns=["Name", "Type", "Value", "Why"],
            rows=[(Code(f"{one.name}."), one.type, Code(one.value), one.why) for one in found],
            empty="The enabled plugins have no record to suggest for this domain.",
        )
        blocks: list[Block] = [table]
        if found:
            zone = "\n".join(f"{one.name}. {one.type} {one.value}" for one in found)
            blocks.append(Pre(title="For a zone file", text=zone))
        check = link("Check", "/dns/check", domain=domain)
        blocks.append(Note(text="Whether they are published as they should be:", link=check))
        intro = "What the owner of a domain should publish, as far as the enabled plugins know."
        return Page(title="DNS records", intro=intro, data=Records(domain=domain, records=found), blocks=blocks)

    async def check(self, ask: Ask) -> Page:
        """What is wrong with a domain; errors first."""
        domain = ask.text("domain")
        findings: list[Finding] = []
        failed: list[str] = []
        if domain:
            async with self._limit:
                outcomes = await self._app.hooks.gather(hookspecs.dns_checks, domain=Domain(domain))
            for outcome in outcomes:
                findings += outcome.value or ()
                failed += [outcome.plugin] if outcome.error is not None else []
        findings.sort(key=lambda one: _ORDER[one.severity])
        data = Checked(
            domain=domain,
            findings=[
                Found(area=one.area, severity=one.severity.value, what=one.what, why=one.why, fix=one.fix) for one in findings
            ],
            failed=failed,
        )
        blocks: list[Block] = [
            Note(text=f"The plugin {plugin} failed, so what it looks at was not looked at.", tone=Tone.BAD) for plugin in failed
        ]
        if domain:
            blocks.append(
                Table(
                    title=f"Findings about {Domain(domain).unicode}",
                    columns=["How bad", "Area", "What", "How to mend it"],
                    rows=[
                        (
                            Mark(one.severity.value, _TONES[one.severity]),
                            one.area,
                            [one.what, one.why],
                            Code(one.fix) if one.fix else None,
                        )
                        for one in findings
                    ],
                    empty="The enabled plugins look at nothing of this domain.",
                )
            )
        intro = "Looks at a domain from here, as the enabled plugins do. It asks the network, which may take some seconds."
        return Page(title="DNS check", intro=intro, data=data, blocks=blocks)


def routes(app: App) -> Sequence[WebRoute]:
    """Both."""
    pages = DnsPages(app)
    return [
        view("/dns/records", pages.records, Records, title="DNS records", params=[DOMAIN]),
        view("/dns/check", pages.check, Checked, title="DNS check", params=[DOMAIN]),
    ]
