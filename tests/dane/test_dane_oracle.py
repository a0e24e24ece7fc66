"""The matcher against OpenSSL's own DANE: every usage, selector and matching type, over chains of every shape and fault.

`openssl s_client -dane_tlsa_rrdata` says whether it accepts a server; we must say the same of the chain it sent. We are
stricter in one place: a trust anchor that has expired is refused also when it is not self-signed, where OpenSSL does not look.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import product
from pathlib import Path

import pytest
import trio

from interop import need
from postward.lab.ca import CLIENT_AUTH, DAY, Authority, Issued, self_signed, tlsa
from postward.names import Domain
from postward.tls import TlsError, server_handshake
from postward_dane.der import public_key_info
from postward_dane.match import judge
from postward_dane.tlsa import TlsaRecord, parse, unusable, usable

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

NOW = time.time_ns() // 1000
HOST = Domain("mx.example.org")
OTHER = "other.example.net"
ROOT = Authority("Root")
MIDDLE = ROOT.subordinate("Middle")
LOWER = MIDDLE.subordinate("Lower")
OLD = ROOT.subordinate("Old", not_after=NOW - DAY)
NARROW = ROOT.subordinate("Narrow", permitted=["example.com"])
FLAT = ROOT.subordinate("Flat", path_length=0)
STALE = ROOT.subordinate("Middle", key=MIDDLE.key, not_after=NOW - DAY)
STRANGER = Authority("Stranger")
RSA = Authority("RSA", intermediate=True, key="rsa")

EVERY = tuple(product((0, 1), (0, 1, 2)))
SOME = ((0, 0), (0, 1), (1, 0), (1, 1))


def sends(issued: Issued, *extra: bytes) -> Issued:
    """The same server, sending its certificate with `extra` behind it."""
    return dataclasses.replace(issued, chain=(issued.certificate, *extra))


@dataclasses.dataclass(frozen=True)
class Shape:
    """A server; the authorities that its records may name; the kinds of record to try; and where we are stricter, why."""

    issued: Issued
    anchors: Sequence[bytes] = (MIDDLE.certificate, ROOT.root)
    kinds: Iterable[tuple[int, int]] = SOME
    stricter: str = ""


LEAF = MIDDLE.issue([HOST])
SHAPES = {
    "root-not-sent": Shape(ROOT.issue([HOST]), [ROOT.root], EVERY),
    "root-sent": Shape(ROOT.issue([HOST], with_root=True), [ROOT.root], EVERY),
    "intermediate": Shape(LEAF, kinds=EVERY),
    "intermediate-and-root": Shape(MIDDLE.issue([HOST], with_root=True), kinds=EVERY),
    "two-intermediates": Shape(LOWER.issue([HOST]), [LOWER.certificate, MIDDLE.certificate, ROOT.root], EVERY),
    "rsa": Shape(RSA.issue([HOST], key="rsa"), [RSA.certificate, RSA.root], EVERY),
    "ed25519-leaf": Shape(MIDDLE.issue([HOST], key="ed25519")),
    "out-of-order": Shape(sends(LOWER.issue([HOST]), ROOT.root, MIDDLE.certificate, LOWER.certificate)),
    "intermediate-missing": Shape(sends(LEAF)),
    "strangers-beside": Shape(sends(LEAF, STRANGER.root, MIDDLE.certificate), [MIDDLE.certificate, STRANGER.root]),
    "self-signed": Shape(self_signed([HOST]), [ROOT.root], EVERY),
    "expired": Shape(MIDDLE.issue([HOST], not_before=NOW - 9 * DAY, not_after=NOW - DAY)),
    "not-yet-valid": Shape(MIDDLE.issue([HOST], not_before=NOW + DAY)),
    "wrong-name": Shape(MIDDLE.issue([OTHER])),
    "wildcard": Shape(MIDDLE.issue(["*.example.org"])),
    "wildcard-too-deep": Shape(MIDDLE.issue(["*.mx.example.org"])),
    "common-name-only": Shape(MIDDLE.issue([], cn=HOST)),
    "no-name": Shape(MIDDLE.issue([])),
    "for-clients": Shape(MIDDLE.issue([HOST], eku=CLIENT_AUTH)),
    "no-purpose": Shape(MIDDLE.issue([HOST], eku=())),
    "expired-intermediate": Shape(
        OLD.issue([HOST], with_root=True), [OLD.certificate, ROOT.root], stricter="issuer-certificate-expired"
    ),
    "outside-constraints": Shape(NARROW.issue([HOST], with_root=True), [NARROW.certificate, ROOT.root]),
    "impostor": Shape(sends(Authority("Root").issue([HOST]), ROOT.root), [ROOT.root]),
    "stale-copy-beside": Shape(sends(LEAF, STALE.certificate, MIDDLE.certificate), [MIDDLE.certificate, ROOT.root]),
    "twice": Shape(sends(LEAF, MIDDLE.certificate, LEAF.certificate, MIDDLE.certificate)),
    "for-an-address": Shape(MIDDLE.issue(["192.0.2.1"], cn=HOST)),
    "several-names": Shape(MIDDLE.issue([OTHER, HOST, "*.example.com"])),
    "name-beside-common-name": Shape(MIDDLE.issue([OTHER], cn=HOST)),
    "top-wildcard": Shape(MIDDLE.issue(["*.org"])),
    "path-too-long": Shape(FLAT.subordinate("Below").issue([HOST], with_root=True), [FLAT.certificate, ROOT.root]),
}


def records_for(shape: Shape) -> list[tuple[str, ...]]:
    """The sets of records to try, each with what it names."""
    targets = [(3, shape.issued.certificate), (3, STRANGER.root), (2, shape.issued.certificate), (2, STRANGER.root)]
    targets += [(2, anchor) for anchor in shape.anchors] + [(3, anchor) for anchor in shape.anchors[:1]]
    single = [(tlsa(der, usage, *kind),) for (usage, der), kind in product(targets, shape.kinds)]
    leaf, anchor = shape.issued.certificate, shape.anchors[0]
    wrong = tlsa(STRANGER.root, 3, 1, 1)
    several = [
        (wrong, tlsa(leaf, 3, 1, 1)),
        (wrong, tlsa(anchor, 2, 1, 1)),
        (tlsa(STRANGER.root, 3, 1, 2), tlsa(leaf, 3, 1, 1)),  # digest agility drops the right one
        (tlsa(STRANGER.root, 3, 1, 2), tlsa(leaf, 3, 0, 1)),
        (tlsa(STRANGER.root, 2, 0, 1), tlsa(anchor, 2, 0, 0)),
    ]
    return single + several


async def openssl_accepts(program: str, port: int, records: Sequence[str], roots: Sequence[str] = ("-no-CAfile",)) -> bool:
    command = [program, "s_client", "-connect", f"127.0.0.1:{port}", "-verify_return_error", "-brief", *roots]
    command += ["-no-CApath", "-no-CAstore", "-dane_ee_no_namechecks", "-dane_tlsa_domain", HOST]
    for record in records:
        command += ["-dane_tlsa_rrdata", record]
    done = await trio.run_process(command, stdin=b"", capture_stdout=True, capture_stderr=True, check=False)
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    accepted = "Verification: OK" in text
    assert accepted or "verify error" in text or "Verification error" in text or "certificate verify failed" in text, text
    return accepted


@asynccontextmanager
async def served(issued: Issued) -> AsyncIterator[int]:
    """A TLS server with this certificate; gives its port."""
    context = issued.server_context()

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(TlsError, trio.BrokenResourceError):
            secured = await server_handshake(stream, context)
            await secured.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", SHAPES)
async def test_we_agree_with_openssl(name: str) -> None:
    """RFC 7671 §5, RFC 7672 §3: the same verdict, record by record."""
    program = need("openssl")
    shape = SHAPES[name]
    disagreements: list[str] = []
    slots = trio.CapacityLimiter(3)

    async def compare(port: int, texts: tuple[str, ...]) -> None:
        async with slots:
            theirs = await openssl_accepts(program, port, texts)
        ours = judge(usable(parse(text) for text in texts), shape.issued.chain, (HOST,), at=NOW, common_name=True)
        known = theirs and ours.failure is not None and ours.failure.reason == shape.stricter
        if ours.passed != theirs and not known:
            short = " + ".join(text[:20] for text in texts)
            disagreements.append(f"{short}: OpenSSL {theirs}, we {ours}")

    async with served(shape.issued) as port, trio.open_nursery() as cells:
        for texts in records_for(shape):
            cells.start_soon(compare, port, texts)
    assert "\n".join(disagreements) == ""


@pytest.mark.parametrize("kind", EVERY)
async def test_pkix_usages_are_where_we_differ(kind: tuple[int, int], tmp_path: Path) -> None:
    """RFC 7672 §3.1.3: usages 0 and 1 are unusable for mail, so they cannot fail a server; OpenSSL can be made to use them."""
    program = need("openssl")
    (tmp_path / "ca.pem").write_bytes(ROOT.root_pem)
    roots = ("-CAfile", str(tmp_path / "ca.pem"))
    right = tlsa(LEAF.certificate, 1, *kind), tlsa(MIDDLE.certificate, 0, *kind)
    wrong = tlsa(STRANGER.root, 1, *kind), tlsa(STRANGER.root, 0, *kind)
    async with served(LEAF) as port:
        for text in (*right, *wrong):
            assert await openssl_accepts(program, port, [text], roots) is (text in right)
            assert usable([parse(text)]) == ()


# --- which records are usable at all ---

_DATA = {
    "sha-256": b"\1" * 32,
    "sha-512": b"\1" * 64,
    "short": b"\1" * 31,
    "long": b"\1" * 65,
    "one": b"\1",
    "certificate": LEAF.certificate,
    "cut-certificate": LEAF.certificate[:-1],
    "longer-certificate": LEAF.certificate + b"\0",
    "key": public_key_info(LEAF.certificate),
    "longer-key": public_key_info(LEAF.certificate) + b"\0",
    "rubbish": b"\x30\x80rubbish",
}
_NUMBERS = tuple(product((0, 1, 2, 3, 4, 255), (0, 1, 2), (0, 1, 2, 3)))


def test_the_same_records_are_unusable() -> None:
    """RFC 6698 §4.1, RFC 7671 §9: unknown numbers, digests of the wrong length, data that does not parse."""
    program = need("openssl")
    records = [TlsaRecord(*numbers, data) for numbers in _NUMBERS for data in _DATA.values()]
    command = [program, "s_client", "-connect", "127.0.0.1:9", "-dane_tlsa_domain", HOST]
    for record in records:
        command += ["-dane_tlsa_rrdata", str(record)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)
    refused = set(re.findall(r"unusable TLSA rrdata: (.*)", done.stderr))
    assert len(refused) > 100
    disagreements = []
    for record in records:
        why, theirs = unusable(record), str(record) in refused
        if why.startswith("usages 0 and 1"):
            continue  # RFC 7672 §3.1.3, compared above
        if bool(why) != theirs:
            disagreements.append(f"{str(record)[:30]} of {len(record.data)} bytes: OpenSSL refuses: {theirs}, we: {why!r}")
    assert "\n".join(disagreements) == ""


def test_the_matrix_is_large_enough() -> None:
    assert sum(len(records_for(shape)) for shape in SHAPES.values()) >= 1000
