"""What every test starts with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

# As installed; here for a checkout that was installed before the plugin was part of it.
pytest_plugins = ["postward.testing.pytest_plugin"]


@pytest.fixture(autouse=True)
def _default_log() -> Iterator[None]:
    """A command that a test runs in this process configures the log; the next test must not inherit that."""
    yield
    structlog.reset_defaults()
