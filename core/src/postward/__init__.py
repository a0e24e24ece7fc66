"""Postward: a plugin framework for mail transport security.

A plugin needs `hookimpl`, the data of `postward.model` and what its hooks are given:

    import postward

    class Strict:
        def __init__(self, config: None, core: postward.Core) -> None: ...

        @postward.hookimpl
        async def host_policy(self, destination: postward.Destination, mx: postward.MxHost) -> postward.TlsPolicy | None:
            return postward.TlsPolicy(kind="x-strict", mode=postward.Mode.TESTING, domain=mx.name, scope=postward.Scope.HOST)

A program needs `App` and `Config`: `async with postward.App(config) as app: await app.deliver(message)`.
Every hook stands in `postward.hookspecs`. Importing this module imports nothing else: names are fetched when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from postward.app import App
    from postward.config import Config
    from postward.core import Commands, Core
    from postward.errors import ConfigError, InvalidName, PluginError, PostwardError, StoreError, TryLater
    from postward.hookspecs import hookimpl
    from postward.model import (
        MICROSECONDS,
        PASSED,
        AuthResult,
        BytesContent,
        ConnectionReport,
        Content,
        Delivered,
        Delivery,
        Destination,
        Disposition,
        DnsRecord,
        DsnRequest,
        DsnWish,
        Endpoint,
        Failure,
        Finding,
        InboundMessage,
        JournalEntry,
        Judgement,
        Message,
        MessageResult,
        Mode,
        MxHost,
        PolicyResult,
        RecipientOutcome,
        Report,
        ReportJob,
        ReportOutcome,
        ReportReceipt,
        ReportTarget,
        ResultBatch,
        ResultType,
        Schema,
        Scope,
        Security,
        Severity,
        TlsInfo,
        TlsPeer,
        TlsPolicy,
        TlsResult,
        TlsWish,
        Verdict,
        WebRoute,
        Window,
        day_of,
    )
    from postward.names import Address, Domain

__all__ = [
    "MICROSECONDS",
    "PASSED",
    "Address",
    "App",
    "AuthResult",
    "BytesContent",
    "Commands",
    "Config",
    "ConfigError",
    "ConnectionReport",
    "Content",
    "Core",
    "Delivered",
    "Delivery",
    "Destination",
    "Disposition",
    "DnsRecord",
    "Domain",
    "DsnRequest",
    "DsnWish",
    "Endpoint",
    "Failure",
    "Finding",
    "InboundMessage",
    "InvalidName",
    "JournalEntry",
    "Judgement",
    "Message",
    "MessageResult",
    "Mode",
    "MxHost",
    "PluginError",
    "PolicyResult",
    "PostwardError",
    "RecipientOutcome",
    "Report",
    "ReportJob",
    "ReportOutcome",
    "ReportReceipt",
    "ReportTarget",
    "ResultBatch",
    "ResultType",
    "Schema",
    "Scope",
    "Security",
    "Severity",
    "StoreError",
    "TlsInfo",
    "TlsPeer",
    "TlsPolicy",
    "TlsResult",
    "TlsWish",
    "TryLater",
    "Verdict",
    "WebRoute",
    "Window",
    "__version__",
    "day_of",
    "hookimpl",
]

_ELSEWHERE: Final = {
    "Address": "names",
    "App": "app",
    "Commands": "core",
    "Config": "config",
    "ConfigError": "errors",
    "Core": "core",
    "Domain": "names",
    "InvalidName": "errors",
    "PluginError": "errors",
    "PostwardError": "errors",
    "StoreError": "errors",
    "TryLater": "errors",
    "hookimpl": "hookspecs",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("postward")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"postward.{_ELSEWHERE.get(name, 'model')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
