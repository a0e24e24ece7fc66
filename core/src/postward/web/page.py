"""Pages as data: what stands on one, in blocks that core draws, and the object that its JSON twin gives.

Whoever makes a page writes no HTML, so what strangers wrote (reports, replies, host names) cannot become any. Core adds the
frame, the form of conditions, the links to further pages, buttons with their protection, and errors.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias
from urllib.parse import quote, urlencode

from postward.errors import PostwardError
from postward.model import WebRoute
from postward.web.params import Param, Values

_SAFE_PATH: Final = re.compile(r"/(?:[^/\\\s][^\\\s]*)?")


class Tone(StrEnum):
    """What a mark or a note means. It is told by its words too, never by the colour alone."""

    PLAIN = "plain"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Link:
    """Text that leads to another page of this site. Raises `ValueError` for a place elsewhere."""

    text: str
    href: str

    def __post_init__(self) -> None:
        if _SAFE_PATH.fullmatch(self.href) is None:
            raise ValueError(f"not a path of this site: {self.href[:80]!r}")


@dataclass(frozen=True, slots=True)
class Mark:
    """A short word with a tone, such as a state."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Instant:
    """A point in time, microseconds UTC; 0 is none."""

    at: int


@dataclass(frozen=True, slots=True)
class Code:
    """Text in a fixed width, such as an id or a record."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Button:
    """Posts `fields` to an `Action`, at its path. With `ask`, a page in between asks that. Only those who may change see it."""

    text: str
    action: str
    fields: Mapping[str, str] = field(default_factory=dict)
    ask: str = ""
    tone: Tone = Tone.PLAIN


Cell: TypeAlias = "str | int | float | Link | Mark | Instant | Code | Button | Sequence[Cell] | None"
"""What stands in a table: numbers get separators, None is a dash, several stand below each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column; one with `number` is set to the right."""

    title: str
    number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows below each other. `empty` stands there when there are none; `title` is above and names the table."""

    title: str
    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell]]
    empty: str = "There is nothing here."


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names with their values."""

    rows: Sequence[tuple[str, Cell]]
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Stacked bars, one for each point (a label, and a number for each of `series`), with a table of the same numbers.

    `tones` are those of the series, by which they are coloured.
    """

    title: str
    series: Sequence[str]
    points: Sequence[tuple[str, Sequence[int]]]
    tones: Sequence[Tone] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something to be told, with how to mend it and where to look."""

    text: str
    tone: Tone = Tone.PLAIN
    mend: str = ""
    link: Link | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pre:
    """Text as it stands, such as a policy or a report; `title` names it."""

    text: str
    title: str


Block: TypeAlias = Table | Facts | Chart | Note | Heading | Pre | Button


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page shows. `data` is the object of the JSON twin, of the dataclass that the view names.

    `next` is the cursor of the following page; with it there is a link, by the parameter `after`. `intro` is a sentence.
    """

    title: str
    data: Any
    blocks: Sequence[Block] = ()
    intro: str = ""
    next: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of an action: a sentence that is shown on the page `to`."""

    text: str
    to: str
    tone: Tone = Tone.GOOD


class NotHere(PostwardError):
    """There is no such thing; the text says what was looked for."""

    routine = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for a page or an action: the `values` of its parameters, and of the `{names}` in its path."""

    values: Values
    user: str = ""
    may_change: bool = False

    def text(self, name: str) -> str:
        """A value as text; empty where nothing was given."""
        return str(self.values.get(name, ""))

    def number(self, name: str) -> int:
        """The value of a number."""
        return int(self.values[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A page that core draws. `params` are what it may be asked; `show` makes it, and may raise `NotHere` and `BadQuery`."""

    show: Callable[[Ask], Awaitable[Page]]
    data: type
    params: tuple[Param, ...] = ()
    summary: str = ""

    async def __call__(self, ask: Ask) -> Page:
        """Make the page."""
        return await self.show(ask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that changes, by POST from a `Button`, for those who may change. `fields` are what it is given."""

    do: Callable[[Ask], Awaitable[Done]]
    fields: tuple[Param, ...] = ()

    async def __call__(self, ask: Ask) -> Done:
        """Do it."""
        return await self.do(ask)


def view(
    path: str,
    show: Callable[[Ask], Awaitable[Page]],
    data: type,
    *,
    title: str = "",
    params: Sequence[Param] = (),
    summary: str = "",
) -> WebRoute:
    """A page at `path` below the plugin's name, and its JSON twin below `/api/v1/`. With `title` it is in the navigation.

    `{name}` in the path is a parameter too. `data` is the dataclass of `Page.data`, which describes the twin (OpenAPI).
    """
    return WebRoute(path=path, handler=View(show=show, data=data, params=tuple(params), summary=summary or title), title=title)


def link(text: str, path: str, **query: object) -> Link:
    """A link to a page of this site, with its query; what is empty in that is left out."""
    given = {name: str(value) for name, value in query.items() if value not in ("", None)}
    return Link(text, quote(path, safe="/") + (f"?{urlencode(given)}" if given else ""))
