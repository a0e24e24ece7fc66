"""Whether annotations agree with the hook: a method takes at least what is passed, and answers at most what is allowed."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import postward
from postward import core, hookspecs, model, names
from postward.contract import Spec

_WHERE: Final = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")


def compare(spec: Spec, function: Callable[..., Any]) -> Iterator[str]:
    """What differs. What is not annotated, or cannot be resolved, is not judged."""
    space = _space()
    wanted = get_type_hints(spec.function, {**vars(hookspecs), **space})
    try:
        given = get_type_hints(function, {**space, **getattr(inspect.unwrap(function), "__globals__", {})})
    except (NameError, AttributeError, TypeError):
        return
    for name, annotation in given.items():
        if name == "return" and hasattr(function, "__wrapped__"):
            continue  # a decorator, such as asynccontextmanager, makes something else of it
        if name == "return":
            # A `-> None` of a hook that may answer is one that never does.
            if not fits(annotation, wanted["return"]):
                yield f"hook {spec.name!r} is annotated to return {_show(annotation)}, which is not {_show(wanted['return'])}"
        elif name in wanted and not fits(wanted[name], annotation):
            yield f"hook {spec.name!r}: argument {name!r} is annotated {_show(annotation)}, it is given {_show(wanted[name])}"


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value annotated as `given` is one of `wanted`."""
    if given == wanted or Any in (given, wanted) or wanted is object:
        return True
    if isinstance(wanted, types.UnionType) or get_origin(wanted) is Union:
        parts = get_args(given) if isinstance(given, types.UnionType) or get_origin(given) is Union else (given,)
        return all(any(fits(part, choice) for choice in get_args(wanted)) for part in parts)
    if isinstance(given, types.UnionType) or get_origin(given) is Union:
        return all(fits(part, wanted) for part in get_args(given))
    kind, base = get_origin(given) or given, get_origin(wanted) or wanted
    if not (isinstance(kind, type) and isinstance(base, type)):
        return False
    try:
        if not issubclass(kind, base):
            return False
    except TypeError:  # a protocol with data, of which a class cannot be asked
        return True
    inner = [part for part in get_args(given) if part is not ...]
    return all(fits(one, other) for one, other in zip(inner, get_args(wanted), strict=False))


def _space() -> dict[str, Any]:
    """What `hookspecs`, and many plugins, import for type checkers only."""
    import trio

    public = {name: getattr(postward, name) for name in postward.__all__}
    return {**vars(model), **vars(names), "Core": core.Core, "Commands": core.Commands, "trio": trio, **public}


def _show(annotation: Any) -> str:
    return _WHERE.sub("", inspect.formatannotation(annotation))
