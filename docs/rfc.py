"""Write `docs/rfc.md`: each requirement of the RFCs, the code that meets it, and the tests that would notice if it did not.

    python docs/rfc.py            write the page
    python docs/rfc.py --check    say what is wrong and exit with 1, for continuous integration

The requirements stand in `docs/requirements/`, in words of our own. Each names code and tests, and a name counts only where
the source itself names the section: code in its docstring or in a comment, a test in its docstring (`RFC 8461 §3.3: …`). So a
requirement cannot claim code that knows nothing of it, and a test that is renamed or deleted is missed.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
REQUIREMENTS: Final = ROOT / "docs" / "requirements"
PAGE: Final = ROOT / "docs" / "rfc.md"
LEVELS: Final = ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "RULE")

_REFERENCE: Final = re.compile(r"RFC\s+(?P<rfc>[0-9]{1,5})|§\s*(?P<section>[0-9]+(?:\.[0-9]+)*)")
Definition = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

HEAD: Final = """# Requirements, code, tests
Written by `python docs/rfc.py` from `docs/requirements/`, the docstrings and comments of the code, and the docstrings of
the tests; a test fails when it is out of date. The words are ours, the RFCs decide. RULE is what an RFC describes without a key
word, or what we make of it.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Something in the source that has a name: its file, and the sections that it names (`RFC 8461 §3.3`)."""

    name: str
    file: Path
    sections: frozenset[str]


@dataclass(frozen=True, slots=True)
class Requirement:
    """What an RFC demands: where (several, when it is said again), how strictly, in our words; what meets it and tests it."""

    at: tuple[str, ...]
    level: str
    says: str
    code: tuple[str, ...]
    tests: tuple[str, ...]


@dataclass(slots=True)
class Source:
    """All named places. Test functions are also known without their file; a name that several have is in `ambiguous`."""

    places: dict[str, Place] = field(default_factory=dict)
    ambiguous: set[str] = field(default_factory=set)


def sections(text: str) -> frozenset[str]:
    """The sections that a text names. A `§` belongs to the RFC before it: `RFC 8461 §5, §5.1` are two of one RFC."""
    found, rfc = set(), ""
    for match in _REFERENCE.finditer(text):
        if match["rfc"]:
            rfc = match["rfc"]
        elif rfc:
            found.add(f"RFC {rfc} §{match['section']}")
    return frozenset(found)


def code_of(root: Path) -> Source:
    """Modules, classes and functions by their dotted names, with what their docstrings and comments name."""
    source = Source()
    for folder in (root / "core" / "src", *sorted((root / "plugins").glob("*/src"))):
        for file in sorted(folder.rglob("*.py")):
            module = ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
            text = file.read_text()
            comments = _comments(text)
            for name, node in _named(ast.parse(text), module):
                said = ast.get_docstring(node, clean=False) or ""
                if not isinstance(node, ast.Module):
                    said += _between(comments, node.lineno, node.end_lineno or node.lineno)
                source.places[name] = Place(name, file, sections(said))
    return source


def tests_of(root: Path) -> Source:
    """Test functions by name, and by file and name, with what their docstrings name."""
    source = Source()
    for file in sorted((root / "tests").rglob("test_*.py")):
        for name, node in _named(ast.parse(file.read_text()), ""):
            short = name.rpartition(".")[2]
            if not short.startswith("test") or isinstance(node, ast.Module | ast.ClassDef):
                continue
            place = Place(short, file, sections(ast.get_docstring(node, clean=False) or ""))
            if short in source.places:
                source.ambiguous.add(short)
            source.places[short] = source.places[f"{file.stem}.{short}"] = place
    return source


def _named(
    tree: ast.Module, module: str
) -> Iterator[tuple[str, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    yield module, tree
    waiting: list[tuple[str, ast.AST]] = [(module, tree)]
    while waiting:
        prefix, parent = waiting.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, _DEFINITIONS):
                name = f"{prefix}.{node.name}".lstrip(".")
                yield name, node
                waiting.append((name, node))


def _comments(text: str) -> dict[int, str]:
    """Comments by line. A section may stand on the next line, so lines are joined where they are used."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _between(comments: Mapping[int, str], first: int, last: int) -> str:
    return "".join(f"\n{comments[line]}" for line in range(first, last + 1) if line in comments)


def load(folder: Path) -> list[tuple[str, list[Requirement]]]:
    """The chapters, each with its title, in the order of their files. Raises `KeyError` where something is missing."""
    chapters = [tomllib.loads(file.read_text()) for file in sorted(folder.glob("*.toml"))]
    return [(chapter["title"], [_requirement(each) for each in chapter["requirement"]]) for chapter in chapters]


def _requirement(given: Mapping[str, Any]) -> Requirement:
    return Requirement(
        at=tuple(given["at"].split("; ")),
        level=given["level"],
        says=given["says"],
        code=tuple(given["code"]),
        tests=tuple(given["tests"]),
    )


def troubles(chapters: list[tuple[str, list[Requirement]]], code: Source, tests: Source) -> Iterator[str]:
    """What is wrong with the requirements, a line each."""
    for _, requirements in chapters:
        for each in requirements:
            what = f"{each.at[0]} {each.level} {each.says[:50]!r}"
            if each.level not in LEVELS:
                yield f"{what}: no such level"
            if not sections(each.at[0]):
                yield f"{what}: no such section"
            for kind, names, source in (("code", each.code, code), ("test", each.tests, tests)):
                if not names:
                    yield f"{what}: no {kind}"
                for name in names:
                    place = source.places.get(name)
                    if place is None:
                        yield f"{what}: there is no {kind} {name}"
                    elif name in source.ambiguous:
                        yield f"{what}: several tests are called {name}; put the file before it, as in {place.file.stem}.{name}"
                    elif not place.sections & set(each.at):
                        yield f"{what}: {kind} {name} does not name {' or '.join(each.at)}"


def page(chapters: list[tuple[str, list[Requirement]]], code: Source, tests: Source, root: Path = ROOT) -> str:
    """The page."""

    def link(place: Place) -> str:
        return f"[`{place.name.removeprefix('postward.')}`](../{place.file.relative_to(root).as_posix()})"

    lines = [HEAD]
    for title, requirements in chapters:
        lines += [f"## {title}", "| where | level | requirement | code | test |", "|---|---|---|---|---|"]
        for each in requirements:
            cells = (
                ", ".join(each.at),
                each.level,
                each.says,
                "<br>".join(link(code.places[name]) for name in each.code if name in code.places),
                "<br>".join(link(tests.places[name]) for name in each.tests if name in tests.places),
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Write or check. Gives the exit code."""
    chapters, code, tests = load(REQUIREMENTS), code_of(ROOT), tests_of(ROOT)
    wrong = list(troubles(chapters, code, tests))
    text = page(chapters, code, tests)
    if "--check" not in arguments:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        wrong.append("docs/rfc.md is out of date: run python docs/rfc.py")
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
