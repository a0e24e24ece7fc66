"""The keys that a configuration names, and whose reports they sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postward.dkim.sign import Signer, SigningKey
from postward.errors import ConfigError, PostwardError

if TYPE_CHECKING:
    from postward.config import Config
    from postward.names import Domain


def load_keys(config: Config) -> list[SigningKey]:
    """The DKIM keys of a configuration. Raises `ConfigError`."""
    keys: list[SigningKey] = []
    for number, entry in enumerate(config.dkim):
        where = f"dkim[{number}].key_file"
        try:
            keys.append(SigningKey.load(entry.domain, entry.selector, entry.key_file.read_bytes()))
        except OSError as exc:
            raise ConfigError(f"{entry.key_file}: {exc.strerror}", file=str(config.file or ""), key=where) from exc
        except PostwardError as exc:
            raise ConfigError(str(exc), file=str(config.file or ""), key=where) from exc
    return keys


def find_submitter(config: Config, signer: Signer) -> Domain | None:
    """The domain that reports come from: the configured one, or the nearest above the hostname that has a DKIM key.

    None when there is no key for it: an unsigned report must not be sent (RFC 8460 §3).
    """
    candidate: Domain | None = config.reports.submitter or config.core.hostname
    while candidate is not None and candidate not in signer.domains:
        candidate = None if config.reports.submitter else candidate.parent
    return candidate
