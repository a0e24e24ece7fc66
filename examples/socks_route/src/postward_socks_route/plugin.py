"""The plugin: streams through a proxy, and smarthosts."""

from __future__ import annotations

import re
from typing import Annotated, Final

import trio
from pydantic import AfterValidator, BaseModel, model_validator

from postward import Core, Destination, Domain, Endpoint, MxHost, hookimpl
from postward_socks_route import socks

# Of our own connection to the proxy, so that it is not sent through itself.
_PURPOSE: Final = "socks"
_HOST_PORT: Final = re.compile(r"(\S+):(\d{1,5})")


def _host_port(text: str) -> str:
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65_536:
        raise ValueError("should be 'host:port'")
    return text


HostPort = Annotated[str, AfterValidator(_host_port)]


class SocksRoute:
    """Opens the streams of SMTP through a proxy, and knows smarthosts."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`[plugin.socks_route]`. `proxy` is an IP address with a port; without it, connections are direct."""

        proxy: HostPort | None = None
        username: str = ""
        password: str = ""
        smarthosts: dict[Domain, HostPort] = {}

        @model_validator(mode="after")
        def _fits(self) -> SocksRoute.Config:
            if max(len(self.username.encode()), len(self.password.encode())) > 255:
                raise ValueError("username and password have at most 255 octets")
            return self

    def __init__(self, config: Config, core: Core) -> None:
        self._config, self._core = config, core

    @hookimpl
    async def resolve_route(self, domain: Domain) -> Destination | None:
        """The smarthost of a domain. It is the policy domain from then on (RFC 8461 §3.4)."""
        text = self._config.smarthosts.get(domain)
        if text is None:
            return None
        host, _, port = text.rpartition(":")
        name = Domain(host)
        return Destination(domain=name, hosts=(MxHost(name=name, port=int(port)),), from_mx=False)

    @hookimpl
    async def open_stream(self, endpoint: Endpoint) -> trio.abc.Stream | None:
        """A stream to a mail host, through the proxy. Whatever fails is an `OSError`: the address counts as unreachable."""
        if self._config.proxy is None or endpoint.purpose != "smtp":
            return None
        host, _, port = self._config.proxy.rpartition(":")
        there = Endpoint(host=Domain("proxy.invalid"), address=host.strip("[]"), port=int(port), purpose=_PURPOSE)
        stream = await self._core.net.open_stream(there)
        try:
            await self._ask(stream, endpoint)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def _ask(self, stream: trio.abc.Stream, endpoint: Endpoint) -> None:
        login = bool(self._config.username)
        await stream.send_all(socks.greeting(login))
        if socks.method(await _read(stream, 2)) == socks.PASSWORD:
            await stream.send_all(socks.login(self._config.username, self._config.password))
            socks.logged_in(await _read(stream, 2))
        await stream.send_all(socks.connect(endpoint.address, endpoint.port))
        await _read(stream, socks.rest_length(await _read(stream, 5)))


async def _read(stream: trio.abc.Stream, size: int) -> bytes:
    """Exactly so much: the octet behind it is the mail host's."""
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise socks.SocksError("the proxy closed the connection")
        data += more
    return data
