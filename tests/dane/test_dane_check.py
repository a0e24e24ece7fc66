"""`postward dane check`: what a sender with DANE sees, and what the owner of a domain should do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dane_kit import ADDRESS, AUTHORITY, LEAF, MX, NOW, World, world, zone
from postward.core import OwnCertificate
from postward.errors import ConfigError
from postward.lab.ca import DAY, tlsa
from postward.model import Severity

RECORD, ANCHOR = tlsa(LEAF.certificate), tlsa(AUTHORITY.certificate, 2, 1, 1)
WRONG = f"3 1 1 {'01' * 32}"


def told(found: dict[str, Any], severity: str) -> str:
    return " | ".join(
        f"{each['what']}: {each['why']} {each['fix']}" for each in found["findings"] if each["severity"] == severity
    )


def test_all_is_well() -> None:
    """RFC 7672 §2.2: secure MX, secure addresses, a secure usable record that matches."""
    code, found = world(RECORD).json("check", "Example.ORG")
    assert code == 0
    assert found["resolver"] == {"validating": True, "problems": []}
    assert found["mx"] == {"security": "secure", "implicit": False}
    [host] = found["hosts"]
    assert (host["host"], host["addresses"]["security"], host["addresses"]["found"]) == (MX, "secure", [ADDRESS])
    assert (host["tlsa"]["base"], host["tlsa"]["state"]) == (MX, "secure")
    [record] = host["tlsa"]["records"]
    assert (record["record"], record["usable"], record["why"], record["verdict"]["passed"]) == (RECORD, True, None, True)
    assert host["tls"]["address"] == ADDRESS
    assert host["certificate"]["names"] == [MX]
    assert host["certificate"]["expires"] == (NOW + 90 * DAY) // 1_000_000
    assert host["verdict"]["passed"]
    assert [each["severity"] for each in found["findings"]] == ["ok"]


def test_a_host_is_checked_by_its_own_name() -> None:
    code, found = world(RECORD).json("check", MX)
    assert (code, found["mx"]["implicit"], len(found["hosts"])) == (0, True, 1)


def test_a_mismatch_says_what_to_publish() -> None:
    """RFC 7672 §2.2, §9.1: no match, no mail; the fix is the exact record."""
    code, found = world(WRONG).json("check", "example.org")
    assert code == 1
    assert found["hosts"][0]["verdict"] == {
        "passed": False,
        "result_type": "validation-failure",
        "reason": "dane-no-match",
        "detail": "no certificate matches any of 1 records",
    }
    assert "do not deliver" in told(found, "error")
    assert f"publish: _25._tcp.{MX}. IN TLSA {RECORD}" in told(found, "error")


def test_which_record_matched_and_which_did_not() -> None:
    """RFC 7671 §8: a record of a key to come is no trouble."""
    code, found = world(WRONG, RECORD, ANCHOR).json("check", "example.org")
    assert code == 0
    matched = {each["record"]: each["verdict"]["passed"] for each in found["hosts"][0]["tlsa"]["records"]}
    assert matched == {WRONG: False, RECORD: True, ANCHOR: False}  # the server does not send its root
    assert told(found, "ok").count("matches nothing") == 2


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (f"1 1 1 {'01' * 32}", "usages 0 and 1 are not for mail"),
        ("3 1 1 00", "a digest of 1 bytes, not 32"),
        (f"3 1 9 {'01' * 32}", "the matching type 9 is unknown"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(record: str, why: str) -> None:
    """RFC 6698 §4.1, RFC 7672 §3.1.3."""
    code, found = world(record, RECORD).json("check", "example.org")
    assert code == 1
    used = {each["record"]: each["why"] for each in found["hosts"][0]["tlsa"]["records"]}
    assert used == {record: why, RECORD: None}
    assert why in told(found, "warning")
    code, found = world(record).json("check", "example.org")
    assert (code, found["hosts"][0]["verdict"]) == (1, None)
    assert why in told(found, "error")
    assert "do not know with whom" in told(found, "error")


def test_records_that_do_not_fit_into_a_datagram() -> None:
    """RFC 7671 §10.1.1: SHOULD avoid sets that fragment."""
    many = [f"3 1 1 {number:064x}" for number in range(30)]
    code, found = world(*many, RECORD).json("check", "example.org")
    assert (code, "too much for one datagram" in told(found, "warning")) == (1, True)
    code, found = world(*many[:15], RECORD).json("check", "example.org")
    assert (code, found["hosts"][0]["verdict"]["passed"]) == (0, True)


def test_digest_agility_is_shown() -> None:
    """RFC 7671 §9: with a stronger digest beside it, the weaker one is not used."""
    _, found = world(RECORD, tlsa(LEAF.certificate, 3, 1, 2)).json("check", "example.org")
    whys = [each["why"] for each in found["hosts"][0]["tlsa"]["records"]]
    assert whys == ["a stronger digest is published beside it", None]
    _, found = world(RECORD, tlsa(LEAF.certificate, 3, 1, 2), digests=["sha256"]).json("check", "example.org")
    assert [each["why"] for each in found["hosts"][0]["tlsa"]["records"]] == [None, "the matching type 2 is turned off"]


def test_an_unsigned_domain() -> None:
    """RFC 7672 §2.2.2: insecure addresses, so nobody asks; yet its owner learns that the records count for nothing."""
    code, found = world(RECORD, security="insecure").json("check", "example.org")
    assert code == 1
    [host] = found["hosts"]
    assert (host["addresses"]["security"], host["tlsa"]["asked"], host["tlsa"]["state"]) == ("insecure", False, "insecure")
    assert "the MX records of example.org are not signed" in told(found, "warning")
    assert "although it has TLSA records" in told(found, "warning")
    assert told(found, "ok") == ""


def test_an_insecure_mx_with_a_secure_host() -> None:
    """RFC 7672 §2.2.1."""
    zones = {"example.org": (zone(RECORD), "secure"), "unsigned.test": (f"@ MX 5 {MX}.\n", "insecure")}
    code, found = World(zones, {ADDRESS: LEAF}).json("check", "unsigned.test")
    assert (code, found["mx"]["security"]) == (1, "insecure")
    assert "is protected" in told(found, "ok")


def test_records_that_cannot_be_looked_up() -> None:
    """RFC 7672 §2.1.2: who publishes what cannot be looked up gets no mail from senders with DANE."""
    one = world(RECORD)
    one.dns.fault(f"_25._tcp.{MX}", "TLSA", "SERVFAIL", [(7, "")])
    code, found = one.json("check", "example.org")
    assert (code, found["hosts"][0]["tlsa"]["failure"]) == (1, "extended-dns-error-7-signature-expired")
    assert "extended-dns-error-7-signature-expired" in told(found, "error")


def test_a_host_without_records_gets_one_to_publish() -> None:
    code, found = world().json("check", "example.org")
    assert (code, found["hosts"][0]["tlsa"]["state"]) == (1, "absent")
    assert f"publish: _25._tcp.{MX}. IN TLSA {RECORD}" in told(found, "warning")


def test_a_domain_that_does_not_exist() -> None:
    code, found = world().json("check", "missing.example.net")
    assert (code, found["hosts"], found["mx"]["security"]) == (1, [], None)
    assert "does not exist" in told(found, "error")


def test_a_host_without_an_address() -> None:
    code, found = World({"example.org": ("@ MX 1 mx\n", "secure")}, {}).json("check", "example.org")
    assert code == 1
    assert "cannot be looked up" in told(found, "error")


@pytest.mark.parametrize(("servers", "why"), [({ADDRESS: None}, "does not offer STARTTLS"), ({}, "refused")])
def test_a_host_that_shows_no_certificate(servers: dict[str, Any], why: str) -> None:
    code, found = World({"example.org": (zone(RECORD), "secure")}, servers).json("check", "example.org")
    assert code == 1
    assert why in found["hosts"][0]["unreachable"].lower().replace("starttls", "STARTTLS")
    assert "no certificate" in told(found, "warning")


def test_without_connecting() -> None:
    code, found = World({"example.org": (zone(WRONG), "secure")}, {}).json("check", "example.org", "--no-connect")
    assert (code, found["hosts"][0]["unreachable"], found["hosts"][0]["verdict"]) == (0, None, None)


def test_another_port() -> None:
    """RFC 7672 §2.2.3: the port is part of the name."""
    text = f"@ MX 10 mx\nmx A {ADDRESS}\n_2525._tcp.mx TLSA {RECORD}\n"
    one = World({"example.org": (text, "secure")}, {ADDRESS: LEAF}, port=2525)
    assert one.json("check", "example.org", "--port", "2525")[0] == 0


def test_the_base_behind_an_alias_is_the_name_in_the_handshake() -> None:
    """RFC 7672 §2.2.2, §8.1."""
    zones = {
        "example.org": ("@ MX 10 mx\nmx CNAME real.provider.test.\n", "secure"),
        "provider.test": (f"real A {ADDRESS}\n_25._tcp.real TLSA {RECORD}\n", "secure"),
    }
    code, found = World(zones, {ADDRESS: LEAF}).json("check", "example.org")
    assert (code, found["hosts"][0]["tlsa"]["base"]) == (0, "real.provider.test")
    assert found["hosts"][0]["addresses"]["canonical"] == "real.provider.test"


def test_a_date_matters_to_dane_ta_and_not_to_dane_ee() -> None:
    """RFC 7672 §3.1.1, §3.1.2."""
    soon = AUTHORITY.issue([MX], not_before=NOW - DAY, not_after=NOW + 3 * DAY, with_root=True)
    code, found = world(ANCHOR, issued=soon).json("check", "example.org")
    assert code == 1
    assert "expires in 3 days" in told(found, "warning")
    assert world(tlsa(soon.certificate), issued=soon).json("check", "example.org")[0] == 0
    gone = AUTHORITY.issue([MX], not_before=NOW - 9 * DAY, not_after=NOW - DAY, with_root=True)
    code, found = world(ANCHOR, issued=gone).json("check", "example.org")
    assert "certificate-expired" in told(found, "error")


def test_a_whole_certificate_breaks_at_each_renewal() -> None:
    """RFC 7671 §5.1: `3 1 1` survives a renewal with the same key."""
    code, found = world(tlsa(LEAF.certificate, 3, 0, 1)).json("check", "example.org")
    assert code == 1
    assert "each renewal breaks the match" in told(found, "warning")


def test_a_resolver_that_does_not_validate_can_tell_nothing() -> None:
    """RFC 7672 §2.1.1."""
    one = world(RECORD)
    one.dns.validating, one.dns.problems = False, ("no AD",)
    code, found = one.json("check", "example.org")
    assert code == 1
    assert [each["severity"] for each in found["findings"]] == ["error"]
    assert "no AD" in told(found, "error")


@pytest.mark.parametrize("text", ["", "[192.0.2.1]", "a..b"])
def test_what_is_no_domain(text: str) -> None:
    assert isinstance(world().command("check", text).exception, ConfigError)


def test_what_people_see() -> None:
    result = world(WRONG, RECORD).command("check", "example.org")
    assert result.return_value == 0
    for words in ("MX secure", "mx.example.org", "usable", "matches", "dane-no-match", "ok: "):
        assert words in result.stdout
    assert "error: the certificate of mx.example.org" in world(WRONG).command("check", "example.org").stdout


def test_what_strangers_write_is_shown_and_never_obeyed() -> None:
    """A certificate may hold anything, also what a terminal would obey."""
    nasty = AUTHORITY.issue([MX], cn="\x1b[2J\nok: fine", not_before=NOW - DAY)
    result = world(tlsa(nasty.certificate), issued=nasty).command("check", "example.org")
    assert "\x1b" not in result.stdout
    assert "\nok: fine" not in result.stdout
    assert "fine" in result.stdout


# --- for `postward check` and `postward records` ---


def own(tmp_path: Path, port: int = 25, kind: str = "smtp") -> tuple[OwnCertificate, ...]:
    (tmp_path / "server.pem").write_bytes(LEAF.key_pem + LEAF.chain_pem)
    return (OwnCertificate(port=port, kind=kind, file=tmp_path / "server.pem"),)


def test_the_records_of_our_own_listeners(tmp_path: Path) -> None:
    """RFC 7672 §3.1: `3 1 1`, at the port of the listener."""
    one = world(own=own(tmp_path), hostname=MX)
    [record] = one.plugin.dns_records(MX)
    assert (record.name, record.rdtype, record.value) == (f"_25._tcp.{MX}", "TLSA", RECORD)
    assert world(own=own(tmp_path, kind="submission"), hostname=MX).plugin.dns_records(MX) == ()
    missing = (OwnCertificate(port=25, kind="smtp", file=tmp_path / "missing.pem"),)
    assert world(own=missing, hostname=MX).plugin.dns_records(MX) == ()


async def checks(one: World) -> dict[Severity, str]:
    found = await one.plugin.dns_checks(MX)
    assert all(each.area == "dane" for each in found)
    return {each.severity: f"{each.what} {each.fix}" for each in found}


async def test_checks_connect_to_nobody_and_look_at_our_own_files(tmp_path: Path) -> None:
    assert set(await checks(world(RECORD, own=own(tmp_path), hostname=MX))) == {Severity.OK}
    found = await checks(world(WRONG, own=own(tmp_path), hostname=MX))
    assert f"publish: _25._tcp.{MX}. IN TLSA {RECORD}" in found[Severity.ERROR]
    assert set(await checks(world(WRONG, own=own(tmp_path), hostname="elsewhere.example.org"))) == {Severity.OK}
    (tmp_path / "server.pem").write_text("rubbish")
    broken = (OwnCertificate(port=25, kind="smtp", file=tmp_path / "server.pem"),)
    found = await checks(world(RECORD, own=broken, hostname=MX))
    assert "cannot be read" in found[Severity.ERROR]
