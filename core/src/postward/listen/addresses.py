"""The addresses that reports come to, with everything that mail systems hang onto a local part (RFC 5233).

Case does not matter, and `tlsrpt+x` and `tlsrpt-x` belong to `tlsrpt`, unless they are addresses of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from postward.names import Address

SEPARATORS: Final = "+-"


class ReportAddresses:
    """The configured ones, to be asked."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._known = {(address.local.lower(), address.domain): address for address in addresses}

    def __bool__(self) -> bool:
        return bool(self._known)

    def match(self, address: Address) -> Address | None:
        """The configured address that mail to `address` is for: the longest that fits."""
        local = address.local.lower()
        while local:
            if (found := self._known.get((local, address.domain))) is not None:
                return found
            local = local[: max(local.rfind(sign) for sign in SEPARATORS)] if any(sign in local for sign in SEPARATORS) else ""
        return None
