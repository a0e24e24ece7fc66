"""What `postward run` chooses without a configuration file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from postward.config import from_dict
from postward.errors import ConfigError
from postward.service import defaults


def test_the_choice_is_written_as_the_file_that_says_the_same(tmp_path: Path) -> None:
    config, text = defaults.default_config(tmp_path / "data")
    again = from_dict(tomllib.loads(text))
    assert again == config
    assert (config.core.data_dir, config.delivery.workers) == (tmp_path / "data", 1)
    assert [(entry.bind, str(entry.networks[0])) for entry in config.listen] == [(defaults.BIND, "127.0.0.0/8")]


def test_a_machine_without_a_name_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(tables: dict[str, Any]) -> Any:
        if "hostname" not in tables["core"]:
            raise ConfigError("this machine has no name", key="core.hostname")
        return from_dict(tables)

    monkeypatch.setattr(defaults, "from_dict", nameless)
    config, text = defaults.default_config(tmp_path)
    assert config.core.hostname == tomllib.loads(text)["core"]["hostname"] == defaults.FALLBACK_NAME
