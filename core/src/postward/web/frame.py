"""Drawing pages: the frame around each, its navigation, and the blocks on it, by Jinja2 with everything escaped.

What strangers wrote may hold controls that hide text or turn it around (Unicode TR 36 §2.10.1); those are made visible, and
long texts are cut, before they are put into a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from postward.cli.measures import span
from postward.web.chart import MOST, svg, tone_of
from postward.web.page import Page, Tone
from postward.web.params import Kind, Param

LONGEST: Final = 20_000
LONGEST_CELL: Final = 600
_HIDDEN: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e0fff]"
)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ELLIPSIS: Final = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of the navigation."""

    title: str
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What surrounds a page: who asks, what there is to go to, and what is to be told above."""

    hostname: str
    groups: Sequence[tuple[str, Sequence[Entry]]]
    path: str = "/"
    user: str = ""
    may_change: bool = False
    token: str = ""
    told: str = ""
    told_tone: Tone = Tone.GOOD
    open_to_all: bool = False
    now: int = 0


def shown(value: object, longest: int = LONGEST) -> str:
    """A text with hidden characters made visible, and cut where it is longer than anybody reads."""
    text = str(value).replace("\r\n", "\n")
    if len(text) > longest:
        text = text[:longest] + _ELLIPSIS
    return _HIDDEN.sub(lambda found: f"\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}U+{ord(found[0]):04X}»", text)


def page(frame: Frame, content: Page, *, params: Sequence[Param] = (), given: Mapping[str, str] = {}, twin: str = "") -> str:
    """A page in its frame. `given` is its query, `twin` where its JSON is."""
    fields = [param for param in params if param.label]
    following = {**{name: value for name, value in given.items() if value}, "after": content.next} if content.next else None
    first = "after" in given and bool(given["after"])
    return _drawn(
        "page.html",
        frame=frame,
        page=content,
        fields=fields,
        given=given,
        following=following,
        first=first,
        twin=twin,
        Kind=Kind,
    )


def login(frame: Frame, *, user: str = "", problem: str = "", to: str = "/") -> str:
    """The page to log in on."""
    return _drawn("login.html", frame=frame, user=user, problem=problem, to=to)


def question(frame: Frame, *, title: str, action: str, fields: Mapping[str, str], ask: str, back: str) -> str:
    """Asks before something is done that cannot be undone."""
    return _drawn("ask.html", frame=frame, title=title, action=action, fields=fields, ask=ask, back=back)


def trouble(frame: Frame, *, status: int, title: str, text: str, cid: str = "", hint: str = "") -> str:
    """A page that says why there is none."""
    return _drawn("trouble.html", frame=frame, status=status, title=title, text=text, cid=cid, hint=hint)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("postward.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else shown(value),
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["span"] = span
    environment.filters["utc"] = _utc
    environment.filters["iso"] = lambda at: _utc(at).replace(" ", "T") + "Z"
    environment.filters["brief"] = lambda text: shown(text, LONGEST_CELL)
    environment.filters["urlencode_all"] = _urlencode
    environment.globals.update(svg=lambda chart, name: Markup(svg(chart, name)), tone_of=tone_of, most=MOST)
    environment.tests["kind"] = lambda value, name: type(value).__name__ == name
    environment.tests["day"] = lambda value: isinstance(value, str) and _DAY.fullmatch(value) is not None
    environment.tests["several"] = lambda value: isinstance(value, list | tuple)
    return environment


def _drawn(name: str, **values: object) -> str:
    return str(_environment().get_template(name).render(**values))


def _utc(at: int) -> str:
    import datetime

    try:
        return datetime.datetime.fromtimestamp(at // 1_000_000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "at no time"


def _urlencode(values: Mapping[str, str]) -> str:
    from urllib.parse import urlencode

    return urlencode(values)
