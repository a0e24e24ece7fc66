"""Handshakes over TCP, where a reset can overtake an alert (RFC 8446 §6)."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
import trio

from interop import need
from postward.lab.ca import Authority
from postward.model import Endpoint
from postward.names import Domain
from postward.tls import TlsError, client_handshake, late_alert, server_handshake

pytestmark = pytest.mark.loopback

HOST = Domain("mx.example.org")
AUTHORITY = Authority()
ISSUED = AUTHORITY.issue([HOST])
ROUNDS = 30


async def listen(nursery: trio.Nursery, context: ssl.SSLContext, said: list[str]) -> int:
    """A TLS server on loopback that closes after one read; reasons of failed handshakes go into `said`."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            secured = await server_handshake(stream, context)
            with suppress(trio.BrokenResourceError):
                await secured.receive_some()
        except TlsError as exc:
            said.append(exc.failure.reason)
        await trio.aclose_forcefully(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    return int(listeners[0].socket.getsockname()[1])


async def test_a_late_alert_is_never_lost() -> None:
    """TLS 1.3 with a client certificate required: writing first mostly meets a reset, and still the alert is found."""
    context = ISSUED.server_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    found = []
    async with trio.open_nursery() as nursery:
        port = await listen(nursery, context, [])
        endpoint = Endpoint(host=HOST, address="127.0.0.1", port=port)
        for _ in range(ROUNDS):
            transport = await trio.open_tcp_stream("127.0.0.1", port)
            stream, _ = await client_handshake(transport, endpoint, HOST)
            try:
                await stream.send_all(b"EHLO client.example\r\n")
                await stream.receive_some()
                error: Exception = EOFError()
            except trio.BrokenResourceError as exc:
                error = exc
            failure = await late_alert(stream, error)
            found.append(failure.reason if failure else str(error.__cause__))
            await trio.aclose_forcefully(transport)
        nursery.cancel_scope.cancel()
    assert found == ["tls-remote-alert-116-certificate-required"] * ROUNDS


@pytest.mark.interop
async def test_openssl_hears_why_we_refuse_it() -> None:
    """Our server's alert reaches a foreign client."""
    program = need("openssl")
    context = ISSUED.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    said: list[str] = []
    async with trio.open_nursery() as nursery:
        port = await listen(nursery, context, said)
        command = [program, "s_client", "-connect", f"127.0.0.1:{port}"]
        done = await trio.run_process(command, stdin=b"", capture_stdout=True, capture_stderr=True, check=False)
        nursery.cancel_scope.cancel()
    assert b"handshake failure" in done.stderr
    assert said == ["tls-local-no-shared-cipher"]


@pytest.mark.interop
async def test_our_server_hears_why_openssl_refuses_it() -> None:
    """A foreign client's alert is in our record, not just an end of the connection."""
    program = need("openssl")
    said: list[str] = []
    async with trio.open_nursery() as nursery:
        port = await listen(nursery, ISSUED.server_context(), said)
        command = [program, "s_client", "-verify_return_error", "-connect", f"127.0.0.1:{port}"]
        await trio.run_process(command, stdin=b"", capture_stdout=True, capture_stderr=True, check=False)
        nursery.cancel_scope.cancel()
    assert said == ["tls-remote-alert-48-unknown-ca"]


async def test_a_blocking_server_hears_our_alert() -> None:
    """What our client dislikes reaches the server's log: here a ServerHello that is none."""
    heard: list[bytes] = []
    done = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"\x16\x03\x03\x00\x04\x02\x00\x00\x00")
        heard.append(bytes(await stream.receive_some()))
        done.set()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        transport = await trio.open_tcp_stream("127.0.0.1", port)
        with pytest.raises(TlsError):
            await client_handshake(transport, Endpoint(host=HOST, address="127.0.0.1", port=port), HOST)
        await trio.aclose_forcefully(transport)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert heard[0][:1] == b"\x15"  # a record of type alert
