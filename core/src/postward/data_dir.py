"""The directory that holds queue, keys and default database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postward.errors import ConfigError

if TYPE_CHECKING:
    from postward.config import Config


def make_data_dir(config: Config) -> None:
    """Make it where it is missing. Raises `ConfigError`."""
    place = config.core.data_dir
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        reason = f"{str(place)[:200]} cannot be made a directory: {exc.strerror or exc}"
        raise ConfigError(reason, file=str(config.file or ""), key="core.data_dir") from exc
