"""One process of a running service: assembled, announced, and stopped by a signal so that nothing begun is lost.

SIGTERM and SIGINT end it cleanly; SIGHUP reads certificates again. A worker also ends when its parent is gone.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

import structlog
import trio

from postward.app import App
from postward.log_file import FLUSH_AFTER, LogFile, kept
from postward.service.figures import FiguresPage, share
from postward.service.lock import locked
from postward.service.mail import MailService, shards_of
from postward.service.notify import ignore_signals, keep_alive, notify
from postward.service.sockets import bind_all, inherited, remove_unix_sockets

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.config import Config
    from postward.service.workers import Place
    from postward.web.serve import WebService

_NO_MORE_FILES: Final = 65_536


def raise_file_limit() -> None:
    """Allow as many open files as this process may have: each connection is one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _NO_MORE_FILES if hard == resource.RLIM_INFINITY else min(hard, _NO_MORE_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A service that takes mail: the program, its mail side, its pages if it has any, and the sockets of its listeners."""

    app: App
    mail: MailService
    web: WebService | None
    sockets: Sequence[socket.socket]


@asynccontextmanager
async def running(config: Config, place: Place | None = None) -> AsyncIterator[Running]:
    """Run the service for a block, and let it finish what it has begun behind it. Raises `PostwardError` at the start."""
    raise_file_limit()
    first = place is None or place.index == 0
    if first:
        # Takes a fifth of a second and more, for which nobody should wait later.
        import_module("postward.web.serve")
    async with AsyncExitStack() as stack:
        if place is None:  # the parent of workers has it for them
            await stack.enter_async_context(locked(config, structlog.get_logger("postward")))
        sockets = _sockets(config, stack, own=place is None)
        async with App(config, service=first, emit=first, shards=shards_of(place)) as app:
            await app.queue.clean()
            mail = MailService(app, sockets, place)
            web = _web(app, place) if first else None
            async with trio.open_nursery() as nursery:
                # To the very end: stopping may take longer than a watchdog waits.
                nursery.start_soon(keep_alive)
                await nursery.start(mail.run)
                if web is not None:
                    await nursery.start(web.run)
                elif place is not None:
                    nursery.start_soon(share, app, place)
                yield Running(app=app, mail=mail, web=web, sockets=sockets)
                await mail.stop()
                nursery.cancel_scope.cancel()


async def run_service(config: Config, place: Place | None = None) -> None:
    """Run until told to stop. `place` is that of a worker. Raises `PostwardError` for what makes it impossible to start."""
    log: FilteringBoundLogger = structlog.get_logger("postward")
    _look_for_garbage_less_often()
    name = str(place.index) if place is not None else "0"
    with (
        kept(config.core.data_dir, name, max_bytes=config.log.keep_bytes) as file,
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals,
    ):
        async with running(config, place) as service, trio.open_nursery() as nursery:
            if place is not None:
                nursery.start_soon(_until_orphaned, place, log)
            if file is not None:
                nursery.start_soon(_flush_again_and_again, file)
            _announce(config, place, log)
            await _until_stopped(signals, service, log)
            nursery.cancel_scope.cancel()
        log.info("stopped")


async def _flush_again_and_again(file: LogFile) -> None:
    """Write out the last lines before a silence, too."""
    while True:
        await trio.sleep(FLUSH_AFTER)
        file.flush()


def _look_for_garbage_less_often() -> None:
    """What is imported stays, and what a message needs goes by reference counts, so looking for cycles finds little."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _web(app: App, place: Place | None) -> WebService:
    """The pages of core and of the plugins, and the one of metrics."""
    from postward.web.assembly import site_of
    from postward.web.metrics import MetricsPage
    from postward.web.routes import assemble
    from postward.web.serve import WebService

    figures = FiguresPage(app, place.count if place is not None else 1)
    metrics = MetricsPage(figures.render, app.config.web.metrics_token)
    site, routes = site_of(app)
    web = WebService(app.config.web, assemble(routes, metrics, site), app.log)
    web.open()
    app.log.info("web-pages", **web.places)
    return web


def _sockets(config: Config, stack: AsyncExitStack, *, own: bool) -> Sequence[socket.socket]:
    handed = inherited(config)
    sockets = bind_all(config) if handed is None else handed
    if own:
        stack.callback(remove_unix_sockets, config)
    for sock in sockets:
        stack.enter_context(sock)
    return sockets


def _announce(config: Config, place: Place | None, log: FilteringBoundLogger) -> None:
    log.info(
        "running",
        plugins=list(config.plugins),
        hostname=str(config.core.hostname),
        data=str(config.core.data_dir),
        listening=[f"{entry.kind} {entry.bind}" for entry in config.listen],
        worker=f"{place.index}/{place.count}" if place else None,
    )
    if place is None:
        notify("READY=1")
    else:
        place.say_ready()


async def _until_stopped(signals: AsyncIterator[int], service: Running, log: FilteringBoundLogger) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            service.mail.reload()
            if service.web is not None:
                service.web.reload()
            continue
        ignore_signals()
        notify("STOPPING=1")
        log.info("stopping", signal=signal.Signals(number).name)
        return


async def _until_orphaned(place: Place, log: FilteringBoundLogger) -> None:
    """End as by SIGTERM when the parent is gone: another one may be starting on the same sockets."""
    async with trio.lowlevel.FdStream(os.dup(place.lifeline)) as stream:
        await stream.receive_some(1)
    log.error("orphaned", hint="the process that started this worker is gone")
    os.kill(os.getpid(), signal.SIGTERM)
