"""Policies of own domains: the file, its id, the records, the page, and noticing changes (RFC 8461 §3.1, §3.2, §8)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trio.testing import MockClock

from plugin_rig import NOON
from postward.hookspecs import register_routes
from postward.metrics import unread
from postward.model import MICROSECONDS, Mode
from postward.names import Domain
from postward_mtasts import policy, record, tables
from postward_mtasts.hosting import HostedPolicy, PolicyPage, Served, changes, dns_records
from postward_mtasts.plugin import MtaSts
from postward_mtasts.settings import Settings

HOSTNAME = Domain("mx.sender.example")
OWN = Domain("own.example")


def settings(**host: Any) -> Settings:
    return Settings.model_validate({"host": {name.replace("_", "."): table for name, table in host.items()}})


def hosted(**more: Any) -> HostedPolicy:
    return settings(own_example=more).policies(HOSTNAME)[OWN]


def test_the_file() -> None:
    """RFC 8461 §3.2: CRLF, required fields, one mx per line, A-labels."""
    own = hosted(mode="enforce", mx=["MX1.own.example", "*.bücher.example"], max_age=1209600)
    assert own.text == (
        "version: STSv1\r\nmode: enforce\r\nmx: mx1.own.example\r\nmx: *.xn--bcher-kva.example\r\nmax_age: 1209600\r\n"
    )


def test_what_is_not_said() -> None:
    """Testing first (RFC 8461 §8); this host takes the mail; a week, since §3.2 wants weeks or more."""
    assert hosted().text == "version: STSv1\r\nmode: testing\r\nmx: mx.sender.example\r\nmax_age: 604800\r\n"
    assert hosted(mode="none").text == "version: STSv1\r\nmode: none\r\nmax_age: 604800\r\n"


HOSTS = st.lists(st.from_regex(r"(\*\.)?[a-z0-9]{1,8}(\.[a-zü0-9]{1,8}){1,3}", fullmatch=True), min_size=1, max_size=5)


@given(st.sampled_from(list(Mode)), st.integers(0, policy.MAX_AGE), HOSTS)
def test_what_is_served_can_be_read(mode: Mode, max_age: int, mx: list[str]) -> None:
    """RFC 8461 §3.2: our own parser, the strict one, reads it, and so does that of the record."""
    try:
        own = hosted(mode=mode.value, max_age=max_age, mx=mx)
    except ValidationError:
        return  # such as a label of hyphens
    read = policy.parse(policy.decode(own.text.encode("ascii")))
    assert (read.mode, read.max_age, read.mx) == (mode, max_age, tuple(dict.fromkeys(own.mx)))
    assert record.parse(own.record).id == own.id
    assert re.fullmatch(r"[a-z0-9]{1,32}", own.id)


def test_the_id_changes_exactly_when_the_policy_does() -> None:
    """RFC 8461 §3.1: the id uniquely names a policy instance."""
    one = hosted(mode="enforce")
    assert one.id == hosted(mode="enforce", max_age=604800, mx=["MX.sender.example"]).id
    others = [hosted(mode="testing"), hosted(mode="enforce", max_age=1), hosted(mode="enforce", mx=["mx.own.example"])]
    assert len({one.id, *(other.id for other in others)}) == 4


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ({"own.example": {"mode": "report"}}, "mode"),
        ({"own.example": {"max_age": 31557601}}, "max_age"),
        ({"own.example": {"max_age": "1d"}}, "max_age"),
        ({"own.example": {"mx": ["[192.0.2.1]"]}}, "not a host name"),
        ({"own.example": {"mx": ["*.*.own.example"]}}, "not a host name"),
        ({"own.example": {"mx": ["a.example\r\nmode: none"]}}, "not a host name"),
        ({"own.example": {"id": "1"}}, "id"),
        ({"own.example": {}, "OWN.example.": {}}, "same domain"),
        ({"own..example": {}}, "not a domain"),
        ({"a." * 124 + "example": {}}, "not a domain that can have a policy"),
        ({"[192.0.2.1]": {}}, "not a domain that can have a policy|an address"),
        ("own.example", "dict"),
    ],
)
def test_settings_that_would_not_do(host: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Settings.model_validate({"host": host})


def test_the_records() -> None:
    """RFC 8461 §3.1: the TXT record; §8.1: the host that serves the file comes first."""
    host, text = dns_records(hosted(mode="enforce"), HOSTNAME)
    assert (host.name, host.rdtype, host.value) == ("mta-sts.own.example", "CNAME", "mx.sender.example.")
    assert (text.name, text.rdtype) == ("_mta-sts.own.example", "TXT")
    assert record.parse(text.value.strip('"')).id == hosted(mode="enforce").id


async def ask(page: PolicyPage, method: str = "GET") -> tuple[dict[str, Any], bytes]:
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    await page({"type": "http", "method": method}, None, send)  # type: ignore[arg-type]
    start, body = sent
    return start, body["body"]


async def test_the_page(sts: Any, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.2: text/plain at the well-known path of the policy host, and of no other host."""
    plugin = MtaSts(settings(own_example={}, two_example={"mode": "none"}), sts.core)
    routes = [route for route in plugin.register_routes() if route.host is not None]
    assert [(route.host, route.path) for route in routes] == [
        ("mta-sts.own.example", "/.well-known/mta-sts.txt"),
        ("mta-sts.two.example", "/.well-known/mta-sts.txt"),
    ]
    assert register_routes.__doc__
    assert "WebRoute.host" in register_routes.__doc__
    start, body = await ask(routes[0].handler)
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"], headers[b"cache-control"]) == (200, b"text/plain", b"no-cache")
    assert body == plugin.hosted[OWN].text.encode()
    assert headers[b"content-length"] == str(len(body)).encode()
    start, nothing = await ask(routes[0].handler, "HEAD")
    assert (dict(start["headers"])[b"content-length"], nothing) == (str(len(body)).encode(), b"")


def test_only_own_domains_get_advice() -> None:
    plugin = MtaSts(settings(own_example={}), type("Core", (), {"hostname": HOSTNAME, "metrics": unread()})())
    assert len(plugin.dns_records(OWN) or ()) == 2
    assert plugin.dns_records(Domain("sub.own.example")) is None
    assert MtaSts(Settings(), type("Core", (), {"hostname": HOSTNAME, "metrics": unread()})()).hosted == {}


# --- what was served before ---


def test_changes_are_noticed_once() -> None:
    own = {OWN: hosted(mode="enforce")}
    (first,) = changes(own, [], 1)
    assert (first.domain, first.text, first.since, first.withdrawn) == (OWN, own[OWN].text, 1, 0)
    assert changes(own, [first], 2) == []
    (second,) = changes({OWN: hosted(mode="testing")}, [first], 3)
    assert (second.since, second.text != first.text) == (3, True)
    (gone,) = changes({}, [second], 4)
    assert (gone.withdrawn, gone.since) == (4, 3)
    assert changes({}, [gone], 5) == []
    (back,) = changes({OWN: hosted(mode="testing")}, [gone], 6)
    assert (back.since, back.withdrawn) == (6, 0)


def test_a_policy_that_was_taken_away_is_missed_for_its_max_age() -> None:
    """RFC 8461 §8.3: serve mode none until the old policy has expired everywhere."""
    text = hosted(mode="enforce", max_age=100).text
    assert Served(domain=OWN, text=text, since=1, withdrawn=0).missed_until() == 0
    assert Served(domain=OWN, text=text, since=1, withdrawn=5).missed_until() == 5 + 100 * MICROSECONDS
    assert Served(domain=OWN, text=hosted(mode="none").text, since=1, withdrawn=5).missed_until() == 0


async def test_what_is_served_is_remembered_across_restarts(sts: Any, autojump_clock: MockClock, capsys: Any) -> None:
    async def start(config: Settings) -> tuple[MtaSts, Any]:
        plugin = MtaSts(config, sts.core)
        async with plugin.lifespan():
            pass
        return plugin, [(each.domain, each.since, each.withdrawn) for each in await sts.core.store.read(tables.load_hosted)]

    enforce = settings(own_example={"mode": "enforce"})
    _, rows = await start(enforce)
    assert rows == [(OWN, NOON, 0)]
    assert "publish='v=STSv1; id=" in capsys.readouterr().out
    autojump_clock.jump(60)
    _, rows = await start(enforce)
    assert rows == [(OWN, NOON, 0)]
    assert capsys.readouterr().out == ""
    plugin, rows = await start(Settings())
    assert rows == [(OWN, NOON, NOON + 60 * MICROSECONDS)]
    assert "served no more" in capsys.readouterr().out
    found = await plugin.dns_checks(OWN)
    assert "no longer served here" in found[0].what
    assert "for up to 7 days more" in found[0].why
