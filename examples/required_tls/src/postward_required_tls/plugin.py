"""The plugin: a policy for each domain of the table, and its judgement of a server."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel

from postward import PASSED, Core, Destination, Domain, Mode, ResultType, TlsPeer, TlsPolicy, Verdict, hookimpl

KIND: Final = "x-required-tls"
_PIN: Final = re.compile(r"sha256:[0-9a-f]{64}")


def _pin(text: str) -> str:
    if _PIN.fullmatch(text.lower()) is None:
        raise ValueError("should be 'sha256:' and 64 hexadecimal digits")
    return text.lower()


class Rule(BaseModel, extra="forbid", frozen=True):
    """What the hosts of one domain must have besides TLS: one of the keys, a certificate of the WebPKI, or both."""

    pins: tuple[Annotated[str, AfterValidator(_pin)], ...] = ()
    webpki: bool = False


class RequiredTls:
    """Binds the domains of its table."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`[plugin.required_tls]`."""

        domains: dict[Domain, Rule] = {}

    def __init__(self, config: Config, core: Core) -> None:
        self._rules, self._core = config.domains, core

    @hookimpl
    async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
        """The rule of a domain as a policy. It proves who the server is where it asks for keys or a certificate."""
        rule = self._rules.get(destination.domain)
        if rule is None:
            return None
        return TlsPolicy(
            kind=KIND,
            mode=Mode.ENFORCE,
            domain=destination.domain,
            authenticates=bool(rule.pins or rule.webpki),
            evidence=tuple(f"pin: {pin}" for pin in rule.pins),
            data=rule,
        )

    @hookimpl
    async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        """Whether the server keeps the rule."""
        if policy.kind != KIND:
            return None
        rule: Rule = policy.data
        if rule.pins and not any(key_pin(certificate) in rule.pins for certificate in peer.chain):
            return Verdict.fail(ResultType.CERTIFICATE_NOT_TRUSTED, "no-pinned-key", f"{peer.endpoint.host} shows other keys")
        if rule.webpki:
            return self._core.trust.verify(peer.chain, peer.endpoint.host, at=self._core.clock.now())
        return PASSED


def key_pin(certificate: bytes) -> str:
    """The pin of the key in a DER certificate; empty for what is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError:
        return ""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"
