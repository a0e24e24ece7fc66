"""What `postward status` finds: service, queue, journal, reports, tables, disk, keys, listeners, resolver; what needs care.

It only looks. What is not there yet, on a node that has never run, is no trouble; what cannot be looked at is, in one line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from postward.attention import Attention, no_room, of_journal, of_queue, of_resolver
from postward.cli.measures import count
from postward.dns.health import FILE as HEALTH_FILE
from postward.dns.health import Health, load_health
from postward.errors import PostwardError
from postward.queue.figures import NOTHING, Figures
from postward.queue.poke import NAME, Answer, Life, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from postward.config import Config
    from postward.model import Schema
    from postward.store import SchemaStatus
    from postward.store.standing import Standing

HOUR: Final = 3600 * 1_000_000
TOP: Final = 5
# An attempt comes at the very end of a lifetime; what is older by this much has been passed over.
_LATE: Final = 2 * HOUR


@dataclass(slots=True, kw_only=True)
class Found:
    """Everything that was found at `now`. `free` is None where the disk cannot be asked."""

    now: int
    service: Answer
    queue: Figures = NOTHING
    standings: Sequence[Standing] = ()
    reports: dict[str, int] = field(default_factory=dict)
    tables: Sequence[SchemaStatus] = ()
    absent: Sequence[str] = ()
    free: int | None = None
    room: bool = True
    keys: list[dict[str, Any]] = field(default_factory=list)
    listeners: list[dict[str, Any]] = field(default_factory=list)
    resolver: Health | None = None
    attention: list[Attention] = field(default_factory=list)

    def needs(self, what: str, mend: str) -> None:
        """Note something that needs a person."""
        self.attention.append(Attention(what=what, mend=mend))


def look(config: Config, now: int) -> Found:
    """Look at everything that a configuration names. Raises nothing but what stops every command."""
    from postward.cli.site import act_as_owner

    data = config.core.data_dir
    act_as_owner(data)
    found = Found(now=now, service=ask(data / NAME))
    for part in (_keys, _tables, _queue, _journal, _reports, _disk, _listeners, _service, _resolver):
        _guarded(part, config, found)
    return found


def _guarded(part: Callable[[Config, Found], None], config: Config, found: Found) -> None:
    """One part's trouble must not hide the others."""
    try:
        part(config, found)
    except PostwardError as exc:
        if str(exc) not in (one.what for one in found.attention):
            found.needs(str(exc), "what stands there cannot be looked at until this is mended")
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        found.needs(f"{where}{exc.strerror or exc}", "run this as the user of the service, or as root")


def _tables(config: Config, found: Found) -> None:
    from postward.store import status
    from postward.store.engine import sqlite_path

    states: list[SchemaStatus] = []
    absent: list[str] = []
    for url, schemas in _databases(config, found):
        path = sqlite_path(url)
        if path is not None and not path.exists():
            absent.append(str(path))
            continue
        try:
            states += status(url, schemas)
        except PostwardError as exc:
            found.needs(str(exc), "what stands there cannot be looked at until this is mended")
    found.tables, found.absent = states, absent
    for state in states:
        if state.pending < 0:
            found.needs(
                f"the tables of {state.name} in {state.database} are of a newer version of this program",
                "install the version that made them",
            )
        elif state.pending:
            found.needs(
                f"the tables of {state.name} in {state.database} are behind ({state.current} of {state.available})",
                "postward db upgrade, or restart the service",
            )


def _databases(config: Config, found: Found) -> list[tuple[str, Mapping[str, Schema]]]:
    """The databases with all tables; where plugins cannot be loaded, with core's own."""
    from postward.app import NODE_SCHEMAS
    from postward.cli.db import databases
    from postward.reports.tables import SCHEMA as REPORTS
    from postward.store.engine import sqlite_url
    from postward.store.tables import NODE, RESULTS

    try:
        return databases(config)
    except PostwardError as exc:
        if not any(key["problem"] for key in found.keys):
            found.needs(str(exc), "the service does not start until this is mended")
    node_url = sqlite_url(config.core.data_dir / "node.db")
    return [(config.core.database, {"core": RESULTS, "reports": REPORTS}), (node_url, {"node": NODE, **NODE_SCHEMAS})]


def _queue(config: Config, found: Found) -> None:
    from functools import partial

    from postward.cli.site import read_queue
    from postward.queue.figures import figures

    before = found.now - int(config.delivery.expire_hours * HOUR) - _LATE

    queue = found.queue = read_queue(config, partial(figures, now=found.now, expired_before=before, top=TOP), NOTHING)
    found.attention += of_queue(queue, config.delivery.expire_hours)


def _journal(config: Config, found: Found) -> None:
    from postward.store.engine import sqlite_url
    from postward.store.standing import standings

    if found.absent or not _has(found, "core", "node"):
        return
    node_url = sqlite_url(config.core.data_dir / "node.db")
    found.standings = standings(config.core.database, node_url, config.core.node)
    running = found.service.life is Life.RUNNING
    found.attention += of_journal(found.standings, now=found.now, enabled=config.plugins, running=running)


def _reports(config: Config, found: Found) -> None:
    from postward.store.standing import target_counts

    if _has(found, "reports"):
        found.reports = target_counts(config.core.database)


def _has(found: Found, *names: str) -> bool:
    """Whether these tables are there."""
    there = {state.name for state in found.tables if state.current}
    return there.issuperset(names)


def _disk(config: Config, found: Found) -> None:
    from postward.queue.disk import room

    place = config.core.data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    numbers = os.statvfs(place)
    found.free = numbers.f_bavail * numbers.f_frsize
    found.room = room(place)
    if not found.room:
        found.attention += [no_room(place, found.free, numbers.f_favail)]


def _keys(config: Config, found: Found) -> None:
    from postward.dkim.sign import SigningKey

    for entry in config.dkim:
        problem, algorithm = "", ""
        try:
            algorithm = SigningKey.load(entry.domain, entry.selector, entry.key_file.read_bytes()).algorithm
        except (OSError, PostwardError) as exc:
            problem = getattr(exc, "strerror", None) or str(exc)
            found.needs(
                f"the DKIM key {entry.selector} of {entry.domain} cannot be used ({entry.key_file}: {problem})",
                "postward dkim generate makes one; the service does not start without it",
            )
        found.keys.append(
            {
                "domain": str(entry.domain),
                "selector": entry.selector,
                "algorithm": algorithm,
                "file": str(entry.key_file),
                "problem": problem,
            }
        )


def _listeners(config: Config, found: Found) -> None:
    for entry in config.listen:
        tls = entry.tls if entry.cert_file is not None else "none"
        users = None if entry.users_file is None else str(entry.users_file)
        found.listeners.append({"kind": entry.kind, "bind": entry.bind, "tls": tls, "users_file": users})


def _service(config: Config, found: Found) -> None:
    life, waiting = found.service.life, found.queue.recipients - found.queue.held
    if life is Life.SILENT:
        found.needs(
            "the service holds its socket and did not answer within a second",
            "it may be busy or stuck: look into its log, ask again, or restart it",
        )
    elif life is Life.ABSENT and waiting and not _is_worked_on(found):
        found.needs(
            f"{count(waiting, 'recipient')} wait in the queue and no service answers on {config.core.data_dir / NAME}",
            "start postward run",
        )


def _resolver(config: Config, found: Found) -> None:
    """What the service has found out about its resolver; what a service found that is gone says nothing."""
    if found.service.life is not Life.RUNNING:
        return
    found.resolver = load_health(config.core.data_dir / HEALTH_FILE)
    if found.resolver is not None:
        found.attention += of_resolver(found.resolver)


def _is_worked_on(found: Found) -> bool:
    """Whether the node gave a sign of life within some minutes: a service that could not make its socket."""
    return any(found.now - one.seen < 300_000_000 for one in found.standings)
