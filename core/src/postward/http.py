"""A small HTTPS client on our own seams: one request, one answer, nothing followed, nothing cached.

Streams come from `net`, names from `dns`, and certificates are judged by the same table as those of mail servers, so a
policy host and an MX host fail in the same words (RFC 8461 §3.3, §7.1; RFC 8460 §5.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final, Protocol

import h11
import trio

from postward.addresses import is_public
from postward.errors import PostwardError
from postward.model import Endpoint, Failure
from postward.names import Domain

if TYPE_CHECKING:
    from postward.clock import Clock
    from postward.dns import Resolver
    from postward.net import Network
    from postward.tls import TrustStore

_MAX_HEAD: Final = 32 * 1024
_MAX_INTERIM: Final = 8
_MAX_ADDRESSES: Final = 8
_CHUNK: Final = 16 * 1024
_NO_SUCCESS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """Status, headers with lower-case names (first of each), and the body: whole, or of a status from 300 what fits."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class HttpError(PostwardError):
    """No answer, or none that may be used.

    `kind` is one of `dns`, `no-address` (the name does not exist or has no address), `connect`, `tls`, `timeout`, `too-large`,
    `protocol`, `refused-address`; for `tls`, `failure` says what was wrong with the certificate or handshake.
    """

    def __init__(self, kind: str, detail: str, failure: Failure | None = None) -> None:
        super().__init__(detail)
        self.kind, self.failure = kind, failure


class HttpClient(Protocol):
    """The HTTPS seam."""

    async def request(
        self,
        method: str,
        host: Domain,
        target: str,
        *,
        port: int = 443,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        max_body: int = 65536,
        timeout: float = 60,
        private_addresses: bool = True,
        verify: bool = True,
        head_only: bool = False,
    ) -> HttpResponse:
        """Make one request to `https://host:port` `target` (path and query).

        The certificate must verify for `host` by DNS-ID unless `verify` is False; SNI is `host`. `max_body` is bytes,
        more is an error; `timeout` is seconds for everything. With `private_addresses` False, only addresses reachable in
        the public internet are dialled. With `head_only` the status decides, and no body is read: whatever is wrong with it
        must not undo an acceptance. Raises `HttpError`.
        """


class H11Client:
    """The HTTPS client of a running Postward, on the seams for streams, names and trust.

    It dials at most eight addresses of a host, IPv6 and IPv4 by turns, and goes on to the next one as long as no request was
    sent. A response may have 32 KiB of headers and eight interim responses; redirects are responses like any other.
    `clock` decides which certificates have expired; None takes the machine's.
    """

    def __init__(self, net: Network, dns: Resolver, trust: TrustStore, clock: Clock | None = None) -> None:
        self._net, self._dns, self._trust, self._clock = net, dns, trust, clock

    async def request(
        self,
        method: str,
        host: Domain,
        target: str,
        *,
        port: int = 443,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        max_body: int = 65536,
        timeout: float = 60,
        private_addresses: bool = True,
        verify: bool = True,
        head_only: bool = False,
    ) -> HttpResponse:
        """Make one request; see `HttpClient.request`. Raises `HttpError`."""
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        wire = _compose(connection, method, host, target, port, headers or {}, body)
        with trio.move_on_after(timeout):
            addresses = await self._addresses(host, private_addresses)
            stream = await self._open(addresses, host, port, verify=verify, whole=method == "GET")
            try:
                return await _exchange(stream, connection, wire, _Limits(max_body, method, head_only))
            finally:
                await trio.aclose_forcefully(stream)
        raise HttpError("timeout", f"{host} did not answer within {timeout:g} s")

    async def _addresses(self, host: Domain, private_addresses: bool) -> list[str]:
        if host.is_literal:
            found = [str(host.ip)]
        else:
            v4, v6 = await self._dns.addresses(host)
            turns = zip_longest((record.address for record in v6.records), (record.address for record in v4.records))
            found = [address for address in chain.from_iterable(turns) if address]
            if not found:
                if failure := v4.failure or v6.failure:
                    raise HttpError("dns", f"the addresses of {host} could not be looked up: {failure.detail or failure.rcode}")
                raise HttpError("no-address", f"{host} {'does not exist' if v4.nxdomain else 'has no address'}")
        if not private_addresses:
            refused = found[0]
            found = [address for address in found if is_public(address)]
            if not found:
                raise HttpError("refused-address", f"{host} is {refused}, which is not in the public internet")
        return found[:_MAX_ADDRESSES]

    async def _open(self, addresses: list[str], host: Domain, port: int, *, verify: bool, whole: bool) -> trio.abc.Stream:
        errors: list[HttpError] = []
        for position, address in enumerate(addresses):
            endpoint = Endpoint(host=host, address=address, port=port, purpose="https")
            share = (trio.current_effective_deadline() - trio.current_time()) / (len(addresses) - position)
            with trio.move_on_after(share):
                try:
                    return await self._connect(endpoint, verify=verify, whole=whole)
                except HttpError as exc:
                    errors.append(exc)
                    continue
            errors.append(HttpError("timeout", f"{host} ({address}) did not answer within {share:.0f} s"))
        # What TLS says is about the host; that one of several addresses is dead is not.
        raise min(errors, key=lambda error: ("tls", "connect", "timeout").index(error.kind))

    async def _connect(self, endpoint: Endpoint, *, verify: bool, whole: bool) -> trio.abc.Stream:
        # Imported late: whoever only names these types must not pay for OpenSSL.
        from postward import tls

        where = f"{endpoint.host} ({endpoint.address})"
        try:
            transport = await self._net.open_stream(endpoint)
        except (OSError, trio.BrokenResourceError, PostwardError) as exc:
            raise HttpError("connect", f"{where} cannot be reached: {getattr(exc, 'strerror', None) or exc}") from exc
        try:
            # RFC 9112 §9.8: a body that only the connection ends is whole behind close_notify alone; anybody can cut TCP. Of
            # what is not fetched but sent, the status says enough.
            # RFC 8461 §7.1: SNI is the host that was asked for.
            shake = tls.client_handshake(transport, endpoint, endpoint.host, alpn=("http/1.1",), abrupt_end=not whole)
            stream, peer = await shake
            if verify:
                at = self._clock.now() if self._clock else None
                verdict = self._trust.verify(peer.chain, endpoint.host, at=at)
                if not verdict.passed:
                    failure = verdict.failure
                    reason = (failure.detail or failure.reason or failure.result_type) if failure else "not trusted"
                    raise HttpError("tls", f"{where}: {reason}", failure)
        except tls.TlsError as exc:
            await trio.aclose_forcefully(transport)
            raise HttpError("tls", f"{where}: {exc}", exc.failure) from exc
        except BaseException:
            await trio.aclose_forcefully(transport)
            raise
        return stream


@dataclass(frozen=True, slots=True)
class _Limits:
    max_body: int
    method: str
    head_only: bool

    @property
    def wire(self) -> int:
        """Bytes received in all: chunks of one byte cost six, and their extensions must not be a way around `max_body`."""
        return 2 * _MAX_HEAD + 8 * self.max_body


def _compose(
    connection: h11.Connection,
    method: str,
    host: Domain,
    target: str,
    port: int,
    headers: Mapping[str, str],
    body: bytes,
) -> bytes:
    """The bytes of the request. Raises `HttpError` when they would not be a request: parts of it may come from a URL."""
    if not 0 < port < 65_536 or not target.startswith("/"):
        raise HttpError("protocol", f"not a port and path to ask for: {port} {target[:80]!r}")
    authority = str(host)
    if host.is_literal:
        authority = f"[{host.ip}]" if host.ip.version == 6 else str(host.ip)
    fields = {"user-agent": "postward", **{name.lower(): value for name, value in headers.items()}}
    fields |= {
        "host": authority if port == 443 else f"{authority}:{port}",
        "accept-encoding": "identity",
        "connection": "close",
    }
    fields.pop("transfer-encoding", None)
    fields.pop("content-length", None)
    if body or method in ("POST", "PUT"):
        fields["content-length"] = str(len(body))
    try:
        events = (
            h11.Request(method=method, target=target, headers=list(fields.items())),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        return b"".join(connection.send(event) or b"" for event in events)
    except (h11.LocalProtocolError, UnicodeEncodeError) as exc:
        raise HttpError("protocol", f"not a request that can be sent: {exc}") from exc


async def _exchange(stream: trio.abc.Stream, connection: h11.Connection, wire: bytes, limits: _Limits) -> HttpResponse:
    """Send and receive side by side: a server may answer, and stop reading, before it has the whole request."""
    result: HttpResponse | HttpError | None = None

    async def send() -> None:
        try:
            await stream.send_all(wire)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the receiving side tells why

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            result = await _receive(stream, connection, limits)
        except HttpError as exc:
            result = exc
        nursery.cancel_scope.cancel()
    if isinstance(result, HttpResponse):
        return result
    raise result or HttpError("protocol", "no response")


async def _receive(stream: trio.abc.Stream, connection: h11.Connection, limits: _Limits) -> HttpResponse:
    received = interim = 0
    head: h11.Response | None = None
    body = bytearray()
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as exc:
            if exc.error_status_hint == 431:
                raise HttpError("too-large", f"more than {_MAX_HEAD} bytes of headers") from exc
            raise HttpError("protocol", f"not an HTTP response: {exc}") from exc
        if event is h11.NEED_DATA:
            data = await _read(stream)
            received += len(data)
            if received > limits.wire:
                raise HttpError("too-large", f"more than {limits.wire} bytes for a body of at most {limits.max_body}")
            connection.receive_data(data)
        elif isinstance(event, h11.InformationalResponse):
            interim += 1
            if interim > _MAX_INTERIM:
                raise HttpError("protocol", f"more than {_MAX_INTERIM} interim responses")
        elif isinstance(event, h11.Response):
            if limits.head_only:
                return HttpResponse(status=event.status_code, headers=_first(event), body=b"")
            _check_head(event, limits)
            head = event
        elif isinstance(event, h11.Data):
            if len(body) + len(event.data) > limits.max_body:
                if head is not None and head.status_code >= _NO_SUCCESS:
                    return HttpResponse(status=head.status_code, headers=_first(head), body=bytes(body))
                raise HttpError("too-large", f"the body is larger than {limits.max_body} bytes")
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return HttpResponse(status=head.status_code, headers=_first(head), body=bytes(body))
        else:
            raise HttpError("protocol", "the server closed the connection without a response")


async def _read(stream: trio.abc.Stream) -> bytes:
    try:
        return bytes(await stream.receive_some(_CHUNK))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        from postward import tls

        if isinstance(stream, tls.TlsStream) and (failure := await tls.late_alert(stream, exc)):
            raise HttpError("tls", failure.detail or failure.reason or failure.result_type, failure) from exc
        raise HttpError("protocol", "the connection broke") from exc


def _check_head(response: h11.Response, limits: _Limits) -> None:
    if sum(len(name) + len(value) + 4 for name, value in response.headers) > _MAX_HEAD:
        raise HttpError("too-large", f"more than {_MAX_HEAD} bytes of headers")
    if response.status_code >= _NO_SUCCESS:
        return  # the status says it all, whatever page comes with it
    fields = _first(response)
    if (encoding := fields.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise HttpError("protocol", f"the body is encoded, although that was not accepted: {encoding[:80]!r}")
    length = fields.get("content-length", "")
    if limits.method != "HEAD" and length.isdigit() and int(length) > limits.max_body:
        raise HttpError("too-large", f"the body has {length} bytes, more than {limits.max_body}")


def _first(response: h11.Response) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in response.headers:
        fields.setdefault(name.decode("ascii"), value.decode("latin-1"))
    return fields
