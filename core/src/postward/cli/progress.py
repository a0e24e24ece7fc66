"""Bars on a terminal while reports are built and sent; elsewhere nothing, so that no script reads them."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from postward.reports.schedule import Watcher

if TYPE_CHECKING:
    from rich.progress import TaskID

    from postward.model import Window


class Bars(Watcher):
    """A bar for each day and kind of report, and one for sending. To be entered; without `shown` it does nothing."""

    def __init__(self, *, shown: bool) -> None:
        self._progress = None
        if shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True))
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def window(self, job: str, window: Window, subjects: int) -> None:
        """Begin a bar."""
        self._begin(f"building {job} {window.day}", subjects)

    def subject_done(self) -> None:
        """Move it on."""
        self._advance()

    def sending(self, number: int) -> Callable[[], None]:
        """Begin the bar of sending; what it returns moves it on."""
        self._begin("sending", number)
        return self._advance

    def _begin(self, text: str, total: int) -> None:
        if self._progress is not None:
            self._task = self._progress.add_task(text, total=total)

    def _advance(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)
