"""The table of requirements, `docs/rfc.md`: what the standards ask for, the code that does it, the test that shows it.

`docs/rfc.toml` holds the requirements, in words of our own. The other two columns come from the sources: a docstring or a
comment of the form `RFC 8461 §3.3, §10.2` says which section a piece of code or a test is about. A requirement names the
places it means, as `file::function`; one that does not exist, or that does not name the section, is an error.

    python docs/rfc.py            writes docs/rfc.md
    python docs/rfc.py --check    says whether it is up to date
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs/rfc.toml"
PAGE = ROOT / "docs/rfc.md"
REFERENCE = re.compile(r"RFC (\d{4,5})|(§[0-9A-Z]+(?:\.[0-9]+)*)")
MODULE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One MUST or SHOULD: `section` as `RFC 8461 §3.3`; `code` and `tests` are places, `path` or `path::name`."""

    section: str
    level: str
    text: str
    code: tuple[str, ...]
    tests: tuple[str, ...]


def sections(text: str) -> set[str]:
    """The sections that a text names, each as `RFC 8461 §3.3`; a § alone belongs to the RFC that was named last."""
    found: set[str] = set()
    rfc = ""
    for number, section in REFERENCE.findall(" ".join(text.split())):
        rfc = number or rfc
        if section and rfc:
            found.add(f"RFC {rfc} {section}")
    return found


@cache
def references(path: str) -> dict[str, set[str]]:
    """Of a Python file: the sections that each function, method and class names; those of the module are under `MODULE`.

    A class has those of its methods as well. Raises `FileNotFoundError`."""
    source = (ROOT / path).read_text()
    spans: list[tuple[int, int, str]] = []
    docstrings: list[tuple[int, str]] = []

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                walk(child, prefix)
                continue
            name = f"{prefix}{child.name}"
            # A comment may stand with the decorators.
            first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
            spans.append((first, child.end_lineno or first, name))
            docstrings.append((child.lineno, ast.get_docstring(child) or ""))
            walk(child, f"{name}.")

    tree = ast.parse(source)
    walk(tree, "")
    comments = [
        (token.start[0], token.string.lstrip("# "))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    # A reference may be broken over the lines of one comment.
    blocks: list[tuple[int, int, str]] = []
    for line, text in comments:
        if blocks and blocks[-1][1] == line - 1:
            blocks[-1] = (blocks[-1][0], line, f"{blocks[-1][2]} {text}")
        else:
            blocks.append((line, line, text))
    found: dict[str, set[str]] = defaultdict(set)
    found[MODULE] |= sections(ast.get_docstring(tree) or "")
    for _, _, name in spans:
        found[name] |= set()
    for line, text in [*docstrings, *((last, text) for _, last, text in blocks)]:
        around = [name for first, end, name in spans if first <= line <= end]
        for name in around or [MODULE]:
            found[name] |= sections(text)
    return dict(found)


def problem(place: str, section: str) -> str | None:
    """Why a place does not stand for a section, or None when it does."""
    path, _, name = place.partition("::")
    if not (ROOT / path).is_file():
        return f"{section}: there is no {path}"
    found = references(path)
    if name not in found:
        return f"{section}: {path} has no {name}"
    if section not in found[name]:
        return f"{section}: {place} does not name it"
    return None


def load(text: str) -> list[Requirement]:
    """The requirements of the data file, in its order. Raises `KeyError` for one without a section, level or text."""
    return [
        Requirement(
            section=f"RFC {entry['rfc']} §{entry['section']}",
            level=entry["level"],
            text=entry["text"],
            code=tuple(entry.get("code", ())),
            tests=tuple(entry.get("tests", ())),
        )
        for entry in tomllib.loads(text)["requirement"]
    ]


def problems(requirements: list[Requirement]) -> list[str]:
    """What is wrong with the requirements: no code, no test, or places that do not name the section."""
    found: list[str] = []
    for requirement in requirements:
        for kind, places in (("code", requirement.code), ("test", requirement.tests)):
            if not places:
                found.append(f"{requirement.section}: no {kind} for: {requirement.text}")
            found += filter(None, (problem(place, requirement.section) for place in places))
    return found


def link(place: str) -> str:
    path, _, name = place.partition("::")
    module = Path(path).stem if Path(path).stem != "__init__" else Path(path).parent.name
    return f"[`{module}.{name}`](../{path})" if name else f"[`{module}`](../{path})"


def page(requirements: list[Requirement]) -> str:
    """The text of `docs/rfc.md`."""
    lines = [
        "# What the standards require, and where it is",
        "",
        "Generated by `docs/rfc.py` from `docs/rfc.toml` and the references in code and tests; do not edit. The words are",
        "ours, the RFC decides. A test fails when a requirement has no code or no test that names its section.",
    ]
    for number in dict.fromkeys(requirement.section.split()[1] for requirement in requirements):
        lines += ["", f"## RFC {number}", "", "| § | level | requirement | code | test |", "|---|---|---|---|---|"]
        for each in requirements:
            if each.section.split()[1] == number:
                code, tests = (" <br> ".join(map(link, places)) for places in (each.code, each.tests))
                section = each.section.split("§")[1]
                lines.append(f"| {section} | {each.level} | {each.text.replace('|', chr(92) + '|')} | {code} | {tests} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    requirements = load(DATA.read_text())
    found = problems(requirements)
    for line in found:
        sys.stderr.write(f"{line}\n")
    text = page(requirements)
    if "--check" in arguments:
        stale = not PAGE.exists() or PAGE.read_text() != text
        if stale:
            sys.stderr.write("docs/rfc.md is stale: run python docs/rfc.py\n")
        return 1 if found or stale else 0
    PAGE.write_text(text)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
