"""`deliver` and `probe` as a user meets them: mistakes, output for programs and for people, exit codes."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from deliver_kit import ENVIRONMENT, MESSAGE, POSTWARD, call, deliver, run, serving, write_config
from postward.lab.ca import Authority
from postward.lab.dnsserver import serve_tcp, serve_udp
from postward.lab.ground import DNS, Ground, claim
from postward.lab.mx import Mailbox, MailHost
from postward.lab.zones import Zones
from postward.names import Domain

pytestmark = pytest.mark.loopback

MX, WITHOUT_TLS = "127.0.8.1", "127.0.8.2"
TO = ("--from", "me@sender.test", "--to", "you@example.test")
ESCAPE = "\x1b"


async def serve_world(
    zones: Zones, ground: Ground, hosts: dict[str, MailHost], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_udp, zones, ground.datagrams)
        nursery.start_soon(serve_tcp, zones, ground.listeners[DNS])
        for address, host in hosts.items():
            nursery.start_soon(host.serve, ground.listeners[address])
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            ground.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration of a relay that reaches two mail hosts, one with and one without TLS."""
    directory = tmp_path_factory.mktemp("cli")
    authority, ground, zones, mailbox = Authority(), claim([MX, WITHOUT_TLS]), Zones(), Mailbox()
    (directory / "ca.pem").write_bytes(authority.root_pem)
    zones.add("example.test", f"@ MX 10 mx\nmx A {MX}\n")
    zones.add("plain.test", f"@ MX 10 mx\nmx A {WITHOUT_TLS}\n")
    hosts = {
        MX: MailHost(
            name=Domain("mx.example.test"),
            domains=frozenset({Domain("example.test")}),
            context=authority.issue(["mx.example.test"]).server_context(),
            mailbox=mailbox,
        ),
        WITHOUT_TLS: MailHost(
            name=Domain("mx.plain.test"),
            domains=frozenset({Domain("plain.test"), Domain(f"[{WITHOUT_TLS}]")}),
            context=None,
            mailbox=mailbox,
        ),
    }
    config = write_config(
        directory,
        dns={"nameservers": [f"{DNS}:{ground.port}"], "self_test": {"secure": "", "bogus": ""}, "timeout": 5.0},
        tls={"ca_file": str(directory / "ca.pem")},
        net={"port_map": {"25": ground.port}},
    )
    with serving(partial(serve_world, zones, ground, hosts)):
        yield config


# --- mistakes ---

BASE = '[core]\nhostname = "relay.sender.test"\ndata_dir = "data"\n[dns]\nnameservers = ["127.0.0.1:9"]\n'


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (f'{BASE}[delivery]\nmin_tsl = "required"', "delivery.min_tsl", "did you mean 'min_tls'?"),
        (f'{BASE}[delviery]\nmin_tls = "required"', "delviery", "did you mean 'delivery'?"),
        (f'{BASE}[delivery]\nmin_tls = "requierd"', "delivery.min_tls", "did you mean 'required'?"),
        (f'{BASE}[delivery]\nworkers = "two"', "delivery.workers", "a whole number"),
        (f"{BASE}[net]\nport_map = {{ 25 = 99999 }}", "net.port_map.25", "65535"),
        (f'plugins = "dane"\n{BASE}', "plugins", "a list"),
        (f'plugins = ["dane", "dane"]\n{BASE}', "plugins", "twice"),
        (f'plugins = ["dame"]\n{BASE}', "plugins[0]", "did you mean 'dane'?"),
        (f'plugins = ["tlsrpt"]\n{BASE}[plugin.tlsrpt]\norganisation = "x"', "plugin.tlsrpt.organisation", "'organization'?"),
        (f"{BASE}[plugin.dane]\nx = 1", "plugin.dane", "not enabled"),
        (f'{BASE}[[dkim]]\ndomain = "b.test"\nselector = "s"\nkey_file = "no.pem"', "dkim[0].key_file", "no.pem"),
        (f'{BASE}[tls]\nca_file = "no.pem"', "tls.ca_file", "no.pem"),
        (BASE.replace("127.0.0.1:9", "localhost"), "dns.nameservers", "localhost"),
        (BASE.replace("relay.sender.test", "relay sender"), "core.hostname", "relay sender"),
        (BASE.replace("[dns]", '[dns]\ntrust_ad = "loopbak"'), "dns.trust_ad", "did you mean 'loopback'?"),
        (BASE.replace("[dns]", 'database = "mysql://x"\n[dns]'), "core.database", "sqlite:///"),
        (f"{BASE}[delivery\n", "", "line 6"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, key: str, said: str) -> None:
    """One line with file, key and the nearest right name; and nothing is touched."""
    file = tmp_path / "postward.toml"
    file.write_text(text)
    done = deliver(file, "you@example.test", how=call)
    assert (done.code, done.out) == (2, b"")
    [line] = done.err.splitlines()
    assert line.startswith(f"postward: {file}: {key}")
    assert said in line
    assert os.listdir(tmp_path) == ["postward.toml"]


@pytest.mark.parametrize("config", ["none.toml", ".", "binary.toml"])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, config: str) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    done = run("deliver", "--config", config, *TO, "-", stdin=MESSAGE, cwd=tmp_path)
    assert done.code == 2
    [line] = done.err.splitlines()
    assert line.startswith(f"postward: {config}: ")


def test_no_configuration_at_all(tmp_path: Path) -> None:
    if Path("/etc/postward/postward.toml").exists():
        pytest.skip("this machine has one")
    done = run("deliver", *TO, "-", stdin=MESSAGE, cwd=tmp_path, POSTWARD_CONFIG="")
    assert done.code == 2
    [line] = done.err.splitlines()
    assert "POSTWARD_CONFIG" in line
    assert not list(tmp_path.iterdir())


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    """The password of a database that is not there."""
    core = {
        "hostname": "relay.sender.test",
        "data_dir": str(tmp_path / "data"),
        "database": "postgresql://u:sesame@127.0.0.1:9/x",
    }
    done = deliver(write_config(tmp_path, core=core), "you@example.test")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "127.0.0.1:9" in done.err
    assert "sesame" not in done.err


@pytest.mark.parametrize(
    ("file", "said"), [("none.eml", "No such file"), (".", "Is a directory"), ("empty.eml", "no message"), ("-", "no message")]
)
def test_a_message_that_is_none(tmp_path: Path, file: str, said: str) -> None:
    config = write_config(tmp_path)
    (tmp_path / "empty.eml").write_bytes(b" \n\n")
    done = run("deliver", "--config", config, *TO, file, cwd=tmp_path)
    assert done.code == 2
    [line] = done.err.splitlines()
    assert line.startswith(f"postward: {file}: ")
    assert said in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "address",
    [
        "you",
        "a b@example.test",
        "@example.test",
        "you@",
        "you@exa mple.test",
        "you@example..test",
        f"you@{'a' * 64}.test",
        f"{'a' * 300}@example.test",
        "you@example.test\r\nRCPT TO:<me@example.test>",
        "you@[300.0.0.1]",
        "you@[IPv6:zz]",
        " ",
    ],
)
@pytest.mark.parametrize("option", ["--to", "--from"])
def test_an_address_that_is_none(tmp_path: Path, address: str, option: str) -> None:
    """RFC 5321 §4.1.2."""
    config = write_config(tmp_path)
    words = {"--from": "me@sender.test", "--to": "you@example.test", option: address}
    given = [word for pair in words.items() for word in pair]
    done = call("deliver", "--config", config, *given, "-", stdin=MESSAGE)
    assert (done.code, done.out) == (2, b"")
    [line] = done.err.splitlines()
    assert line.startswith("postward: not a")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deliver", "--from", "a@b.test", "m.eml"), "'--to'"),
        (("deliver", "--to", "a@b.test", "m.eml"), "'--from'"),
        (("deliver", *TO), "MESSAGE.eml"),
        (("deliver", *TO, "--jsn", "m.eml"), "--json"),
        (("delivr",), "'deliver'"),
        (("probe",), "domain"),
        (("probe", "a", "b"), "b"),
        (("--log-level", "loud", "probe", "a.test"), "warning"),
    ],
)
def test_wrong_words(words: tuple[str, ...], said: str) -> None:
    done = call(*words)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err


@pytest.mark.parametrize("domain", ["not a domain", "", "-a-.test", "a\x1b[31m.test"])
def test_a_domain_that_is_none(tmp_path: Path, domain: str) -> None:
    done = call("probe", "--config", write_config(tmp_path), "--", domain)
    assert done.code == 2
    [line] = done.err.splitlines()
    assert ESCAPE not in line
    assert not (tmp_path / "data").exists()


# --- what comes out ---


def types_of(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {key: types_of(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [types_of(value) for value in thing]
    return type(thing).__name__


def test_the_json_of_deliver(world: Path) -> None:
    """The fields that scripts rely on, and their types."""
    done = deliver(world, ["you@example.test", "me@plain.test"])
    assert (done.code, done.err) == (0, "")
    policy = dict.fromkeys(("kind", "mode", "domain", "reason", "detail"), "str") | {"passed": "bool"}
    attempt = dict.fromkeys(("domain", "host", "address", "error"), "str") | {"delivered": "bool"}
    recipient = {"address": "str", "delivered": "bool", "permanent": "bool", "reply": "str"}
    assert types_of(done.json) == {
        "recipients": [recipient, recipient],
        "attempts": [
            attempt | {"tls": {"protocol": "str", "cipher": "str"}, "policies": [policy | {"result_type": "NoneType"}]},
            attempt | {"tls": "NoneType", "policies": [policy | {"result_type": "str"}]},
        ],
    }
    assert [each["policies"][0]["result_type"] for each in done.attempts] == [None, "starttls-not-supported"]


def test_the_json_of_probe(world: Path) -> None:
    """Up to EHLO behind TLS, no mail, no recipients; exit code 0 where some host could take mail."""
    done = run("probe", "--config", world, "--json", "example.test")
    assert (done.code, done.err) == (0, "")
    assert done.recipients == []
    [attempt] = done.attempts
    assert (attempt["host"], attempt["address"], attempt["delivered"], attempt["error"]) == ("mx.example.test", MX, False, "")
    assert attempt["tls"]["protocol"] == "TLSv1.3"


def test_probing_what_is_not_there(world: Path) -> None:
    done = run("probe", "--config", world, "--json", "nothing.test")
    assert done.code == 1
    [attempt] = done.attempts
    assert attempt["error"].startswith("550 5.1.2 ")


def test_refused_recipients_make_bad_news(world: Path) -> None:
    """Exit code 1 when any recipient was not delivered, in the order in which they were given."""
    done = deliver(world, ["you@nothing.test", "you@example.test", "you@plain.test"])
    assert done.code == 1
    assert [(each["delivered"], each["permanent"]) for each in done.recipients] == [(False, True), (True, False), (True, False)]


def test_an_address_literal(world: Path) -> None:
    """RFC 5321 §4.1.3: no lookup, no policy."""
    done = deliver(world, f"you@[{WITHOUT_TLS}]")
    assert done.code == 0, done.out
    [attempt] = done.attempts
    assert (attempt["host"], attempt["address"]) == (f"[{WITHOUT_TLS}]", WITHOUT_TLS)
    assert [each["kind"] for each in attempt["policies"]] == ["no-policy-found"]


def test_brackets_around_addresses(world: Path) -> None:
    done = deliver(world, ["<you@example.test>"], sender="<me@sender.test>")
    assert done.recipients[0]["address"] == "you@example.test"


def test_in_a_pipe_there_are_plain_columns(world: Path) -> None:
    done = run("deliver", "--config", world, *TO, "-", stdin=MESSAGE)
    assert (done.code, done.err) == (0, "")
    text = done.out.decode()
    assert ESCAPE not in text
    assert text.isascii()
    heads = [line.split() for line in text.splitlines()]
    assert ["host", "address", "TLS", "policies", "outcome"] in heads
    assert ["recipient", "outcome", "reply"] in heads
    assert re.search(r"^mx\.example\.test +127\.0\.8\.1 +TLSv1\.3 +no-policy-found none passed +delivered$", text, re.MULTILINE)


def on_a_terminal(*words: str | Path, **environment: str) -> tuple[int, str]:
    """Run on a pseudo-terminal of 100 columns; the exit code and all that was shown."""
    ours, theirs = pty.openpty()
    settings = {**ENVIRONMENT, "COLUMNS": "100", "TERM": "xterm-256color", **environment}
    process = subprocess.Popen([*POSTWARD, *map(str, words)], stdin=theirs, stdout=theirs, stderr=theirs, env=settings)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # Linux says EIO when the last process is gone
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    return process.wait(30), shown.decode()


def test_on_a_terminal_there_is_a_table(world: Path, tmp_path: Path) -> None:
    (tmp_path / "m.eml").write_bytes(MESSAGE)
    code, shown = on_a_terminal("deliver", "--config", world, *TO, tmp_path / "m.eml")
    assert code == 0, shown
    assert "━" in shown
    assert f"{ESCAPE}[" in shown
    assert "mx.example.test" in shown
    assert "Recipients" in shown


def test_a_terminal_without_colour(world: Path) -> None:
    code, shown = on_a_terminal("probe", "--config", world, "example.test", NO_COLOR="1")
    assert code == 0, shown
    assert "ready for mail" in shown
    assert f"{ESCAPE}[32m" not in shown


def test_a_closed_pipe_is_no_drama(world: Path) -> None:
    command = [*POSTWARD, "probe", "--config", str(world), "--json", "example.test"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_ctrl_c(world: Path) -> None:
    """In the middle of a delivery: exit code 130, and not a word."""
    with socket.create_server(("127.0.8.3", 0)) as silent:
        port = silent.getsockname()[1]
        config = write_config(world.parent / "ctrl-c", net={"port_map": {"25": port}})
        command = [*POSTWARD, "deliver", "--config", str(config), "--from", "", "--to", "you@[127.0.8.3]", "-"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:  # type: ignore[call-overload]
            process.stdin.write(MESSAGE)
            process.stdin.close()
            silent.settimeout(30)
            silent.accept()[0].close()
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == b""
            assert process.stderr.read() == b""
    assert process.returncode == 130
