"""Who vouches for a received report, what of it is kept, and how it is shown (RFC 8460 §3, §5.3, §5.4), over memory."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from plugin_rig import NOON, make_core
from postward.dkim import Signature
from postward.errors import StoreError
from postward.model import MICROSECONDS, AuthResult, InboundMessage, ReportReceipt
from postward.names import Address, Domain
from postward_tlsrpt import posted, received_tables, tables
from postward_tlsrpt.plugin import TlsRpt
from postward_tlsrpt.receiving import Receiver, Taken
from tlsrpt_samples import as_json, detail, mail, plain, policy, zipped

DAY = 86_400 * MICROSECONDS
OURS = Address.parse("tlsrpt@example.com")
SETTINGS: dict[str, Any] = {"addresses": [OURS], "host_addresses": [Address.parse("tlsrpt@mx9.example.net")]}


@pytest.fixture
async def core() -> AsyncIterator[Any]:
    async with make_core("tlsrpt", tables.SCHEMA) as made:
        made.signer = SimpleNamespace(domains=())
        yield made


@pytest.fixture
async def plugin(core: Any) -> TlsRpt:
    return TlsRpt(TlsRpt.Config(**SETTINGS), core)


def signature(domain: str = "company-x.example", **changes: Any) -> AuthResult:
    values: dict[str, Any] = {
        "result": "pass",
        "service_types": ("*",),
        "selector": "s",
        "identity": "",
        "algorithm": "rsa-sha256",
    }
    return AuthResult(method="dkim", result="pass", data=Signature(domain=Domain(domain), **(values | changes)))


async def receive(plugin: TlsRpt, content: bytes, *results: AuthResult, to: Address = OURS) -> ReportReceipt | None:
    message = InboundMessage(client_ip=None, helo="x.test", sender=None, recipients=(to,), content=content)
    return await plugin.receive_report(message, results)


async def count(core: Any) -> tuple[int, int]:
    """Reports and policies in the tables."""

    def read(connection: Any) -> tuple[int, int]:
        found = [connection.exec_driver_sql(f"SELECT count(*) FROM tlsrpt_received{end}").scalar() for end in ("", "_policies")]
        return found[0], found[1]

    return await core.store.read(read)  # type: ignore[no-any-return]


async def take(receiver: Receiver, value: dict[str, Any], *, via: str = "mail", voucher: str = "company-x.example") -> Taken:
    (reading,) = await receiver.find(as_json(value))
    return await receiver.take(reading, via=via, voucher=voucher)  # type: ignore[arg-type]


async def test_a_signature_of_the_author_vouches(plugin: TlsRpt, core: Any) -> None:
    """RFC 8460 §3: a report is taken with a valid DKIM signature of the reporting domain, and counts once."""
    receipts = [await receive(plugin, mail(zipped(plain())), signature()) for _ in range(2)]
    assert [bool(each and each.accepted) for each in receipts] == [True, True]
    assert [each.summary.split()[1] for each in receipts if each] == ["stored", "duplicate"]
    assert await count(core) == (1, 1)


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([], "no DKIM signature"),
        ([signature(result="fail")], "no DKIM signature"),
        ([signature(body_length=True)], "no DKIM signature"),
        ([signature(service_types=("email",))], "no DKIM signature"),
        ([signature("other.example")], "no DKIM signature"),
        ([signature("below.company-x.example")], "no DKIM signature"),
    ],
)
async def test_nobody_else_does(plugin: TlsRpt, core: Any, results: Sequence[AuthResult], reason: str) -> None:
    """RFC 8460 §3: no l=, a key for tlsrpt, the domain of From; what others found is checked again, and the mail has none."""
    receipt = await receive(plugin, mail(zipped(plain())), *results)
    assert receipt is not None
    assert (receipt.accepted, receipt.reason, receipt.error_header) == (False, reason, "X-Postward-TLSReport-Error")
    assert await count(core) == (0, 0)


@pytest.mark.parametrize(("zones", "accepted"), [({}, True), ({"_dmarc.eu.company-x.example": "v=DMARC1; psd=n"}, False)])
async def test_a_parent_vouches_within_its_organization(
    plugin: TlsRpt, core: Any, zones: dict[str, str], accepted: bool
) -> None:
    """RFC 9989 §4.10: the walk up the tree ends the organization."""
    answers = {"_dmarc.company-x.example": "v=DMARC1; p=none"} | zones

    async def query(name: Any, kind: str) -> Any:
        text = answers.get(str(name))
        return SimpleNamespace(failure=None, texts=(text,) if text else ())

    core.dns = SimpleNamespace(query=query)
    content = mail(zipped(plain()), sender="reports@eu.company-x.example")
    receipt = await receive(plugin, content, signature("company-x.example"))
    assert receipt is not None
    assert receipt.accepted is accepted


async def test_a_report_that_cannot_be_read_says_why(plugin: TlsRpt) -> None:
    receipt = await receive(plugin, mail(b"{"), signature())
    assert receipt is not None
    assert receipt.reason.startswith("could not parse TLS report: ")


async def test_other_addresses_are_not_ours(plugin: TlsRpt) -> None:
    assert await receive(plugin, mail(zipped(plain())), signature(), to=Address.parse("me@example.com")) is None


async def test_a_database_that_fails_makes_the_sender_come_back(plugin: TlsRpt, core: Any, monkeypatch: Any) -> None:
    async def write(_: Any) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(core.store, "write", write)
    receipt = await receive(plugin, mail(zipped(plain())), signature())
    assert receipt is not None
    assert (receipt.accepted, receipt.temporary) == (False, True)


async def test_one_report_counts_once_whatever_way_it_comes(plugin: TlsRpt, core: Any) -> None:
    """RFC 8460 §5.3: many policies are one report; the same content again is no other one."""
    value = plain(policies=[policy(1, 0), policy(2, 0), policy(3, 0)])
    states = [(await take(plugin.receiver, value, via=via)).state for via in ("mail", "https", "file", "mail")]
    assert states == ["stored", "duplicate", "duplicate", "duplicate"]
    assert await count(core) == (1, 3)
    other = value | {"policies": [policy(9, 0)]}
    assert (await take(plugin.receiver, other)).state == "conflict"
    # An id belongs to who vouches for it: a stranger cannot use it up.
    assert (await take(plugin.receiver, other, voucher="else.example")).state == "stored"


async def test_what_is_about_others_is_left_out(plugin: TlsRpt, core: Any) -> None:
    """RFC 8460 §7: reports are a stranger's text."""
    foreign = policy(1, 0)
    foreign["policy"] = foreign["policy"] | {"policy-domain": "victim.example"}
    assert (await take(plugin.receiver, plain(policies=[foreign]))).state == "foreign"
    taken = await take(plugin.receiver, plain(policies=[foreign, policy(2, 0)]))
    assert (taken.state, taken.foreign) == ("stored", ("victim.example",))
    assert await count(core) == (1, 1)


async def test_what_is_too_old_is_not_kept(plugin: TlsRpt, core: Any) -> None:
    old = {"start-datetime": "2020-01-01T00:00:00Z", "end-datetime": "2020-01-01T23:59:59Z"}
    assert (await take(plugin.receiver, plain(**{"date-range": old}))).state == "old"
    await take(plugin.receiver, plain())
    plugin.receiver._keep = 0
    await plugin.receiver.forget_old()
    assert await count(core) == (0, 0)


async def test_domains_hosts_and_failures_are_told_apart(plugin: TlsRpt, core: Any) -> None:
    """RFC 8460 §1.1: reports are about mail domains, and about MX hosts."""
    host = policy(7, 0)
    host["policy"] = host["policy"] | {"policy-type": "tlsa", "policy-domain": "mx9.example.net"}
    failing = policy(
        5,
        4,
        **{
            "failure-details": [
                detail(failed=3),
                detail("starttls-not-supported", 1, **{"receiving-mx-hostname": "MX2.example.com."}),
            ]
        },
    )
    await take(plugin.receiver, plain(policies=[failing, host]))
    span = NOON - 5 * DAY, NOON
    found = await core.store.read(lambda connection: received_tables.domains(connection, *span))
    assert [(each.domain, each.is_host, each.reports, each.successes, each.failures) for each in found] == [
        ("example.com", False, 1, 5, 4),
        ("mx9.example.net", True, 1, 7, 0),
    ]
    [line] = await core.store.read(lambda connection: received_tables.timeline(connection, "example.com", *span))
    assert (line.day, line.organization, line.policy_type, line.failures) == ("2026-11-23", "Company-X", "sts", 4)
    failures = await core.store.read(lambda connection: received_tables.failures(connection, "example.com", *span))
    assert [(each.result_type, each.mx_host, each.n) for each in failures] == [
        ("certificate-expired", "mx1.example.com", 3),
        ("starttls-not-supported", "mx2.example.com", 1),
    ]
    before = await core.store.read(lambda connection: received_tables.domains(connection, NOON - 50 * DAY, NOON - 40 * DAY))
    assert list(before) == []


class Request:
    """A posted body in pieces."""

    def __init__(self, body: bytes, media_type: str = posted.JSON_TYPE, **headers: str) -> None:
        self.body = body
        self.headers = {"content-type": media_type} | {name.replace("_", "-"): value for name, value in headers.items()}

    async def stream(self) -> AsyncGenerator[bytes, None]:
        for at in range(0, len(self.body), 1 << 20):
            yield self.body[at : at + (1 << 20)]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request(as_json(plain())), 201),
        (Request(zipped(plain()), posted.GZIP_TYPE), 201),
        (Request(zipped(plain()), "Application/TLSRPT+gzip; x=y"), 201),
        (Request(zipped(plain()), "application/json", content_encoding="gzip"), 201),
        (Request(as_json(plain()), "text/html"), 415),
        (Request(as_json(plain()), content_encoding="br"), 415),
        (Request(b""), 400),
        (Request(b"{"), 400),
        (Request(mail(zipped(plain()))), 400),
        (Request(as_json(plain(policies=[]))), 400),
        (Request(as_json(plain()), content_length="9" * 20), 413),
        (Request(b"{" + b" " * posted.MAX_BODY), 413),
    ],
)
async def test_what_is_posted_is_answered(plugin: TlsRpt, request_: Request, status: int) -> None:
    """RFC 8460 §5.4: 2xx only for what counts."""
    assert (await plugin.post(request_)).status == status


async def test_what_is_posted_again_or_about_others(plugin: TlsRpt, core: Any) -> None:
    value = plain()
    answers = [(await plugin.post(Request(as_json(value)))).status for _ in range(2)]
    assert answers == [201, 200]
    assert (await plugin.post(Request(as_json(plain(policies=[policy(1, 0)]))))).status == 409
    foreign = json.loads(json.dumps(value).replace('"policy-domain": "example.com"', '"policy-domain": "victim.example"'))
    assert (await plugin.post(Request(as_json(foreign)))).status == 422
    assert await count(core) == (1, 1)
