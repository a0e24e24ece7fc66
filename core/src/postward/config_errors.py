"""What is wrong with a configuration, one line for each problem: where, what, and the nearest right name."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from postward.errors import ConfigError

_TYPES: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number with a point",
    "bool": "true or false",
    "dict": "a table",
}
_LONGEST_KEY: Final = 64
_BARE: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{_LONGEST_KEY}}}")
_EXPECTED: Final = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list [...]",
    "list_type": "a list [...]",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "path_type": "a path in quotes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: the dotted key, what is wrong with it, and the nearest right name or value."""

    key: str
    message: str
    hint: str = ""


class ConfigErrors(ConfigError):
    """All that is wrong with one file; the text has a line for each problem. `problems` is never empty."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(first.message, file=file, key=first.key, hint=first.hint)

    def __str__(self) -> str:
        lines = (ConfigError(one.message, file=self.file, key=one.key, hint=one.hint) for one in self.problems)
        return "\n".join(str(line) for line in lines)


def explain(error: ValidationError, model: type[BaseModel], *, prefix: str = "", also: Sequence[str] = ()) -> list[Problem]:
    """The problems that pydantic found, in our words.

    `prefix` is the dotted key of the whole `model`; `also` are right keys that somebody else checks.
    """
    problems = [_problem(detail, model, prefix, also) for detail in error.errors(include_url=False)]
    return list(dict.fromkeys(problems))


def nearest(name: str, right: Iterable[str]) -> str:
    """The right name that is most like `name`; empty when none is like it."""
    found = difflib.get_close_matches(name, list(right), n=1, cutoff=0.6)
    return found[0] if found else ""


def _problem(detail: ErrorDetails, model: type[BaseModel], prefix: str, also: Sequence[str]) -> Problem:
    path, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    shown = [part for part in path if part != "[key]"]
    key = _dotted(prefix, shown)
    if kind == "extra_forbidden":
        parent = _model_at(model, path[:-1])
        return Problem(key=key, message="is not a known key", hint=_right_key(str(path[-1]), parent, model, also))
    if kind == "missing":
        return Problem(key=key, message="is missing")
    if kind == "literal_error":
        expected, given = context["expected"], detail["input"]
        hint = nearest(given, expected.replace("'", "").replace(" or ", ", ").split(", ")) if isinstance(given, str) else ""
        return Problem(key=key, message=f"should be {expected}, not {_shown(given)}", hint=hint)
    if kind in _EXPECTED:
        return Problem(key=key, message=f"should be {_EXPECTED[kind]}, not {_type_name(detail['input'])}")
    # What was given may be a secret, so other messages tell what is right and not what is there.
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return Problem(key=key, message=f"{text[:1].lower()}{text[1:]}")


def _dotted(prefix: str, path: Sequence[int | str]) -> str:
    text = prefix
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{quoted(part)}" if text else quoted(part)
    return text


def quoted(key: str) -> str:
    """A key as TOML wants it written, on one line and of bounded length."""
    if _BARE.fullmatch(key):
        return key
    shown = json.dumps(key[:_LONGEST_KEY], ensure_ascii=False)
    return shown if len(key) <= _LONGEST_KEY else f"{shown}…"


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) and len(value) < 40 else _type_name(value)


def _type_name(value: object) -> str:
    if isinstance(value, list | tuple):
        return "a list"
    return _TYPES.get(type(value).__name__, f"a {type(value).__name__}")


def _model_at(model: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel] | None:
    """The model that checks the table at `path`."""
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        current = _model_in(field.annotation) if field else None
    return current


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in typing.get_args(annotation))
    return next((one for one in found if one is not None), None)


def _right_key(name: str, parent: type[BaseModel] | None, root: type[BaseModel], also: Sequence[str]) -> str:
    """The nearest key of the same table; else the same key in another one, with its table."""
    fields = [key for key in (parent.model_fields if parent else ()) if key != "file" or parent is not root]
    near = nearest(name, [*fields, *(also if parent is root else ())])
    if near:
        return near
    for key, field in root.model_fields.items():
        section = _model_in(field.annotation)
        if section is not None and section is not parent and name in section.model_fields:
            return f"{key}.{name}"
    return ""
