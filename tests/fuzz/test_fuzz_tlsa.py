"""Records, certificates and chains that strangers made: read, or refused in words (RFC 6698 §2, RFC 5280 §4.1)."""

from __future__ import annotations

import warnings
from contextlib import suppress

import dns.rdatatype
import dns.wire
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import strategies as st

from fuzzing import fuzz, mutated
from postward.dns import rdata
from postward.lab.ca import Authority, self_signed, tlsa
from postward.names import Domain
from postward_dane.der import public_key_info
from postward_dane.match import judge
from postward_dane.pem import certificates_of, describe
from postward_dane.tlsa import FULL, TlsaRecord, of_rdata, parse, unusable, usable

HOST = Domain("mx.example.org")
ROOT = Authority("Root")
LEAF = ROOT.subordinate("Middle", permitted=["example.org"]).issue([HOST, "*.example.net"], cn="x", with_root=True)
OTHERS = (self_signed([HOST], key="ed25519").certificate, Authority("R", key="rsa").root)
CERTIFICATES = (*LEAF.chain, *OTHERS)
KEYS = tuple(public_key_info(der) for der in CERTIFICATES)
TEXTS = tuple(tlsa(LEAF.certificate, *kind).encode() for kind in ((3, 1, 1), (2, 0, 2), (3, 1, 0)))
RDATA = tuple(
    bytes(kind) + data for kind in ((3, 1, 1), (2, 0, 0), (2, 1, 0), (3, 0, 2)) for data in (b"\1" * 32, b"\1" * 64, *KEYS)
)


def test_record_data() -> None:
    """Any RDATA of three octets and more is a record; whether it can be used is another question."""

    def check(data: list[bytes]) -> None:
        read = []
        for each in data:
            with suppress(ValueError):
                read.append(rdata.read(dns.rdatatype.TLSA, dns.wire.Parser(each)))
        records = of_rdata(read)
        used = usable(records)
        assert list(records) == sorted(set(records))
        assert all(not unusable(record) for record in used)
        # RFC 7671 §9: as long as anything is usable, something is used.
        assert bool(used) == any(not unusable(record) for record in records)
        assert all(record in used for record in records if record.matching == FULL and not unusable(record))

    fuzz(st.lists(mutated(RDATA), max_size=8), check)


def test_presentation_form() -> None:
    def check(text: str) -> None:
        with suppress(ValueError):
            record = parse(text)
            assert not record.data or parse(str(record)) == record

    fuzz(st.one_of(mutated(TEXTS).map(lambda data: data.decode("latin-1")), st.text(max_size=200)), check)


def loads(data: bytes) -> bool:
    """Whether a strict reader takes it for a certificate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            x509.load_der_x509_certificate(data)
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            return False
    return True


def test_keys_of_certificates() -> None:
    """What a strict reader takes for a certificate has a key for us as well, and a key is always a part of it."""

    def check(data: bytes) -> None:
        key = b""
        with suppress(ValueError):
            key = public_key_info(data)
        if not key:
            assert not loads(data)
            return
        assert key in data
        assert key[0] == 0x30

    fuzz(st.one_of(mutated(CERTIFICATES), st.binary(max_size=300)), check)


def test_chains() -> None:
    """One verdict, and a failed one says why."""
    records = [TlsaRecord(*kind, data) for kind in ((3, 1, 1), (2, 0, 1)) for data in (b"\1" * 32,)]
    records += [parse(tlsa(der, 2, *kind)) for der in LEAF.chain[1:] for kind in ((0, 0), (1, 0), (0, 1), (1, 1))]

    def check(given: tuple[list[bytes], list[TlsaRecord], bool]) -> None:
        chain, chosen, common_name = given
        verdict = judge(chosen, chain, (HOST,), common_name=common_name)
        assert verdict.passed == (verdict.failure is None)
        assert verdict.failure is None or "\n" not in verdict.failure.detail

    chains = st.one_of(
        st.lists(mutated(CERTIFICATES, most=2), max_size=5),
        st.tuples(mutated(LEAF.chain[:1], most=1), st.just(LEAF.chain[1:])).map(lambda parts: [parts[0], *parts[1]]),
    )
    chosen = st.lists(st.sampled_from(records), min_size=1, max_size=6, unique=True)
    fuzz(st.tuples(chains, chosen, st.booleans()), check)


def test_files_of_certificates() -> None:
    def check(content: bytes) -> None:
        with suppress(ValueError):
            for der in certificates_of(content):
                described = describe(der)
                assert described.expires >= 0 or described.names is not None

    fuzz(mutated([LEAF.chain_pem, LEAF.certificate, LEAF.key_pem + LEAF.chain_pem]), check)
