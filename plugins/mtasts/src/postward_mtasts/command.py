"""`postward mtasts check`: a domain as senders see it. `postward mtasts cache …`: what is remembered, and changes to it.

`postward mtasts policy`: an own policy as a file, for a web server that is not ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from postward.cli.output import emit_json_line, line
from postward.errors import ConfigError, InvalidName
from postward.model import Severity
from postward.names import Domain
from postward_mtasts import show
from postward_mtasts.policy import PATH, policy_host

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward_mtasts.cache import Entry
    from postward_mtasts.plugin import MtaSts

PAGE: Final = 100
_PIECE: Final = 500

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="A mail domain.", show_default=False)]
DomainArguments = Annotated[list[str], typer.Argument(metavar="DOMAIN...", help="Mail domains.", show_default=False)]


def register(plugin: MtaSts, commands: Commands) -> None:
    """Add the verbs."""
    verbs = _Verbs(plugin, commands)
    commands.add(verbs.check, "check")
    commands.add(verbs.policy, "policy")
    commands.add(verbs.show_list, "cache list")
    commands.add(verbs.show_one, "cache show")
    commands.add(verbs.refresh, "cache refresh")
    commands.add(verbs.drop, "cache drop")


class _Verbs:
    def __init__(self, plugin: MtaSts, commands: Commands) -> None:
        self._plugin, self._commands = plugin, commands

    def check(self, domain: DomainArgument, json: JsonOption = False) -> int:
        """Look at the record, the policy and the mail hosts of a domain, past the cache. Exits 1 when something is an error.

        With --json one object: domain, record (texts, id, error, position), policy (mode, max_age, mx, media_type, text, error,
        line, column), hosts (name, matches), findings (area, severity, what, why, fix).
        """
        name = _domain(domain)

        async def work(core: Core) -> int:
            from postward_mtasts.look import look

            seen = await look(core, name)
            found = self._plugin.findings(seen)
            if json:
                emit_json_line(show.seen_json(seen, found))
            else:
                show.show_seen(seen, found)
            return int(any(finding.severity is Severity.ERROR for finding in found))

        return self._commands.run(work)

    def policy(self, domain: DomainArgument, json: JsonOption = False) -> int:
        """Print the policy of an own domain, to be served by another web server, and on standard error the record to publish.

        The domain is one of [plugin.mtasts.host]. With --json one object: domain, url, text, id, record.
        """
        name = _domain(domain)
        own = self._plugin.hosted.get(name)
        if own is None:
            raise ConfigError(f"it has no policy of {name}", key="plugin.mtasts.host")
        if json:
            url = f"https://{policy_host(own.domain)}{PATH}"
            emit_json_line({"domain": own.domain, "url": url, "text": own.text, "id": own.id, "record": own.record})
            return 0
        sys.stdout.write(own.text.replace("\r\n", "\n"))  # lines may end with LF (RFC 8461 §3.2), and files do
        line(f'_mta-sts.{own.domain}. IN TXT "{own.record}"', error=True)
        return 0

    def show_list(
        self,
        limit: Annotated[int, typer.Option(min=0, metavar="N", help="How many domains; 0 is all.")] = PAGE,
        after: Annotated[str, typer.Option(metavar="DOMAIN", help="Go on behind a domain.", show_default=False)] = "",
        json: JsonOption = False,
    ) -> int:
        """List what is remembered, by domain. With --json one object per domain, as of `show` without the text."""
        behind = str(_domain(after)) if after else ""

        async def work(core: Core) -> int:
            from postward_mtasts import tables

            now, left, last = core.clock.now(), limit or sys.maxsize, behind
            shown: list[Entry] = []
            while left > 0:
                # Piece by piece: a million policies are not held in memory to be printed.
                page = await core.store.results.read(partial(tables.load_page, after=last, limit=min(left, _PIECE)))
                for entry in page:
                    if json:
                        emit_json_line(show.entry_json(entry, now))
                shown += [] if json else page
                left -= len(page)
                if not page:
                    break
                last = page[-1].domain
            if not json:
                show.show_entries(shown, now)
            beyond = await core.store.results.read(partial(tables.load_page, after=last, limit=1))
            if beyond:
                show.tell_next(last)
            return 0

        return self._commands.run(work)

    def show_one(self, domain: DomainArgument, json: JsonOption = False) -> int:
        """Show what is remembered of a domain, with the policy as it was served. Exits 1 when that is nothing.

        With --json: domain, valid, id, mode, max_age, mx, media_type, text, last_error, failed_id and, in seconds since 1970
        or null, fetched, expires, last_use, last_attempt, next_look.
        """
        name = _domain(domain)

        async def work(core: Core) -> int:
            from postward_mtasts import tables

            entry = await core.store.results.read(partial(tables.load, domain=name))
            if entry is None:
                show.tell_nothing(name, as_json=json)
                return 1
            if json:
                emit_json_line(show.entry_json(entry, core.clock.now(), text=True))
            else:
                show.show_entry(entry, core.clock.now())
            return 0

        return self._commands.run(work)

    def refresh(self, domains: DomainArguments, json: JsonOption = False) -> int:
        """Fetch policies now, also unchanged ones and those that failed lately. Exits 1 when one could not be had.

        With --json one object per domain, as of `show` without the text, with `error` (null when all went well). A running
        service knows the new policies within a minute.
        """
        names = _domains(domains)

        async def work(core: Core) -> int:
            code = 0
            for name in names:
                error = await self._plugin.refresher.renew(name)
                entry = await self._plugin.discovery.load(name)
                had = error is None and entry is not None and entry.valid(core.clock.now())
                said = "" if had else str(error or "the domain has no policy")
                show.show_refreshed(name, entry, said, core.clock.now(), as_json=json)
                code |= not had
            return code

        return self._commands.run(work)

    def drop(self, domains: DomainArguments, json: JsonOption = False) -> int:
        """Forget policies. Exits 1 when nothing was remembered of one of the domains.

        Until a delivery has fetched it again, a domain is not protected. A running service forgets within a minute. With
        --json one object per domain: domain, dropped.
        """
        names = _domains(domains)

        async def work(core: Core) -> int:
            from postward_mtasts import tables

            code = 0
            for name in names:
                dropped = await core.store.results.write(partial(tables.drop, domain=name))
                show.show_dropped(name, dropped, as_json=json)
                code |= not dropped
            return code

        return self._commands.run(work)


def _domains(texts: Sequence[str]) -> list[Domain]:
    return list(dict.fromkeys(map(_domain, texts)))


def _domain(text: str) -> Domain:
    try:
        domain = Domain(text)
    except InvalidName as exc:
        raise ConfigError(str(exc), key="DOMAIN") from None
    if domain.is_literal:
        raise ConfigError(f"an address has no policy: {text[:60]!r}", key="DOMAIN")
    return domain
