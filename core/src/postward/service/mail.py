"""The mail side of a running service: queue, runner and listeners of one process, put together and taken apart in order.

Stopping begins at the door: nobody new is let in, those who are there may finish their message, what is being delivered
is finished, and what is queued stays on disk.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from postward import hookspecs
from postward.errors import ConfigError
from postward.listen.addresses import ReportAddresses
from postward.listen.inbound import Inbound, Intake, Mailbox, MaildirBox, NextHopBox
from postward.listen.listener import Certificate, Door, Listeners
from postward.listen.maildir import Maildir
from postward.listen.next_hop import NextHop
from postward.listen.pace import Pace
from postward.listen.relay import Relay, Services
from postward.listen.users import Users
from postward.model import MICROSECONDS
from postward.names import Address, Domain
from postward.queue.bounce import Bouncer
from postward.queue.disk import Room
from postward.queue.poke import NAME, listen
from postward.queue.retry import RetryRules
from postward.queue.runner import Runner
from postward.queue.types import Shards
from postward.service.between import Between
from postward.smtp.server import ServerSettings
from postward.supervise import keep_running

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from postward.app import App
    from postward.config import Config, ListenConfig
    from postward.queue.store import Queue
    from postward.queue.types import Job
    from postward.service.workers import Place

CLIENTS_MAY_FINISH: Final = 10.0
DELIVERIES_MAY_FINISH: Final = 30.0
_HOUR: Final = 3600 * MICROSECONDS


def shards_of(place: Place | None) -> Shards:
    """The destinations that a process delivers to."""
    return Shards(count=place.count, index=place.index) if place else Shards()


def _mailbox(config: Config) -> Mailbox:
    """Where mail to report addresses goes."""
    where, hostname = config.inbound.deliver_to, str(config.core.hostname)
    if where is not None and not where.startswith("maildir:"):
        return NextHopBox(hop=NextHop.parse(where, hostname))
    path = Path(where.removeprefix("maildir:")) if where else config.core.data_dir / "inbound"
    return MaildirBox(maildir=Maildir(path, max_bytes=config.inbound.max_bytes), hostname=hostname)


class MailService:
    """Takes mail on `sockets`, one for each `[[listen]]`, and delivers it. `place` is that of a worker, None without."""

    def __init__(self, app: App, sockets: Sequence[socket.socket], place: Place | None = None) -> None:
        config = app.config
        # Bound once: a logger that is not yet makes itself anew for each line.
        self._app, self._log = app, app.log.bind()
        self.queue: Queue = app.queue
        self._shards = shards_of(place)
        self._data_dir = config.core.data_dir
        self.runner = Runner(
            queue=self.queue,
            pipeline=app.pipeline,
            bouncer=Bouncer(hostname=config.core.hostname, signer=app.signer, clock=app.clock, log=app.log),
            clock=app.clock,
            log=self._log,
            lanes=config.delivery.connections // self._shards.count or 1,
            per_destination=config.delivery.connections_per_destination,
            announce=self.wake,
            delivered_after=app.metrics.waited.observe,
            rules=RetryRules(
                lifetime=int(config.delivery.expire_hours * _HOUR),
                null_lifetime=int(min(config.delivery.expire_hours, 24) * _HOUR),
                tell_delay=int(config.delivery.delay_notice_hours * _HOUR),
            ),
        )
        app.post.queued = partial(self._queued, "report")
        self._between = Between(place, self.runner.wake, self.runner.wake_all) if place is not None else None
        self._certificates: list[Certificate] = []
        services = Services(
            hostname=config.core.hostname,
            queue=self.queue,
            clock=app.clock,
            signer=app.signer,
            log=self._log,
            room=Room(self._data_dir).has,
            queued=partial(self._queued, "client"),
        )
        self._intake = self._make_intake(services)
        doors = [self._door(number, entry, services, sockets[number]) for number, entry in enumerate(config.listen)]
        self.listeners = Listeners(doors, self._log)
        app.metrics.watch_mail(self.runner.counts, lambda: self.listeners.clients)

    def _door(self, number: int, entry: ListenConfig, services: Services, sock: socket.socket) -> Door:
        where = f"listen[{number}]"
        context = None
        if entry.cert_file is not None and entry.key_file is not None:
            certificate = Certificate(entry.cert_file, entry.key_file, where=f"{where}.cert_file")
            self._certificates.append(certificate)
            context = certificate.context
        users = Users(entry.users_file, self._log) if entry.users_file is not None else None
        unix = entry.bind.startswith("unix:")
        relay = Relay(
            services=services,
            networks=entry.networks,
            users=users,
            trusted=unix,
            submission=entry.kind == "submission",
        )
        takes_reports = self._intake.addresses and entry.kind != "submission"
        return Door(
            entry=entry,
            socket=sock,
            handler=Inbound(intake=self._intake, relay=relay) if takes_reports else relay,
            settings=ServerSettings(
                hostname=str(self._app.config.core.hostname),
                context=context,
                implicit_tls=entry.tls == "implicit",
                require_tls=entry.tls == "required",
                lmtp=entry.kind == "lmtp",
                max_size=entry.max_message_bytes,
                max_recipients=entry.max_recipients,
                auth=users is not None,
                dsn=True,
            ),
        )

    def _make_intake(self, services: Services) -> Intake:
        """What takes in mail to report addresses. Raises what a plugin that cannot name its addresses raised."""
        config = self._app.config
        addresses: list[Address] = []
        for outcome in self._app.hooks.collect(hookspecs.report_addresses):
            if outcome.error is not None:
                raise outcome.error
            addresses += outcome.value or ()
        return Intake(
            services=services,
            addresses=ReportAddresses(addresses),
            hooks=self._app.hooks,
            journal=self._app.store.journal,
            mailbox=_mailbox(config),
            pace=Pace(config.inbound.per_minute),
        )

    # --- running ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take and deliver mail until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.listeners.run)
            nursery.start_soon(keep_running, "queue", self._deliver, self._log)
            if self._between is not None:
                nursery.start_soon(self._between.run)
            if self._shards.index == 0:
                await nursery.start(listen, self._data_dir / NAME, self._wake_all)
            task_status.started()

    async def _deliver(self) -> BaseException | None:
        await self.runner.run()
        return None

    async def stop(self) -> None:
        """Let everybody finish, within bounds; then `run` may be cancelled."""
        await self.listeners.close(CLIENTS_MAY_FINISH)
        await self.runner.stop(DELIVERIES_MAY_FINISH)

    def reload(self) -> None:
        """Read certificates again; one that cannot be used is named in the log, and the old one stays."""
        for certificate in self._certificates:
            try:
                certificate.reload()
            except ConfigError as exc:
                self._log.error("certificate-not-reloaded", error=str(exc))
        self._log.info("reloaded", certificates=len(self._certificates))

    # --- between listeners and runners ---

    def _queued(self, source: str, domains: Collection[Domain], jobs: Sequence[Job] = ()) -> None:
        """A message is in the queue that somebody brought, or a report."""
        self._app.metrics.queued.inc(source)
        self.wake(domains, jobs)

    def wake(self, domains: Collection[Domain], jobs: Sequence[Job] = ()) -> None:
        """Mail for these destinations is in the queue, with `jobs` at hand: tell the runners that they belong to."""
        own = [domain for domain in domains if self._shards.has(domain)]
        if own:
            self.runner.wake(own, jobs)
        if self._between is not None and len(own) < len(domains):
            self._between.tell(domains, jobs)

    def _wake_all(self) -> None:
        """An operator has changed the queue or the outbox: every worker is to look at all of its part."""
        self.runner.wake_all()
        self._app.sender.kick()
        if self._between is not None:
            self._between.tell_all()
