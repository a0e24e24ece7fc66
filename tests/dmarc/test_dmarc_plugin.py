"""The plugin from a received message to the counters, in memory."""

from __future__ import annotations

import ipaddress
import json
import random
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
import trio
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_dns import FakeDns
from postward.dkim import Signer, SigningKey, dns_record, generate
from postward.model import AuthResult, Disposition, InboundMessage, JournalEntry, MessageResult, ResultBatch
from postward.names import Address, Domain
from postward_dmarc import received_tables, tables
from postward_dmarc.plugin import Dmarc

NOW = 1_795_478_400_000_000
DAY = "2026-11-24"
KEY = SigningKey(domain=Domain("example.com"), selector="s", key=generate("ed25519"))
NAME, VALUE = dns_record(KEY)
ZONE = {
    (str(NAME), "TXT"): [VALUE],
    ("example.com", "TXT"): ['"v=spf1 ip4:192.0.2.1 -all"'],
    ("_dmarc.example.com", "TXT"): ['"v=DMARC1; p=reject; rua=mailto:d@example.com"'],
}
MAIL = b"From: Joe <joe@example.com>\r\nTo: a@b.example\r\nSubject: x\r\n\r\nHello\r\n"
SIGNED = Signer([KEY]).sign(MAIL, Domain("example.com"), at=NOW)


ENGINES: list[sa.Engine] = []


@pytest.fixture(autouse=True)
def _close_engines():
    yield
    while ENGINES:
        ENGINES.pop().dispose()


class Store:
    """A results database without cursors."""

    def __init__(self):
        engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        ENGINES.append(engine)
        self.connection = engine.connect()
        operations = Operations(MigrationContext.configure(self.connection))
        for migration in tables.SCHEMA.migrations:
            migration(operations)
        self.consumed = []

    async def consume(self, batch, fn):
        await trio.lowlevel.checkpoint()
        fn(self.connection)
        self.consumed.append(batch)


def make(zone=None, **config) -> Dmarc:
    core = SimpleNamespace(dns=FakeDns({**ZONE, **(zone or {})}), clock=SimpleNamespace(now=lambda: NOW), store=Store())
    return Dmarc(Dmarc.Config(**config), core)


def message(content=SIGNED, *, ip="192.0.2.1", sender="joe@example.com", to=("a@b.example",), received=NOW):
    return InboundMessage(
        client_ip=ipaddress.ip_address(ip) if ip else None,
        helo="mx.example.com",
        sender=Address.parse(sender) if sender else None,
        recipients=tuple(map(Address.parse, to)),
        content=content,
        received=received,
    )


async def judged(plugin, received):
    return await plugin.judge(received, await plugin.authenticate(received))


async def test_a_good_message():
    plugin = make()
    results = await plugin.authenticate(message())
    assert [(result.method, result.result) for result in results] == [("dkim", "pass"), ("spf", "pass")]
    dkim, spf = (dict(result.properties) for result in results)
    assert dkim["header.d"] == "example.com"
    assert dkim["header.s"] == "s"
    assert len(dkim["header.b"]) == 8
    assert spf == {"smtp.mailfrom": "example.com"}
    judgement = await plugin.judge(message(), results)
    assert judgement.disposition is Disposition.ACCEPT
    (auth,) = judgement.auth
    assert (auth.method, auth.result) == ("dmarc", "pass")
    assert dict(auth.properties) == {"header.from": "example.com", "policy.dmarc": "reject"}
    (counted,) = judgement.results
    assert (counted.kind, counted.day) == ("dmarc", DAY)
    assert json.loads(counted.data) == {
        "domain": "example.com",
        "published": {"p": "reject", "adkim": "r", "aspf": "r", "fo": "0", "testing": "n", "discovery_method": "treewalk"},
        "source_ip": "192.0.2.1",
        "disposition": "pass",
        "dkim": "pass",
        "spf": "pass",
        "reasons": [],
        "header_from": "example.com",
        "envelope_from": "example.com",
        "envelope_to": "b.example",
        "auth_dkim": [{"domain": "example.com", "selector": "s", "result": "pass"}],
        "auth_spf": {"domain": "example.com", "scope": "mfrom", "result": "pass"},
    }


async def test_ipv4_on_a_socket_for_both_kinds_is_ipv4():
    judgement = await judged(make(), message(ip="::ffff:192.0.2.1"))
    data = json.loads(judgement.results[0].data)
    assert (data["source_ip"], data["spf"]) == ("192.0.2.1", "pass")


async def test_forwarded_mail_passes_by_its_signature():
    plugin = make()
    judgement = await judged(plugin, message(ip="198.51.100.1", sender="list@other.example"))
    assert judgement.disposition is Disposition.ACCEPT
    data = json.loads(judgement.results[0].data)
    assert (data["dkim"], data["spf"], data["disposition"]) == ("pass", "fail", "pass")


async def test_a_forged_message_is_quarantined_and_told_why():
    """RFC 9989 §7.4, RFC 9990 §3.1.1.9: a disposition that differs from the policy has a reason."""
    judgement = await judged(make(), message(MAIL, ip="198.51.100.1"))
    assert judgement.disposition is Disposition.QUARANTINE
    assert judgement.reason == "DMARC policy of example.com"
    data = json.loads(judgement.results[0].data)
    assert data["disposition"] == "quarantine"
    assert data["reasons"] == [["local_policy", "reject is applied as quarantine"]]
    assert data["auth_dkim"] == []


async def test_a_forged_message_is_rejected_if_configured():
    judgement = await judged(make(reject=True), message(MAIL, ip="198.51.100.1"))
    assert judgement.disposition is Disposition.REJECT
    assert judgement.reply.startswith("550 5.7.1 ")
    assert json.loads(judgement.results[0].data)["disposition"] == "reject"


@pytest.mark.parametrize(("defer", "disposition"), [(False, Disposition.ACCEPT), (True, Disposition.DEFER)])
async def test_dns_errors_are_at_the_operators_discretion(defer, disposition):
    """RFC 9989 §4.10.1."""
    judgement = await judged(make({("_dmarc.example.com", "TXT"): "SERVFAIL"}, defer=defer), message(MAIL))
    assert judgement.disposition is disposition
    assert judgement.auth[0].result == "temperror"
    assert judgement.results == ()
    assert judgement.reply.startswith("451 ") is defer


@pytest.mark.parametrize("content", [b"To: x\r\n\r\n", b"From: a@a.example\r\nFrom: b@b.example\r\n\r\n"])
async def test_no_single_author_is_suspicious(content):
    judgement = await judged(make(), message(content))
    assert (judgement.auth[0].result, judgement.disposition) == ("permerror", Disposition.QUARANTINE)
    assert judgement.results == ()


async def test_nothing_is_counted_that_nobody_wants_to_know():
    plugin = make({("_dmarc.example.com", "TXT"): ['"v=DMARC1; p=none"']})
    judgement = await judged(plugin, message())
    assert (judgement.auth[0].result, judgement.results) == ("pass", ())
    assert (await judged(make(), message(ip=None))).results == ()


async def test_null_path_is_helo():
    """RFC 9989 §4.4.2."""
    plugin = make({("mx.example.com", "TXT"): ['"v=spf1 ip4:192.0.2.1 -all"']})
    judgement = await judged(plugin, message(MAIL, sender=""))
    assert judgement.auth[0].result == "pass"
    data = json.loads(judgement.results[0].data)
    assert (data["envelope_from"], data["auth_spf"]["domain"], data["spf"]) == ("", "mx.example.com", "pass")


async def test_results_of_other_plugins_count():
    results = [
        AuthResult(method="spf", result="pass", properties=(("smtp.mailfrom", "x@other.example"),)),
        AuthResult(method="dkim", result="pass", properties=(("header.d", "Example.com"), ("header.s", "q"))),
        AuthResult(method="dkim", result="pass", properties=(("header.d", "not a domain"),)),
    ]
    judgement = await make().judge(message(MAIL), results)
    assert judgement.auth[0].result == "pass"
    assert json.loads(judgement.results[0].data)["auth_dkim"] == [{"domain": "example.com", "selector": "q", "result": "pass"}]


async def test_the_telling_signatures_come_first():
    """RFC 9990 §3.1.3."""
    domains = [("z.example", "fail"), ("other.example", "pass"), ("a.example.com", "pass"), ("example.com", "pass")]
    results = [
        AuthResult(method="dkim", result=result, properties=(("header.d", domain), ("header.s", str(i))))
        for i, (domain, result) in enumerate(domains * 40)
    ]
    data = json.loads((await make().judge(message(MAIL), results)).results[0].data)
    assert len(data["auth_dkim"]) == 100
    assert [item["domain"] for item in data["auth_dkim"][::40]] == ["example.com", "a.example.com", "other.example"]


async def test_slow_dns_has_a_result(autojump_clock):
    plugin = make()

    async def hang(name, rdtype):
        await trio.sleep_forever()

    plugin._core.dns.query = hang
    results = await plugin.authenticate(message(MAIL))
    assert [(result.method, result.result) for result in results] == [("dkim", "none"), ("spf", "temperror")]
    assert (await plugin.judge(message(MAIL), results)).auth[0].result == "temperror"


def batch(*results, node="n", first=1, count=1):
    entries = tuple(JournalEntry(sequence=first + i, count=count, result=result) for i, result in enumerate(results))
    return ResultBatch(node=node, consumer="dmarc", entries=entries)


async def test_equal_messages_are_one_row():
    plugin = make()
    store = plugin._core.store
    good = (await judged(plugin, message())).results[0]
    bad = (await judged(plugin, message(MAIL, ip="198.51.100.1"))).results[0]
    other = MessageResult(day=DAY, kind="x-other", data="{}")
    await plugin.emit(batch(good, bad, other, good))
    await plugin.emit(batch(good, count=7, first=9))
    rows = tables.counted(store.connection, DAY)
    assert sorted(row.n for row in rows) == [1, 9]
    assert {row.policy_domain for row in rows} == {"example.com"}
    assert "domain" not in json.loads(rows[0].row)
    await plugin.emit(batch(other))
    assert len(store.consumed) == 2, "core moves the cursor over what is not ours"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([DAY, "2026-11-25"]), st.integers(1, 50)), max_size=30), st.integers()
)
def test_counters_add_up(items, seed):
    """Any order and grouping of the same results gives the same counters."""

    def result(kind, day):
        return day, json.dumps({"domain": f"d{kind % 2}.example", "published": {"p": "none"}, "row": kind})

    expected: dict = {}
    for kind, day, n in items:
        expected[result(kind, day)] = expected.get(result(kind, day), 0) + n
    store = Store()
    shuffled = random.Random(seed).sample(items, len(items))
    for kind, day, n in shuffled:
        tables.count(store.connection, {result(kind, day): n})
    rows = [row for day in (DAY, "2026-11-25") for row in tables.counted(store.connection, day)]
    assert sum(row.n for row in rows) == sum(n for *_, n in items)
    assert len(rows) == len(expected)
    store.connection.close()


def test_migration_makes_what_the_models_say():
    from alembic.autogenerate import compare_metadata

    connection = Store().connection
    models = [tables.Base.metadata, received_tables.Base.metadata]
    assert compare_metadata(MigrationContext.configure(connection), models) == []
