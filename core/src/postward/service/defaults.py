"""What `postward run` does without a configuration file: a relay for this machine alone, under one directory of its own.

It chooses what harms nobody (loopback, SQLite, every installed plugin that ships with Postward) and writes down what it chose,
as the file that changes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tomli_w

from postward.config import from_dict
from postward.config_file import SHIPPED
from postward.errors import ConfigError
from postward.plugins import installed

if TYPE_CHECKING:
    from postward.config import Config

DIRECTORY: Final = Path("postward-data")
BIND: Final = "127.0.0.1:2525"
FALLBACK_NAME: Final = "localhost.localdomain"


def default_tables(directory: Path = DIRECTORY) -> dict[str, Any]:
    """The tables of the configuration that is used without a file."""
    there = {one.name for one in installed() if one.compatible}
    return {
        "plugins": [name for name in SHIPPED if name in there],
        "core": {"data_dir": str(directory)},
        "listen": [{"kind": "smtp", "bind": BIND}],
    }


def default_config(directory: Path = DIRECTORY) -> tuple[Config, str]:
    """The configuration without a file, and the text of a file that says the same. Raises `ConfigError`."""
    tables = default_tables(directory)
    try:
        config = from_dict(tables)
    except ConfigError:
        # A machine without a name of its own can still send; what it says of itself is then no name that others know.
        tables["core"]["hostname"] = FALLBACK_NAME
        config = from_dict(tables)
    tables["core"] = {"hostname": str(config.core.hostname), **tables["core"]}
    return config, tomli_w.dumps(tables)
