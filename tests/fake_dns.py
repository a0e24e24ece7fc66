"""A resolver over a dictionary, for tests that need a handful of records and exact failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dns.rdata

from postward.dns.answer import Answer, DnsFailure, Status
from postward.names import Domain


class FakeDns:
    """`records` maps (name, type) to texts in presentation form; an empty list is NODATA; a `str` is an rcode that fails."""

    validating = True
    problems: Sequence[str] = ()

    def __init__(self, records: Mapping[tuple[str, str], Sequence[str] | str] | None = None) -> None:
        self.records = {(name.lower(), rdtype): value for (name, rdtype), value in (records or {}).items()}
        self.queries: list[tuple[str, str]] = []

    async def query(self, name: Domain | str, rdtype: str) -> Answer:
        name = Domain(name)
        self.queries.append((str(name), rdtype))
        value = self.records.get((str(name), rdtype))
        if isinstance(value, str):
            failure = DnsFailure(rcode=value)
            return Answer(name=name, rdtype=rdtype, status=Status.FAILED, canonical=name, failure=failure)
        if not value:
            exists = any(known == name or known.endswith(f".{name}") for known, _ in self.records)
            return Answer(name=name, rdtype=rdtype, status=Status.ABSENT, canonical=name, nxdomain=not exists)
        found = tuple(dns.rdata.from_text("IN", rdtype, text) for text in value)
        return Answer(name=name, rdtype=rdtype, status=Status.INSECURE, canonical=name, records=found, ttl=300)

    async def addresses(self, name: Domain) -> tuple[Answer, Answer]:
        return await self.query(name, "A"), await self.query(name, "AAAA")
