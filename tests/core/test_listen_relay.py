"""The relay: who may send, what is promised, and what is put in front of a message, however it comes in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from postward.dkim import Signer, SigningKey, dns_record, verify
from postward.dns import ZoneResolver
from postward.errors import StoreError
from postward.listen.relay import MAX_HOPS, Relay, Services
from postward.model import DsnRequest, TlsWish
from postward.names import Address, Domain
from postward.smtp.envelope import Envelope
from postward.smtp.server import Session
from queue_kit import NOW, Rig, opened

HOST = Domain("relay.sender.example")
KEY = SigningKey(domain=Domain("sender.example"), selector="s1", key=Ed25519PrivateKey.generate())
SENDER, TO = Address.parse("me@sender.example"), Address.parse("you@a.example")


class Log:
    def __getattr__(self, level: str) -> Any:
        return lambda *args, **more: None


class Yes:
    """Users, of whom everybody knows the password."""

    async def check(self, user: str, password: str) -> bool:
        return password == "right"


def relay(rig: Rig | None, **options: Any) -> Relay:
    services = Services(
        hostname=HOST,
        queue=rig.queue if rig else None,  # type: ignore[arg-type]
        clock=rig.clock if rig else None,  # type: ignore[arg-type]
        signer=options.pop("signer", Signer([])),
        log=Log(),  # type: ignore[arg-type]
        room=options.pop("room", lambda size: True),
        queued=options.pop("queued", lambda *_: None),
    )
    return Relay(services=services, **options)


def session(peer: str = "127.0.0.1", **more: Any) -> Session:
    made = Session(peer=peer, lmtp=False)
    made.helo = "client.example"
    for name, value in more.items():
        setattr(made, name, value)
    return made


def envelope(*recipients: Address, **more: Any) -> Envelope:
    more.setdefault("sender", SENDER)
    return Envelope(recipients=recipients or (TO,), **more)


async def hand_in(relay: Relay, *pieces: bytes, about: Envelope | None = None) -> Any:
    sink = await relay.content(session(), about or envelope())
    for piece in pieces:
        await sink.write(piece)  # type: ignore[union-attr]
    return await sink.finish()  # type: ignore[union-attr]


async def queued(rig: Rig, domain: str = "a.example") -> Any:
    (job,) = await rig.queue.claim(Domain(domain), rig.clock.now(), 10)
    return job, b"".join([piece async for piece in job.message.content.pieces()])


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened(tmp_path) as made:
        yield made
        assert await made.wrong() == []


# --- who may send ---


def plain(ip: Any) -> Any:
    return getattr(ip, "ipv4_mapped", None) or ip


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), st.ip_addresses(v=4).map(lambda ip: _mapped(ip)))


def _mapped(ip: ipaddress.IPv4Address) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(f"::ffff:{ip}")


@given(peer=ADDRESSES, networks=st.lists(st.tuples(ADDRESSES, st.integers(0, 128)), max_size=4))
def test_only_the_networks_that_are_named_may_send(peer: Any, networks: list[Any]) -> None:
    """A mapped address is that of an IPv4 client, which no network of IPv6 lets in, be it the whole of it."""
    named = tuple(ipaddress.ip_network((ip, min(length, ip.max_prefixlen)), strict=False) for ip, length in networks)
    real = plain(peer)
    expected = any(
        net.version == real.version and int(net.network_address) <= int(real) <= int(net.broadcast_address) for net in named
    )
    assert relay(None, networks=named).may_send(session(str(peer))) is expected
    assert relay(None, networks=named).may_send(session(str(real))) is expected


@pytest.mark.parametrize("peer", ["", "nonsense", "127.0.0.1.5", "::ffff:127.0.0.1%x", "fe80::1%eth0"])
async def test_what_is_no_address_may_not_send(peer: str) -> None:
    networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))
    reply = await relay(None, networks=networks).mail(session(peer), SENDER, {})
    assert reply is not None
    assert reply.code == 550


async def test_a_login_or_a_unix_socket_opens_what_the_network_does_not() -> None:
    outside = relay(None, users=Yes())
    assert (await outside.mail(session("192.0.2.1"), SENDER, {})).code == 530  # type: ignore[union-attr]
    assert await outside.mail(session("192.0.2.1", user="me"), SENDER, {}) is None
    assert await relay(None, trusted=True).mail(session(""), None, {}) is None
    assert [await outside.authenticate(session("192.0.2.1"), "me", word) for word in ("right", "wrong")] == [True, False]
    assert not await relay(None).authenticate(session("192.0.2.1"), "me", "right")


@pytest.mark.parametrize(
    "address",
    [
        *("u@[127.0.0.1]", "u@[127.9.9.9]", "u@[0.0.0.0]", "u@[IPv6:::1]", "u@[IPv6:::ffff:127.0.0.1]", "u@[IPv6:fe80::1]"),
        *("u@[224.0.0.1]", "u@[169.254.169.254]"),
    ],
)
async def test_no_address_leads_back_into_this_machine(address: str) -> None:
    reply = await relay(None).rcpt(session(), Address.parse(address), {})
    assert reply is not None
    assert reply.permanent


@pytest.mark.parametrize(("parameters", "asked"), [({}, 0), ({"SIZE": "123"}, 123), ({"SIZE": ""}, 0)])
async def test_without_room_mail_is_put_off(parameters: Mapping[str, str], asked: int) -> None:
    sizes: list[int] = []
    reply = await relay(None, trusted=True, room=lambda size: bool(sizes.append(size))).mail(session(""), SENDER, parameters)
    assert (str(reply)[:9], sizes) == ("452 4.3.1", [asked])


# --- what is queued ---

HEADER = b"From: <me@sender.example>\r\nSubject: x\r\n"


@pytest.mark.parametrize(
    "content",
    [
        *(HEADER + b"\r\nbody\r\n", HEADER + b"\r\n", HEADER, HEADER[:-2], b"", b"\r\nbody only\r\n", b"\r\n"),
        *(HEADER + b"\r\n\r\n\r\n", HEADER + b"\r\nbody  \t\r\n \r\n\r\n", HEADER + b"\r\n" + b"x" * 70_000 + b"\r\n"),
    ],
    ids=len,
)
async def test_content_stays_as_it_is_behind_what_is_put_in_front(rig: Rig, content: bytes) -> None:
    reply = await hand_in(relay(rig, trusted=True), content)
    job, found = await queued(rig)
    assert str(reply) == f"250 2.0.0 queued as {job.message.cid}"
    assert found.endswith(content)
    head = found.removesuffix(content)
    assert head.startswith(b"Received: from client.example ([127.0.0.1])")
    assert re.findall(rb"(?m)^([A-Za-z-]+):", head) == [b"Received"]


async def verified(content: bytes) -> list[str]:
    name, record = dns_record(KEY)
    zone = f"{str(name).removesuffix('.sender.example')} IN TXT {record}\n"
    resolver = ZoneResolver({"sender.example": zone})
    return [str(each.result) for each in await verify(content, resolver, at=NOW, inline=True)]


BODIES = [b"\r\nbody line\r\n.\r\n \t\r\n\r\n", b"\r\n", b"", b"\r\n\r\n\r\n", b"\r\n" + b"0123456789abcde \r\n" * 5000]


@pytest.mark.parametrize("body", BODIES, ids=len)
async def test_a_signature_holds_wherever_the_stream_was_cut(tmp_path: Path, body: bytes) -> None:
    content = HEADER + body
    cuts = (
        [at for at in range(len(content) + 1) if not content[:at].endswith(b"\r")]
        if len(content) < 200
        else [39, 45, 48, 40_000]
    )
    for number, at in enumerate(cuts):
        async with opened(tmp_path / str(number)) as rig:
            signing = relay(rig, trusted=True, submission=number % 2 == 0, signer=Signer([KEY]))
            await hand_in(signing, content[:at], content[at:])
            _, found = await queued(rig)
            assert found.endswith(content)
            assert await verified(found) == ["pass"]
            if number % 2 == 0:
                # What was completed is signed: without it, the signature fails.
                assert await verified(re.sub(rb"(?m)^Date: .*\r\n", b"", found, count=1)) != ["pass"]


async def test_a_stream_octet_by_octet_is_signed_as_a_whole_one(rig: Rig) -> None:
    content = HEADER + b"\r\nbody \r\n\r\n"
    pieces = [bytes([octet]) for octet in content]
    # The server never cuts within a CRLF.
    joined = b"".join(pieces)
    await hand_in(relay(rig, trusted=True, signer=Signer([KEY])), *re.findall(rb"\r\n|.", joined, re.DOTALL))
    assert await verified((await queued(rig))[1]) == ["pass"]


@pytest.mark.parametrize(
    ("field", "require", "wish"),
    [
        *((b"", False, TlsWish.FOLLOW), (b"", True, TlsWish.REQUIRE), (b"TLS-Required: No\r\n", False, TlsWish.IGNORE)),
        (b"TLS-Required: No\r\n", True, TlsWish.REQUIRE),
    ],
)
async def test_what_a_message_asks_of_tls_is_kept(rig: Rig, field: bytes, require: bool, wish: TlsWish) -> None:
    await hand_in(relay(rig, trusted=True), field + HEADER + b"\r\n", about=envelope(require_tls=require))
    job, found = await queued(rig)
    assert job.message.wish is wish
    assert (b"(requiretls)" in found) is require


async def test_a_message_that_goes_in_circles_is_refused(rig: Rig) -> None:
    hop = b"Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    assert (await hand_in(relay(rig, trusted=True), hop * MAX_HOPS + HEADER + b"\r\n")).code == 554
    assert (await rig.queue.counts()).messages == 0
    # Those in the body are of another message.
    assert (await hand_in(relay(rig, trusted=True), HEADER + b"\r\n" + hop * MAX_HOPS)).code == 250


async def test_a_recipient_named_twice_gets_one_message(rig: Rig) -> None:
    other = Address.parse("other@a.example")
    wishes = (DsnRequest(notify=("NEVER",)), DsnRequest(notify=("SUCCESS",), orcpt="rfc822;o@a.example"), DsnRequest())
    told: list[Any] = []
    about = envelope(TO, other, TO, dsn=wishes, ret="FULL", envid="e1")
    await hand_in(
        relay(rig, trusted=True, queued=lambda domains, jobs: told.append((domains, [job.message.cid for job in jobs]))),
        HEADER + b"\r\n",
        about=about,
    )
    job, _ = await queued(rig)
    assert [(each.address, each.notify, each.orcpt) for each in job.recipients] == [
        (TO, ("NEVER",), ""),
        (other, ("SUCCESS",), "rfc822;o@a.example"),
    ]
    assert (job.message.ret, job.message.envid, told) == ("FULL", "e1", [({Domain("a.example")}, [job.message.cid])])


# --- trouble ---


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize(("error", "code"), [(StoreError("disk full"), 451), (ValueError("never"), 554)])
async def test_what_cannot_be_stored_is_not_promised(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, size: int
) -> None:
    async def fail(entry: Any) -> None:
        raise error

    monkeypatch.setattr(rig.queue, "_insert", fail)
    told: list[Any] = []
    assert (
        await hand_in(
            relay(rig, trusted=True, queued=lambda domains, jobs: told.append(domains)), HEADER, b"\r\n" + b"x" * size
        )
    ).code == code
    assert told == []
    assert not rig.spool.exists() or list(rig.spool.iterdir()) == []


@pytest.mark.parametrize("size", [10, 200_000])
async def test_what_is_given_up_leaves_nothing(rig: Rig, size: int) -> None:
    sink: Any = await relay(rig, trusted=True).content(session(), envelope())
    await sink.write(HEADER + b"\r\n" + b"x" * size)
    await sink.abort()
    await sink.abort()
    assert (await rig.queue.counts()).messages == 0


@pytest.mark.parametrize("size", [10, 200_000])
async def test_a_cancelled_end_leaves_all_or_nothing(rig: Rig, size: int) -> None:
    sink: Any = await relay(rig, trusted=True).content(session(), envelope())
    await sink.write(HEADER + b"\r\n" + b"x" * size)
    with trio.CancelScope() as scope:
        scope.cancel()
        await sink.finish()
    await sink.abort()
    assert len(list(rig.spool.iterdir()) if rig.spool.exists() else []) == (await rig.queue.counts()).messages * (size > 65_536)
