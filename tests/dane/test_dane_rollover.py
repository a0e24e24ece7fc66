"""`postward dane tlsa` and `rollover`: what to publish, and how to change a key so that no sender ever finds no match."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from dane_kit import AUTHORITY, LEAF, MX, World, world
from postward.errors import ConfigError
from postward.lab.ca import Authority, tlsa
from postward.names import Domain
from postward_dane.match import judge
from postward_dane.pem import certificates_of, describe
from postward_dane.rollover import Stage, plan
from postward_dane.tlsa import TlsaRecord, of_certificate, parse, usable

KEY = ec.generate_private_key(ec.SECP256R1())
BELOW = AUTHORITY.subordinate("Below")
OLD, RENEWED = BELOW.issue([MX], key=KEY), BELOW.issue([MX], key=KEY)
OTHER = Authority("Other").subordinate("Other below")
NEW = OTHER.issue([MX])
SAME_AUTHORITY = BELOW.issue([MX])


def records(der: bytes, *kinds: tuple[int, int, int]) -> list[TlsaRecord]:
    return [of_certificate(der, *kind) for kind in kinds]


EE, EE_512, EE_WHOLE, TA = (3, 1, 1), (3, 1, 2), (3, 0, 1), (2, 1, 1)


def test_the_whole_way() -> None:
    """RFC 7671 §8.1: publish beside, wait, change, remove; at no moment may the served certificate match nothing."""
    published, serving, seen = records(OLD.certificate, EE), OLD.chain, []
    for _ in range(6):
        step = plan(published, serving, NEW.chain, ttl=300)
        seen.append(step.stage)
        assert step.good
        published = [record for record in (*published, *step.publish) if record not in step.remove]
        if step.stage is Stage.SWITCH:
            serving = NEW.chain
        assert judge(usable(published), serving, [MX]).passed
    assert seen[:4] == [Stage.PUBLISH, Stage.SWITCH, Stage.CLEAN_UP, Stage.STEADY]
    assert published == records(NEW.certificate, EE)


def test_both_keys_get_records_of_the_same_kinds() -> None:
    """RFC 7671 §8.4, §9: a stronger digest of one key only would hide the other."""
    step = plan(records(OLD.certificate, EE, EE_512), OLD.chain, NEW.chain)
    assert list(step.publish) == records(NEW.certificate, EE_512)  # the weaker one is not in use
    assert any("cache" in sentence for sentence in step.steps)


def test_the_wait_is_the_ttl() -> None:
    step = plan(records(OLD.certificate, EE), OLD.chain, NEW.chain, ttl=7200)
    assert "at least 7200 seconds" in step.steps[1]


def test_an_authority_is_changed_like_a_key() -> None:
    """RFC 7671 §8.3."""
    step = plan(records(BELOW.certificate, TA), OLD.chain, NEW.chain)
    assert (step.stage, list(step.publish)) == (Stage.PUBLISH, records(OTHER.certificate, TA))


def test_a_certificate_below_the_same_authority_needs_nothing() -> None:
    step = plan(records(BELOW.certificate, TA), OLD.chain, SAME_AUTHORITY.chain)
    assert (step.stage, step.publish) == (Stage.SAME_KEY, ())


def test_a_chain_without_the_authority_falls_back_to_the_key() -> None:
    step = plan(records(BELOW.certificate, TA), OLD.chain, NEW.chain[:1])
    assert list(step.publish) == records(NEW.certificate, EE)


def test_a_renewal_with_the_same_key() -> None:
    """RFC 7671 §5.1: selector 1 does not mind; selector 0 does."""
    assert plan(records(OLD.certificate, EE), OLD.chain, RENEWED.chain).stage is Stage.SAME_KEY
    step = plan(records(OLD.certificate, EE_WHOLE), OLD.chain, RENEWED.chain)
    assert (step.stage, list(step.publish)) == (Stage.PUBLISH, records(RENEWED.certificate, EE_WHOLE))


def test_a_server_that_changed_too_early() -> None:
    """RFC 7672 §2.2: no match, no mail; so publish at once."""
    step = plan(records(OLD.certificate, EE), NEW.chain)
    assert (step.stage, step.good) == (Stage.BROKEN, False)
    assert list(step.publish) == records(NEW.certificate, EE)
    assert "do not deliver" in step.steps[0]
    assert "do not know with whom" in plan([parse("1 1 1 " + "00" * 32)], NEW.chain).steps[0]


def test_nothing_published_yet() -> None:
    step = plan([], OLD.chain)
    assert (step.stage, list(step.publish)) == (Stage.START, records(OLD.certificate, EE))


def test_without_a_new_certificate_it_says_what_is_in_use() -> None:
    left = records(NEW.certificate, EE)
    step = plan([*records(OLD.certificate, EE, EE_WHOLE), *left], OLD.chain)
    assert (step.stage, len(step.current), list(step.idle)) == (Stage.STEADY, 2, left)
    assert any("selector 0" in sentence for sentence in step.steps)


KINDS = st.lists(st.sampled_from([EE, EE_512, EE_WHOLE, (3, 1, 0), TA, (2, 0, 1)]), min_size=1, unique=True)
CHAINS = [OLD.chain, RENEWED.chain, NEW.chain, SAME_AUTHORITY.chain, OTHER.issue([MX], with_root=True).chain]


@given(KINDS, st.sampled_from(CHAINS), st.sampled_from(CHAINS))
def test_no_step_ever_breaks_the_match(kinds: list[tuple[int, int, int]], old: Sequence[bytes], new: Sequence[bytes]) -> None:
    """RFC 7671 §8: before and after each step, the old server and then the new one match what may lie in a cache."""
    published = [of_certificate(old[0] if kind[0] == 3 else old[1], *kind) for kind in kinds]
    serving = old
    for _ in range(8):
        step = plan(published, serving, new)
        assert step.good
        after = [record for record in (*published, *step.publish) if record not in step.remove]
        for cached in (published, after):
            assert judge(usable(cached), serving, [MX]).passed
        if step.stage in (Stage.SWITCH, Stage.SAME_KEY):
            serving = new
            assert judge(usable(published), serving, [MX]).passed
        published = after
    assert plan(published, serving, new).stage is Stage.STEADY


# --- the verbs ---


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    (tmp_path / "new.pem").write_bytes(b"# a comment\n" + NEW.key_pem + NEW.chain_pem)
    return tmp_path / "new.pem"


def test_the_records_of_a_file(pem: Path) -> None:
    """RFC 7672 §3.1: `3 1 1` for the server, `2 1 1` for each authority above it."""
    code, found = world().json("tlsa", str(pem), "--host", MX, "--port", "2525")
    assert (code, found["owner"]) == (0, f"_2525._tcp.{MX}")
    assert [each["record"] for each in found["records"]] == [tlsa(NEW.certificate), tlsa(OTHER.certificate, 2, 1, 1)]
    assert found["records"][0]["line"] == f"_2525._tcp.{MX}. IN TLSA {tlsa(NEW.certificate)}"
    lines = world(hostname="mx1.example.net").command("tlsa", str(pem)).stdout.splitlines()
    assert lines[1] == f"_25._tcp.mx1.example.net. IN TLSA {tlsa(NEW.certificate)}"
    assert lines[0].startswith("; ")


def test_a_der_file(tmp_path: Path) -> None:
    (tmp_path / "new.der").write_bytes(NEW.certificate)
    assert len(world().json("tlsa", str(tmp_path / "new.der"))[1]["records"]) == 1


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", NEW.key_pem, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_holds_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pem").write_bytes(content)
    assert isinstance(world().command("tlsa", str(tmp_path / "x.pem")).exception, ConfigError)
    assert isinstance(world().command("tlsa", str(tmp_path / "missing.pem")).exception, ConfigError)


def test_a_file_of_many() -> None:
    with pytest.raises(ValueError, match="more than 100"):
        certificates_of(NEW.chain_pem * 51)
    assert len(certificates_of(NEW.chain_pem * 50)) == 2


def test_a_certificate_in_words() -> None:
    assert describe(NEW.certificate).names == (MX,)
    assert describe(b"rubbish").expires == 0


def test_the_verb_asks_the_host_and_says_what_to_do(pem: Path) -> None:
    code, found = world(tlsa(LEAF.certificate)).json("rollover", MX, "--cert", str(pem))
    assert (code, found["stage"], found["owner"]) == (0, "publish", f"_25._tcp.{MX}")
    assert found["publish"] == [tlsa(NEW.certificate)]
    assert found["ttl"] > 0
    said = world(tlsa(LEAF.certificate)).command("rollover", MX, "--cert", str(pem)).stdout
    assert f"; to publish\n_25._tcp.{MX}. IN TLSA {tlsa(NEW.certificate)}\n" in said
    assert "\n1. Publish 1 record of the new certificate" in said
    assert world(tlsa(NEW.certificate)).json("rollover", MX)[0] == 1


def test_the_current_certificate_may_come_from_a_file(pem: Path) -> None:
    one = World({"example.org": (f"mx A 192.0.2.1\n_25._tcp.mx TLSA {tlsa(NEW.certificate)}\n", "secure")}, {})
    assert one.json("rollover", MX, "--current", str(pem))[1]["stage"] == "steady"
    code, found = one.json("rollover", MX)
    assert code == 1
    assert "--current" in found["error"]


def test_nothing_can_be_said_of_a_host_that_cannot_be_looked_up() -> None:
    def error(one: World, host: Domain = MX) -> str:
        code, found = one.json("rollover", host)
        result = one.command("rollover", host)
        assert (code, result.return_value, result.stdout) == (1, 1, "")
        assert found["error"] in result.stderr
        return str(found["error"])

    one = world(tlsa(LEAF.certificate))
    one.dns.fault(f"_25._tcp.{MX}", "TLSA", "SERVFAIL")
    assert "dns-servfail" in error(one)
    one.dns.mend(f"_25._tcp.{MX}", "TLSA")
    one.dns.validating = False
    assert "validate" in error(one)
    assert "no address" in error(world(), Domain("missing.example.net"))
