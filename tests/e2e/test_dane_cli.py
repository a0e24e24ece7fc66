"""`postward dane` as a program, over really signed zones and a real listener (RFC 7672 §2.2)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from deliver_kit import run, serving, write_config
from postward.lab.ca import Authority, tlsa
from postward.lab.mx import Mailbox, MailHost
from postward.names import Domain
from signed_dns import SignedDns, free_port

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

HERE = "127.73.2.1"
MX = Domain("mx.dane-cli.secure.test")
LEAF = Authority("CLI").issue([MX])


async def serve(port: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    [listener] = await trio.open_tcp_listeners(port, host=HERE)
    host = MailHost(name=MX, domains=frozenset(), context=LEAF.server_context(), mailbox=Mailbox())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.serve, listener)
        task_status.started()


@pytest.fixture(scope="module")
def config(signed_dns: SignedDns) -> Iterator[Path]:
    signed_dns.add(
        "secure.test", f"dane-cli MX 1 mx.dane-cli\nmx.dane-cli A {HERE}\n_25._tcp.mx.dane-cli TLSA {tlsa(LEAF.certificate)}"
    )
    signed_dns.add("bogus.test", f"dane-cli MX 1 {MX}.")
    port = free_port(HERE)
    with tempfile.TemporaryDirectory(prefix="postward-cli") as directory, serving(partial(serve, port)):
        (Path(directory) / "server.pem").write_bytes(LEAF.key_pem + LEAF.chain_pem)
        yield write_config(
            Path(directory),
            plugins=["dane"],
            dns={"nameservers": [signed_dns.nameserver], "self_test": {"secure": "secure.test", "bogus": "ns.bogus.test"}},
            net={"port_map": {"25": port}},
        )


def test_a_domain_with_dane(config: Path) -> None:
    done = run("dane", "check", "-c", config, "--json", "dane-cli.secure.test")
    assert (done.code, done.err) == (0, "")
    [host] = done.json["hosts"]
    assert (done.json["mx"]["security"], host["addresses"]["security"], host["tlsa"]["state"]) == ("secure",) * 3
    assert host["verdict"]["passed"]
    shown = run("dane", "check", "-c", config, "dane-cli.secure.test")
    assert b"is protected" in shown.out


def test_a_domain_that_does_not_validate(config: Path) -> None:
    done = run("dane", "check", "-c", config, "--json", "dane-cli.bogus.test")
    assert done.code == 1
    assert "extended-dns-error-6-dnssec-bogus" in done.json["error"]


def test_records_and_a_change_of_keys(config: Path) -> None:
    file = config.parent / "server.pem"
    done = run("dane", "tlsa", "-c", config, str(file), "--host", MX)
    assert f"_25._tcp.{MX}. IN TLSA {tlsa(LEAF.certificate)}\n".encode() in done.out
    done = run("dane", "rollover", "-c", config, MX, "--cert", file, "--json")
    assert (done.code, done.json["stage"]) == (0, "steady")


@pytest.mark.parametrize(
    ("words", "code"),
    [(("check", "a..b"), 2), (("tlsa", "missing.pem"), 2), (("rollover", "mx.nowhere.secure.test"), 1), (("check",), 2)],
)
def test_what_cannot_be_done_is_said_in_a_line(config: Path, words: tuple[str, ...], code: int) -> None:
    done = run("dane", words[0], "-c", config, *words[1:])
    assert done.code == code
    assert done.err.strip()


def test_a_server_that_does_not_validate(config: Path, signed_dns: SignedDns) -> None:
    """RFC 7672 §2.1.1: the authority itself answers, and proves nothing."""
    tables = {"nameservers": [signed_dns.authority], "self_test": {"secure": "secure.test", "bogus": "ns.bogus.test"}}
    other = write_config(config.parent / "other", plugins=["dane"], dns=tables)
    done = run("dane", "check", "-c", other, "--json", "--no-connect", "dane-cli.secure.test")
    assert (done.code, done.json["resolver"]["validating"]) == (1, False)
    assert "resolver-does-not-validate" in done.err
