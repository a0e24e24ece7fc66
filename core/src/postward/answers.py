"""Whether what a plugin answered is what the hook's annotation promises.

Annotations are compiled once, at registration. A dataclass of `postward.model` is looked into, field by field: `mode="enforce"`
equals `Mode.ENFORCE` and is not it, and a policy that core then takes for one that does not bind would be a downgrade.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, TypeVar, Union, get_args, get_origin

Check = Callable[[object], object]
"""Gives the value back, lists as tuples where a sequence was promised; raises `WrongAnswer`."""

_RECORDS: Final[dict[type, Check]] = {}


class WrongAnswer(TypeError):
    """An answer that is not of the promised type; the text says what it is and what it should be."""


def compile_return(function: Callable[..., Any], names: dict[str, Any]) -> Check | None:
    """The check for the answers of a spec other than None; None when the spec promises no answer.

    `names` resolves what the module of the spec imports for type checkers only.
    """
    space = {**vars(sys.modules[function.__module__]), **names}
    annotation = eval(function.__annotations__["return"], space)
    return None if annotation is None else _compile(annotation)


def _compile(annotation: Any) -> Check | None:
    """The check for an annotation; None when everything is right."""
    origin = get_origin(annotation)
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return None
    if origin in (Union, types.UnionType):
        return _union(get_args(annotation))
    if origin is tuple:
        arguments = get_args(annotation)
        inner = _compile(arguments[0]) if len(arguments) == 2 and arguments[1] is ... else None
        return _sequence(tuple, inner)
    if origin is Sequence or annotation is Sequence:
        return _sequence(Sequence, _compile(get_args(annotation)[0]))
    if origin is Callable:
        return _instance(Callable)
    kind = origin or annotation
    if not isinstance(kind, type):
        return None
    if is_dataclass(kind) and kind.__module__.startswith("postward.model"):
        return _record(kind)
    return _instance(kind)


def _named(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _instance(kind: type) -> Check:
    def check(value: object) -> object:
        if not isinstance(value, kind):
            raise WrongAnswer(f"is {_named(type(value))}, not {_named(kind)}")
        return value

    return check


def _sequence(kind: type, inner: Check | None) -> Check:
    def check(value: object) -> object:
        if type(value) is tuple and not value:
            return value
        if not isinstance(value, kind) or isinstance(value, str | bytes | bytearray):
            raise WrongAnswer(f"is {_named(type(value))}, not {'a tuple' if kind is tuple else 'a sequence'}")
        values = tuple(value)  # type: ignore[var-annotated,arg-type]
        if inner is not None:
            for index, item in enumerate(values):
                try:
                    inner(item)
                except WrongAnswer as exc:
                    raise WrongAnswer(f"[{index}] {exc}") from None
        return values

    return check


def _union(members: Sequence[Any]) -> Check | None:
    checks = [_compile(member) for member in members if member is not types.NoneType]
    optional = types.NoneType in members
    if any(check is None for check in checks):
        return None
    known = [check for check in checks if check is not None]

    def check(value: object) -> object:
        if value is None and optional:
            return None
        problems = []
        for member in known:
            try:
                return member(value)
            except WrongAnswer as exc:
                problems.append(str(exc))
        raise WrongAnswer(problems[0] if len(problems) == 1 else "; ".join(problems))

    return check


def _record(kind: type) -> Check:
    """Look into a dataclass of the model. Made at the first use, because records hold records."""

    def check(value: object) -> object:
        if not isinstance(value, kind):
            raise WrongAnswer(f"is {_named(type(value))}, not {kind.__name__}")
        for name, inner in _fields(kind):
            try:
                inner(getattr(value, name))
            except WrongAnswer as exc:
                raise WrongAnswer(f"{kind.__name__}.{name} {exc}") from None
        return value

    return _RECORDS.setdefault(kind, check)


_FIELDS: Final[dict[type, tuple[tuple[str, Check], ...]]] = {}


def _fields(kind: type) -> tuple[tuple[str, Check], ...]:
    found = _FIELDS.get(kind)
    if found is None:
        pairs = [(field.name, _field(kind, field.type)) for field in fields(kind)]
        found = _FIELDS[kind] = tuple((name, check) for name, check in pairs if check is not None)
    return found


def _field(kind: type, annotation: Any) -> Check | None:
    try:
        return _compile(eval(annotation, vars(sys.modules[kind.__module__])))
    except NameError:  # a name for type checkers only, such as a database connection: nothing that core decides by
        return None
