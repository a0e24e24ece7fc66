"""Results to journal and plugins to hand them to, for the tests of the store and of emission."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from postward.hooks import Outcome
from postward.model import (
    PASSED,
    Failure,
    MessageResult,
    Mode,
    PolicyResult,
    ResultBatch,
    ResultType,
    Schema,
    TlsResult,
)
from postward.names import Domain
from postward.store import Store

DAY = "2026-03-01"


def tls_result(number: int = 0, day: str = DAY) -> TlsResult:
    """A result with a bit of everything; equal for equal numbers."""
    policy = PolicyResult(
        kind="sts",
        mode=Mode.ENFORCE,
        domain=Domain(f"d{number}.example.com"),
        passed=False,
        failure=Failure(result_type=ResultType.CERTIFICATE_EXPIRED, reason="x509-10", detail="expired yesterday"),
        source="mtasts",
        mx_patterns=("*.example.com",),
        evidence=("version: STSv1", "mode: enforce", "mx: *.example.com", "max_age: 86400"),
    )
    return TlsResult(
        day=day,
        domain=Domain(f"d{number}.example.com"),
        host=Domain("mx.example.com"),
        policies=(policy,),
        sending_ip="192.0.2.1",
        receiving_ip="192.0.2.25",
        receiving_helo="mx.example.com",
        protocol="TLSv1.3",
        cipher="TLS_AES_256_GCM_SHA384",
        pkix=PASSED,
    )


def message_result(number: int = 0, day: str = DAY) -> MessageResult:
    """A result of the other kind."""
    return MessageResult(day=day, kind="dmarc", data=f'{{"n":{number}}}')


def key_of(result: Any) -> str:
    """What the counting plugin of these tests counts by."""
    return str(result.domain) if isinstance(result, TlsResult) else str(result.data)


def counter_schema(plugin: str) -> Schema:
    """A table to count in."""

    def create(op: Any) -> None:
        op.execute(f"CREATE TABLE {plugin}_seen (key TEXT PRIMARY KEY, n BIGINT NOT NULL)")

    return Schema(migrations=(create,))


def counting(plugin: str, batch: ResultBatch) -> Callable[[Connection], None]:
    """What a well-behaved plugin gives to `consume`."""

    def count(connection: Connection) -> None:
        statement = text(
            f"INSERT INTO {plugin}_seen (key, n) VALUES (:key, :n)"
            f" ON CONFLICT (key) DO UPDATE SET n = {plugin}_seen.n + excluded.n"
        )
        for entry in batch.entries:
            connection.execute(statement, {"key": key_of(entry.result), "n": entry.count})

    return count


async def counted(store: Store, plugin: str) -> dict[str, int]:
    """What a plugin has counted."""

    def query(connection: Connection) -> dict[str, int]:
        return {row.key: row.n for row in connection.execute(text(f"SELECT key, n FROM {plugin}_seen"))}

    return await store.read(query)


@dataclass
class StubHooks:
    """`call_one` for `emit`, without plugins: functions by name. Errors become outcomes, as the real one does."""

    emit: dict[str, Callable[[ResultBatch], Awaitable[None]]] = field(default_factory=dict)

    async def call_one(self, plugin: str, _spec: object, *, batch: ResultBatch) -> Outcome[None]:
        try:
            await self.emit[plugin](batch)
        except Exception as exc:  # noqa: BLE001
            return Outcome(plugin=plugin, error=exc)
        return Outcome(plugin=plugin)
