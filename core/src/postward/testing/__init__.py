"""For tests of plugins: an internet in memory, and what a plugin has to keep to. No sockets, no threads, no real time.

    async def test_a_host_without_tls_is_refused(harness):
        harness.use(Hello, must_have_tls=["example.test"])
        harness.domain("example.test", harness.mx("mx.example.test", certificate=None))
        delivery = await harness.deliver("you@example.test")
        assert not delivery.delivered

The fixture comes with the distribution: install `postward[testing]`, and ask for it. Names are fetched when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from postward.dns.zones import ZoneResolver
    from postward.lab.ca import Authority, Issued, self_signed, tlsa
    from postward.lab.mx import Behaviour, Mail
    from postward.reports.schedule import Built
    from postward.testing.clock import HarnessClock
    from postward.testing.conform import NotConformant, conformance
    from postward.testing.harness import Harness, open_harness
    from postward.testing.mail import MailServer
    from postward.testing.network import MemoryNetwork
    from postward.testing.web import Page, WebSite

__all__ = [
    "Authority",
    "Behaviour",
    "Built",
    "Harness",
    "HarnessClock",
    "Issued",
    "Mail",
    "MailServer",
    "MemoryNetwork",
    "NotConformant",
    "Page",
    "WebSite",
    "ZoneResolver",
    "conformance",
    "open_harness",
    "self_signed",
    "tlsa",
]

_ELSEWHERE: Final = {
    "Authority": "postward.lab.ca",
    "Behaviour": "postward.lab.mx",
    "Built": "postward.reports.schedule",
    "Harness": "postward.testing.harness",
    "HarnessClock": "postward.testing.clock",
    "Issued": "postward.lab.ca",
    "Mail": "postward.lab.mx",
    "MailServer": "postward.testing.mail",
    "MemoryNetwork": "postward.testing.network",
    "NotConformant": "postward.testing.conform",
    "Page": "postward.testing.web",
    "WebSite": "postward.testing.web",
    "ZoneResolver": "postward.dns.zones",
    "conformance": "postward.testing.conform",
    "open_harness": "postward.testing.harness",
    "self_signed": "postward.lab.ca",
    "tlsa": "postward.lab.ca",
}


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ELSEWHERE[name]), name)
    globals()[name] = value
    return value
