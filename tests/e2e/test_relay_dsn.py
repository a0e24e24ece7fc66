"""What senders are told of their mail (RFC 3461, 3464), and what mail asks of TLS on its way through a relay (RFC 8689)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from postward.dsn.parse import StatusReport, parse
from postward.lab.zones import Signing
from relay_kit import (
    AUTHORITY,
    NAME,
    Arrived,
    Internet,
    client,
    free_port,
    internet,
    message,
    pause,
    queued,
    relay,
    relay_config,
    until,
)

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    with internet("a.test", "home.test", bare=("bare.test",), untrusted=("bad.test",)) as made:
        # So its host is one that REQUIRETLS may trust.
        sign(made, "home.test")
        yield made


def sign(world: Internet, domain: str, more: str = "") -> None:
    """Let a domain be secure, with more records."""
    records = f"@ MX 10 mx\nmx A {world.hosts[domain].address}\n{more}"
    world.zones.add(domain, records, signing=Signing.SECURE)


def make_config(directory: Path, world: Internet, **tables: object) -> Path:
    issued = AUTHORITY.issue([NAME])
    (directory / "cert.pem").write_bytes(issued.chain_pem)
    (directory / "key.pem").write_bytes(issued.key_pem)
    listen = {
        "kind": "smtp",
        "bind": f"127.0.0.1:{free_port()}",
        "cert_file": str(directory / "cert.pem"),
        "key_file": str(directory / "key.pem"),
    }
    return relay_config(directory, world, listen, **tables)


@pytest.fixture(scope="module")
def config(world: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = make_config(tmp_path_factory.mktemp("dsn"), world)
    with relay(made) as running:
        yield made
        assert running.stop() == 0


def submit(
    config: Path, sender: str, to: str, content: bytes, *, mail: tuple[str, ...] = (), rcpt: tuple[str, ...] = ()
) -> None:
    """Send over TLS, which REQUIRETLS needs."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with client(config) as smtp:
        smtp.starttls(context=context)
        smtp.ehlo()
        smtp.sendmail(sender, [to], content, mail_options=mail, rcpt_options=rcpt)


def told(world: Internet, address: str) -> tuple[Arrived, StatusReport]:
    """The one notice to a sender."""
    [mail] = world.wait_for(address)
    assert mail.envelope.sender is None
    return mail, parse(mail.content)


def nothing_waits(config: Path) -> None:
    until(lambda: queued(config) == 0)


def test_unknown_recipient(world: Internet, config: Path) -> None:
    submit(config, "u1@home.test", "unknown@a.test", message("u1"), mail=("ENVID=Q+2B1",), rcpt=("ORCPT=rfc822;Big@a.test",))
    mail, report = told(world, "u1@home.test")
    [recipient] = report.recipients
    assert (recipient.recipient, recipient.action, recipient.status) == ("unknown@a.test", "failed", "5.1.1")
    assert (recipient.original, recipient.remote_mta) == ("Big@a.test", "mx.a.test")
    assert "550 5.1.1 no such user" in recipient.diagnostic
    assert (report.reporting_mta, report.envelope_id) == (NAME, "Q+1")
    assert b"X-Token: u1" in mail.content
    assert b"hello" not in mail.content


@pytest.mark.parametrize(("ret", "whole"), [("FULL", True), ("HDRS", False)])
def test_how_much_is_returned(world: Internet, config: Path, ret: str, whole: bool) -> None:
    submit(config, f"{ret}@home.test", "unknown@a.test", message(ret, "the body of it"), mail=(f"RET={ret}",))
    mail, _ = told(world, f"{ret}@home.test")
    assert (b"the body of it" in mail.content) is whole


def test_notify_never(world: Internet, config: Path) -> None:
    submit(config, "never@home.test", "unknown@a.test", message("n"), rcpt=("NOTIFY=NEVER",))
    submit(config, "delay@home.test", "unknown@a.test", message("n"), rcpt=("NOTIFY=DELAY,SUCCESS",))
    submit(config, "after@home.test", "unknown@a.test", message("n"))
    told(world, "after@home.test")
    nothing_waits(config)
    assert world.to("never@home.test") == world.to("delay@home.test") == []


def test_notify_success(world: Internet, config: Path) -> None:
    """Where the next host has DSN, telling is its business, and it hears what was asked; else we say `relayed`."""
    for domain, sender in (("a.test", "s1@home.test"), ("bare.test", "s2@home.test")):
        options = ("NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;you@{domain}")
        submit(config, sender, f"s@{domain}", message("s"), mail=("RET=HDRS", "ENVID=e1"), rcpt=options)
    [taken] = world.wait_for("s@a.test")
    assert (taken.envelope.ret, taken.envelope.envid) == ("HDRS", "e1")
    assert taken.envelope.dsn[0].notify == ("SUCCESS", "FAILURE")
    assert taken.envelope.dsn[0].orcpt == "rfc822;you@a.test"
    _, report = told(world, "s2@home.test")
    assert [(each.action, each.status) for each in report.recipients] == [("relayed", "2.0.0")]
    nothing_waits(config)
    assert world.to("s1@home.test") == []


@pytest.mark.parametrize("sender", ["", "unknown@home.test"])
def test_nobody_is_told_twice(world: Internet, config: Path, sender: str) -> None:
    """Mail from the null sender causes no notice, and a notice that cannot be delivered ends there."""
    before = len(world.arrived)
    submit(config, sender, "unknown@a.test", message("loop"))
    until(lambda: queued(config) == 0)
    pause(0.3)
    assert queued(config) == 0
    assert world.arrived[before:] == []


def test_requiretls_where_the_host_cannot(world: Internet, config: Path) -> None:
    submit(config, "r@home.test", "you@bare.test", message("r", "secret body"), mail=("REQUIRETLS", "RET=FULL"))
    mail, report = told(world, "r@home.test")
    assert [(each.action, each.status) for each in report.recipients] == [("failed", "5.7.30")]
    assert b"secret body" not in mail.content
    assert mail.envelope.require_tls
    assert world.to("you@bare.test") == []


def test_tls_required_no(world: Internet, tmp_path: Path) -> None:
    """Under a policy that its host fails, mail waits; mail that says `TLS-Required: No` goes."""
    sign(world, "bad.test", f"_25._tcp.mx TLSA 3 1 1 {'00' * 32}")
    with relay(make_config(tmp_path, world, plugins=["dane"])) as running:
        submit(running.config, "p@home.test", "held@bad.test", message("held"))
        submit(running.config, "p@home.test", "goes@bad.test", b"TLS-Required: No\r\n" + message("goes"))
        world.wait_for("goes@bad.test")
        line = running.wait_for("message-deferred")
        assert line["recipient"] == "held@bad.test"
        assert line["reply"].startswith("4")
        until(lambda: queued(running.config) == 1)
        assert world.to("held@bad.test") == []


# --- time ---


def test_delay_and_expiry(world: Internet, tmp_path: Path) -> None:
    """One notice of the delay, with the end of patience in it; then one of the failure. Who asked for none gets none."""
    delivery = {"expire_hours": 5 / 3600, "delay_notice_hours": 1 / 3600}
    with relay(make_config(tmp_path, world, delivery=delivery), RELAY_FIRST_RETRY="0.5") as running:
        submit(running.config, "d@home.test", "later@a.test", message("d"))
        submit(running.config, "q@home.test", "later@a.test", message("q"), rcpt=("NOTIFY=FAILURE",))
        notices = [parse(mail.content).recipients[0] for mail in world.wait_for("d@home.test", 2)]
        assert [(each.action, each.status) for each in notices] == [("delayed", "4.3.0"), ("failed", "5.3.0")]
        assert notices[0].will_retry_until
        assert not notices[1].will_retry_until
        [quiet] = world.wait_for("q@home.test")
        assert parse(quiet.content).recipients[0].action == "failed"
        until(lambda: queued(running.config) == 0)
        assert len(world.to("d@home.test")) == 2
        assert running.stop() == 0
