"""Handshakes in memory: the chain whatever it is worth, failures classified, and the peer told why (RFC 8446 §6)."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import memory_stream_pair

from postward.lab.ca import Authority, self_signed
from postward.model import Endpoint, ResultType, TlsPeer
from postward.names import Domain
from postward.tls import TlsError, classify, client_handshake, late_alert, server_handshake
from postward.tls.handshake import client_context

HOST = Domain("mx.example.org")
ENDPOINT = Endpoint(host=HOST, address="192.0.2.1", port=25)
AUTHORITY = Authority(intermediate=True)
ISSUED = AUTHORITY.issue([HOST])

Serve = Callable[[trio.abc.Stream], Awaitable[object]]


async def shake(serve: Serve, name: Domain = HOST) -> TlsPeer:
    """Shake hands with `serve` in memory, say a word, and return what is known of the peer."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs)
        try:
            stream, peer = await client_handshake(ours, ENDPOINT, name)
            await stream.send_all(b"EHLO")
        finally:
            await trio.aclose_forcefully(ours)
    return peer


def server(context: ssl.SSLContext | None = None, failures: list[str] | None = None) -> Serve:
    """A server that shakes hands and reads; the reason of a failed handshake goes into `failures`."""

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            secured = await server_handshake(stream, context or ISSUED.server_context())
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await secured.receive_some()
        except TlsError as exc:
            if failures is not None:
                failures.append(exc.failure.reason)
        finally:
            await trio.aclose_forcefully(stream)

    return serve


async def trouble(serve: Serve, name: Domain = HOST) -> str:
    with pytest.raises(TlsError) as caught:
        try:
            await shake(serve, name)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group.exceptions[0].__cause__
    assert caught.value.failure.result_type is ResultType.VALIDATION_FAILURE
    return caught.value.failure.reason


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_chain_is_what_the_server_sent(version: ssl.TLSVersion) -> None:
    """Design: handshake without verification. The whole chain is there, though nobody trusts it."""
    context = ISSUED.server_context()
    context.maximum_version = context.minimum_version = version
    peer = await shake(server(context))
    assert peer.chain == ISSUED.chain
    assert len(peer.chain) == 2
    assert peer.protocol == version.name.replace("_", ".")
    assert peer.cipher
    assert (peer.endpoint, peer.server_name) == (ENDPOINT, HOST)


async def test_no_certificate_is_refused_in_the_handshake() -> None:
    """Expired, for another name and from nobody: the handshake goes through, so that every policy can be judged."""
    issued = self_signed(["other.example"], not_before=0, not_after=1_000_000_000)
    assert (await shake(server(issued.server_context()))).chain == issued.chain


async def test_sni_is_the_name_asked_for() -> None:
    """RFC 7672 §8.1, RFC 8461 §7.1; RFC 6066 §3 has no literals in SNI."""
    asked: list[str | None] = []
    context = ISSUED.server_context()
    context.sni_callback = lambda connection, name, _: asked.append(name)
    await shake(server(context), Domain("xn--bcher-kva.example"))
    await shake(server(context), Domain("[192.0.2.1]"))
    await shake(server(context), Domain("[IPv6:2001:db8::1]"))
    assert asked == ["xn--bcher-kva.example", None, None]


async def test_alpn_is_offered_where_asked_for() -> None:
    context = ISSUED.server_context()
    context.set_alpn_protocols(["http/1.1"])
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server(context), theirs)
        stream, _ = await client_handshake(ours, ENDPOINT, HOST, alpn=("http/1.1",))
        assert stream.connection.selected_alpn_protocol() == "http/1.1"
        await trio.aclose_forcefully(ours)


def test_the_client_context() -> None:
    """RFC 8996, RFC 8461 §7.2, RFC 7671 §3: TLS 1.2 or better. Nothing is verified, with the same flags on every Python."""
    context = client_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert context is client_context()


@pytest.mark.parametrize("suite", ["AES128-SHA", "ECDHE-RSA-AES256-SHA"])
async def test_old_suites_are_better_than_no_tls(suite: str) -> None:
    """The one that every server with TLS 1.2 has (RFC 5246 §9), and what mail servers of its first years offer."""
    context = AUTHORITY.issue([HOST], key="rsa").server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    assert (await shake(server(context))).cipher == suite


def test_no_raw_public_keys_are_offered() -> None:
    """RFC 7671 §5.1: SHOULD NOT, unless a record is known that matches one; the extensions of RFC 7250 §3 are not sent."""
    sent = ssl.MemoryBIO()
    connection = client_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    found = extensions(sent.read())
    assert 0 in found, "SNI"
    assert not found & {19, 20}, "client_certificate_type, server_certificate_type"


def extensions(record: bytes) -> set[int]:
    """The numbers of the extensions of a ClientHello (RFC 8446 §4.1.2, behind a record header and a handshake header)."""
    place = 5 + 4 + 2 + 32
    place += 1 + record[place]
    place += 2 + int.from_bytes(record[place : place + 2], "big")
    place += 1 + record[place]
    end = place + 2 + int.from_bytes(record[place : place + 2], "big")
    place, found = place + 2, set()
    while place < end:
        found.add(int.from_bytes(record[place : place + 2], "big"))
        place += 4 + int.from_bytes(record[place + 2 : place + 4], "big")
    return found


def test_nothing_without_authentication_or_encryption_is_offered() -> None:
    for cipher in client_context().get_ciphers():
        assert cipher["strength_bits"] >= 128
        assert "Au=None" not in cipher["description"]


async def test_no_shared_cipher() -> None:
    """Both sides know: the server's alert reaches the client instead of a bare end of the connection."""
    context = ISSUED.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # the certificate has an EC key
    failures: list[str] = []
    assert await trouble(server(context, failures)) == "tls-remote-alert-40-handshake-failure"
    assert failures == ["tls-local-no-shared-cipher"]


async def test_a_server_of_the_past() -> None:
    """RFC 8996, RFC 8461 §7.2: TLS 1.1 is not spoken."""
    context = ISSUED.server_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    failures: list[str] = []
    assert await trouble(server(context, failures)) == "tls-remote-alert-70-protocol-version"
    assert failures == ["tls-local-unsupported-protocol"]


async def test_a_refused_name() -> None:
    context = ISSUED.server_context()
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    assert await trouble(server(context)) == "tls-remote-alert-112-unrecognized-name"


async def test_plain_text_instead_of_tls() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"220 mx.example.org ESMTP ready when you are\r\n")

    assert await trouble(serve) == "tls-record-header-error"


async def test_a_peer_that_hangs_up() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.aclose()

    assert await trouble(serve) == "connection-closed-during-handshake"


async def test_a_peer_that_was_gone_before() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    assert await trouble(serve) == "connection-closed-during-handshake"


async def test_a_silent_peer(autojump_clock: trio.testing.MockClock) -> None:
    """The caller bounds the time, and the table has a word for it."""
    ours, _theirs = memory_stream_pair()
    with pytest.raises(trio.TooSlowError) as caught:
        with trio.fail_after(60):
            await client_handshake(ours, ENDPOINT, HOST)
    failure = classify(caught.value)
    assert failure is not None
    assert failure.reason == "io-timeout-during-handshake"


async def test_a_peer_that_does_not_take_the_alert(autojump_clock: trio.testing.MockClock) -> None:
    """Telling the peer is a courtesy: it has a bound, and its failure changes nothing."""
    ours, theirs = memory_stream_pair()
    calls = 0
    send = ours.send_stream.send_all

    async def stuck(data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            await trio.sleep_forever()
        await send(data)

    ours.send_stream.send_all = stuck  # type: ignore[method-assign]
    await theirs.send_all(b"\x16\x03\x03\x00\x04\x02\x00\x00\x00")  # a ServerHello of nothing
    with pytest.raises(TlsError) as caught:
        await client_handshake(ours, ENDPOINT, HOST)
    assert calls == 2
    assert caught.value.failure.reason.startswith("tls-local-")


async def test_a_client_that_rejects_our_certificate_is_heard() -> None:
    """OUR server learns why: the client's alert is part of the handshake, in TLS 1.2 and 1.3 alike."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ISSUED.server_context()
        context.maximum_version = version
        ours, theirs = memory_stream_pair()
        verifying = ssl.create_default_context()
        failures: list[str] = []

        async def serve(stream: trio.abc.Stream, context: ssl.SSLContext = context, said: list[str] = failures) -> None:
            await server(context, said)(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            foreign = verifying.wrap_bio(incoming, outgoing, server_hostname=HOST)
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                while True:
                    try:
                        foreign.do_handshake()
                    except ssl.SSLWantReadError:
                        await ours.send_all(outgoing.read())
                        incoming.write(await ours.receive_some())
            await ours.send_all(outgoing.read())
        assert failures == ["tls-remote-alert-48-unknown-ca"]
        failure = classify(caught.value)
        assert failure is not None
        assert failure.result_type is ResultType.CERTIFICATE_NOT_TRUSTED


def wants_client_certificate() -> ssl.SSLContext:
    context = ISSUED.server_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_an_alert_behind_the_handshake() -> None:
    """RFC 8446 §4.4.2.4: a server without a client certificate says so after the client's end of the handshake."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server(wants_client_certificate()), theirs)
        stream, _ = await client_handshake(ours, ENDPOINT, HOST)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
    failure = await late_alert(stream, caught.value)
    assert failure is not None
    assert failure.reason == "tls-remote-alert-116-certificate-required"


async def test_an_alert_that_still_stands_in_the_transport() -> None:
    """The server reset the connection, so writing failed first; its alert has not been read yet."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server(wants_client_certificate()), theirs)
        stream, _ = await client_handshake(ours, ENDPOINT, HOST)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.send_all(b"EHLO client.example\r\n")
    failure = await late_alert(stream, caught.value)
    assert failure is not None
    assert failure.reason == "tls-remote-alert-116-certificate-required"


async def test_the_end_of_a_connection_is_no_alert() -> None:
    """A server that merely goes away after the handshake is no trouble of TLS."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_shake_and_leave, theirs)
        stream, _ = await client_handshake(ours, ENDPOINT, HOST)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.send_all(b"EHLO client.example\r\n")
    assert await late_alert(stream, caught.value) is None


async def test_looking_for_an_alert_ends(autojump_clock: trio.testing.MockClock) -> None:
    """A server that says nothing does not hold us."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server(), theirs)
        stream, _ = await client_handshake(ours, ENDPOINT, HOST)
        assert await late_alert(stream, ConnectionResetError()) is None
        nursery.cancel_scope.cancel()


async def test_looking_for_an_alert_has_a_bound_in_bytes() -> None:
    """A server that talks and talks does not hold us either."""
    sent = 0

    async def flood(stream: trio.abc.Stream) -> None:
        nonlocal sent
        secured = await server_handshake(stream, ISSUED.server_context())
        while True:
            await secured.send_all(b"x" * 10_000)
            sent += 10_000

    # Without a buffer the server cannot run ahead of what is read.
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, theirs)
        stream, _ = await client_handshake(ours, ENDPOINT, HOST)
        assert await late_alert(stream, ConnectionResetError()) is None
        nursery.cancel_scope.cancel()
    assert 0 < sent < 200_000


async def _shake_and_leave(stream: trio.abc.Stream) -> None:
    await server_handshake(stream, ISSUED.server_context())
    await stream.aclose()


async def test_reading_quit_without_close_notify_is_a_plain_end() -> None:
    """Many mail servers close TCP behind 221 without close_notify."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_shake_and_leave, theirs)
        stream, _ = await client_handshake(ours, ENDPOINT, HOST)
    assert await stream.receive_some() == b""
