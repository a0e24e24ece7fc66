"""`postward dane check`, `tlsa` and `rollover`: what senders with DANE see, what to publish, and how to change a key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from postward.cli.output import emit_json_line, line, table
from postward.errors import ConfigError, InvalidName
from postward.model import MICROSECONDS, Destination, Finding, MxHost, Severity, day_of
from postward.names import Domain
from postward_dane import advice, pem, rollover, seen
from postward_dane.base import tlsa_name

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward.model import Verdict
    from postward_dane.plugin import Dane

PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="TCP port of the mail hosts.")]
_STYLES: Final = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def register(plugin: Dane, commands: Commands) -> None:
    """Add the verbs."""

    def check(
        domain: Annotated[str, typer.Argument(help="A mail domain, or a mail host.")],
        port: PortOption = 25,
        connect: Annotated[bool, typer.Option(help="Look at the certificates that the hosts show.")] = True,
        json: JsonOption = False,
    ) -> int:
        """Look at a domain as a sender with DANE does: DNSSEC, records, certificates. Exit code 1 unless all is well."""
        name = _domain(domain)

        async def work(core: Core) -> int:
            from postward_dane.survey import survey

            found = await survey(plugin, name, connect=connect, port=port)
            told = advice.findings(found, core)
            if json:
                emit_json_line({**seen.to_json(found), "findings": told})
            else:
                _show_survey(found, told)
            return 0 if all(each.severity is Severity.OK for each in told) else 1

        return commands.run(work)

    def tlsa(
        file: Annotated[Path, typer.Argument(help="What the server sends, PEM: its certificate and those above.")],
        host: Annotated[str, typer.Option(help="Name of the mail host.", show_default="core.hostname")] = "",
        port: PortOption = 25,
        json: JsonOption = False,
    ) -> int:
        """Print the TLSA records of a certificate as lines for a zone: 3 1 1 of its key, 2 1 1 of each authority above it."""
        chain = _chain(file)
        owner = tlsa_name(_domain(host) if host else plugin.core.hostname, port)
        if owner is None:
            raise ConfigError("the name is too long for TLSA records", key="--host")
        _show_records(owner, chain, as_json=json)
        return 0

    def roll_over(
        host: Annotated[str, typer.Argument(help="The mail host.")],
        cert: Annotated[Path | None, typer.Option(help="The new certificate and those above, PEM.", show_default=False)] = None,
        current: Annotated[
            Path | None, typer.Option(help="The current certificate; by default the host is asked.", show_default=False)
        ] = None,
        port: PortOption = 25,
        json: JsonOption = False,
    ) -> int:
        """Say what to do next to change the key of a mail host without losing mail. Exit code 1 when something is wrong now."""
        name = _domain(host)
        new, old = (_chain(file) if file else () for file in (cert, current))

        async def work(core: Core) -> int:
            from postward_dane.survey import see_host

            mx = MxHost(name=name, preference=-1, port=port)
            place = Destination(domain=name, hosts=(mx,), from_mx=False)
            found = await see_host(plugin, place, mx, connect=not old)
            serving = old or found.chain
            owner = tlsa_name(found.base or name, port)
            if trouble := _untold(found, serving, validating=core.dns.validating):
                if json:
                    emit_json_line({"host": name, "owner": owner, "error": trouble})
                else:
                    line(f"nothing can be said of {name}: {trouble}", error=True)
                return 1
            planned = rollover.plan([each.record for each in found.records], serving, new, ttl=found.ttl)
            if json:
                emit_json_line({"host": name, "owner": owner, "error": None, **planned.to_json()})
            else:
                _show_plan(owner, planned)
            return 0 if planned.good else 1

        return commands.run(work)

    commands.add(check)
    commands.add(tlsa)
    commands.add(roll_over, name="rollover")


def _untold(found: seen.SeenHost, serving: tuple[bytes, ...], *, validating: bool | None) -> str:
    """Why nothing can be said of a change."""
    if found.error:
        return found.error
    if found.tlsa == "failed":
        return f"the TLSA records cannot be looked up: {found.tlsa_failure}"
    if not serving:
        return f"{found.unreachable or 'no certificate was seen'} (--current names the certificate in a file)"
    return "the resolver does not validate DNSSEC" if validating is False else ""


def _domain(text: str) -> Domain:
    try:
        name = Domain(text)
    except InvalidName as exc:
        raise ConfigError(str(exc), key=text[:60]) from None
    if name.is_literal:
        raise ConfigError("DANE does not apply to addresses", key=text[:60])
    return name


def _chain(file: Path) -> tuple[bytes, ...]:
    try:
        return pem.read_certificates(file)
    except (OSError, ValueError) as exc:
        raise ConfigError(getattr(exc, "strerror", None) or str(exc), file=str(file)) from None


# --- how it looks ---


def _show_records(owner: Domain, chain: tuple[bytes, ...], *, as_json: bool) -> None:
    described = [pem.describe(der) for der in chain]
    records = advice.suggested(chain)
    if as_json:
        rows = [
            {"record": str(record), "line": advice.zone_line(owner, record), "certificate": certificate.to_json()}
            for record, certificate in zip(records, described, strict=True)
        ]
        emit_json_line({"owner": owner, "records": rows})
        return
    for place, (record, certificate) in enumerate(zip(records, described, strict=True)):
        whose = "the server's own key" if place == 0 else "an authority above it; the server must send this certificate"
        line(f"; {_who(certificate)}, until {_day(certificate.expires)}: {whose}")
        typer.echo(advice.zone_line(owner, record))  # never wrapped: it is to be copied


def _show_survey(found: seen.Survey, told: tuple[Finding, ...]) -> None:
    if found.hosts:
        line(f"{found.domain}: " + (f"MX {found.mx_security}" if found.from_mx else "no MX records, the host itself"))
        rows = [
            (
                host.name,
                host.addresses_security or host.error or "-",
                f"{host.tlsa or '-'} {host.tlsa_failure}".strip(),
                _shown_verdict(host.verdict),
                f"{_who(host.certificate)}, until {_day(host.certificate.expires)}" if host.certificate else "-",
            )
            for host in found.hosts
        ]
        table(("HOST", "ADDRESSES", "TLSA", "MATCH", "CERTIFICATE"), rows)
        line()
    records = [
        (host.base or host.name, _short(each), each.why or "usable", _shown_verdict(each.verdict))
        for host in found.hosts
        for each in host.records
    ]
    if records:
        table(("BASE", "RECORD", "USE", "MATCH"), records)
        line()
    for each in told:
        line(f"{each.severity.value}: {each.what}", style=_STYLES[each.severity])
        for more in (each.why, each.fix):
            if " IN TLSA " in more and more.isprintable():
                typer.echo(f"  {more}")  # never wrapped: it is to be copied
            elif more:
                line(f"  {more}")


def _show_plan(owner: Domain | None, planned: rollover.Plan) -> None:
    for title, records in (
        ("in use now", planned.current),
        ("of the new certificate", planned.coming),
        ("matching nothing", planned.idle),
        ("to publish", planned.publish),
        ("to remove", planned.remove),
    ):
        if records:
            line(f"; {title}")
        for record in records:
            typer.echo(advice.zone_line(owner, record))
    line()
    for number, step in enumerate(planned.steps, 1):
        line(f"{number}. {step}")


def _short(each: seen.SeenRecord) -> str:
    text = str(each.record)
    return text if len(text) <= 16 else f"{text[:14]}…"


def _who(certificate: pem.Described) -> str:
    return certificate.subject or ", ".join(certificate.names[:3]) or "a certificate without a name"


def _shown_verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    failure = verdict.failure
    return "matches" if failure is None else failure.reason or failure.result_type.value


def _day(instant: int) -> str:
    return day_of(instant) if instant >= MICROSECONDS else "?"
