"""Finding and reading the configuration file, before anything checks what it says. Imports nothing heavy."""

from __future__ import annotations

import codecs
import os
import tomllib
from pathlib import Path
from typing import Any, Final

from postward.errors import ConfigError

ENVIRONMENT: Final = "POSTWARD_CONFIG"
PLACES: Final = (Path("postward.toml"), Path("/etc/postward/postward.toml"))
LARGEST: Final = 1 << 20
SHIPPED: Final = ("dane", "mtasts", "tlsrpt", "dmarc")
"""The plugins that are enabled where there is no file, as far as they are installed."""


def find(path: Path | str | None = None) -> Path:
    """The configuration file: the one given, or `$POSTWARD_CONFIG`, ./postward.toml, /etc/postward/postward.toml.

    Raises `ConfigError` when there is none.
    """
    chosen = path or os.environ.get(ENVIRONMENT)
    if chosen:
        return Path(chosen)
    for place in PLACES:
        if place.exists():
            return place
    places = " nor ".join(str(place) for place in PLACES)
    raise ConfigError(f"there is no configuration: no --config, no ${ENVIRONMENT}, and neither {places} exists")


def exists() -> bool:
    """Whether `find` without a path finds a file, or is told of one."""
    return bool(os.environ.get(ENVIRONMENT)) or any(place.exists() for place in PLACES)


def read(file: Path) -> dict[str, Any]:
    """The tables of a file, unchecked. Raises `ConfigError` with line and column where it is not TOML."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(LARGEST + 1)
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror or exc}", file=str(file)) from None
    if len(raw) > LARGEST:
        raise ConfigError(f"is larger than {LARGEST} bytes", file=str(file))
    return parse(raw, file)


def parse(raw: bytes, file: Path) -> dict[str, Any]:
    """The tables of a file's content, unchecked. Raises `ConfigError`."""
    if raw.startswith(codecs.BOM_UTF8):
        raise ConfigError("begins with a byte order mark; save it as plain UTF-8", file=str(file))
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"is not UTF-8 text (at line {line})", file=str(file)) from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"is not TOML: {str(exc).splitlines()[0]}", file=str(file)) from None
    except ValueError:
        # Python refuses to read more than 4300 digits.
        raise ConfigError("holds a number that is too long", file=str(file)) from None
    except RecursionError:
        raise ConfigError("is nested too deeply", file=str(file)) from None
