"""Which failure an exception stands for, wherever in its causes the trouble of TLS is."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

import trio

from postward.model import Failure
from postward.tls.failures import TlsError, closed, of_ssl, one_line, timed_out

_MAX_CAUSES: Final = 16


def classify(error: BaseException) -> Failure | None:
    """The failure behind an exception, found through its causes; None when it is no trouble of TLS or its transport.

    What TLS itself said counts before what the transport said. A peer that closed or reset the connection and a wait that
    took too long count as trouble in the handshake, so do not ask about errors from elsewhere.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, TlsError):
            return cause.failure
        if isinstance(cause, ssl.SSLError):
            return of_ssl(cause)
    for cause in reversed(causes):
        if isinstance(cause, trio.TooSlowError | TimeoutError):
            return timed_out(one_line(str(cause)))
        if isinstance(cause, ConnectionError | trio.BrokenResourceError):
            return closed(str(cause))
    return None


def tls_trouble(error: BaseException) -> Failure | None:
    """The failure behind an exception if TLS itself found one, such as an alert; None for a transport that merely ended."""
    for cause in _causes(error):
        ended = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
        if isinstance(cause, ssl.SSLError) and not ended:
            return of_ssl(cause)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):  # causes may go round in a circle
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__
