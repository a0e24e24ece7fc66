"""The page of requirements is what `docs/rfc.py` makes of the source now, and each requirement has code and a test."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rfc() -> ModuleType:
    spec = importlib.util.spec_from_file_location("postward_rfc_page", ROOT / "docs" / "rfc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(rfc: ModuleType) -> tuple[Any, Any]:
    return rfc.code_of(ROOT), rfc.tests_of(ROOT)


def test_the_page_is_up_to_date_and_nothing_is_missing(rfc: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert rfc.main(["--check"]) == 0, capsys.readouterr().err


def test_a_section_belongs_to_the_rfc_before_it(rfc: ModuleType) -> None:
    text = "§1 (RFC 8461 §5, §5.1: x; §7). RFC\n    7672 §2.2.2"
    assert rfc.sections(text) == {"RFC 8461 §5", "RFC 8461 §5.1", "RFC 8461 §7", "RFC 7672 §2.2.2"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"code": ()}, "no code"),
        ({"tests": ()}, "no test"),
        ({"code": ("postward.nowhere",)}, "there is no code postward.nowhere"),
        ({"tests": ("test_nothing",)}, "there is no test test_nothing"),
        ({"code": ("postward.names",)}, "code postward.names does not name RFC 8461 §3.1"),
        ({"tests": ("test_mx_patterns",)}, "test test_mx_patterns does not name RFC 8461 §3.1"),
        ({"tests": ("test_exactly_one_must_be_left",)}, "several tests are called"),
        ({"level": "OUGHT"}, "no such level"),
        ({"at": ("RFC 8461",)}, "no such section"),
    ],
)
def test_what_is_wrong_is_said(rfc: ModuleType, sources: tuple[Any, Any], changes: dict[str, object], said: str) -> None:
    code, tests = sources
    good = rfc.Requirement(
        at=("RFC 8461 §3.1",),
        level="MUST",
        says="x",
        code=("postward_mtasts.record.choose",),
        tests=("test_sts_record.test_exactly_one_must_be_left",),
    )
    assert list(rfc.troubles([("", [good])], code, tests)) == []
    wrong = list(rfc.troubles([("", [dataclasses.replace(good, **changes)])], code, tests))
    assert any(said in line for line in wrong), wrong


def test_comments_count_for_what_they_stand_in(rfc: ModuleType, tmp_path: Path) -> None:
    module = tmp_path / "core" / "src" / "m.py"
    module.parent.mkdir(parents=True)
    module.write_text('"""RFC 1 §1."""\n\n\ndef f():\n    # RFC 8461\n    # §2 says so\n    return "RFC 8461 §3"\n')
    places = rfc.code_of(tmp_path).places
    assert places["m"].sections == {"RFC 1 §1"}
    assert places["m.f"].sections == {"RFC 8461 §2"}
