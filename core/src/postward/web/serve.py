"""Serving pages by hypercorn on sockets of our own, in clear for this machine or a proxy, and over TLS for strangers.

Each certificate answers for the names in it, so that one socket serves the policy hosts of many domains (RFC 6066 §3).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from cryptography import x509
from hypercorn.config import Config as Settings
from hypercorn.trio import serve

from postward.errors import ConfigError
from postward.listen.listener import Certificate
from postward.service.sockets import bind
from postward.web.guard import Guard

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from starlette.types import ASGIApp
    from structlog.typing import FilteringBoundLogger

    from postward.config import WebConfig
    from postward.web.routes import Pages

_HEAD: Final = 32 * 1024
_IDLE: Final = 15
_FINISH_WITHIN: Final = 3


class Certificates:
    """Which certificate is shown to whom. Raises `ConfigError` for files that are none."""

    def __init__(self, certificates: Sequence[Certificate], files: Sequence[bytes]) -> None:
        self._all = certificates
        self._by_name: dict[str, ssl.SSLContext] = {}
        for certificate, pem in zip(certificates, files, strict=True):
            for name in _names(pem):
                self._by_name.setdefault(name, certificate.context)
        self.context = certificates[0].context
        self.context.sni_callback = self._choose
        for certificate in certificates:
            certificate.context.set_alpn_protocols(["http/1.1"])

    def _choose(self, connection: Any, name: str | None, _context: ssl.SSLContext) -> None:
        if name is None:
            return
        lower = name.lower()
        found = self._by_name.get(lower) or self._by_name.get(f"*.{lower.partition('.')[2]}")
        if found is not None:
            connection.context = found

    def reload(self, log: FilteringBoundLogger) -> None:
        """Read the files again; one that cannot be used is named in the log, and the old one stays."""
        for certificate in self._all:
            try:
                certificate.reload()
            except ConfigError as exc:
                log.error("certificate-not-reloaded", error=str(exc))


def load_certificates(config: WebConfig) -> Certificates | None:
    """The certificates that are configured; None without. Raises `ConfigError`."""
    if not config.certificates:
        return None
    loaded, files = [], []
    for number, entry in enumerate(config.certificates):
        loaded.append(Certificate(entry.cert_file, entry.key_file, where=f"web.certificates[{number}].cert_file"))
        files.append(entry.cert_file.read_bytes())
    return Certificates(loaded, files)


def _names(pem: bytes) -> Sequence[str]:
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, IndexError, x509.ExtensionNotFound):
        return ()
    return [name.lower() for name in found.get_values_for_type(x509.DNSName)]


class WebService:
    """The pages of a service on its sockets, from `open` on; `run` serves them until cancelled."""

    def __init__(self, config: WebConfig, pages: Pages, log: FilteringBoundLogger) -> None:
        self._config, self._pages, self._log = config, pages, log
        self._certificates = load_certificates(config)
        self._open: list[tuple[socket.socket, ASGIApp, Certificates | None]] = []

    def open(self) -> None:
        """Bind. Raises `ConfigError` for a place that was asked for and cannot be had."""
        local = self._bind(self._config.bind, "web.bind", needed="bind" in self._config.model_fields_set)
        if local is not None:
            self._open.append((local, self._pages.local, None))
        if self._config.public is not None and self._pages.for_strangers:
            public = self._bind(self._config.public, "web.public", needed=True)
            assert public is not None
            self._open.append((public, self._pages.public, self._certificates))

    def _bind(self, place: str, key: str, *, needed: bool) -> socket.socket | None:
        try:
            return bind(place)
        except OSError as exc:
            if needed:
                raise ConfigError(f"cannot listen on {place}: {exc.strerror or exc}", key=key) from exc
            self._log.warning("web-pages-not-served", place=place, reason=exc.strerror, hint="set web.bind to another place")
            return None

    @property
    def places(self) -> Mapping[str, str]:
        """Where pages are served, and for whom."""
        names = {id(self._pages.local): "local", id(self._pages.public): "public"}
        return {names[id(app)]: _place(sock) for sock, app, _ in self._open}

    def reload(self) -> None:
        """Read certificates again."""
        if self._certificates is not None:
            self._certificates.reload(self._log)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        ended = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                for sock, app, certificates in self._open:
                    settings = _settings(sock, certificates)
                    guarded: Any = Guard(app, self._log)
                    start: Callable[..., Any] = partial(serve, mode="asgi", shutdown_trigger=ended.wait)
                    await nursery.start(start, guarded, settings)
                task_status.started()
        finally:
            ended.set()
            for sock, _, _ in self._open:
                sock.close()


def _place(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else f"unix:{name}"


def _settings(sock: socket.socket, certificates: Certificates | None) -> Settings:
    settings = _Settings(certificates.context if certificates else None)
    # A descriptor of its own, because hypercorn closes it.
    settings.bind = [f"fd://{os.dup(sock.fileno())}"]
    settings.include_server_header = False
    settings.accesslog = settings.errorlog = None
    settings.h11_max_incomplete_size = _HEAD
    settings.keep_alive_timeout = _IDLE
    settings.graceful_timeout = _FINISH_WITHIN
    settings.alpn_protocols = ["http/1.1"]
    return settings


class _Settings(Settings):
    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._context = context

    @property
    def ssl_enabled(self) -> bool:
        """Whether this is for HTTPS."""
        return self._context is not None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """The context of the certificates."""
        return self._context
