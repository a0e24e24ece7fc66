"""Mail to hosts that lie: each costs a bounded amount of time and memory, is recorded once, and touches nobody else's mail.

All of them get their mail from one call of the program, beside a good host. What needs a clock is in memory, further below.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from deliver_kit import ENVIRONMENT, MESSAGE, POSTWARD, Ran, serving, write_config
from delivery_rig import RECIPIENT, ZONE, Rig, context_for, make_rig
from hostile_peers import (
    AUTHORITY,
    Case,
    Host,
    after_hello,
    build,
    close,
    domain_of,
    flood,
    huge_key,
    long_chain,
    page,
    reset,
    say,
)
from postward.lab.ground import DNS
from postward.names import Address, Domain

MANY = b"aaaaaaaa" * 8192
TLSA = "".join(f"_25._tcp.mx TLSA 3 1 1 {number:064x}\n" for number in range(1200))
NORMAL = "@ MX 10 mx\nmx A {address}\n"
LONG_TEXT = " ".join(f'"{"v=STSv1; id=1; " if not number else "x" * 250}"' for number in range(240))

BEFORE_MAIL = ("greeting", "ehlo", "ehlo-tls", "mail", "rcpt", "data", "content")
CASES: dict[str, Case] = {
    "good": Case(delivered=True, sessions=1),
    # --- too much ---
    "endless-greeting": Case(host=Host(at="greeting", act=flood(b"220 ", MANY)), said="line of more than 4096", sessions=0),
    "endless-lines": Case(host=Host(at="greeting", act=flood(b"", b"220-x\r\n" * 1000)), said="reply of more than", sessions=0),
    "megabyte-ehlo": Case(
        host=Host(at="ehlo", act=say(b"250-X" + b"250-XYZ\r\n" * 120_000)), said="reply of more than", sessions=0
    ),
    "endless-over-tls": Case(host=Host(at="ehlo-tls", act=flood(b"250-", MANY)), said="line of more than 4096", sessions=1),
    "endless-at-the-end": Case(host=Host(at="content", act=flood(b"250", MANY)), said="line of more than 4096", sessions=1),
    # --- not SMTP ---
    "nul-greeting": Case(host=Host(at="greeting", act=say(b"\x00220 \x00\xff\r\n")), said="not an SMTP reply", sessions=0),
    "eight-bit-garbage": Case(host=Host(at="mail", act=say(bytes(range(128, 256)) + b"\r\n")), said="not an SMTP", sessions=1),
    "two-codes": Case(host=Host(at="content", act=say(b"250-yes\r\n550 no\r\n")), said="two codes", sessions=1),
    "intermediate": Case(host=Host(at="mail", act=say(b"354 go\r\n")), said="out of place", sessions=1),
    "one-reply-too-many": Case(host=Host(at="mail", act=say(b"250 a\r\n250 b\r\n")), said="nothing asked for", sessions=1),
    "one-reply-too-many-in-a-group": Case(
        host=Host(at="mail", act=say(b"250 a\r\n250 b\r\n"), extensions=b"250-PIPELINING\r\n"), sessions=1
    ),
    "taken-twice": Case(host=Host(at="content", act=say(b"250 a\r\n250 b\r\n")), delivered=True, sessions=1),
    "escapes": Case(
        host=Host(at="rcpt", act=say(b"550 5.1.1 \x1b[31m\0\xff\r\n")),
        permanent=True,
        said="550 5.1.1 \\x1b[31m\\x00\\xff",
        sessions=1,
    ),
    # --- TLS ---
    "plaintext-handshake": Case(
        host=Host(at="handshake", act=after_hello(say(b"500 5.5.1 what do you mean?\r\n"))),
        delivered=True,
        result="validation-failure",
        sessions=1,
    ),
    "plaintext-behind-220": Case(
        host=Host(at="handshake", act=say(b"250 a\r\n")), delivered=True, said="starttls-response-injection", sessions=1
    ),
    "empty-records": Case(
        host=Host(at="handshake", act=after_hello(flood(b"", b"\x16\x03\x03\x00\x00" * 5000))),
        delivered=True,
        result="validation-failure",
        sessions=1,
    ),
    "endless-warnings": Case(
        host=Host(at="handshake", act=after_hello(flood(b"", b"\x15\x03\x03\x00\x02\x01\x5a" * 5000))),
        delivered=True,
        result="validation-failure",
        sessions=1,
    ),
    "huge-handshake-message": Case(
        host=Host(at="handshake", act=after_hello(flood(b"\x16\x03\x03\x40\x00\x02\xff\xff\xff", MANY))),
        delivered=True,
        result="validation-failure",
        sessions=1,
    ),
    "chain-of-60": Case(host=Host(issued=long_chain(60)), delivered=True, sessions=1),
    "chain-of-400": Case(host=Host(issued=long_chain(400)), delivered=True, result="validation-failure", sessions=1),
    "huge-key": Case(host=Host(issued=huge_key()), delivered=True, sessions=1),
    "no-close-notify": Case(host=Host(at="quit", act=close), delivered=True, sessions=1),
    "reset-at-quit": Case(host=Host(at="quit", act=reset), delivered=True, sessions=1),
    # --- the end in the middle ---
    **{f"close-at-{at}": Case(host=Host(at=at, act=close), sessions=int(at not in ("greeting", "ehlo"))) for at in BEFORE_MAIL},
    **{f"reset-at-{at}": Case(host=Host(at=at, act=reset), sessions=int(at not in ("greeting", "ehlo"))) for at in BEFORE_MAIL},
    "close-at-starttls": Case(
        host=Host(at="starttls", act=close), delivered=True, result="validation-failure", said="during-starttls", sessions=1
    ),
    "close-at-handshake": Case(host=Host(at="handshake", act=close), delivered=True, result="validation-failure", sessions=1),
    "reset-at-handshake": Case(host=Host(at="handshake", act=reset), delivered=True, result="validation-failure", sessions=1),
    # --- DNS ---
    "mx-flood": Case(records="".join(f"@ MX 10 h{number}\n" for number in range(2500)), said="451 4.4.3 ", sessions=0),
    "tlsa-flood": Case(records=NORMAL + TLSA, result="dnssec-invalid"),
    "mx-circle": Case(records="@ MX 10 a\na CNAME b\nb CNAME a\n", said="451 4.4.3 looking up the addresses", sessions=0),
    "text-of-64k": Case(records=f"{NORMAL}_mta-sts TXT {LONG_TEXT}\n_smtp._tls TXT {LONG_TEXT}\n", delivered=True, sessions=1),
    "many-texts": Case(
        records=NORMAL + "".join(f'_mta-sts TXT "v=STSv1; id={number}"\n' for number in range(900)), delivered=True, sessions=1
    ),
    # --- policy hosts ---
    "sts-endless": Case(
        page=page(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", endlessly=b"2000\r\n" + b"a" * 8192 + b"\r\n"),
        delivered=True,
        result="sts-policy-fetch-error",
    ),
    "sts-bomb": Case(
        page=page(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", b"\x1f\x8b\x08", endlessly=b"\0" * 8192),
        delivered=True,
        result="sts-policy-fetch-error",
    ),
    "sts-endless-head": Case(
        page=page(b"HTTP/1.1 200 OK\r\n", endlessly=b"X: " + b"a" * 1000 + b"\r\n"),
        delivered=True,
        result="sts-policy-fetch-error",
    ),
    "sts-redirect": Case(
        page=page(b"HTTP/1.1 302 Found\r\nLocation: https://HOST/.well-known/mta-sts.txt\r\nContent-Length: 0\r\n\r\n"),
        delivered=True,
        result="sts-policy-fetch-error",
    ),
    "sts-10000-mx": Case(
        page=page(
            b"HTTP/1.1 200 OK\r\nContent-Length: 50047\r\n\r\n",
            b"version: STSv1\r\nmode: enforce\r\nmax_age: 86400\r\n" + b"mx:a\n" * 10_000,
        ),
        delivered=True,
        result="sts-policy-invalid",
    ),
    "sts-garbage": Case(page=page(b"\0\xff\0\xff\r\n\r\n"), delivered=True, result="sts-policy-fetch-error"),
}


@dataclass(slots=True)
class Outcome:
    """One run of the program for all domains."""

    ran: Ran
    kilobytes: int
    sessions: dict[str, int]

    def of(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Recipient and attempts of a case."""
        domain = domain_of(name)
        [recipient] = [each for each in self.ran.recipients if each["address"].endswith(f"@{domain}")]
        return recipient, [each for each in self.ran.attempts if each["domain"] == domain]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    directory = tmp_path_factory.mktemp("hostile")
    world = build(CASES)
    (directory / "ca.pem").write_bytes(AUTHORITY.root_pem)
    config = write_config(
        directory,
        dns={"nameservers": [f"{DNS}:{world.port}"], "self_test": {"secure": "", "bogus": ""}, "timeout": 10.0},
        tls={"ca_file": str(directory / "ca.pem")},
        net={"port_map": {"25": world.port, "443": world.port}},
    )
    with serving(world.serve):
        ran, kilobytes = measured(config, list(CASES))
    with closing(sqlite3.connect(directory / "data" / "results.db")) as results:
        rows = results.execute(
            "SELECT recipient_domain, max(n) FROM (SELECT recipient_domain, policy_domain, sum(successes + failures) AS n"
            " FROM tlsrpt_sessions GROUP BY 1, 2) GROUP BY 1"
        ).fetchall()
    results.close()
    return Outcome(ran, kilobytes, dict(rows))


# A forked child counts the memory of the program that forked it as its own peak, so a small program stands between.
_MEASURE = """
import os, sys
process = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measured(config: Path, names: list[str]) -> tuple[Ran, int]:
    """Deliver to all of these domains in one process; what came of it, and the most memory it had, in KiB."""
    recipients = [f"you@{domain_of(name)}" for name in names]
    words = ["deliver", "--config", str(config), "--json", "--from", "me@sender.test", "--to", *recipients, "-"]
    peak = config.parent / "peak"
    done = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURE, str(peak), *POSTWARD, *words],
        input=MESSAGE,
        capture_output=True,
        timeout=300,
        check=False,
        env=ENVIRONMENT,
    )
    return Ran(done.returncode, done.stdout, done.stderr.decode()), int(peak.read_text())


@pytest.mark.loopback
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_peer(outcome: Outcome, name: str) -> None:
    """Decided as it must be, with a reason in one line, and counted once at most."""
    case = CASES[name]
    recipient, attempts = outcome.of(name)
    errors = [recipient["reply"], *(each["error"] for each in attempts)]
    assert (recipient["delivered"], recipient["permanent"]) == (case.delivered, case.permanent), errors
    assert any(case.said in error for error in errors), errors
    assert all(len(error) <= 1100 and error.isprintable() for error in errors), errors
    assert 1 <= len(attempts) <= 2
    if case.result:
        assert case.result in {each["result_type"] for attempt in attempts for each in attempt["policies"]}, attempts
    if case.sessions is not None:
        assert outcome.sessions.get(domain_of(name), 0) == case.sessions


@pytest.mark.loopback
def test_all_of_them_leave_the_program_well(outcome: Outcome) -> None:
    """Exit code 1, nothing on standard error but the log, no traceback, and little more memory than one good host takes."""
    assert outcome.ran.code == 1
    assert "Traceback" not in outcome.ran.err
    assert "internal error" not in outcome.ran.err
    assert "task-failed" not in outcome.ran.err
    assert outcome.kilobytes < 250 * 1024


# --- those that only wait: in memory, where hours pass at once ---

OTHER = Address("someone", Domain("other.test"))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with make_rig() as made:
        made.dns.set_zone("other.test", "@ IN MX 10 mx2.example.test.")
        yield made


async def drip(stream: trio.abc.Stream) -> None:
    """A greeting, one octet a second."""
    for octet in b"220-" + b"a" * 4000 + b"\r\n220 ready\r\n":
        await stream.send_all(bytes([octet]))
        await trio.sleep(1)


async def half_a_handshake(stream: trio.abc.Stream) -> None:
    """The head of a ServerHello, and then silence."""
    await stream.receive_some()
    await stream.send_all(b"\x16\x03\x03\x00\x7a\x02\x00")
    await trio.sleep_forever()


async def slow_handshake(stream: trio.abc.Stream) -> None:
    """A handshake record of which an octet comes every second."""
    await stream.receive_some()
    for octet in b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + b"a" * 16380:
        await stream.send_all(bytes([octet]))
        await trio.sleep(1)


async def silence(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def one_line_a_minute(stream: trio.abc.Stream) -> None:
    """A reply that is never done, each line of which comes in time."""
    while True:
        await stream.send_all(b"250-wait\r\n")
        await trio.sleep(60)


@pytest.mark.parametrize(
    ("at", "act", "within", "delivered"),
    [
        ("greeting", silence, 310, False),
        ("greeting", drip, 310, False),
        ("ehlo", one_line_a_minute, 310, False),
        ("starttls", silence, 310, True),
        ("handshake", half_a_handshake, 70, True),
        ("handshake", slow_handshake, 70, True),
        ("ehlo-tls", silence, 310, False),
        ("mail", one_line_a_minute, 310, False),
        ("data", silence, 310, False),
        ("content", silence, 610, False),
        ("content", one_line_a_minute, 610, False),
        ("quit", silence, 10, True),
    ],
)
async def test_a_host_that_takes_its_time(
    rig: Rig,
    autojump_clock: trio.testing.MockClock,
    at: str,
    act: Callable[[trio.abc.Stream], Awaitable[None]],
    within: float,
    delivered: bool,
) -> None:
    """RFC 5321 §4.5.3.2: a limit to the whole reply, not to its lines; mail to others has long gone."""
    host, context = Host(at=at, act=act, limit=7200), context_for("mx1.example.test")

    async def serve(stream: trio.abc.Stream) -> None:
        await host(stream, context)

    rig.dns.set_zone("example.test", ZONE.replace("@ IN MX 20 mx2", ""))
    rig.net.listen("192.0.2.1", 25, serve)
    began = trio.current_time()
    both = await rig.deliver(RECIPIENT, OTHER)
    assert trio.current_time() - began <= within
    assert [each.delivered for each in both.recipients] == [delivered, True]
    assert not both.recipients[0].permanent
    assert len([result for result in rig.journal.results if result.domain == "example.test"]) == (
        at not in ("greeting", "ehlo")
    )
