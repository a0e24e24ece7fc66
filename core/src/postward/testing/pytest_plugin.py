"""The pytest plugin of the distribution: the fixture `harness`.

pytest imports this module in every environment that Postward is installed in, so it imports nothing else before a test asks.
Tests that ask are coroutines; they run under trio with a clock that jumps, which needs the package `pytest-trio`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from postward.testing import Harness


@pytest.fixture
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """An internet in memory and a Postward that sends into it; see `postward.testing.Harness`."""
    from postward.testing import open_harness

    async with open_harness(_directory(tmp_path_factory)) as opened:
        yield opened


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Give tests with the harness a clock of their own, whether or not `trio_mode` is on."""
    asking = [item for item in items if "harness" in getattr(item, "fixturenames", ())]
    if asking and not config.pluginmanager.has_plugin("trio"):
        raise pytest.UsageError("the fixture `harness` needs the package pytest-trio: pip install pytest-trio")
    for item in asking:
        # In front of a mark that is there: the first one says who runs the test.
        item.add_marker(pytest.mark.trio(run=_run), append=False)


def _run(test: Callable[..., Any], *, clock: Any = None, instruments: Sequence[Any] = ()) -> Any:
    import trio
    import trio.testing

    return trio.run(test, clock=clock or trio.testing.MockClock(autojump_threshold=0), instruments=instruments)


def _directory(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("harness")
