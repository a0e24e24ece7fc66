"""The roots of the WebPKI, and the verdict that a chain gets from them (RFC 8461 §4.2, RFC 5280 §6, RFC 9525)."""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from OpenSSL import crypto

from postward.errors import ConfigError
from postward.model import MICROSECONDS, PASSED, ResultType, Verdict
from postward.names import Domain
from postward.tls.certificates import check_names
from postward.tls.path import check_path_in, new_store

_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
)


# A verdict holds for other connections of the same minute: one chain is judged for the record and again for a policy, and
# busy hosts show the same chain all day.
REMEMBER_FOR: Final = 60 * MICROSECONDS
REMEMBER_MOST: Final = 4096


class TrustStore:
    """Trust anchors, and verdicts by them. They are read once, at the first use or by `load`.

    `ca_file` is PEM; None takes the bundle of the system. `extra` are further anchors, DER; an anchor need not be self-signed.
    """

    def __init__(self, ca_file: Path | None = None, *, extra: Sequence[bytes] = ()) -> None:
        self._ca_file, self._extra = ca_file, tuple(extra)
        self._store: crypto.X509Store | None = None
        self._found = True
        self._remembered: dict[tuple[bytes, Domain], tuple[int, Verdict]] = {}

    def load(self) -> None:
        """Read the anchors now. Raises `ConfigError` for a file that cannot be used."""
        if self._store is not None:
            return
        store = new_store(self._extra)
        file = self._ca_file or _system_bundle()
        self._found = file is not None or bool(self._extra)
        if file is not None:
            try:
                # OpenSSL would only say that something is wrong, not what.
                with file.open("rb"):
                    store.load_locations(str(file))
            except OSError as exc:
                raise ConfigError(f"the CA file cannot be read: {exc.strerror}: {file}", key="tls.ca_file") from exc
            except crypto.Error as exc:
                raise ConfigError(f"the CA file holds no certificates: {file}", key="tls.ca_file") from exc
        self._store = store

    def verify(self, chain: Sequence[bytes], name: Domain, *, at: int | None = None) -> Verdict:
        """Judge a chain (DER, leaf first): path, purpose TLS server, and DNS-ID `name` (or iPAddress for a literal).

        `at` is an instant in microseconds, None for now. The chain is judged before the name, and only the first trouble
        is told. A verdict is remembered for a minute. Raises `ConfigError` when the anchors cannot be read.
        """
        self.load()
        assert self._store is not None
        if not self._found:
            return Verdict.fail(ResultType.CERTIFICATE_NOT_TRUSTED, "no-system-roots", "no bundle of certificates was found")
        instant = time.time_ns() // 1000 if at is None else at
        key = _digest(chain), name
        known = self._remembered.get(key)
        if known is not None and 0 <= instant - known[0] < REMEMBER_FOR:
            return known[1]
        failure = check_path_in(self._store, chain, at=instant) or check_names(chain[0], (name,))
        verdict = PASSED if failure is None else Verdict(passed=False, failure=failure)
        if len(self._remembered) >= REMEMBER_MOST:
            self._remembered.clear()
        self._remembered[key] = instant, verdict
        return verdict


def _digest(chain: Sequence[bytes]) -> bytes:
    whole = hashlib.sha256()
    for der in chain:
        whole.update(len(der).to_bytes(4, "big"))
        whole.update(der)
    return whole.digest()


def _system_bundle() -> Path | None:
    paths = ssl.get_default_verify_paths()
    candidates = (os.environ.get(paths.openssl_cafile_env), paths.cafile, *_BUNDLES)
    return next((Path(text) for text in candidates if text and Path(text).is_file()), None)
