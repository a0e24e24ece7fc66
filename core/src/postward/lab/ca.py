"""Certificates of every kind, made on the spot: good, expired, for another name, from nobody (RFC 5280).

Only for the lab and for tests: keys live in memory, and whatever is asked for is issued, however wrong it is.
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from postward.model import MICROSECONDS
from postward.names import Domain

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

DAY: Final = 86_400 * MICROSECONDS
SERVER_AUTH: Final = (ExtendedKeyUsageOID.SERVER_AUTH,)
CLIENT_AUTH: Final = (ExtendedKeyUsageOID.CLIENT_AUTH,)
_AUTHORITY_DAYS: Final = 7300
_LEAF_DAYS: Final = 3650


def make_key(kind: str) -> PrivateKey:
    """A new private key: `p256`, `rsa` (2048 bits) or `ed25519`. Raises `ValueError` for other kinds."""
    if kind == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(f"not a kind of key: {kind!r}")


def tlsa(certificate: bytes, usage: int = 3, selector: int = 1, matching: int = 1) -> str:
    """A TLSA record for a DER certificate, in presentation form (RFC 6698 §2.2)."""
    data = certificate if selector == 0 else spki(certificate)
    if matching:
        data = (hashlib.sha256 if matching == 1 else hashlib.sha512)(data).digest()
    return f"{usage} {selector} {matching} {data.hex()}"


def spki(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a DER certificate, DER."""
    public = x509.load_der_x509_certificate(certificate).public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A server's certificate with its key, and what the server sends: `chain` is DER, leaf first, without the root."""

    certificate: bytes
    key: PrivateKey = field(repr=False)
    chain: tuple[bytes, ...]

    @property
    def chain_pem(self) -> bytes:
        """The chain as PEM."""
        return b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in self.chain)

    @property
    def key_pem(self) -> bytes:
        """The key as PEM, PKCS #8, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def server_context(self) -> ssl.SSLContext:
        """A context for a TLS server with this certificate, TLS 1.2 or better."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # OpenSSL takes a key with its chain from a file only
            file.write(self.key_pem + self.chain_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context


class Authority:
    """A certification authority: a root, or one below another (`subordinate`).

    `intermediate` puts an authority between the root and what is issued. `key` is a kind for `make_key`, or a key. Instants
    are microseconds; None stands for validity from long ago to far ahead. `root` is the trust anchor, `certificate` that
    of the authority that signs; both DER.
    """

    def __init__(
        self,
        name: str = "Lab Root",
        *,
        intermediate: bool = False,
        key: str | PrivateKey = "p256",
        not_before: int | None = None,
        not_after: int | None = None,
        path_length: int | None = None,
    ) -> None:
        private = make_key(key) if isinstance(key, str) else key
        builder = _authority(name, private, not_before, not_after, path_length)
        root = _sign(builder.issuer_name(_name(name)), private)
        self._adopt(root, private, root, ())
        if intermediate:
            below = self.subordinate(f"{name} Intermediate")
            self._adopt(below.certificate, below.key, root, below.path)

    def _adopt(self, certificate: bytes, key: PrivateKey, root: bytes, path: tuple[bytes, ...]) -> None:
        self.certificate, self.key, self.root = certificate, key, root
        self.path = path  # from the one that signs up to the last below the root

    @property
    def root_pem(self) -> bytes:
        """The root as PEM, for a `ca_file`."""
        return ssl.DER_cert_to_PEM_cert(self.root).encode()

    def subordinate(
        self,
        name: str,
        *,
        key: str | PrivateKey = "p256",
        not_before: int | None = None,
        not_after: int | None = None,
        path_length: int | None = None,
        permitted: Sequence[str] = (),
        eku: Sequence[x509.ObjectIdentifier] = (),
    ) -> Authority:
        """An authority that this one vouches for.

        `permitted` are the domains it may issue for (RFC 5280 §4.2.1.10), `eku` the purposes; empty for all.
        """
        private = make_key(key) if isinstance(key, str) else key
        builder = _authority(name, private, not_before, not_after, path_length)
        if permitted:
            constraints = x509.NameConstraints([x509.DNSName(domain) for domain in permitted], None)
            builder = builder.add_extension(constraints, critical=True)
        if eku:
            builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=False)
        certificate = self._sign(builder)
        below = Authority.__new__(Authority)
        below._adopt(certificate, private, self.root, (certificate, *self.path))
        return below

    def issue(
        self,
        names: Sequence[str],
        *,
        not_before: int | None = None,
        not_after: int | None = None,
        key: str | PrivateKey = "p256",
        eku: Sequence[x509.ObjectIdentifier] = SERVER_AUTH,
        cn: str = "",
        with_root: bool = False,
    ) -> Issued:
        """A server certificate. `names` are domains, `*.` patterns or IP addresses, and none leaves out the SAN.

        `eku` may be empty; `cn` is the common name; `with_root` makes the server send the root too.
        """
        private = make_key(key) if isinstance(key, str) else key
        builder = _leaf(names, private, not_before, not_after, eku, cn)
        certificate = self._sign(builder)
        chain = (certificate, *self.path, self.root) if with_root else (certificate, *self.path)
        return Issued(certificate=certificate, key=private, chain=chain)

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        issuer = x509.load_der_x509_certificate(self.certificate)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return _sign(builder.issuer_name(issuer.subject).add_extension(identifier, critical=False), self.key)


def self_signed(
    names: Sequence[str],
    *,
    not_before: int | None = None,
    not_after: int | None = None,
    key: str | PrivateKey = "p256",
    cn: str = "",
) -> Issued:
    """A certificate that only itself vouches for, as many mail servers have."""
    private = make_key(key) if isinstance(key, str) else key
    builder = _leaf(names, private, not_before, not_after, SERVER_AUTH, cn)
    certificate = _sign(builder.issuer_name(_name(cn)), private)
    return Issued(certificate=certificate, key=private, chain=(certificate,))


def _leaf(
    names: Sequence[str],
    key: PrivateKey,
    not_before: int | None,
    not_after: int | None,
    eku: Sequence[x509.ObjectIdentifier],
    cn: str,
) -> x509.CertificateBuilder:
    builder = _dated(_name(cn), key, not_before, not_after, before=1, after=_LEAF_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    if names:
        alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
        builder = builder.add_extension(alternatives, critical=not cn)
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=False)
    return builder


def _authority(
    name: str, key: PrivateKey, not_before: int | None, not_after: int | None, path_length: int | None
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = _dated(_name(name), key, not_before, not_after, before=_AUTHORITY_DAYS, after=_AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    return builder.add_extension(usage, critical=True)


def _dated(
    subject: x509.Name, key: PrivateKey, not_before: int | None, not_after: int | None, *, before: int, after: int
) -> x509.CertificateBuilder:
    now = time.time_ns() // 1000
    start = now - before * DAY if not_before is None else not_before
    end = now + after * DAY if not_after is None else not_after
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_instant(start))
        .not_valid_after(_instant(end))
        .add_extension(identifier, critical=False)
    )


def _sign(builder: x509.CertificateBuilder, signer: PrivateKey) -> bytes:
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm).public_bytes(serialization.Encoding.DER)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        wildcard, rest = ("*.", name[2:]) if name.startswith("*.") else ("", name)
        return x509.DNSName(wildcard + str(Domain(rest)))


def _instant(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
