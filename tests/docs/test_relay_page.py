"""What the page about the relay says is what the program has: keys, commands, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postward import config
from postward.cli import COMMANDS
from postward.config import DeliveryConfig, ListenConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/relay.md").read_text()
EXAMPLE = ROOT / "examples/relay.toml"
SAID_ELSEWHERE = {"min_tls", "connections"}


@pytest.mark.parametrize("key", [*ListenConfig.model_fields, *(set(DeliveryConfig.model_fields) - SAID_ELSEWHERE)])
def test_every_key_is_explained_or_shown(key: str) -> None:
    assert re.search(rf"\b{key}\b", PAGE + EXAMPLE.read_text())


def test_every_command_on_the_page_exists() -> None:
    named = set(re.findall(r"\bpostward ([a-z]+)", PAGE))
    assert {"run", "queue", "status", "passwd", "dkim"} <= named <= set(COMMANDS)


def test_the_limits_on_the_page_are_those_of_the_program() -> None:
    loaded = config.load(EXAMPLE)
    first = loaded.listen[0]
    assert f"{first.max_recipients}, {first.max_clients}, {first.max_per_client}" in PAGE
    assert f"{first.max_message_bytes // 2**20} MiB" in PAGE
    assert [entry.kind for entry in loaded.listen] == ["smtp", "submission", "lmtp"]


def test_the_unit_starts_the_command_that_there_is() -> None:
    unit = (ROOT / "examples/postward.service").read_text()
    assert "Type=notify" in unit
    assert re.search(r"^ExecStart=\S+/postward run --config \S+$", unit, re.MULTILINE)
    assert re.search(r"^ExecReload=/bin/kill -HUP \$MAINPID$", unit, re.MULTILINE)
