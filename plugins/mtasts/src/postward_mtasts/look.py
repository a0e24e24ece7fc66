"""What a domain publishes, as a sender sees it from outside: record, policy file, mail hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from postward.dns import Status
from postward.errors import InvalidName
from postward.names import Domain
from postward_mtasts.checks import Seen
from postward_mtasts.fetch import FetchError, fetch
from postward_mtasts.policy import policy_host
from postward_mtasts.record import RecordError, choose

if TYPE_CHECKING:
    from postward.core import Core

MAX_HOSTS: Final = 100


async def look(core: Core, domain: Domain) -> Seen:
    """Look at a domain, past every cache of policies; nothing is remembered. The file is fetched also without a record."""
    result: dict[str, object] = {}

    async def policy() -> None:
        try:
            result["fetched"] = await fetch(core.http, domain)
        except FetchError as exc:
            result["fetch_error"] = exc

    async def record() -> None:
        result.update(await _record(core, domain))

    async def hosts() -> None:
        result.update(await _hosts(core, domain))

    try:
        policy_host(domain)
    except InvalidName:
        return Seen(domain=domain)
    async with trio.open_nursery() as nursery:
        for part in (policy, record, hosts):
            nursery.start_soon(part)
    return Seen(domain=domain, **result)  # type: ignore[arg-type]


async def _record(core: Core, domain: Domain) -> dict[str, object]:
    answer = await core.dns.query(Domain(f"_mta-sts.{domain}"), "TXT")
    if answer.failure is not None:
        return {"dns_error": answer.failure.detail or answer.failure.rcode}
    if answer.status is Status.ABSENT:
        return {}
    found: dict[str, object] = {"texts": answer.texts}
    if answer.canonical != answer.name:
        found["alias"] = answer.canonical
    try:
        found["record"] = choose(answer.texts)
    except RecordError as exc:
        found["record_error"] = exc
    return found


async def _hosts(core: Core, domain: Domain) -> dict[str, object]:
    answer = await core.dns.query(domain, "MX")
    if answer.failure is not None:
        return {"mx_error": answer.failure.detail or answer.failure.rcode}
    names: list[Domain] = []
    for each in sorted(answer.records, key=lambda each: int(each.preference))[:MAX_HOSTS]:
        try:
            names.append(Domain(each.exchange.to_text(omit_final_dot=True)))
        except InvalidName:
            continue  # `.` of a null MX, or what is no host name
    # RFC 5321 §5.1: without MX records the domain itself is the host, which a policy has to name as well.
    return {"hosts": tuple(names) if answer.records else (domain,)}
