"""The table of requirements is up to date, and each requirement has code and a test that name its section."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_rfc", ROOT / "docs/rfc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rfc = _load()
REQUIREMENTS = rfc.load(rfc.DATA.read_text())


def test_every_requirement_has_code_and_a_test_that_name_it() -> None:
    assert rfc.problems(REQUIREMENTS) == []


def test_the_page_is_up_to_date() -> None:
    """Else: `python docs/rfc.py`."""
    assert rfc.PAGE.read_text() == rfc.page(REQUIREMENTS)


def test_the_standards_of_the_plugins_are_there() -> None:
    counted = {
        number: sum(each.section.startswith(f"RFC {number} ") for each in REQUIREMENTS) for number in (8461, 7672, 7671, 6698)
    }
    assert counted[8461] >= 45
    assert counted[7672] >= 30
    assert counted[7671] >= 10
    assert counted[6698] >= 5
    assert len({(each.section, each.text) for each in REQUIREMENTS}) == len(REQUIREMENTS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(RFC 8461 §3.3, §10.2).", {"RFC 8461 §3.3", "RFC 8461 §10.2"}),
        ("RFC 8461\n    §5: one; §5.1: another; RFC 7672 §2.2.1.", {"RFC 8461 §5", "RFC 8461 §5.1", "RFC 7672 §2.2.1"}),
        ("§3 of nothing, and RFC 8461", set()),
    ],
)
def test_references_in_a_text(text: str, found: set[str]) -> None:
    assert rfc.sections(text) == found


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("tests/docs/test_relay_page.py", ": tests/docs/test_relay_page.py does not name it"),
        ("docs/rfc.py::sections", None),
        ("docs/rfc.py::nothing", ": docs/rfc.py has no nothing"),
        ("docs/nothing.py", ": there is no docs/nothing.py"),
    ],
)
def test_a_place_has_to_name_the_section(place: str, why: str | None) -> None:
    section = "RFC 8461 §3.3"
    assert rfc.problem(place, section) == (why and section + why)


def test_what_has_no_code_or_no_test_is_told() -> None:
    [requirement] = rfc.load('[[requirement]]\nrfc = 8461\nsection = "3.3"\nlevel = "MUST"\ntext = "Something."\n')
    assert rfc.problems([requirement]) == [
        "RFC 8461 §3.3: no code for: Something.",
        "RFC 8461 §3.3: no test for: Something.",
    ]
