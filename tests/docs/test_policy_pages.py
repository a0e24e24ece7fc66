"""What the pages about MTA-STS and DANE say is what the plugins have: settings, commands, options, reasons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postward.config import DnsConfig
from postward_dane.plugin import Dane
from postward_mtasts import policy
from postward_mtasts.settings import Hosted

ROOT = Path(__file__).parents[2]
STS, DANE = ((ROOT / f"docs/{name}.md").read_text() for name in ("mtasts", "dane"))


def source(plugin: str) -> str:
    return "".join(file.read_text() for file in (ROOT / "plugins" / plugin / "src").rglob("*.py"))


@pytest.mark.parametrize("key", list(Hosted.model_fields))
def test_settings_of_a_policy_of_ones_own(key: str) -> None:
    assert re.search(rf"^ +{key} = ", STS, re.MULTILINE)


@pytest.mark.parametrize("key", list(Dane.Config.model_fields))
def test_settings_of_dane(key: str) -> None:
    assert re.search(rf"^ +{key} = ", DANE, re.MULTILINE)


def test_the_settings_shown_are_the_defaults() -> None:
    config = Dane.Config()
    assert f"digests = {list(config.digests)}".replace("'", '"') in DANE
    assert f"common_name = {str(config.common_name).lower()}" in DANE
    assert f'trust_ad = "{DnsConfig().trust_ad}"' in DANE
    assert f"max_age = {Hosted().max_age}" in STS
    assert f"{policy.MAX_BYTES >> 10} KiB" in STS


def test_commands_and_options_exist() -> None:
    verbs = {"check", "policy", "cache list", "cache show", "cache refresh", "cache drop"}
    assert set(re.findall(r"postward mtasts (check|policy|cache [a-z]+)", STS)) == verbs
    assert all(f'"{verb}")' in source("mtasts") for verb in verbs)
    assert set(re.findall(r"postward dane ([a-z]+)", DANE)) == {"check", "tlsa", "rollover"}
    known = source("dane") + source("mtasts") + "no-connect"
    for option in re.findall(r"--([a-z-]+)", STS + DANE):
        assert re.search(rf"\b{option}\b", known), option


def test_reasons_exist() -> None:
    known = "".join(file.read_text() for file in ROOT.glob("*/src/postward/**/*.py")) + source("dane") + source("mtasts")
    [table] = re.findall(r"### Reasons in reports\n(.*?)\n## ", DANE, re.DOTALL)
    for line in table.splitlines()[2:]:
        for reason in re.findall(r"`([a-z0-9-]+)`", line.split("|")[2]):
            made = reason.startswith(("extended-dns-error-", "dns-"))
            assert made or f'"{reason}"' in known, reason
    for reason in (
        "multiple-mta-sts-records",
        "record-syntax-error",
        "policy-syntax-error",
        "back-off-after-recent-fetch-error",
    ):
        assert reason in STS
        assert f'"{reason}"' in known
