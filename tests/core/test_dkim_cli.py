"""`postward dkim`: key files, configuration and records, and that a signature holds under exactly what was printed."""

from __future__ import annotations

import json
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import dkim
import dns.zone
import pytest

from interop import need
from postward.cli import main
from postward.config import from_dict
from postward.dkim import Signer, SigningKey, generate
from postward.dkim.keyfile import KeyExists, write_key
from postward.names import Domain

SOA = "$ORIGIN example.com.\n@ 3600 IN SOA ns. host. 1 3600 600 86400 60\n@ 3600 IN NS ns.example.net.\n"
MAIL = b"From: Joe <joe@example.com>\r\nTo: b@b.example\r\nSubject: a\r\n\r\nHello\r\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTWARD_CONFIG", raising=False)


def split(output: str) -> tuple[dict[str, Any], str]:
    """The two halves of what `generate` prints: a configuration and a zone file."""
    tables, _, zone = output.partition("\n; ")
    return tomllib.loads(tables), f"; {zone}"


def txt_in(zone: str) -> dict[bytes, bytes]:
    parsed = dns.zone.from_text(SOA + zone, relativize=False)
    return {
        name.to_text().encode(): b"".join(record.strings)
        for name, _, record in parsed.iterate_rdatas("TXT")
        if all(len(string) <= 255 for string in record.strings)
    }


def test_a_signature_holds_under_what_was_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dkim", "generate", "Example.COM", "--selector", "s1", "--dir", str(tmp_path / "keys")]) == 0
    tables, zone = split(capsys.readouterr().out)
    config = from_dict(tables)
    assert [(entry.domain, entry.selector) for entry in config.dkim] == [
        ("example.com", "s1-rsa"),
        ("example.com", "s1-ed25519"),
    ]
    keys = [SigningKey.load(entry.domain, entry.selector, entry.key_file.read_bytes()) for entry in config.dkim]
    signed = Signer(keys).sign(MAIL, Domain("example.com"))
    records = txt_in(zone)
    assert set(records) == {b"s1-rsa._domainkey.example.com.", b"s1-ed25519._domainkey.example.com."}
    for index in (0, 1):
        assert dkim.DKIM(signed).verify(idx=index, dnsfunc=lambda name, timeout=5: records[name])
    for name, value in records.items():  # the plain form says the same
        assert f"; {name.decode().removesuffix('.')}\n;   {value.decode()}\n" in zone

    (tmp_path / "postward.toml").write_text(json_free_toml(tables))
    assert main(["dkim", "records"]) == 0
    assert capsys.readouterr().out == zone


def json_free_toml(tables: dict[str, Any]) -> str:
    rows = ("\n".join(f"{key} = '{value}'" for key, value in table.items()) for table in tables["dkim"])
    return "".join(f"[[dkim]]\n{row}\n" for row in rows)


@pytest.mark.interop
def test_knot_takes_the_zone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = need("kzonecheck")
    assert main(["dkim", "generate", "example.com", "--dir", str(tmp_path)]) == 0
    zone = tmp_path / "example.com.zone"
    zone.write_text(SOA + split(capsys.readouterr().out)[1])
    done = subprocess.run([program, "-o", "example.com", str(zone)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_keys_are_for_their_owner_only_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "keys"
    command = ["dkim", "generate", "example.com", "--selector", "s", "--dir", str(folder)]
    assert main([*command, "--ed25519"]) == 0
    file = folder / "example.com.s.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = file.read_bytes()
    capsys.readouterr()
    assert main([*command, "--rsa"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{file} exists, and a key is never overwritten" in said.err
    (folder / "example.com.s-ed25519.pem").symlink_to(tmp_path / "elsewhere")
    assert main(command) == 2  # a name that leads nowhere is taken, too
    assert not (tmp_path / "elsewhere").exists()
    assert not (folder / "example.com.s-rsa.pem").exists()
    assert file.read_bytes() == before


def test_a_key_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    key = SigningKey(domain=Domain("example.com"), selector="s", key=generate("ed25519"))
    path = write_key(key, tmp_path)
    before = path.read_bytes()
    with pytest.raises(KeyExists, match="never overwritten"):
        write_key(SigningKey(domain=key.domain, selector="s", key=generate("ed25519")), tmp_path)
    assert path.read_bytes() == before


def test_keys_go_below_the_data_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "postward.toml").write_text('[core]\ndata_dir = "state"\n')
    assert main(["dkim", "generate", "example.com", "--ed25519", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert Path(shown["key_file"]).parent == tmp_path / "state" / "dkim"
    assert shown["name"] == f"{shown['selector']}._domainkey.example.com"
    assert shown["zone"] == f'{shown["name"]}. 3600 IN TXT "{shown["value"]}"'
    assert shown["algorithm"] == "ed25519-sha256"


def test_records_without_keys_are_bad_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "postward.toml").write_text("")
    assert main(["dkim", "records", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "postward dkim generate" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["[192.0.2.1]"],
        ["not a domain"],
        ["example.com", "--selector", "a b"],
        ["example.com", "--selector", "../x"],
        ["example.com", "--selector", "x" * 63],
        [".".join(["a" * 60] * 4), "--selector", "abc"],
    ],
)
def test_what_is_no_domain_or_no_selector_makes_nothing(words: list[str], tmp_path: Path) -> None:
    assert main(["dkim", "generate", *words, "--dir", str(tmp_path / "keys")]) == 2
    assert not (tmp_path / "keys").exists()
